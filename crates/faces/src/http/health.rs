//! What orchestrators ask: alive, able to serve, and the figures. No credentials, no rate limits.

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use backlot_domain::{Domain, Kind};
use serde_json::json;

use super::Readiness;

#[derive(Clone)]
struct Health {
    domain: Domain,
    readiness: Readiness,
}

/// `/healthz`, `/readyz`, `/metrics` and a signpost at `/`.
pub(crate) fn router(domain: Domain, readiness: Readiness) -> Router {
    Router::new()
        .route("/", get(signpost))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(figures))
        .with_state(Health { domain, readiness })
}

async fn alive() -> Json<serde_json::Value> {
    Json(json!({ "status": "ok" }))
}

async fn ready(State(health): State<Health>) -> Response {
    if health.readiness.is_draining() {
        return unready("draining");
    }
    // A look for a run that cannot exist: it costs one read and says whether the database answers.
    match health.domain.runs.get("readyz", "readyz").await {
        Err(error) if error.kind != Kind::NotFound => {
            tracing::error!(?error, "not ready: the database does not answer");
            unready("database unreachable")
        }
        _ => Json(json!({ "status": "ready" })).into_response(),
    }
}

fn unready(reason: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "not ready", "reason": reason }))).into_response()
}

async fn figures() -> Response {
    match super::metrics::render() {
        Some(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        None => unready("no metrics are kept"),
    }
}

async fn signpost() -> Json<serde_json::Value> {
    Json(json!({
        "name": "backlot",
        "version": env!("CARGO_PKG_VERSION"),
        "faces": {
            "castari": { "base": "/castari/api/v1", "openapi": "/castari/openapi.json" },
            "caster": { "base": "/caster/api/v1", "openapi": "/caster/openapi.json" },
            "gateway": { "anthropic": "/gateway/anthropic", "openai": "/gateway/openai/v1" },
        },
        "health": ["/healthz", "/readyz", "/metrics"],
    }))
}
