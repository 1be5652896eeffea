//! `GET /agents/{slug}/sessions`

use axum::{Json, extract::State};
use backlot_domain::code_agents;
use serde::Serialize;

use crate::castari::{
    Castari,
    agents::AgentPath,
    caller::CastariCaller,
    error::ApiError,
    extract::{Path, Query},
    page::{Meta, PageQuery},
};

/// A session.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Session {
    /// The caller's name for it.
    id: String,
    /// `agt_…`
    agent_id: String,
    /// The sandbox of its last turn.
    sandbox_id: Option<String>,
    /// ISO 8601 in UTC.
    created_at: String,
    /// ISO 8601 in UTC.
    last_invocation_at: Option<String>,
}

impl From<code_agents::Session> for Session {
    fn from(session: code_agents::Session) -> Self {
        Self {
            id: session.id,
            agent_id: session.agent_id,
            sandbox_id: session.sandbox_id,
            created_at: session.created_at.to_iso(),
            last_invocation_at: session.last_invocation_at.map(backlot_domain::Timestamp::to_iso),
        }
    }
}

/// A part of the list of sessions.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct SessionList {
    sessions: Vec<Session>,
    meta: Meta,
}

/// Lists an agent's sessions, newest first.
#[utoipa::path(
    get, path = "/api/v1/agents/{slug}/sessions", operation_id = "list_sessions", tag = "sessions",
    params(AgentPath, PageQuery), responses((status = 200, body = SessionList)),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Path(path): Path<AgentPath>,
    Query(page): Query<PageQuery>,
) -> Result<Json<SessionList>, ApiError> {
    let page = castari.domain.code_agents.sessions(&caller, &path.slug, page.window()).await?;
    Ok(Json(SessionList { meta: Meta::from(&page), sessions: page.items.into_iter().map(Session::from).collect() }))
}
