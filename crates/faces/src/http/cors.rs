//! Which web pages may call us from a browser.

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use super::{observe::REQUEST_ID, rate_limit};

/// The layer for a list of origins (`https://app.example.org`, or `*` for all); nothing for an empty list.
///
/// Credentials travel in the `Authorization` header, never in cookies, so `*` gives a page nothing it could not have
/// by asking its visitor for a key.
pub(crate) fn layer(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::from(Any)
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin.trim_end_matches('/')).ok()))
    };
    Some(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
            .allow_headers([
                header::AUTHORIZATION,
                header::CONTENT_TYPE,
                HeaderName::from_static("x-api-key"),
                HeaderName::from_static("idempotency-key"),
                HeaderName::from_static("last-event-id"),
                HeaderName::from_static("prefer"),
                REQUEST_ID,
            ])
            .expose_headers([
                rate_limit::LIMIT,
                rate_limit::REMAINING,
                rate_limit::RESET,
                header::RETRY_AFTER,
                REQUEST_ID,
            ])
            .max_age(std::time::Duration::from_secs(600)),
    )
}
