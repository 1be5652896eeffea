//! OpenAI's Responses format: <https://platform.openai.com/docs/api-reference/responses>.
//!
//! Only its stateless use is spoken, in both directions: the whole conversation travels with every request, and
//! reasoning comes back as the encrypted items the provider gave out.

pub mod client;
pub mod server;

use serde_json::{Value, json};

use super::{count, openai_chat, text};
use crate::Usage;

fn decode_usage(object: &Value) -> Usage {
    let input = &object["input_tokens_details"];
    openai_chat::split_usage(
        count(object, "input_tokens"),
        count(input, "cached_tokens"),
        input,
        count(object, "output_tokens"),
        &object["output_tokens_details"],
    )
}

fn encode_usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.total_input(),
        "input_tokens_details": openai_chat::encode_input_details(usage),
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total_input() + usage.output,
    })
}
