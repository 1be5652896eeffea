//! `DELETE /auth/api-key`: revoking without an id (QUIRKS.md)

use axum::{extract::State, http::StatusCode};

use crate::castari::{Castari, caller::CastariCaller, error::ApiError};

/// Revokes the key that made this call, or the newest one when the call was made with a token.
#[utoipa::path(
    delete, path = "/api/v1/auth/api-key", operation_id = "revoke_api_key_legacy", tag = "api-keys",
    responses((status = 204)),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
) -> Result<StatusCode, ApiError> {
    castari.domain.accounts.revoke_current_key(&caller).await?;
    Ok(StatusCode::NO_CONTENT)
}
