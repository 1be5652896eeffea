//! Asking a provider that speaks Responses.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{decode_usage, text};
use crate::sse::Frame;
use crate::wire::openai_chat::client::{encode_effort, image_url};
use crate::wire::{count, openai_error, proof};
use crate::{Block, Error, Event, Image, Message, Request, ResponseFormat, Role, StopReason, Tool, ToolChoice, Usage};

/// The JSON body that asks for a streamed answer that the provider does not keep.
#[must_use]
pub fn encode_request(request: &Request) -> Value {
    let mut body = json!({
        "model": request.model,
        "input": request.messages.iter().flat_map(encode_message).collect::<Vec<_>>(),
        "stream": true,
        "store": false,
        "include": ["reasoning.encrypted_content"],
    });
    if let Some(system) = request.system.as_ref().filter(|system| !system.is_empty()) {
        body["instructions"] = json!(system);
    }
    if let Some(max_tokens) = request.max_tokens {
        body["max_output_tokens"] = json!(max_tokens.max(16)); // the least the API takes
    }
    if let Some(temperature) = request.temperature {
        body["temperature"] = json!(temperature);
    }
    if let Some(top_p) = request.top_p {
        body["top_p"] = json!(top_p);
    }
    if let Some(thinking) = request.thinking {
        body["reasoning"] = json!({"effort": encode_effort(thinking), "summary": "auto"});
    }
    if !request.tools.is_empty() {
        body["tools"] = request.tools.iter().map(encode_tool).collect();
        match &request.tool_choice {
            ToolChoice::Auto => {}
            ToolChoice::Any => body["tool_choice"] = json!("required"),
            ToolChoice::None => body["tool_choice"] = json!("none"),
            ToolChoice::Tool { name } => body["tool_choice"] = json!({"type": "function", "name": name}),
        }
        if let Some(parallel) = request.parallel_tool_calls {
            body["parallel_tool_calls"] = json!(parallel);
        }
    }
    match &request.response_format {
        ResponseFormat::Text => {}
        ResponseFormat::Json => body["text"] = json!({"format": {"type": "json_object"}}),
        ResponseFormat::JsonSchema { name, schema, strict } => {
            let format = json!({"type": "json_schema", "name": name, "schema": schema, "strict": strict});
            body["text"] = json!({"format": format});
        }
    }
    body
}

/// `strict` must be said, for the API takes it as true by default and then refuses most schemas.
fn encode_tool(tool: &Tool) -> Value {
    let mut encoded = json!({"type": "function", "name": tool.name});
    if let Some(description) = &tool.description {
        encoded["description"] = json!(description);
    }
    encoded["parameters"] = tool.input_schema.clone();
    encoded["strict"] = json!(false);
    encoded
}

/// A turn becomes a run of items, in its order; neighbouring texts and pictures share one message item.
fn encode_message(message: &Message) -> Vec<Value> {
    let (role, text_kind) = match message.role {
        Role::User => ("user", "input_text"),
        Role::Assistant => ("assistant", "output_text"),
    };
    let mut items = Vec::new();
    let mut parts = Vec::new();
    for block in &message.content {
        let item = match block {
            Block::Text { text } => {
                parts.push(json!({"type": text_kind, "text": text}));
                continue;
            }
            Block::Image { image } => {
                if message.role == Role::User {
                    parts.push(encode_image(image));
                }
                continue;
            }
            Block::Thinking { raw: Some(raw), .. } if text(raw, "type") == "reasoning" => raw.clone(),
            Block::Thinking { .. } => continue, // no other provider's reasoning is taken
            Block::ToolCall { id, name, arguments } => {
                json!({"type": "function_call", "call_id": id, "name": name, "arguments": arguments})
            }
            Block::ToolResult { id, content, .. } => {
                json!({"type": "function_call_output", "call_id": id, "output": encode_result(content)})
            }
        };
        flush(role, &mut parts, &mut items);
        items.push(item);
    }
    flush(role, &mut parts, &mut items);
    items
}

fn flush(role: &str, parts: &mut Vec<Value>, items: &mut Vec<Value>) {
    if !parts.is_empty() {
        items.push(json!({"type": "message", "role": role, "content": std::mem::take(parts)}));
    }
}

fn encode_result(content: &[Block]) -> Value {
    let has_images = content.iter().any(|block| matches!(block, Block::Image { .. }));
    let parts = content.iter().filter_map(|block| match block {
        Block::Text { text } => Some(json!({"type": "input_text", "text": text})),
        Block::Image { image } => Some(encode_image(image)),
        _ => None,
    });
    if has_images {
        return parts.collect();
    }
    let texts = content.iter().filter_map(|block| match block {
        Block::Text { text } => Some(text.as_str()),
        _ => None,
    });
    Value::String(texts.collect())
}

fn encode_image(image: &Image) -> Value {
    json!({"type": "input_image", "image_url": image_url(image), "detail": "auto"})
}

/// Decodes a streamed answer.
#[derive(Debug, Default)]
pub struct StreamDecoder {
    started: bool,
    done: bool,
    usage: Usage,
    called: bool,
    refused: bool,
    open: BTreeMap<u64, OpenItem>,
}

#[derive(Debug, Default)]
struct OpenItem {
    kind: Kind,
    /// Identifier of a call.
    call_id: String,
    /// Whether any piece of it has come, so that the whole at its end need not be told again.
    told: bool,
    /// Part of a summary or message that is being told; a new one starts a paragraph.
    part: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Message,
    Call,
    Reasoning,
    #[default]
    Other,
}

/// More open items than any answer has.
const MAX_OPEN_ITEMS: usize = 1024;

impl StreamDecoder {
    pub(in crate::wire) fn frame(&mut self, frame: &Frame, events: &mut Vec<Event>) -> Result<(), Error> {
        if self.done || frame.data.trim() == "[DONE]" {
            return Ok(());
        }
        let Ok(data) = serde_json::from_str::<Value>(&frame.data) else {
            return Err(Error::nonsense("a stream event that is not JSON"));
        };
        let index = count(&data, "output_index");
        match text(&data, "type") {
            "response.created" | "response.in_progress" | "response.queued" => self.start(&data["response"], events),
            "response.output_item.added" => self.item_added(index, &data["item"], events)?,
            "response.output_item.done" => self.item_done(index, &data["item"], events)?,
            "response.output_text.delta" => {
                self.text(index, count(&data, "content_index"), text(&data, "delta"), events)
            }
            "response.refusal.delta" => {
                self.refused = true;
                self.text(index, count(&data, "content_index"), text(&data, "delta"), events);
            }
            "response.reasoning_summary_text.delta" => {
                self.thinking(index, count(&data, "summary_index"), text(&data, "delta"), events);
            }
            "response.reasoning_text.delta" => {
                self.thinking(index, count(&data, "content_index"), text(&data, "delta"), events);
            }
            "response.function_call_arguments.delta" => {
                let delta = text(&data, "delta");
                if let Some(item) =
                    self.open.get_mut(&index).filter(|item| item.kind == Kind::Call && !delta.is_empty())
                {
                    item.told = true;
                    events.push(Event::ToolArguments { id: item.call_id.clone(), delta: delta.to_owned() });
                }
            }
            "response.completed" | "response.incomplete" => self.complete(&data["response"], events)?,
            "response.failed" => return Err(failure(&data["response"])),
            // The error is said at the top level, but some servers wrap it like an error body.
            "error" => {
                let error = data.get("error").filter(|error| error.is_object()).unwrap_or(&data);
                return Err(openai_error::from_object(None, error));
            }
            _ => {}
        }
        Ok(())
    }

    pub(in crate::wire) fn finish(&self) -> Result<(), Error> {
        if self.done { Ok(()) } else { Err(Error::incomplete()) }
    }

    fn start(&mut self, response: &Value, events: &mut Vec<Event>) {
        if !std::mem::replace(&mut self.started, true) {
            let (id, model) = (text(response, "id").to_owned(), text(response, "model").to_owned());
            events.push(Event::Started { id, model, usage: Usage { output: 0, reasoning: 0, ..self.usage } });
        }
    }

    fn item_added(&mut self, index: u64, item: &Value, events: &mut Vec<Event>) -> Result<(), Error> {
        if self.open.len() >= MAX_OPEN_ITEMS {
            return Err(Error::nonsense("an answer of too many open items"));
        }
        let mut open = OpenItem::default();
        match text(item, "type") {
            "message" => open.kind = Kind::Message,
            "reasoning" => open.kind = Kind::Reasoning,
            "function_call" => {
                open.kind = Kind::Call;
                open.call_id = match text(item, "call_id") {
                    "" => format!("call_{index}"),
                    id => id.to_owned(),
                };
                self.called = true;
                events.push(Event::ToolCall { id: open.call_id.clone(), name: text(item, "name").to_owned() });
            }
            _ => {}
        }
        self.open.insert(index, open);
        Ok(())
    }

    /// The end of an item repeats it whole; what its deltas did not tell is told now.
    fn item_done(&mut self, index: u64, item: &Value, events: &mut Vec<Event>) -> Result<(), Error> {
        if !self.open.contains_key(&index) {
            self.item_added(index, item, events)?;
        }
        let told = self.open.get(&index).is_some_and(|open| open.told);
        match self.open.get(&index).map(|open| open.kind) {
            Some(Kind::Message) if !told => {
                for (part, content) in (0..).zip(list(item, "content")) {
                    self.refused |= text(content, "type") == "refusal";
                    self.text(index, part, text(content, "text"), events);
                    self.text(index, part, text(content, "refusal"), events);
                }
            }
            Some(Kind::Reasoning) => {
                if !told {
                    let summary = list(item, "summary");
                    let parts = if summary.is_empty() { list(item, "content") } else { summary };
                    for (part, content) in (0..).zip(parts) {
                        self.thinking(index, part, text(content, "text"), events);
                    }
                }
                events.push(thinking_done(item));
            }
            Some(Kind::Call) => {
                let id = self.open.get(&index).map(|open| open.call_id.clone()).unwrap_or_default();
                if !told {
                    let whole = text(item, "arguments");
                    let delta = if whole.is_empty() { "{}" } else { whole };
                    events.push(Event::ToolArguments { id: id.clone(), delta: delta.to_owned() });
                }
                events.push(Event::ToolCallDone { id });
            }
            _ => {}
        }
        self.open.remove(&index);
        Ok(())
    }

    fn text(&mut self, index: u64, part: u64, delta: &str, events: &mut Vec<Event>) {
        if let Some(delta) = self.paragraph(Kind::Message, index, part, delta) {
            events.push(Event::Text { delta });
        }
    }

    fn thinking(&mut self, index: u64, part: u64, delta: &str, events: &mut Vec<Event>) {
        if let Some(delta) = self.paragraph(Kind::Reasoning, index, part, delta) {
            events.push(Event::Thinking { delta });
        }
    }

    /// Later parts of a summary are paragraphs of their own; parts of a message simply go on.
    fn paragraph(&mut self, kind: Kind, index: u64, part: u64, delta: &str) -> Option<String> {
        let item = self.open.get_mut(&index).filter(|item| item.kind == kind && !delta.is_empty())?;
        let told = std::mem::replace(&mut item.told, true);
        let new_part = std::mem::replace(&mut item.part, part) != part;
        Some(if told && new_part && kind == Kind::Reasoning { format!("\n\n{delta}") } else { delta.to_owned() })
    }

    fn complete(&mut self, response: &Value, events: &mut Vec<Event>) -> Result<(), Error> {
        self.start(response, events);
        if response["usage"].is_object() {
            self.usage = decode_usage(&response["usage"]);
        }
        for index in self.open.keys().copied().collect::<Vec<_>>() {
            let whole = usize::try_from(index).ok().and_then(|at| response["output"].get(at)).unwrap_or(&Value::Null);
            self.item_done(index, whole, events)?;
        }
        let stop = match (text(response, "status"), text(&response["incomplete_details"], "reason")) {
            ("failed" | "cancelled", _) => return Err(failure(response)),
            ("incomplete", "max_output_tokens") => StopReason::MaxTokens,
            ("incomplete", "content_filter") => StopReason::Refusal,
            ("incomplete", reason) => {
                StopReason::Other(if reason.is_empty() { "incomplete" } else { reason }.to_owned())
            }
            _ if self.called => StopReason::ToolUse,
            _ if self.refused => StopReason::Refusal,
            _ => StopReason::EndTurn,
        };
        self.done = true;
        events.push(Event::Done { stop, usage: self.usage });
        Ok(())
    }
}

/// Reads an unstreamed answer by replaying it as a stream.
pub(in crate::wire) fn decode_answer(body: &Value) -> Result<Vec<Event>, Error> {
    if let Some(error) = body.get("error").filter(|error| !error.is_null()) {
        return Err(openai_error::from_object(None, error));
    }
    let Some(output) = body["output"].as_array() else {
        return Err(Error::nonsense("an answer without output"));
    };
    if matches!(text(body, "status"), "queued" | "in_progress") {
        return Err(Error::nonsense("an answer that is not complete"));
    }
    let mut decoder = StreamDecoder { usage: decode_usage(&body["usage"]), ..StreamDecoder::default() };
    let mut events = Vec::new();
    decoder.start(body, &mut events);
    for (index, item) in (0..).zip(output) {
        decoder.item_done(index, item, &mut events)?;
    }
    decoder.complete(body, &mut events)?;
    Ok(events)
}

fn failure(response: &Value) -> Error {
    match response.get("error").filter(|error| error.is_object()) {
        Some(error) => openai_error::from_object(None, error),
        None => Error::from_provider(crate::ErrorKind::Unavailable, None, "the provider gave up on the answer"),
    }
}

/// An item without encrypted content proves nothing to the provider, which keeps no answers for us.
fn thinking_done(item: &Value) -> Event {
    match text(item, "encrypted_content") {
        "" => Event::ThinkingDone { signature: None, raw: None },
        sealed => match proof::unwrap(sealed) {
            Some((signature, raw)) => Event::ThinkingDone { signature, raw },
            None => {
                let mut raw = item.clone();
                if let Some(members) = raw.as_object_mut() {
                    members.remove("status"); // told, but not taken back
                }
                Event::ThinkingDone { signature: None, raw: Some(raw) }
            }
        },
    }
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}
