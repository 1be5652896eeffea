//! `DELETE /{slug}/sandbox`: where the released SDK looks for `stop` (QUIRKS.md)

use axum::{Json, extract::State};

use super::{Agent, AgentPath, stop};
use crate::castari::{Castari, caller::CastariCaller, error::ApiError, extract::Path};

/// The same as `DELETE /api/v1/agents/{slug}/sandbox`, at the address that released clients use.
#[utoipa::path(
    delete, path = "/api/v1/{slug}/sandbox", operation_id = "stop_agent_legacy", tag = "agents", params(AgentPath),
    responses((status = 200, body = Agent), (status = 400, description = "It was never deployed (`agent_not_active`)")),
)]
pub(crate) async fn handler(
    state: State<Castari>,
    caller: CastariCaller,
    path: Path<AgentPath>,
) -> Result<Json<Agent>, ApiError> {
    stop::handler(state, caller, path).await
}
