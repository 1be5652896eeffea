//! Addresses of Anthropic's API.

use axum::{
    Router,
    extract::{Path, Request, State, rejection::PathRejection},
    response::Response,
    routing::{any, get, post},
};
use backlot_domain::{
    Domain,
    models::{CallError, ErrorKind, Wire},
};

use super::{answer, ask};

const WIRE: Wire = Wire::AnthropicMessages;

pub(super) fn router() -> Router<Domain> {
    Router::new()
        .route("/v1/messages", post(messages).fallback(unknown))
        .route("/v1/messages/count_tokens", post(count_tokens).fallback(unknown))
        .route("/v1/messages/batches", any(batches))
        .route("/v1/messages/batches/{*rest}", any(batches))
        .route("/v1/models", get(models).fallback(unknown))
        .route("/v1/models/{*id}", get(model).fallback(unknown))
        .fallback(unknown)
}

async fn messages(State(domain): State<Domain>, request: Request) -> Response {
    ask::relay(&domain, WIRE, request).await
}

async fn count_tokens(State(domain): State<Domain>, request: Request) -> Response {
    ask::count_tokens(&domain, request).await
}

async fn models(State(domain): State<Domain>, request: Request) -> Response {
    ask::list_models(&domain, WIRE, request.headers()).await
}

async fn model(State(domain): State<Domain>, id: Result<Path<String>, PathRejection>, request: Request) -> Response {
    match id {
        Ok(Path(id)) => ask::find_model(&domain, WIRE, request.headers(), &id).await,
        Err(_) => unknown(request).await,
    }
}

async fn batches(_request: Request) -> Response {
    let refusal =
        "batches are not supported here: they end long after the run that asked for them, and could not be metered";
    answer::refuse(WIRE, &CallError::new(ErrorKind::NotFound, refusal))
}

async fn unknown(request: Request) -> Response {
    let known = "the gateway answers POST /v1/messages, POST /v1/messages/count_tokens and GET /v1/models";
    answer::refuse(WIRE, &CallError::unknown_address(&format!("no such address for {}; {known}", request.method())))
}
