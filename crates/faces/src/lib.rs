//! Everything the outside world talks to over HTTP: one folder per face, and [`http`], the floor under all of them.
//!
//! A face translates between its wire format and the domain, and decides nothing: a handler extracts, builds a
//! command, calls one method of the domain, and converts. Faces do not know each other. Every face has the same
//! files: `mod.rs` (the promise and the list of routes), `error.rs` (domain errors to status and envelope, one
//! exhaustive match), its way of saying who is asking, one file per endpoint, `QUIRKS.md`, and an `openapi.json` that
//! is generated from the code and checked by a test.

mod castari;
mod caster;
pub mod gateway;
pub mod http;

use std::{path::PathBuf, sync::Arc};

use axum::{Json, Router, http::StatusCode, middleware};
use backlot_domain::Domain;
use tower::ServiceExt as _;

use crate::http::{Readiness, host::Hosts};

/// What the operator decides about faces.
#[derive(Debug, Clone, Default)]
pub struct FacesSettings {
    /// Told at `/readyz`.
    pub readiness: Readiness,
    /// Origins of web pages that may call us from a browser; `*` for all, empty for none.
    pub cors_origins: Vec<String>,
    /// A host name of castari's own, where its paths start at `/`.
    pub castari_host: Option<String>,
    /// A host name of caster's own, where its paths start at `/`.
    pub caster_host: Option<String>,
    /// Where archives wait while they are received; the system's folder for temporary files when absent. It must exist.
    pub uploads: Option<PathBuf>,
}

impl From<Readiness> for FacesSettings {
    fn from(readiness: Readiness) -> Self {
        Self { readiness, ..Self::default() }
    }
}

impl FacesSettings {
    fn uploads(&self) -> PathBuf {
        self.uploads.clone().unwrap_or_else(tempfile::env::temp_dir)
    }
}

/// All faces: `/castari`, `/caster`, `/gateway`, and `/healthz`, `/readyz`, `/metrics`.
pub fn router(domain: Domain, settings: impl Into<FacesSettings>) -> Router {
    http::install_metrics();
    let settings = Arc::new(settings.into());
    let faces = Router::new()
        .nest("/castari", castari::router(domain.clone(), Arc::clone(&settings)))
        .nest("/caster", caster::router(domain.clone()))
        .nest("/gateway", gateway::router(domain.clone()))
        .merge(http::health::router(domain, settings.readiness.clone()))
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method);
    with_hosts(on_the_floor(faces, &settings), &settings)
}

/// The model gateway alone, under `/gateway`: what sandboxes can reach.
pub fn gateway_router(domain: Domain) -> Router {
    http::install_metrics();
    let gateway = Router::new().nest("/gateway", gateway::router(domain)).fallback(nothing_here);
    on_the_floor(gateway, &FacesSettings::default())
}

/// What every request passes, whichever face it is for.
fn on_the_floor(router: Router, settings: &FacesSettings) -> Router {
    let mut router = router.layer(http::panic::catch(panicked));
    if let Some(cors) = http::cors::layer(&settings.cors_origins) {
        router = router.layer(cors);
    }
    router.layer(middleware::from_fn(http::observe::observe))
}

/// Gives faces host names of their own. The path is rewritten before any route is looked for.
fn with_hosts(router: Router, settings: &FacesSettings) -> Router {
    let castari = settings.castari_host.clone().map(|host| (host, "/castari"));
    let caster = settings.caster_host.clone().map(|host| (host, "/caster"));
    let hosts = Hosts::new(castari.into_iter().chain(caster));
    if hosts.is_empty() {
        return router;
    }
    Router::new().fallback_service(router.map_request(move |request| hosts.rewrite(request)))
}

type Answer = (StatusCode, Json<serde_json::Value>);

async fn nothing_here() -> Answer {
    (StatusCode::NOT_FOUND, Json(serde_json::json!({ "error": "Not Found", "see": "/" })))
}

async fn wrong_method() -> Answer {
    (StatusCode::METHOD_NOT_ALLOWED, Json(serde_json::json!({ "error": "Method Not Allowed" })))
}

fn panicked() -> axum::response::Response {
    use axum::response::IntoResponse as _;
    let body = Json(serde_json::json!({ "error": "Internal server error" }));
    (StatusCode::INTERNAL_SERVER_ERROR, body).into_response()
}

/// The API documents as they are committed beside their faces: path within `src`, and text.
#[must_use]
pub fn openapi_documents() -> Vec<(&'static str, String)> {
    vec![
        ("castari/openapi.json", http::document::text(&castari::document())),
        ("caster/openapi.json", http::document::text(&caster::document())),
    ]
}
