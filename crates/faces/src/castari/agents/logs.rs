//! `GET /agents/{slug}/logs`

use std::{cmp::Reverse, collections::HashMap, time::Duration};

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse as _, Response, sse::Event},
};
use backlot_domain::{
    Domain, Error, Timestamp,
    accounts::Caller,
    code_agents::{Invocation, InvocationFilter, InvocationStatus, LogLine, LogStream},
    page::Window,
};
use futures::{StreamExt as _, stream};
use serde::Serialize;

use super::AgentPath;
use crate::{
    castari::{
        Castari,
        caller::CastariCaller,
        error::ApiError,
        extract::{Path, Query},
    },
    http::{
        Closing,
        fields::{Boolean, Fields, FromFields, integer},
        sse,
    },
};

/// Invocations that one look reads at most, newest first.
const INVOCATIONS: u32 = 100;
/// How often a followed log is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Which lines of an agent's log.
#[derive(Debug, Clone, Copy, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogQuery {
    /// `true` streams new lines as server-sent events.
    #[param(default = false)]
    follow: Option<bool>,
    /// The latest lines, at most so many.
    #[param(minimum = 0, maximum = 100_000, default = 100)]
    limit: Option<u32>,
}

impl FromFields for LogQuery {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self { follow: fields.optional("follow", Boolean), limit: fields.optional("limit", integer(0, 100_000)) }
    }
}

/// A line of an agent's log.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct AgentLogEntry {
    /// ISO 8601 in UTC.
    ts: String,
    /// `stderr` or `system`.
    #[schema(example = "stderr")]
    stream: &'static str,
    /// The text.
    text: String,
    /// The invocation that wrote it.
    invocation_id: String,
}

/// An agent's log, oldest line first.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct AgentLog {
    logs: Vec<AgentLogEntry>,
}

/// A line with its place: lines are told apart by their time and their number within the invocation.
struct Line {
    at: Timestamp,
    entry: AgentLogEntry,
}

/// Reads what an agent's latest invocations wrote to standard error, and what Backlot noted, across invocations.
#[utoipa::path(
    get, path = "/api/v1/agents/{slug}/logs", operation_id = "get_agent_logs", tag = "agents",
    params(
        AgentPath, LogQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "Of a followed log: the last event that the client has seen"),
    ),
    responses(
        (status = 200, body = AgentLog, description = "With `follow=true` a `text/event-stream` of `log` events, one per line"),
    ),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Path(path): Path<AgentPath>,
    Query(query): Query<LogQuery>,
    closing: Closing,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut tail = Tail { domain: castari.domain, caller, slug: path.slug, seen: HashMap::new() };
    let mut lines = tail.look().await?;
    let limit = usize::try_from(query.limit.unwrap_or(100)).unwrap_or(usize::MAX);
    if query.follow != Some(true) {
        let logs = lines.split_off(lines.len().saturating_sub(limit)).into_iter().map(|line| line.entry).collect();
        return Ok(Json(AgentLog { logs }).into_response());
    }
    match headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<i64>().ok()) {
        Some(last) => lines.retain(|line| line.at.0 > last),
        None => drop(lines.drain(..lines.len().saturating_sub(limit))),
    }
    let first = stream::iter(lines.into_iter().map(|line| line.to_event()));
    let rest = stream::unfold(tail, |mut tail| async move {
        tokio::time::sleep(LOOK_EVERY).await;
        // A look that fails ends the stream; the reader comes back with the last id.
        let lines = tail.look().await.ok()?;
        Some((stream::iter(lines.into_iter().map(|line| line.to_event())), tail))
    });
    Ok(sse::respond(first.chain(rest.flatten()), &closing))
}

impl Line {
    fn to_event(&self) -> Event {
        let data = serde_json::to_string(&self.entry).unwrap_or_default();
        Event::default().id(self.at.0.to_string()).event("log").data(data)
    }
}

/// A reader of an agent's log that remembers what it has read.
struct Tail {
    domain: Domain,
    caller: Caller,
    slug: String,
    /// Lines read of each invocation.
    seen: HashMap<String, Seen>,
}

struct Seen {
    lines: usize,
    has_ended: bool,
}

impl Tail {
    /// The lines that are new since the last look, oldest first.
    async fn look(&mut self) -> Result<Vec<Line>, Error> {
        let mut lines = Vec::new();
        let latest = self.latest().await?;
        // What is older than the latest is not looked at again.
        self.seen.retain(|id, _| latest.iter().any(|invocation| invocation.id == *id));
        for invocation in latest {
            let has_ended = invocation.status != InvocationStatus::Running;
            let read = match self.seen.get(&invocation.id) {
                Some(seen) if seen.has_ended => continue,
                Some(seen) => seen.lines,
                None => 0,
            };
            let log = self.domain.code_agents.invocation_logs(&self.caller, &invocation.id).await?;
            self.seen.insert(invocation.id.clone(), Seen { lines: log.len(), has_ended });
            lines.extend(log.into_iter().skip(read).map(|line| Line::new(line, &invocation.id)));
        }
        lines.sort_by_key(|line| line.at);
        Ok(lines)
    }

    /// The latest invocations: those under way first, so that one that ends between the two lists is in the second.
    async fn latest(&self) -> Result<Vec<Invocation>, Error> {
        let window = Window { limit: INVOCATIONS, offset: 0 };
        let mut all = Vec::new();
        for status in [Some(InvocationStatus::Running), None] {
            let filter = InvocationFilter { agent_slug: Some(self.slug.clone()), status, ..Default::default() };
            all.extend(self.domain.code_agents.invocations(&self.caller, filter, window).await?.items);
        }
        // The ended form of an invocation met twice is the later one.
        all.sort_by_key(|invocation| (Reverse(invocation.created_at), invocation.status == InvocationStatus::Running));
        let mut met = std::collections::HashSet::new();
        all.retain(|invocation| met.insert(invocation.id.clone()));
        Ok(all)
    }
}

impl Line {
    fn new(line: LogLine, invocation_id: &str) -> Self {
        let stream = match line.stream {
            LogStream::Stderr => "stderr",
            LogStream::System => "system",
        };
        let entry =
            AgentLogEntry { ts: line.at.to_iso(), stream, text: line.text, invocation_id: invocation_id.to_owned() };
        Self { at: line.at, entry }
    }
}
