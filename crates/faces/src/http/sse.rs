//! Answers that are streams of server-sent events.

use std::{convert::Infallible, time::Duration};

use axum::{
    http::{HeaderValue, header},
    response::{
        IntoResponse as _, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, StreamExt as _};

use super::Closing;

/// How often a silent stream says that it is alive (spec/castari.md 12.2).
const PING: Duration = Duration::from_secs(15);

/// Streams events with a `: ping` in every silence. The stream ends early when the listener closes, so that a reader
/// who stays does not keep the server from stopping; the reader comes back with the id of the last event.
///
/// A reader who does not read holds nothing but its place: events are fetched when the connection takes them.
pub(crate) fn respond(events: impl Stream<Item = Event> + Send + 'static, closing: &Closing) -> Response {
    let events = events.take_until(closing.token().cancelled_owned()).map(Ok::<_, Infallible>);
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(PING).text("ping")).into_response();
    // nginx holds streams back unless told otherwise.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
