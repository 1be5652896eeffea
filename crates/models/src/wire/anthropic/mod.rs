//! Anthropic's Messages format: <https://docs.anthropic.com/en/api/messages>.

pub mod client;
mod schema;
pub mod server;

use serde_json::{Value, json};

use super::{count, text};
use crate::{Error, ErrorKind, StopReason, Usage};

/// The `anthropic-version` header this codec speaks.
pub const VERSION: &str = "2023-06-01";

/// Reads `{"type": "error", "error": {"type", "message"}}`.
#[must_use]
pub fn decode_error(status: u16, body: &[u8]) -> Error {
    let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    error_from_object(Some(status), body.get("error").unwrap_or(&Value::Null))
}

/// Reads the inner error object, also where it arrives inside a stream and has no status.
fn error_from_object(status: Option<u16>, error: &Value) -> Error {
    let message = text(error, "message");
    let kind = match text(error, "type") {
        "invalid_request_error" if is_overflow(message) => ErrorKind::ContextOverflow,
        "invalid_request_error" => ErrorKind::Invalid,
        "request_too_large" => ErrorKind::ContextOverflow,
        // Waiting does not fill an empty account, so a billing error is not a matter for retries.
        "authentication_error" | "permission_error" | "billing_error" => ErrorKind::Authentication,
        "not_found_error" => ErrorKind::NotFound,
        "rate_limit_error" => ErrorKind::RateLimited,
        "timeout_error" => ErrorKind::TimedOut,
        "overloaded_error" | "api_error" => ErrorKind::Unavailable,
        _ => status.map_or(ErrorKind::Unavailable, ErrorKind::from_status),
    };
    Error::from_provider(kind, status, message)
}

fn is_overflow(message: &str) -> bool {
    message.contains("prompt is too long") || message.contains("exceed context limit")
}

/// Anthropic's error body, for answers with an error status and for `error` events alike.
#[must_use]
pub fn encode_error(error: &Error) -> Value {
    let kind = match (error.kind, error.status) {
        (ErrorKind::ContextOverflow, Some(413)) => "request_too_large",
        (ErrorKind::Invalid | ErrorKind::ContextOverflow, _) => "invalid_request_error",
        (ErrorKind::Authentication, Some(402)) => "billing_error",
        (ErrorKind::Authentication, Some(403)) => "permission_error",
        (ErrorKind::Authentication, _) => "authentication_error",
        (ErrorKind::NotFound, _) => "not_found_error",
        (ErrorKind::RateLimited, _) => "rate_limit_error",
        (ErrorKind::Unavailable, _) => "overloaded_error",
        (ErrorKind::TimedOut, _) => "timeout_error",
        (ErrorKind::Protocol, _) => "api_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": error.message}})
}

/// The status that goes with [`encode_error`].
#[must_use]
pub fn error_status(error: &Error) -> u16 {
    match (error.kind, error.status) {
        (ErrorKind::ContextOverflow, Some(413)) => 413,
        (ErrorKind::Invalid | ErrorKind::ContextOverflow, _) => 400,
        (ErrorKind::Authentication, Some(status @ (402 | 403))) => status,
        (ErrorKind::Authentication, _) => 401,
        (ErrorKind::NotFound, _) => 404,
        (ErrorKind::RateLimited, _) => 429,
        (ErrorKind::Unavailable, _) => 529,
        (ErrorKind::TimedOut, _) => 504,
        (ErrorKind::Protocol, _) => 502,
    }
}

fn decode_stop(word: &str) -> StopReason {
    match word {
        "end_turn" => StopReason::EndTurn,
        "max_tokens" => StopReason::MaxTokens,
        "stop_sequence" => StopReason::StopSequence,
        "tool_use" => StopReason::ToolUse,
        "refusal" => StopReason::Refusal,
        other => StopReason::Other(other.to_owned()),
    }
}

fn encode_stop(stop: &StopReason) -> &str {
    match stop {
        StopReason::EndTurn => "end_turn",
        StopReason::MaxTokens => "max_tokens",
        StopReason::StopSequence => "stop_sequence",
        StopReason::ToolUse => "tool_use",
        StopReason::Refusal => "refusal",
        StopReason::Other(word) => word,
    }
}

/// Overwrites in `usage` what this object tells; the counts of a stream are cumulative and never added up.
fn update_usage(usage: &mut Usage, object: &Value) {
    let told = |name: &str| object.get(name).is_some_and(Value::is_u64);
    if told("input_tokens") {
        usage.input = count(object, "input_tokens");
    }
    if told("output_tokens") {
        usage.output = count(object, "output_tokens");
    }
    if told("cache_read_input_tokens") {
        usage.cache_read = count(object, "cache_read_input_tokens");
    }
    if told("cache_creation_input_tokens") {
        let written = count(object, "cache_creation_input_tokens");
        let split = object.get("cache_creation").filter(|split| split.is_object());
        // The split comes with the first usage object and is absent from later ones.
        let one_hour = split.map_or(usage.cache_write_1h, |split| count(split, "ephemeral_1h_input_tokens"));
        usage.cache_write_1h = one_hour.min(written);
        usage.cache_write_5m = written - usage.cache_write_1h;
    }
    if let Some(details) = object.get("output_tokens_details").filter(|details| details.is_object()) {
        usage.reasoning = count(details, "thinking_tokens");
    }
}

fn encode_usage(usage: &Usage) -> Value {
    let mut object = json!({
        "input_tokens": usage.input,
        "cache_creation_input_tokens": usage.cache_write_5m + usage.cache_write_1h,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
        "output_tokens": usage.output,
    });
    if usage.reasoning > 0 {
        object["output_tokens_details"] = json!({"thinking_tokens": usage.reasoning});
    }
    object
}
