//! The castari face: deploy agent code into sandboxes and invoke it.
//!
//! Promised to: `@castari/sdk` 0.4.1 (unmodified, with another base URL), `curl` as in the seed's walkthrough, and the
//! `backlot` client. Paths, names and shapes are those of the seeds (API reference, SDK types); `spec/castari.md`
//! completes them; `QUIRKS.md` lists where the imitated service is odd and what we do.
//!
//! To add an endpoint: a file in the folder of its noun with its wire types, its rules for fields
//! ([`FromFields`](crate::http::fields::FromFields)) and a short handler; its name in [`router`]; then write the API
//! document anew (`UPDATE_OPENAPI=1 cargo test -p backlot-faces openapi`).

mod agents;
mod api_keys;
mod auth;
mod caller;
mod deployments;
mod error;
mod events;
mod extract;
mod invocations;
mod money;
mod openapi;
mod page;
mod secrets;
mod sessions;
mod usage;

use std::sync::Arc;

use axum::{Json, Router, extract::DefaultBodyLimit, middleware, routing::get};
use backlot_domain::Domain;
use utoipa::OpenApi as _;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{FacesSettings, http};

/// What every handler has at hand.
#[derive(Clone)]
pub(crate) struct Castari {
    pub(crate) domain: Domain,
    pub(crate) settings: Arc<FacesSettings>,
}

/// The face's endpoints, to be mounted under `/castari`.
pub(crate) fn router(domain: Domain, settings: Arc<FacesSettings>) -> Router {
    let (router, document) = endpoints().split_for_parts();
    let document: Arc<str> = http::document::text(&openapi::complete(document)).into();
    router
        .route("/openapi.json", get(move || async move { http::document::answer(&document) }))
        .route("/health", get(|| async { Json(serde_json::json!({ "status": "ok" })) }))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::disable())
        .layer(http::panic::catch(error::panicked))
        .layer(middleware::from_fn(http::rate_limit::write_headers))
        .with_state(Castari { domain, settings })
}

/// The answer to an address that does not exist.
async fn no_route(_: caller::Stray) -> error::ApiError {
    error::ApiError::no_route()
}

/// The answer to a method that does not exist.
async fn no_method(_: caller::Stray) -> error::ApiError {
    error::ApiError::no_method()
}

/// The API document, as `openapi.json` has it.
pub(crate) fn document() -> utoipa::openapi::OpenApi {
    openapi::complete(endpoints().into_openapi())
}

fn endpoints() -> OpenApiRouter<Castari> {
    OpenApiRouter::with_openapi(openapi::Document::openapi())
        .routes(routes!(agents::list::handler, agents::create::handler))
        .routes(routes!(agents::get::handler, agents::update::handler, agents::delete::handler))
        .routes(routes!(agents::deploy::handler))
        .routes(routes!(agents::redeploy::handler))
        .routes(routes!(agents::upload_code::handler))
        .routes(routes!(agents::upload_legacy::handler))
        .routes(routes!(agents::stop::handler))
        .routes(routes!(agents::stop_legacy::handler))
        .routes(routes!(agents::invoke::handler))
        .routes(routes!(agents::stream::handler))
        .routes(routes!(agents::logs::handler))
        .routes(routes!(deployments::list::handler))
        .routes(routes!(deployments::logs::handler))
        .routes(routes!(deployments::rollback::handler))
        .routes(routes!(secrets::list::handler, secrets::set::handler))
        .routes(routes!(secrets::delete::handler))
        .routes(routes!(sessions::list::handler))
        .routes(routes!(sessions::delete::handler))
        .routes(routes!(invocations::list_of_agent::handler))
        .routes(routes!(invocations::list::handler))
        .routes(routes!(invocations::get::handler))
        .routes(routes!(invocations::events::handler))
        .routes(routes!(invocations::cancel::handler))
        .routes(routes!(invocations::logs::handler))
        .routes(routes!(api_keys::list::handler, api_keys::create::handler))
        .routes(routes!(api_keys::revoke::handler))
        .routes(routes!(api_keys::create_legacy::handler, api_keys::revoke_legacy::handler))
        .routes(routes!(auth::me::handler))
        .routes(routes!(usage::summary::handler))
        .routes(routes!(usage::daily::handler))
}
