//! The caster face: so far accounts only (seed "Auth"; spec/caster.md 1.1). Sites come with their domain.
//!
//! Errors are `{"error": …}` with a `code` beside it; validation is status 400. Identifiers are growing integers.
//! `QUIRKS.md` lists what we add.

mod error;
mod extract;
mod login;
mod me;
mod openapi;
mod register;
mod user;

use std::sync::Arc;

use axum::{
    Router,
    http::{HeaderValue, header},
    middleware,
    response::Response,
    routing::get,
};
use backlot_domain::Domain;
use utoipa::OpenApi as _;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::http;

/// What every handler has at hand.
#[derive(Clone)]
pub(crate) struct Caster {
    pub(crate) domain: Domain,
}

/// The face's endpoints, to be mounted under `/caster`.
pub(crate) fn router(domain: Domain) -> Router {
    let (router, document) = endpoints().split_for_parts();
    let document: Arc<str> = http::document::text(&openapi::complete(document)).into();
    router
        .route("/openapi.json", get(move || async move { http::document::answer(&document) }))
        .fallback(|| async { error::ApiError::no_route() })
        .method_not_allowed_fallback(|| async { error::ApiError::no_method() })
        .layer(middleware::map_response(forbid_storing))
        .layer(http::panic::catch(error::panicked))
        .layer(middleware::from_fn(http::rate_limit::write_headers))
        .with_state(Caster { domain })
}

/// The API document, as `openapi.json` has it.
pub(crate) fn document() -> utoipa::openapi::OpenApi {
    openapi::complete(endpoints().into_openapi())
}

fn endpoints() -> OpenApiRouter<Caster> {
    OpenApiRouter::with_openapi(openapi::Document::openapi())
        .routes(routes!(register::handler))
        .routes(routes!(login::handler))
        .routes(routes!(me::handler))
}

/// Answers hold keys and tokens (spec/caster.md 0.2).
async fn forbid_storing(mut response: Response) -> Response {
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
