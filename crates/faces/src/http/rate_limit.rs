//! How much a caller has left, in the headers of every answer (seed: "Rate limits").

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue, request::Parts},
    middleware::Next,
    response::Response,
};
use backlot_domain::accounts::RateStatus;

/// Calls allowed in a window.
pub(crate) const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
/// Calls left in the window.
pub(crate) const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
/// Unix seconds when the window ends.
pub(crate) const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Carries a status from the extractor that counts a call to the layer that writes the headers.
#[derive(Debug, Clone, Default)]
struct Slot(Arc<Mutex<Option<RateStatus>>>);

/// Tells where the caller stands, for the headers of the answer.
pub(crate) fn note(parts: &Parts, status: RateStatus) {
    if let Some(slot) = parts.extensions.get::<Slot>() {
        *slot.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }
}

/// Writes what was noted while the request was handled. A class without a limit has no headers.
pub(crate) async fn write_headers(mut request: Request, next: Next) -> Response {
    let slot = Slot::default();
    request.extensions_mut().insert(slot.clone());
    let mut response = next.run(request).await;
    let noted = *slot.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(status) = noted.filter(|status| status.limit > 0) {
        let headers = response.headers_mut();
        headers.insert(LIMIT, HeaderValue::from(status.limit));
        headers.insert(REMAINING, HeaderValue::from(status.remaining));
        // Rounded up: who waits until this second finds the window open.
        headers.insert(
            RESET,
            HeaderValue::from(status.reset_at.0.div_euclid(1000) + i64::from(status.reset_at.0 % 1000 > 0)),
        );
    }
    response
}
