//! `DELETE /agents/{slug}/sessions/{id}`

use axum::{extract::State, http::StatusCode};
use serde::Deserialize;

use crate::castari::{Castari, caller::CastariCaller, error::ApiError, extract::Path};

/// The variable parts of a session's address.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct SessionPath {
    /// The agent's name in addresses.
    slug: String,
    /// The session's name.
    id: String,
}

/// Removes a session with its sandbox and files.
#[utoipa::path(
    delete, path = "/api/v1/agents/{slug}/sessions/{id}", operation_id = "delete_session", tag = "sessions",
    params(SessionPath), responses((status = 204)),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Path(path): Path<SessionPath>,
) -> Result<StatusCode, ApiError> {
    castari.domain.code_agents.delete_session(&caller, &path.slug, &path.id).await?;
    Ok(StatusCode::NO_CONTENT)
}
