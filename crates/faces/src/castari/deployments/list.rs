//! `GET /agents/{slug}/deployments`

use axum::{Json, extract::State};
use backlot_domain::{Timestamp, code_agents};
use serde::Serialize;

use crate::castari::{
    Castari,
    agents::AgentPath,
    caller::CastariCaller,
    error::ApiError,
    extract::{Path, Query},
    page::{Meta, PageQuery},
};

/// A deployment.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Deployment {
    /// `dep_…`
    id: String,
    /// Commit or content hash, once known.
    source_hash: Option<String>,
    /// `running`, `completed` or `failed`.
    #[schema(example = "completed")]
    status: &'static str,
    /// Why it failed.
    message: Option<String>,
    /// ISO 8601 in UTC.
    started_at: String,
    /// ISO 8601 in UTC.
    finished_at: Option<String>,
}

impl From<code_agents::Deployment> for Deployment {
    fn from(deployment: code_agents::Deployment) -> Self {
        Self {
            id: deployment.id,
            source_hash: deployment.source_hash,
            status: deployment.status.as_str(),
            message: deployment.message,
            started_at: deployment.started_at.to_iso(),
            finished_at: deployment.finished_at.map(Timestamp::to_iso),
        }
    }
}

/// A part of the list of deployments.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct DeploymentList {
    deployments: Vec<Deployment>,
    meta: Meta,
}

/// Lists an agent's deployments, newest first.
#[utoipa::path(
    get, path = "/api/v1/agents/{slug}/deployments", operation_id = "list_deployments", tag = "deployments",
    params(AgentPath, PageQuery), responses((status = 200, body = DeploymentList)),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Path(path): Path<AgentPath>,
    Query(page): Query<PageQuery>,
) -> Result<Json<DeploymentList>, ApiError> {
    let page = castari.domain.code_agents.deployments(&caller, &path.slug, page.window()).await?;
    let meta = Meta::from(&page);
    Ok(Json(DeploymentList { deployments: page.items.into_iter().map(Deployment::from).collect(), meta }))
}
