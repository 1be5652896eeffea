//! `GET /invocations/{id}`

use axum::{Json, extract::State};

use super::{InvocationItem, InvocationPath};
use crate::castari::{Castari, caller::CastariCaller, error::ApiError, extract::Path};

/// Reads an invocation.
#[utoipa::path(
    get, path = "/api/v1/invocations/{id}", operation_id = "get_invocation", tag = "invocations",
    params(InvocationPath), responses((status = 200, body = InvocationItem)),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Path(path): Path<InvocationPath>,
) -> Result<Json<InvocationItem>, ApiError> {
    let invocation = castari.domain.code_agents.invocation(&caller, &path.id).await?;
    Ok(Json(invocation.into()))
}
