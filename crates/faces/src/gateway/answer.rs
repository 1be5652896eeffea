//! From an answer of the domain to an HTTP response.

use axum::{
    Json,
    body::Body,
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
    response::{IntoResponse as _, Response},
};
use backlot_domain::models::{CallError, Relayed, RelayedBody, Wire};

/// Passes an answer on, piece by piece as it comes.
pub(super) fn pass_on(relayed: Relayed) -> Response {
    let body = match relayed.body {
        RelayedBody::Whole(bytes) => Body::from(bytes),
        RelayedBody::Stream(pieces) => Body::from_stream(pieces),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status(relayed.status);
    *response.headers_mut() = relayed.headers;
    let is_stream = |kind: &HeaderValue| kind.as_bytes().starts_with(b"text/event-stream");
    if response.headers().get(CONTENT_TYPE).is_some_and(is_stream) {
        // Proxies in front of us shall not collect it.
        response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    }
    response
}

/// Tells a failure in the shape of the client's format.
pub(super) fn refuse(wire: Wire, error: &CallError) -> Response {
    let (code, body) = error.encode(wire);
    let mut response = (status(code), Json(body)).into_response();
    if let Some(wait) = error.error.retry_after {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_GATEWAY)
}
