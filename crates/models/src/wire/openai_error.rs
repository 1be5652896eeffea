//! What OpenAI's two formats share: errors and the list of models.

use serde_json::{Value, json};

use super::{ModelCard, text};
use crate::{Error, ErrorKind};

/// Reads `{"error": {"message", "type", "param", "code"}}`, and what compatible servers make of it.
pub(super) fn decode(status: u16, body: &[u8]) -> Error {
    let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let error = body.get("error").unwrap_or(&body);
    from_object(Some(status), error)
}

/// Reads an error object, also one that arrives inside a stream.
pub(super) fn from_object(status: Option<u16>, error: &Value) -> Error {
    let message = match error {
        Value::String(message) => message.as_str(),
        error => [text(error, "message"), text(error, "detail")].into_iter().find(|m| !m.is_empty()).unwrap_or(""),
    };
    let code = error.get("code").map_or_else(String::new, |code| match code {
        Value::String(code) => code.clone(),
        code => code.to_string(),
    });
    let status = status.or_else(|| code.parse().ok().filter(|status| (400..600).contains(status)));
    let kind = match (code.as_str(), text(error, "type")) {
        ("context_length_exceeded", _) => ErrorKind::ContextOverflow,
        // Waiting does not fill an empty account.
        ("insufficient_quota" | "billing_not_active", _) | (_, "insufficient_quota") => ErrorKind::Authentication,
        ("rate_limit_exceeded", _) => ErrorKind::RateLimited,
        ("model_not_found", _) => ErrorKind::NotFound,
        ("invalid_api_key", _) => ErrorKind::Authentication,
        (_, "server_error") if status.is_none() => ErrorKind::Unavailable,
        (_, "invalid_request_error") if status.is_none() => ErrorKind::Invalid,
        _ if message.contains("maximum context length") || message.contains("context window") => {
            ErrorKind::ContextOverflow
        }
        _ => status.map_or(ErrorKind::Unavailable, ErrorKind::from_status),
    };
    Error::from_provider(kind, status, message)
}

/// OpenAI's error body.
pub(super) fn encode(error: &Error, field: Option<&str>) -> Value {
    let (kind, code) = match error.kind {
        ErrorKind::Invalid => ("invalid_request_error", None),
        ErrorKind::ContextOverflow => ("invalid_request_error", Some("context_length_exceeded")),
        ErrorKind::Authentication if error.status == Some(401) => ("invalid_request_error", Some("invalid_api_key")),
        ErrorKind::Authentication => ("invalid_request_error", Some("permission_denied")),
        ErrorKind::NotFound => ("invalid_request_error", Some("model_not_found")),
        ErrorKind::RateLimited => ("rate_limit_error", Some("rate_limit_exceeded")),
        ErrorKind::Unavailable | ErrorKind::TimedOut | ErrorKind::Protocol => ("server_error", None),
    };
    json!({"error": {"message": error.message, "type": kind, "param": field, "code": code}})
}

/// The status that goes with [`encode`].
pub(super) fn status(error: &Error) -> u16 {
    match error.kind {
        ErrorKind::Invalid | ErrorKind::ContextOverflow => match error.status {
            Some(status) if matches!(status, 413 | 422) => status,
            _ => 400,
        },
        ErrorKind::Authentication => match error.status {
            Some(status) if matches!(status, 402 | 403 | 429) => status,
            _ => 401,
        },
        ErrorKind::NotFound => 404,
        ErrorKind::RateLimited => 429,
        ErrorKind::Unavailable => 503,
        ErrorKind::Protocol => 502,
        ErrorKind::TimedOut => 504,
    }
}

/// The list of `GET /v1/models`.
pub(super) fn encode_models(cards: &[ModelCard]) -> Value {
    json!({"object": "list", "data": cards.iter().map(encode_model).collect::<Vec<_>>()})
}

/// One entry of the list.
pub(super) fn encode_model(card: &ModelCard) -> Value {
    json!({"id": card.id, "object": "model", "created": card.created, "owned_by": card.owner})
}
