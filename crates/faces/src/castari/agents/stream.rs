//! `POST /agents/{slug}/stream`

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue},
    response::Response,
};
use backlot_domain::runs::Position;
use futures::StreamExt as _;

use super::{
    AgentPath,
    invoke::{CancelOnDrop, InvokeAgent},
};
use crate::{
    castari::{
        Castari,
        caller::InvokingCaller,
        error::ApiError,
        events::{Wishes, follow},
        extract::{Body, Path, Query},
    },
    http::{
        Closing,
        fields::{Boolean, Fields, FromFields, word},
        sse,
    },
};

/// Which events a reader wants.
#[derive(Debug, Clone, Copy, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct IncludeQuery {
    /// `stderr` shows standard error too.
    #[param(value_type = Option<String>)]
    include: Option<Included>,
}

#[derive(Debug, Clone, Copy)]
enum Included {
    Stderr,
}

impl FromFields for IncludeQuery {
    fn read(fields: &mut Fields<'_>) -> Self {
        let words = word(&["stderr"], |text| (text == "stderr").then_some(Included::Stderr));
        Self { include: fields.optional("include", words) }
    }
}

impl IncludeQuery {
    pub(crate) fn wishes(self) -> Wishes {
        Wishes { stderr: self.include.is_some() }
    }
}

/// What happens to the invocation when its reader goes away.
#[derive(Debug, Clone, Copy, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct StreamQuery {
    /// `true` stops the invocation when the client goes away; otherwise it goes on.
    #[param(default = false)]
    cancel_on_disconnect: Option<bool>,
    #[param(ignore)]
    include: IncludeQuery,
}

impl FromFields for StreamQuery {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            cancel_on_disconnect: fields.optional("cancel_on_disconnect", Boolean),
            include: IncludeQuery::read(fields),
        }
    }
}

/// Runs the agent's program once and streams what it writes as server-sent events.
///
/// Events: `started`, `stdout`, `stderr` (if asked for), `usage`, and `completed` or `failed` with the whole result at
/// the end; a comment every 15 seconds of silence. The header `X-Invocation-Id` names the invocation at once. A reader
/// that lost the connection continues with `GET /api/v1/invocations/{id}/events` and `Last-Event-ID`.
#[utoipa::path(
    post, path = "/api/v1/agents/{slug}/stream", operation_id = "stream_agent", tag = "agents",
    params(
        AgentPath, StreamQuery, IncludeQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "A repeat within 24 hours streams the first invocation"),
    ),
    request_body = InvokeAgent,
    responses(
        (status = 200, content_type = "text/event-stream", body = String),
        (status = 400, description = "The agent is not deployed (`agent_not_active`)"),
        (status = 409, description = "The session stayed busy for 30 seconds (`session_busy`)"),
    ),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    InvokingCaller(caller): InvokingCaller,
    Path(path): Path<AgentPath>,
    Query(query): Query<StreamQuery>,
    closing: Closing,
    headers: HeaderMap,
    Body(invoke): Body<InvokeAgent>,
) -> Result<Response, ApiError> {
    let command = invoke.into_command(&headers)?;
    let (domain, starter, slug) = (castari.domain.clone(), caller.clone(), path.slug);
    // In a task of its own, so that a client that goes away while a session is busy leaves nothing half started.
    let begun = tokio::spawn(async move { domain.code_agents.begin(&starter, &slug, command).await })
        .await
        .map_err(backlot_domain::Error::internal)??;
    let guard =
        (query.cancel_on_disconnect == Some(true)).then(|| CancelOnDrop::new(&castari, &closing, &caller, &begun.id));
    let events = follow(&castari.domain, &caller, &begun.id, Position::default(), query.include.wishes()).await?;
    // The closure owns the guard, which so lives as long as somebody reads; cancelling an ended invocation does nothing.
    let events = events.inspect(move |_| {
        let _held = &guard;
    });
    let mut response = sse::respond(events, &closing);
    if let Ok(id) = HeaderValue::from_str(&begun.id) {
        response.headers_mut().insert("x-invocation-id", id);
    }
    Ok(response)
}
