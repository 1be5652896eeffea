//! Guesses before a call: how many tokens a request will take at most, for reserving its budget.

use std::borrow::Cow;

use backlot_models::wire::Wire;
use serde::Deserialize;

/// Texts shorter than this are never taken for encoded bytes.
const SHORTEST_BINARY: usize = 4096;
/// Output reserved for a request that sets no limit of its own.
pub(super) const UNLIMITED_OUTPUT: u64 = 32_768;

/// Tokens that a request is expected to stay below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Estimate {
    pub(super) input: u64,
    pub(super) output: u64,
}

/// Guesses from a request body. Text has about four bytes per token and is counted with three; pictures and documents
/// in base64 have far more bytes per token and are counted with sixteen. The output is what the request allows.
pub(super) fn estimate(wire: Wire, body: &[u8]) -> Estimate {
    let binary = binary_bytes(body);
    let text = body.len() - binary;
    Estimate { input: (text / 3 + binary / 16) as u64, output: output_limit(wire, body) }
}

/// Bytes of long texts without blanks or escapes: base64, by all likelihood.
fn binary_bytes(body: &[u8]) -> usize {
    if body.len() < SHORTEST_BINARY {
        return 0;
    }
    let mut binary = 0;
    let mut start = 0;
    for end in memchr::memchr_iter(b'"', body) {
        let piece = &body[start..end];
        start = end + 1;
        let looks_binary = |piece: &[u8]| {
            // The beginning may be `data:image/png;base64,`.
            piece[64..512]
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'='))
        };
        if piece.len() >= SHORTEST_BINARY && looks_binary(piece) {
            binary += piece.len();
        }
    }
    binary
}

#[derive(Deserialize)]
struct Wishes<'a> {
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    max_output_tokens: Option<u64>,
    n: Option<u64>,
    #[serde(borrow, default, rename = "model")]
    _model: Option<Cow<'a, str>>,
}

/// A body that cannot be read gets the guess for unlimited ones; whoever decodes it next will refuse it.
fn output_limit(wire: Wire, body: &[u8]) -> u64 {
    let Ok(wishes) = serde_json::from_slice::<Wishes<'_>>(body) else { return UNLIMITED_OUTPUT };
    let limit = match wire {
        Wire::AnthropicMessages => wishes.max_tokens,
        Wire::OpenAiChat => wishes.max_completion_tokens.or(wishes.max_tokens),
        Wire::OpenAiResponses => wishes.max_output_tokens,
    };
    let answers = if wire == Wire::OpenAiChat { wishes.n.unwrap_or(1).max(1) } else { 1 };
    limit.unwrap_or(UNLIMITED_OUTPUT).saturating_mul(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_counts_by_its_length_and_pictures_by_less() {
        let text = format!(r#"{{"max_tokens":5,"messages":"{}"}}"#, "word ".repeat(6000));
        assert!(estimate(Wire::AnthropicMessages, text.as_bytes()).input >= 10_000);
        let picture = format!(r#"{{"max_tokens":5,"data":"{}"}}"#, "iVBORw0K".repeat(3750));
        let estimate = estimate(Wire::AnthropicMessages, picture.as_bytes());
        assert!((1_875..2_100).contains(&estimate.input), "{estimate:?}");
        assert_eq!(estimate.output, 5);
    }

    #[test]
    fn the_output_limit_is_found_in_every_format() {
        for (wire, body, expected) in [
            (Wire::AnthropicMessages, r#"{"max_tokens": 7}"#, 7),
            (Wire::OpenAiChat, r#"{"max_tokens": 7, "max_completion_tokens": 9, "n": 3}"#, 27),
            (Wire::OpenAiChat, r#"{"max_tokens": 7, "n": null}"#, 7),
            (Wire::OpenAiResponses, r#"{"max_output_tokens": 11, "max_tokens": 1}"#, 11),
            (Wire::OpenAiResponses, r"{}", UNLIMITED_OUTPUT),
            (Wire::OpenAiChat, r#"{"max_tokens": "many"}"#, UNLIMITED_OUTPUT),
            (Wire::OpenAiChat, "nonsense", UNLIMITED_OUTPUT),
            (Wire::OpenAiChat, r#"{"max_tokens": 18446744073709551615, "n": 9}"#, u64::MAX),
        ] {
            assert_eq!(estimate(wire, body.as_bytes()).output, expected, "{body}");
        }
    }
}
