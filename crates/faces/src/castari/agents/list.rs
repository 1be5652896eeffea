//! `GET /agents`

use axum::{Json, extract::State};
use backlot_domain::code_agents;
use serde::Serialize;

use super::Agent;
use crate::{
    castari::{
        Castari,
        caller::CastariCaller,
        error::ApiError,
        extract::Query,
        page::{Meta, PageQuery},
    },
    http::fields::{Fields, FromFields, word},
};

/// Which agents a list shows.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct AgentFilter {
    /// Agents in this status only.
    #[param(value_type = Option<super::AgentStatus>, inline)]
    status: Option<code_agents::AgentStatus>,
    #[param(ignore)]
    page: PageQuery,
}

impl FromFields for AgentFilter {
    fn read(fields: &mut Fields<'_>) -> Self {
        let status = word(code_agents::AgentStatus::WORDS, |text| text.parse().ok());
        Self { status: fields.optional("status", status), page: PageQuery::read(fields) }
    }
}

/// A part of the list of agents.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct AgentList {
    agents: Vec<Agent>,
    meta: Meta,
}

/// Lists agents, newest first.
#[utoipa::path(
    get, path = "/api/v1/agents", operation_id = "list_agents", tag = "agents", params(AgentFilter, PageQuery),
    responses((status = 200, body = AgentList)),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Query(filter): Query<AgentFilter>,
) -> Result<Json<AgentList>, ApiError> {
    let page = castari.domain.code_agents.list(&caller, filter.status, filter.page.window()).await?;
    Ok(Json(AgentList { meta: Meta::from(&page), agents: page.items.into_iter().map(Agent::from).collect() }))
}
