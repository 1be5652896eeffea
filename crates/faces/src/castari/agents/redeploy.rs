//! `POST /agents/{slug}/redeploy`

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};

use super::{
    Agent, AgentPath,
    deploy::{self, Deploy},
};
use crate::castari::{
    Castari,
    caller::CastariCaller,
    error::ApiError,
    extract::{OptionalBody, Path},
};

/// Deploys with everything fetched and built anew (spec/castari.md 8.10).
#[utoipa::path(
    post, path = "/api/v1/agents/{slug}/redeploy", operation_id = "redeploy_agent", tag = "agents",
    params(AgentPath, ("Prefer" = Option<String>, Header, description = "`respond-async` answers at once")),
    request_body(content = Option<Deploy>),
    responses(
        (status = 200, body = Agent, description = "Deployed"),
        (status = 202, body = Agent, description = "Still building"),
        (status = 400, description = "The source cannot be deployed (`no_source`, `manifest_missing`, `install_failed` …)"),
        (status = 409, description = "Another deployment is under way (`deploy_in_progress`)"),
    ),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Path(path): Path<AgentPath>,
    headers: HeaderMap,
    OptionalBody(deploy): OptionalBody<Deploy>,
) -> Result<(StatusCode, Json<Agent>), ApiError> {
    let request = deploy.into_request(&headers, true);
    let deployed = castari.domain.code_agents.deploy(&caller, &path.slug, request).await?;
    Ok(deploy::answer(deployed))
}
