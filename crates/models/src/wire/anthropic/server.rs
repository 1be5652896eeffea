//! Answering a client that speaks Messages.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{encode_error, encode_stop, encode_usage, text};
use crate::sse::write_frame;
use crate::wire::field::Field;
use crate::wire::{BadRequest, Incoming, ModelCard, join_system, proof};
use crate::{
    Answer, Block, Effort, Error, Event, Image, Message, Request, ResponseFormat, Role, StopReason, Thinking, Tool,
    ToolChoice, Usage,
};

/// Reads a body of `POST /v1/messages`, or of `…/count_tokens`, which lacks `max_tokens`.
///
/// # Errors
/// See [`crate::wire::Wire::decode_request`].
pub(in crate::wire) fn decode_request(body: &Value) -> Result<Incoming, BadRequest> {
    let body = Field::root(body)?;
    for name in ["container", "mcp_servers"] {
        if let Some(field) = body.get(name).filter(|field| field.value.as_array().is_none_or(|list| !list.is_empty())) {
            return Err(field.wrong("this needs Anthropic itself, and the model that answers here is another one"));
        }
    }
    let mut request = Request {
        model: body.need("model")?.text()?.to_owned(),
        max_tokens: body.get("max_tokens").map(|field| field.positive()).transpose()?,
        temperature: body.get("temperature").map(|field| field.number()).transpose()?,
        top_p: body.get("top_p").map(|field| field.number()).transpose()?,
        stop: body.get("stop_sequences").map(|field| field.texts()).transpose()?.unwrap_or_default(),
        ..Request::default()
    };
    if let Some(system) = body.get("system") {
        for piece in texts_of(&system)? {
            join_system(&mut request.system, piece);
        }
    }
    for message in body.need("messages")?.items()? {
        decode_message(&message, &mut request)?;
    }
    if request.messages.is_empty() {
        return Err(body.need("messages")?.wrong("at least one message is required"));
    }
    for tool in body.get("tools").map(|tools| tools.items()).transpose()?.unwrap_or_default() {
        request.tools.push(decode_tool(&tool)?);
    }
    if let Some(choice) = body.get("tool_choice") {
        request.tool_choice = match choice.kind()? {
            "auto" => ToolChoice::Auto,
            "any" => ToolChoice::Any,
            "none" => ToolChoice::None,
            "tool" => ToolChoice::Tool { name: choice.need("name")?.text()?.to_owned() },
            other => return Err(choice.unsupported_kind(other, "auto, any, none or tool")),
        };
        if let Some(disabled) = choice.get("disable_parallel_tool_use") {
            request.parallel_tool_calls = Some(!disabled.flag()?);
        }
    }
    let output = body.get("output_config");
    request.thinking = decode_thinking(&body, output.as_ref())?;
    if let Some(format) = output.and_then(|output| output.get("format")).or_else(|| body.get("output_format")) {
        request.response_format = match format.kind()? {
            "json_schema" => {
                let schema = format.need("schema")?;
                schema.object()?;
                ResponseFormat::JsonSchema { name: "answer".into(), schema: schema.value.clone(), strict: true }
            }
            other => return Err(format.unsupported_kind(other, "json_schema")),
        };
    }
    let stream = body.get("stream").map(|field| field.flag()).transpose()?.unwrap_or(false);
    Ok(Incoming { request, stream, include_usage: true })
}

fn decode_thinking(body: &Field<'_>, output: Option<&Field<'_>>) -> Result<Option<Thinking>, BadRequest> {
    let Some(thinking) = body.get("thinking") else { return Ok(None) };
    match thinking.kind()? {
        "enabled" => Ok(Some(Thinking::Budget { tokens: thinking.need("budget_tokens")?.positive()? })),
        "disabled" => Ok(None),
        // Words for thinking without a budget grow in number; all of them leave the amount to the model.
        _ => {
            let effort = output.and_then(|output| output.get("effort"));
            let level = match effort.map(|effort| effort.text()).transpose()? {
                Some("low") => Effort::Low,
                Some("medium") => Effort::Medium,
                _ => Effort::High,
            };
            Ok(Some(Thinking::Effort { level }))
        }
    }
}

fn decode_message(message: &Field<'_>, request: &mut Request) -> Result<(), BadRequest> {
    let role_field = message.need("role")?;
    let content = message.need("content")?;
    let role = match role_field.text()? {
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "system" => {
            for piece in texts_of(&content)? {
                join_system(&mut request.system, piece);
            }
            return Ok(());
        }
        _ => return Err(role_field.wrong("expected `user` or `assistant`")),
    };
    let content = if let Value::String(text) = content.value {
        vec![Block::Text { text: text.clone() }]
    } else {
        content.items()?.iter().map(|block| decode_block(block, role)).collect::<Result<_, _>>()?
    };
    request.messages.push(Message { role, content });
    Ok(())
}

fn decode_block(block: &Field<'_>, role: Role) -> Result<Block, BadRequest> {
    Ok(match (block.kind()?, role) {
        ("text", _) => Block::Text { text: block.need("text")?.text()?.to_owned() },
        ("image", Role::User) => Block::Image { image: decode_image(&block.need("source")?)? },
        ("tool_result", Role::User) => Block::ToolResult {
            id: block.need("tool_use_id")?.text()?.to_owned(),
            content: match block.get("content") {
                None => Vec::new(),
                Some(Field { value: Value::String(text), .. }) => vec![Block::Text { text: text.clone() }],
                Some(content) => decode_result(&content)?,
            },
            is_error: block.get("is_error").map(|field| field.flag()).transpose()?.unwrap_or(false),
        },
        ("tool_use", Role::Assistant) => {
            let input = block.need("input")?;
            input.object()?;
            let (id, name) = (block.need("id")?.text()?, block.need("name")?.text()?);
            Block::ToolCall { id: id.to_owned(), name: name.to_owned(), arguments: input.value.to_string() }
        }
        ("thinking", Role::Assistant) => {
            let text = block.need("thinking")?.text()?.to_owned();
            let (signature, raw) = match block.get("signature").map(|field| field.text()).transpose()?.unwrap_or("") {
                "" => (None, None),
                signature => {
                    proof::unwrap(signature).unwrap_or_else(|| (Some(signature.to_owned()), Some(block.value.clone())))
                }
            };
            Block::Thinking { text, signature, raw }
        }
        ("redacted_thinking", Role::Assistant) => {
            Block::Thinking { text: String::new(), signature: None, raw: Some(block.value.clone()) }
        }
        (other, Role::User) => return Err(block.unsupported_kind(other, "text, image or tool_result")),
        (other, Role::Assistant) => return Err(block.unsupported_kind(other, "text, tool_use or thinking")),
    })
}

fn decode_result(content: &Field<'_>) -> Result<Vec<Block>, BadRequest> {
    let block = |block: &Field<'_>| match block.kind()? {
        "text" | "image" => decode_block(block, Role::User),
        other => Err(block.unsupported_kind(other, "text or image")),
    };
    content.items()?.iter().map(block).collect()
}

fn decode_image(source: &Field<'_>) -> Result<Image, BadRequest> {
    Ok(match source.kind()? {
        "base64" => Image::Base64 {
            media_type: source.need("media_type")?.text()?.to_owned(),
            data: source.need("data")?.text()?.to_owned(),
        },
        "url" => Image::Url { url: source.need("url")?.text()?.to_owned() },
        other => return Err(source.unsupported_kind(other, "base64 or url")),
    })
}

fn decode_tool(tool: &Field<'_>) -> Result<Tool, BadRequest> {
    match tool.get("type").map(|kind| kind.text()).transpose()? {
        None | Some("custom") => {}
        Some(other) => return Err(tool.unsupported_kind(other, "tools with an input_schema of their own")),
    }
    let schema = tool.need("input_schema")?;
    schema.object()?;
    Ok(Tool {
        name: tool.need("name")?.text()?.to_owned(),
        description: tool.get("description").map(|field| field.text().map(str::to_owned)).transpose()?,
        input_schema: schema.value.clone(),
    })
}

/// A text, or the texts of an array of text blocks.
fn texts_of<'a>(field: &Field<'a>) -> Result<Vec<&'a str>, BadRequest> {
    if let Value::String(text) = field.value {
        return Ok(vec![text.as_str()]);
    }
    let piece = |block: &Field<'a>| match block.kind()? {
        "text" => block.need("text")?.text(),
        other => Err(block.unsupported_kind(other, "text")),
    };
    field.items()?.iter().map(piece).collect()
}

/// The body of `POST /v1/messages/count_tokens`.
#[must_use]
pub fn encode_token_count(input_tokens: u64) -> Value {
    json!({"input_tokens": input_tokens})
}

pub(in crate::wire) fn encode_models(cards: &[ModelCard]) -> Value {
    json!({
        "data": cards.iter().map(encode_model).collect::<Vec<_>>(),
        "has_more": false,
        "first_id": cards.first().map(|card| &card.id),
        "last_id": cards.last().map(|card| &card.id),
    })
}

pub(in crate::wire) fn encode_model(card: &ModelCard) -> Value {
    let created = i64::try_from(card.created).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    json!({
        "type": "model",
        "id": card.id,
        "display_name": card.display_name,
        "created_at": created.unwrap_or_default().to_string(),
        "lifecycle": "active",
    })
}

/// The body of an unstreamed answer.
pub(in crate::wire) fn encode_answer(answer: &Answer) -> Value {
    let content = answer.content.iter().filter_map(|block| match block {
        Block::Text { text } => Some(json!({"type": "text", "text": text})),
        Block::Thinking { raw: Some(raw), .. } if text(raw, "type") == "redacted_thinking" => Some(raw.clone()),
        Block::Thinking { text, signature, raw } => Some(json!({
            "type": "thinking", "thinking": text, "signature": encode_proof(signature.as_deref(), raw.as_ref()),
        })),
        Block::ToolCall { id, name, arguments } => {
            let input = serde_json::from_str(arguments).ok().filter(Value::is_object).unwrap_or_else(|| json!({}));
            Some(json!({"type": "tool_use", "id": id, "name": name, "input": input}))
        }
        Block::Image { .. } | Block::ToolResult { .. } => None,
    });
    let mut message = encode_message(&answer.id, &answer.model, &answer.usage);
    message["content"] = Value::Array(content.collect());
    message["stop_reason"] = json!(encode_stop(&answer.stop));
    message
}

fn encode_message(id: &str, model: &str, usage: &Usage) -> Value {
    json!({
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": null,
        "stop_sequence": null,
        "usage": encode_usage(usage),
    })
}

fn encode_proof(signature: Option<&str>, raw: Option<&Value>) -> String {
    match raw {
        Some(raw) if text(raw, "type") == "thinking" => text(raw, "signature").to_owned(),
        None => signature.unwrap_or("").to_owned(),
        raw => proof::wrap(signature, raw),
    }
}

/// Encodes a streamed answer.
#[derive(Debug, Default)]
pub struct StreamEncoder {
    started: bool,
    next_index: u64,
    /// The open text or reasoning block.
    open: Option<(Kind, u64)>,
    tools: HashMap<String, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Thinking,
}

impl StreamEncoder {
    pub(in crate::wire) fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        match event {
            Event::Started { id, model, usage } => self.start(id, model, usage, out),
            Event::Text { delta } => {
                let index = self.enter(Kind::Text, out);
                self.delta(index, &json!({"type": "text_delta", "text": delta}), out);
            }
            Event::Thinking { delta } => {
                let index = self.enter(Kind::Thinking, out);
                self.delta(index, &json!({"type": "thinking_delta", "thinking": delta}), out);
            }
            Event::ThinkingDone { signature, raw } => {
                if let Some(redacted) = raw.as_ref().filter(|raw| text(raw, "type") == "redacted_thinking") {
                    self.leave(out);
                    let index = self.open_block(redacted, out);
                    send(out, "content_block_stop", &json!({"index": index}));
                } else {
                    let index = self.enter(Kind::Thinking, out);
                    let proof = encode_proof(signature.as_deref(), raw.as_ref());
                    if !proof.is_empty() {
                        self.delta(index, &json!({"type": "signature_delta", "signature": proof}), out);
                    }
                    self.leave(out);
                }
            }
            Event::ToolCall { id, name } => {
                self.leave(out);
                let index = self.open_block(&json!({"type": "tool_use", "id": id, "name": name, "input": {}}), out);
                self.tools.insert(id.clone(), index);
            }
            Event::ToolArguments { id, delta } => {
                if let Some(&index) = self.tools.get(id) {
                    self.delta(index, &json!({"type": "input_json_delta", "partial_json": delta}), out);
                }
            }
            Event::ToolCallDone { id } => {
                if let Some(index) = self.tools.remove(id) {
                    send(out, "content_block_stop", &json!({"index": index}));
                }
            }
            Event::Done { stop, usage } => self.finish(stop, usage, out),
        }
    }

    pub(in crate::wire) fn error(&mut self, error: &Error, out: &mut Vec<u8>) {
        write_frame(out, Some("error"), &encode_error(error).to_string());
    }

    fn start(&mut self, id: &str, model: &str, usage: &Usage, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.started, true) {
            send(out, "message_start", &json!({"message": encode_message(id, model, usage)}));
        }
    }

    fn finish(&mut self, stop: &StopReason, usage: &Usage, out: &mut Vec<u8>) {
        self.start("", "", usage, out);
        self.leave(out);
        let mut left: Vec<u64> = self.tools.drain().map(|(_, index)| index).collect();
        left.sort_unstable();
        for index in left {
            send(out, "content_block_stop", &json!({"index": index}));
        }
        let delta = json!({"stop_reason": encode_stop(stop), "stop_sequence": null});
        send(out, "message_delta", &json!({"delta": delta, "usage": encode_usage(usage)}));
        send(out, "message_stop", &json!({}));
    }

    /// The index of the open block of this kind; opens one if need be.
    fn enter(&mut self, kind: Kind, out: &mut Vec<u8>) -> u64 {
        match self.open {
            Some((open, index)) if open == kind => index,
            _ => {
                self.leave(out);
                let block = match kind {
                    Kind::Text => json!({"type": "text", "text": ""}),
                    Kind::Thinking => json!({"type": "thinking", "thinking": "", "signature": ""}),
                };
                let index = self.open_block(&block, out);
                self.open = Some((kind, index));
                index
            }
        }
    }

    fn leave(&mut self, out: &mut Vec<u8>) {
        if let Some((_, index)) = self.open.take() {
            send(out, "content_block_stop", &json!({"index": index}));
        }
    }

    fn open_block(&mut self, block: &Value, out: &mut Vec<u8>) -> u64 {
        self.start("", "", &Usage::default(), out);
        let index = self.next_index;
        self.next_index += 1;
        send(out, "content_block_start", &json!({"index": index, "content_block": block}));
        index
    }

    fn delta(&mut self, index: u64, delta: &Value, out: &mut Vec<u8>) {
        send(out, "content_block_delta", &json!({"index": index, "delta": delta}));
    }
}

/// Writes one frame whose `type` is its event name.
fn send(out: &mut Vec<u8>, event: &str, members: &Value) {
    let mut data = json!({"type": event});
    if let (Some(data), Some(members)) = (data.as_object_mut(), members.as_object()) {
        data.extend(members.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    write_frame(out, Some(event), &data.to_string());
}
