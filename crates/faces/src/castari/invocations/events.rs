//! `GET /invocations/{id}/events`

use axum::{extract::State, http::HeaderMap, response::Response};
use backlot_domain::runs::Position;

use super::InvocationPath;
use crate::{
    castari::{
        Castari,
        agents::stream::IncludeQuery,
        caller::CastariCaller,
        error::{ApiError, Location},
        events::follow,
        extract::{Path, Query},
    },
    http::{Closing, fields::Problem, sse},
};

/// Follows an invocation, from its begin or from the event named by `Last-Event-ID`.
///
/// The journal is the source, so an ended invocation can be followed too, at any time, by any number of readers.
#[utoipa::path(
    get, path = "/api/v1/invocations/{id}/events", operation_id = "follow_invocation", tag = "invocations",
    params(
        InvocationPath, IncludeQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "The last event that the client has seen"),
    ),
    responses((status = 200, content_type = "text/event-stream", body = String, description = "As `POST …/stream`")),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Path(path): Path<InvocationPath>,
    Query(include): Query<IncludeQuery>,
    closing: Closing,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let after = last_event_id(&headers)?;
    let events = follow(&castari.domain, &caller, &path.id, after, include.wishes()).await?;
    Ok(sse::respond(events, &closing))
}

fn last_event_id(headers: &HeaderMap) -> Result<Position, ApiError> {
    let Some(value) = headers.get("last-event-id") else { return Ok(Position::default()) };
    let wrong = || {
        let problem = Problem::Other(String::from("is not a place in a run, such as `12` or `12.345`"));
        ApiError::field(Location::Header, "Last-Event-ID", problem)
    };
    match value.to_str() {
        // What a browser sends that has not seen any event.
        Ok("") => Ok(Position::default()),
        Ok(text) => text.parse().map_err(|_| wrong()),
        Err(_) => Err(wrong()),
    }
}
