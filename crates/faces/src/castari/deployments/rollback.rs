//! `POST /agents/{slug}/rollback`

use axum::{Json, extract::State};

use crate::{
    castari::{
        Castari,
        agents::{Agent, AgentPath},
        caller::CastariCaller,
        error::ApiError,
        extract::{OptionalBody, Path},
    },
    http::fields::{Fields, FromFields, text},
};

/// What to go back to.
#[derive(Debug, utoipa::ToSchema)]
pub(crate) struct Rollback {
    /// The release of this deployment; the one before the present when absent.
    #[schema(min_length = 1, max_length = 100)]
    deployment_id: Option<String>,
}

impl FromFields for Rollback {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self { deployment_id: fields.optional("deployment_id", text(1, 100)) }
    }
}

/// Lets an earlier release answer again, without building.
#[utoipa::path(
    post, path = "/api/v1/agents/{slug}/rollback", operation_id = "rollback_agent", tag = "deployments",
    params(AgentPath), request_body(content = Option<Rollback>), responses((status = 200, body = Agent)),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Path(path): Path<AgentPath>,
    OptionalBody(rollback): OptionalBody<Rollback>,
) -> Result<Json<Agent>, ApiError> {
    let deployment_id = rollback.deployment_id.as_deref();
    let agent = castari.domain.code_agents.rollback(&caller, &path.slug, deployment_id).await?;
    Ok(Json(agent.into()))
}
