//! `DELETE /agents/{slug}`

use axum::{extract::State, http::StatusCode};

use super::AgentPath;
use crate::castari::{Castari, caller::CastariCaller, error::ApiError, extract::Path};

/// Removes an agent with its secrets, sessions, releases and history.
#[utoipa::path(
    delete, path = "/api/v1/agents/{slug}", operation_id = "delete_agent", tag = "agents", params(AgentPath),
    responses((status = 204)),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Path(path): Path<AgentPath>,
) -> Result<StatusCode, ApiError> {
    castari.domain.code_agents.delete(&caller, &path.slug).await?;
    Ok(StatusCode::NO_CONTENT)
}
