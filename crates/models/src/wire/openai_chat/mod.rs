//! OpenAI's Chat Completions format: <https://platform.openai.com/docs/api-reference/chat>. Many other
//! servers speak it, each with its own small deviations; [`Dialect`] names them.

pub mod client;
pub mod server;

use serde_json::{Value, json};

use super::{count, text};
use crate::{StopReason, Usage};

/// Who is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI itself.
    OpenAi,
    /// A compatible server: knows `max_tokens` only, and its reasoning text may have to come back.
    Compatible,
}

fn decode_stop(word: &str) -> StopReason {
    match word {
        "stop" => StopReason::EndTurn,
        "length" => StopReason::MaxTokens,
        "tool_calls" | "function_call" => StopReason::ToolUse,
        "content_filter" => StopReason::Refusal,
        other => StopReason::Other(other.to_owned()),
    }
}

/// SDKs know five words, so everything else becomes the plainest of them.
fn encode_stop(stop: &StopReason) -> &'static str {
    match stop {
        StopReason::EndTurn | StopReason::StopSequence | StopReason::Other(_) => "stop",
        StopReason::MaxTokens => "length",
        StopReason::ToolUse => "tool_calls",
        StopReason::Refusal => "content_filter",
    }
}

fn decode_usage(object: &Value) -> Usage {
    let prompt = &object["prompt_tokens_details"];
    // DeepSeek tells the hits of its cache beside the details.
    let cache_read = count(prompt, "cached_tokens").max(count(object, "prompt_cache_hit_tokens"));
    split_usage(
        count(object, "prompt_tokens"),
        cache_read,
        prompt,
        count(object, "completion_tokens"),
        &object["completion_tokens_details"],
    )
}

/// Takes the inclusive totals of both OpenAI formats apart. Cache writes last 30 minutes or 12 hours there; they
/// go to the shorter and the longer of the two neutral classes.
pub(super) fn split_usage(
    input: u64,
    cache_read: u64,
    input_details: &Value,
    output: u64,
    output_details: &Value,
) -> Usage {
    let cache_read = cache_read.min(input);
    let written = count(input_details, "cache_write_tokens").min(input - cache_read);
    let long = count(&input_details["cache_write_tokens_details"], "ttl_12h_tokens").min(written);
    Usage {
        input: input - cache_read - written,
        output,
        cache_read,
        cache_write_5m: written - long,
        cache_write_1h: long,
        reasoning: count(output_details, "reasoning_tokens").min(output),
    }
}

/// The details of the input in both OpenAI formats.
pub(super) fn encode_input_details(usage: &Usage) -> Value {
    let written = usage.cache_write_5m + usage.cache_write_1h;
    let mut details = json!({"cached_tokens": usage.cache_read, "cache_write_tokens": written});
    if written > 0 {
        details["cache_write_tokens_details"] =
            json!({"ttl_30m_tokens": usage.cache_write_5m, "ttl_12h_tokens": usage.cache_write_1h});
    }
    details
}

fn encode_usage(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.total_input(),
        "completion_tokens": usage.output,
        "total_tokens": usage.total_input() + usage.output,
        "prompt_tokens_details": encode_input_details(usage),
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    })
}

/// Reasoning text, under the names that compatible servers use.
fn reasoning_of(object: &Value) -> &str {
    match text(object, "reasoning_content") {
        "" => text(object, "reasoning"),
        reasoning => reasoning,
    }
}
