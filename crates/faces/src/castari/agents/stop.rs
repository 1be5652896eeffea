//! `DELETE /agents/{slug}/sandbox`

use axum::{Json, extract::State};

use super::{Agent, AgentPath};
use crate::castari::{Castari, caller::CastariCaller, error::ApiError, extract::Path};

/// Stops an agent: ends its invocations, destroys its sandboxes, refuses invocations until it is deployed again.
#[utoipa::path(
    delete, path = "/api/v1/agents/{slug}/sandbox", operation_id = "stop_agent", tag = "agents", params(AgentPath),
    responses((status = 200, body = Agent), (status = 400, description = "It was never deployed (`agent_not_active`)")),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Path(path): Path<AgentPath>,
) -> Result<Json<Agent>, ApiError> {
    let agent = castari.domain.code_agents.stop(&caller, &path.slug).await?;
    Ok(Json(agent.into()))
}
