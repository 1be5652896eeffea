//! `GET /agents/{slug}`

use axum::{Json, extract::State};

use super::{Agent, AgentPath};
use crate::castari::{Castari, caller::CastariCaller, error::ApiError, extract::Path};

/// Reads an agent.
#[utoipa::path(
    get, path = "/api/v1/agents/{slug}", operation_id = "get_agent", tag = "agents", params(AgentPath),
    responses((status = 200, body = Agent)),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Path(path): Path<AgentPath>,
) -> Result<Json<Agent>, ApiError> {
    let agent = castari.domain.code_agents.get(&caller, &path.slug).await?;
    Ok(Json(agent.into()))
}
