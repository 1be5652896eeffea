//! One middleware that sees every request: its id, its log line, its figures.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderName, HeaderValue, Method, StatusCode},
    middleware::Next,
    response::Response,
};
use backlot_domain::{Clock as _, Ids as _, RandomIds, SystemClock};
use tracing::Instrument as _;

/// Carries a request's id in both directions.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id of a client's making that we repeat.
const LONGEST_ID: usize = 128;
/// Stands for every address that no route answers, so that probing does not grow the metrics.
const UNMATCHED: &str = "unmatched";

/// Gives the request an id, repeats it in the answer, writes one log line and counts.
pub(crate) async fn observe(mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = request
        .headers()
        .get(&REQUEST_ID)
        .filter(|value| is_harmless(value.as_bytes()))
        .cloned()
        .unwrap_or_else(fresh_id);
    // Inner layers and handlers read the id from here, whatever the client sent.
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let method = method_name(request.method());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| String::from(UNMATCHED), |path| path.as_str().to_owned());
    let face = face_of(&route);
    let span = tracing::info_span!("request", request_id = id.to_str().unwrap_or_default(), method, route);
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    let elapsed = begun.elapsed();
    super::metrics::count_request(face, &route, method, status.as_u16(), elapsed);
    span.in_scope(|| log(status, elapsed));
    // A provider's own id, passed on by the gateway, tells more than ours.
    response.headers_mut().entry(REQUEST_ID).or_insert(id);
    response
}

fn log(status: StatusCode, elapsed: std::time::Duration) {
    let duration_ms = elapsed.as_secs_f64() * 1000.0;
    if status.is_server_error() {
        tracing::error!(target: "backlot::http", status = status.as_u16(), duration_ms, "answered");
    } else {
        tracing::info!(target: "backlot::http", status = status.as_u16(), duration_ms, "answered");
    }
}

fn fresh_id() -> HeaderValue {
    HeaderValue::from_str(&RandomIds.next("req", SystemClock.now())).unwrap_or_else(|_| HeaderValue::from_static("req"))
}

/// Ids of a client's making end up in logs, so they are short and plain.
fn is_harmless(id: &[u8]) -> bool {
    !id.is_empty()
        && id.len() <= LONGEST_ID
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':'))
}

/// Clients may send any word as a method; the metrics know only the usual ones.
fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// The face that a route belongs to: its first segment.
fn face_of(route: &str) -> &'static str {
    match route.split('/').nth(1) {
        Some("castari") => "castari",
        Some("caster") => "caster",
        Some("gateway") => "gateway",
        _ => "server",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_disturb_a_log_are_replaced() {
        for good in ["a", "req_01j8", "0af7651916cd43dd-8448eb211c80319c", &"x".repeat(128)] {
            assert!(is_harmless(good.as_bytes()), "{good}");
        }
        for bad in ["", "a b", "a\tb", "\u{1b}[31m", "a\"b", &"x".repeat(129)] {
            assert!(!is_harmless(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn faces_are_known_by_their_first_segment() {
        assert_eq!(face_of("/castari/api/v1/agents/{slug}"), "castari");
        assert_eq!(face_of("/gateway/openai/v1/models"), "gateway");
        assert_eq!(face_of("/healthz"), "server");
        assert_eq!(face_of(UNMATCHED), "server");
    }
}
