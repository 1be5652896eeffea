//! `DELETE /agents/{slug}/secrets/{key}`

use axum::{extract::State, http::StatusCode};
use serde::Deserialize;

use crate::castari::{Castari, caller::CastariCaller, error::ApiError, extract::Path};

/// The variable parts of a secret's address.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct SecretPath {
    /// The agent's name in addresses.
    slug: String,
    /// The secret's name.
    key: String,
}

/// Removes a secret.
#[utoipa::path(
    delete, path = "/api/v1/agents/{slug}/secrets/{key}", operation_id = "delete_secret", tag = "secrets",
    params(SecretPath), responses((status = 204)),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Path(path): Path<SecretPath>,
) -> Result<StatusCode, ApiError> {
    castari.domain.code_agents.delete_secret(&caller, &path.slug, &path.key).await?;
    Ok(StatusCode::NO_CONTENT)
}
