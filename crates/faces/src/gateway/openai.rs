//! Addresses of OpenAI's API.

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

/// The format of everything that is neither of the two kinds of calls.
const WIRE: Wire = Wire::OpenAiChat;

pub(super) fn router() -> Router<Domain> {
    Router::new()
        .route("/v1/chat/completions", post(chat).fallback(unknown))
        .route("/v1/responses", post(responses).fallback(unknown))
        .route("/v1/embeddings", any(embeddings))
        .route("/v1/models", get(models).fallback(unknown))
        .route("/v1/models/{*id}", get(model).fallback(unknown))
        .fallback(unknown)
}

async fn chat(State(domain): State<Domain>, request: Request) -> Response {
    ask::relay(&domain, Wire::OpenAiChat, request).await
}

async fn responses(State(domain): State<Domain>, request: Request) -> Response {
    ask::relay(&domain, Wire::OpenAiResponses, request).await
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

async fn embeddings(_request: Request) -> Response {
    let refusal = "embeddings are not supported here; the gateway answers chat completions and responses";
    answer::refuse(WIRE, &CallError::new(ErrorKind::NotFound, refusal).code("unsupported"))
}

async fn unknown(request: Request) -> Response {
    let known = "the gateway answers POST /v1/chat/completions, POST /v1/responses and GET /v1/models";
    answer::refuse(WIRE, &CallError::unknown_address(&format!("no such address for {}; {known}", request.method())))
}
