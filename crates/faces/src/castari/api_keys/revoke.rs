//! `DELETE /api-keys/{id}`

use axum::{extract::State, http::StatusCode};
use serde::Deserialize;

use crate::castari::{Castari, caller::CastariCaller, error::ApiError, extract::Path};

/// The variable part of a key's address.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct ApiKeyPath {
    /// `ak_…`
    id: String,
}

/// Revokes an API key: from the next call on it is unknown.
#[utoipa::path(
    delete, path = "/api/v1/api-keys/{id}", operation_id = "revoke_api_key", tag = "api-keys", params(ApiKeyPath),
    responses((status = 204)),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Path(path): Path<ApiKeyPath>,
) -> Result<StatusCode, ApiError> {
    castari.domain.accounts.revoke_key(&caller, &path.id).await?;
    Ok(StatusCode::NO_CONTENT)
}
