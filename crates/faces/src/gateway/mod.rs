//! The model gateway: what a program in a sandbox, or anybody with an API key, calls models through, in the formats of
//! Anthropic and OpenAI (spec/castari.md 15).
//!
//! What is promised: the vendors' SDKs work unchanged with nothing but a base URL and a key of ours,
//! `…/gateway/anthropic` and `…/gateway/openai/v1`. Answers are streamed byte for byte as they come, and everything,
//! failures of ours included, has the vendor's own shape. Which model answers is for `backlot_domain::models` to say;
//! the header `x-backlot-model` tells.
//!
//! Deliberately absent, and refused with the reason: batches, whose cost nobody would see here; embeddings; answers in
//! the background and whatever else keeps state at the provider.

mod answer;
mod anthropic;
mod ask;
mod openai;

use axum::{Router, extract::Request, response::Response};
use backlot_domain::{
    Domain,
    models::{CallError, Wire},
};

/// Largest request body in bytes: what both vendors take.
const BODY_LIMIT: usize = 32 * 1024 * 1024;

/// All routes of the gateway, to be mounted at `/gateway`, or at the root of a host name of its own.
pub fn router(domain: Domain) -> Router {
    Router::new()
        .nest("/anthropic", anthropic::router())
        .nest("/openai", openai::router())
        .fallback(unknown)
        .with_state(domain)
}

/// An address of neither vendor. OpenAI's shape is the one that more clients understand.
async fn unknown(_request: Request) -> Response {
    answer::refuse(
        Wire::OpenAiChat,
        &CallError::unknown_address("unknown address; the gateway answers at /anthropic/v1 and /openai/v1"),
    )
}
