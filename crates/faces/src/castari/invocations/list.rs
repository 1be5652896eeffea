//! `GET /invocations`

use axum::{Json, extract::State};
use backlot_domain::{
    Timestamp,
    code_agents::{InvocationFilter, InvocationStatus},
};
use serde::Serialize;

use super::{InvocationItem, STATUSES, parse_status};
use crate::{
    castari::{
        Castari,
        caller::CastariCaller,
        error::ApiError,
        extract::Query,
        page::{Meta, PageQuery},
    },
    http::fields::{Fields, FromFields, Moment, text, word},
};

/// Which invocations of all agents a list shows.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct HistoryFilter {
    /// Of this agent only, by slug.
    #[param(max_length = 100)]
    agent: Option<String>,
    /// Of this session only.
    #[param(max_length = 128)]
    session_id: Option<String>,
    /// `completed`, `failed` or `running`; ended ones when absent.
    #[param(value_type = Option<String>)]
    status: Option<InvocationStatus>,
    /// Asked for at or after this moment (ISO 8601, or a day in UTC).
    #[param(value_type = Option<String>)]
    since: Option<Timestamp>,
    /// Asked for before this moment.
    #[param(value_type = Option<String>)]
    until: Option<Timestamp>,
    #[param(ignore)]
    page: PageQuery,
}

impl FromFields for HistoryFilter {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            agent: fields.optional("agent", text(1, 100)),
            session_id: fields.optional("session_id", text(1, 128)),
            status: fields.optional("status", word(STATUSES, parse_status)),
            since: fields.optional("since", Moment),
            until: fields.optional("until", Moment),
            page: PageQuery::read(fields),
        }
    }
}

/// A part of the history.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct InvocationList {
    pub(super) invocations: Vec<InvocationItem>,
    pub(super) meta: Meta,
}

/// Lists invocations of all agents, newest first.
#[utoipa::path(
    get, path = "/api/v1/invocations", operation_id = "list_invocations", tag = "invocations",
    params(HistoryFilter, PageQuery), responses((status = 200, body = InvocationList)),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Query(query): Query<HistoryFilter>,
) -> Result<Json<InvocationList>, ApiError> {
    let filter = InvocationFilter {
        agent_slug: query.agent,
        session_id: query.session_id,
        status: query.status,
        since: query.since,
        until: query.until,
    };
    let page = castari.domain.code_agents.invocations(&caller, filter, query.page.window()).await?;
    let meta = Meta::from(&page);
    Ok(Json(InvocationList { invocations: page.items.into_iter().map(InvocationItem::from).collect(), meta }))
}
