//! `GET /agents/{slug}/invocations`

use axum::{Json, extract::State};
use backlot_domain::code_agents::{InvocationFilter, InvocationStatus};

use super::{InvocationItem, STATUSES, list::InvocationList, parse_status};
use crate::{
    castari::{
        Castari,
        agents::AgentPath,
        caller::CastariCaller,
        error::ApiError,
        extract::{Path, Query},
        page::{Meta, PageQuery},
    },
    http::fields::{Fields, FromFields, word},
};

/// Which invocations of an agent a list shows.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct StatusFilter {
    /// `completed`, `failed` or `running`; ended ones when absent.
    #[param(value_type = Option<String>)]
    status: Option<InvocationStatus>,
    #[param(ignore)]
    page: PageQuery,
}

impl FromFields for StatusFilter {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self { status: fields.optional("status", word(STATUSES, parse_status)), page: PageQuery::read(fields) }
    }
}

/// Lists invocations of an agent, newest first.
#[utoipa::path(
    get, path = "/api/v1/agents/{slug}/invocations", operation_id = "list_agent_invocations", tag = "invocations",
    params(AgentPath, StatusFilter, PageQuery), responses((status = 200, body = InvocationList)),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Path(path): Path<AgentPath>,
    Query(query): Query<StatusFilter>,
) -> Result<Json<InvocationList>, ApiError> {
    let filter = InvocationFilter { agent_slug: Some(path.slug), status: query.status, ..InvocationFilter::default() };
    let page = castari.domain.code_agents.invocations(&caller, filter, query.page.window()).await?;
    let meta = Meta::from(&page);
    Ok(Json(InvocationList { invocations: page.items.into_iter().map(InvocationItem::from).collect(), meta }))
}
