//! `GET /api-keys`

use axum::{Json, extract::State};
use serde::Serialize;

use super::ApiKeyInfo;
use crate::castari::{
    Castari,
    caller::CastariCaller,
    error::ApiError,
    extract::Query,
    page::{Meta, PageQuery},
};

/// A part of the list of API keys.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ApiKeyList {
    api_keys: Vec<ApiKeyInfo>,
    meta: Meta,
}

/// Lists the account's API keys, newest first.
#[utoipa::path(
    get, path = "/api/v1/api-keys", operation_id = "list_api_keys", tag = "api-keys", params(PageQuery),
    responses((status = 200, body = ApiKeyList)),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Query(page): Query<PageQuery>,
) -> Result<Json<ApiKeyList>, ApiError> {
    let page = castari.domain.accounts.list_keys(&caller, page.window()).await?;
    Ok(Json(ApiKeyList { meta: Meta::from(&page), api_keys: page.items.into_iter().map(ApiKeyInfo::from).collect() }))
}
