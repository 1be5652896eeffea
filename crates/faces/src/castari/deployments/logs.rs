//! `GET /agents/{slug}/deployments/{id}/logs`

use axum::{Json, extract::State};
use serde::Deserialize;

use crate::castari::{Castari, caller::CastariCaller, error::ApiError, extract::Path, invocations::Log};

/// The variable parts of a deployment's address.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct DeploymentPath {
    /// The agent's name in addresses.
    slug: String,
    /// `dep_…`
    id: String,
}

/// Reads the build log of a deployment.
#[utoipa::path(
    get, path = "/api/v1/agents/{slug}/deployments/{id}/logs", operation_id = "get_deployment_logs",
    tag = "deployments", params(DeploymentPath), responses((status = 200, body = Log)),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Path(path): Path<DeploymentPath>,
) -> Result<Json<Log>, ApiError> {
    let lines = castari.domain.code_agents.deployment_log(&caller, &path.slug, &path.id).await?;
    Ok(Json(lines.into()))
}
