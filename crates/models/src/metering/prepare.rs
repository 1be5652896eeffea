//! A quick look into a request body that is about to be passed through.

use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::wire::{BadRequest, Wire};

/// A request body, ready to be passed through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The model that is asked for.
    pub model: String,
    /// Whether the answer will be an event stream.
    pub stream: bool,
    /// What to send: the client's own bytes, but for `stream_options` of Chat Completions.
    pub body: Bytes,
    /// Whether a [`super::ChunkFilter`] must take out the usage chunk, because the client had not asked for it.
    pub swallow_usage_chunk: bool,
    model_at: Range<usize>,
}

/// The few members of interest. A member that comes twice is refused: the provider might read the other one.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    stream: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    stream_options: Option<&'a RawValue>,
    #[serde(borrow)]
    background: Option<&'a RawValue>,
}

/// A `null` has a place in the body, too.
fn even_null<'de: 'a, 'a, D: serde::Deserializer<'de>>(value: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

/// Looks into the body of a request to a provider of this format.
///
/// For a Chat Completions stream it makes sure that usage is told: sets `stream_options.include_usage`, and
/// [`Prepared::swallow_usage_chunk`] if the client had not.
///
/// # Errors
/// When the body is no JSON object, `model` or `stream` are not what they should be, or the answer could not be metered
/// because it would be given in the background.
pub fn prepare_passthrough(wire: Wire, body: Bytes) -> Result<Prepared, BadRequest> {
    let bad = |field: &str, message: &str| BadRequest { field: field.to_owned(), message: message.to_owned() };
    let text = std::str::from_utf8(&body).map_err(|_| bad("", "the body is not valid UTF-8"))?;
    let head: Head<'_> = serde_json::from_str(text)
        .map_err(|error| bad("", &format!("the body is not a valid JSON request: {error}")))?;
    let model_raw = head.model.ok_or_else(|| bad("model", "this field is required"))?;
    let model: String = serde_json::from_str(model_raw.get()).map_err(|_| bad("model", "expected a string"))?;
    let flag = |raw: Option<&RawValue>, field: &str| match raw.map(RawValue::get) {
        None | Some("null" | "false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(bad(field, "expected true or false")),
    };
    let stream = flag(head.stream, "stream")?;
    if wire == Wire::OpenAiResponses && flag(head.background, "background")? {
        return Err(bad("background", "answers in the background cannot be metered and are not supported here"));
    }
    let mut model_at = range_in(&body, model_raw);
    let mut swallow_usage_chunk = false;
    let mut edit = None;
    if wire == Wire::OpenAiChat && stream {
        let (options_at, mut options) = match head.stream_options.filter(|raw| raw.get() != "null") {
            None => (head.stream_options.map(|raw| range_in(&body, raw)), Map::new()),
            Some(raw) => {
                let options: Map<String, Value> =
                    serde_json::from_str(raw.get()).map_err(|_| bad("stream_options", "expected an object"))?;
                (Some(range_in(&body, raw)), options)
            }
        };
        if options.get("include_usage") != Some(&Value::Bool(true)) {
            options.insert("include_usage".to_owned(), json!(true));
            let options = Value::Object(options);
            edit = Some(match options_at {
                Some(at) => (at, options.to_string()),
                None => {
                    // The object is not empty, for it has a model.
                    let start = memchr::memchr(b'{', &body).map_or(0, |brace| brace + 1);
                    (start..start, format!("\"stream_options\":{options},"))
                }
            });
            swallow_usage_chunk = true;
        }
    }
    let body = match edit {
        None => body,
        Some((at, text)) => {
            if at.end <= model_at.start {
                let moved = |place: usize| place - at.len() + text.len();
                model_at = moved(model_at.start)..moved(model_at.end);
            }
            splice(&body, at, text.as_bytes())
        }
    };
    Ok(Prepared { model, stream, body, swallow_usage_chunk, model_at })
}

impl Prepared {
    /// Asks for another model, for servers that know it by another name than their clients.
    pub fn rename_model(&mut self, model: &str) {
        let text = Value::from(model).to_string();
        self.body = splice(&self.body, self.model_at.clone(), text.as_bytes());
        self.model_at.end = self.model_at.start + text.len();
        model.clone_into(&mut self.model);
    }
}

fn splice(body: &[u8], at: Range<usize>, text: &[u8]) -> Bytes {
    [&body[..at.start], text, &body[at.end..]].concat().into()
}

/// Where a borrowed member stands in the body.
fn range_in(body: &[u8], raw: &RawValue) -> Range<usize> {
    let start = raw.get().as_ptr().addr() - body.as_ptr().addr();
    start..start + raw.get().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepare(wire: Wire, body: &'static str) -> Result<Prepared, BadRequest> {
        prepare_passthrough(wire, Bytes::from_static(body.as_bytes()))
    }

    #[test]
    fn bodies_that_need_nothing_are_not_copied() {
        for (wire, body) in [
            (Wire::AnthropicMessages, r#"{"model":"claude-x","stream":true,"messages":[]}"#),
            (Wire::OpenAiChat, r#"{"model":"gpt-x","messages":[]}"#),
            (Wire::OpenAiChat, r#"{"model":"gpt-x","stream":true,"stream_options":{"include_usage":true}}"#),
            (Wire::OpenAiResponses, r#"{"model":"gpt-x","stream":true,"input":"hi"}"#),
        ] {
            let prepared = prepare(wire, body).expect(body);
            assert_eq!(prepared.body.as_ptr(), body.as_ptr());
            assert!(!prepared.swallow_usage_chunk);
        }
    }

    #[test]
    fn chat_streams_are_made_to_tell_their_usage() {
        for (body, expected) in [
            (
                r#" { "model": "gpt-x", "stream": true}"#,
                r#" {"stream_options":{"include_usage":true}, "model": "gpt-x", "stream": true}"#,
            ),
            (
                r#"{"model":"gpt-x","stream_options":{"include_obfuscation":false},"stream":true}"#,
                r#"{"model":"gpt-x","stream_options":{"include_obfuscation":false,"include_usage":true},"stream":true}"#,
            ),
            (
                r#"{"stream_options":null,"model":"gpt-x","stream":true}"#,
                r#"{"stream_options":{"include_usage":true},"model":"gpt-x","stream":true}"#,
            ),
            (
                r#"{"stream_options":{"include_usage":false},"model":"gpt-x","stream":true}"#,
                r#"{"stream_options":{"include_usage":true},"model":"gpt-x","stream":true}"#,
            ),
        ] {
            let mut prepared = prepare(Wire::OpenAiChat, body).expect(body);
            assert_eq!(prepared.body, expected);
            assert!(prepared.swallow_usage_chunk && prepared.stream);
            prepared.rename_model("o\"ther");
            assert_eq!(prepared.body, expected.replace("\"gpt-x\"", "\"o\\\"ther\""));
            prepared.rename_model("gpt-x");
            assert_eq!(prepared.body, expected);
        }
    }

    #[test]
    fn wrong_bodies_are_refused_with_their_field() {
        for (wire, body, field) in [
            (Wire::OpenAiChat, "", ""),
            (Wire::OpenAiChat, "[]", ""),
            (Wire::OpenAiChat, r#"{"messages":[]}"#, "model"),
            (Wire::OpenAiChat, r#"{"model":7}"#, "model"),
            (Wire::OpenAiChat, r#"{"model":"a","mod\u0065l":"b"}"#, ""),
            (Wire::OpenAiChat, r#"{"model":"a","stream":"yes"}"#, "stream"),
            (Wire::OpenAiChat, r#"{"model":"a","stream":true,"stream_options":[]}"#, "stream_options"),
            (Wire::OpenAiResponses, r#"{"model":"a","background":true}"#, "background"),
        ] {
            assert_eq!(prepare(wire, body).expect_err(body).field, field, "{body}");
        }
    }
}
