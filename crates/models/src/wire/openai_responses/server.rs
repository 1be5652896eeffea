//! Answering a client that speaks Responses.

use serde_json::{Value, json};

use super::{encode_usage, text};
use crate::sse::write_frame;
use crate::wire::field::Field;
use crate::wire::openai_chat::server::{
    add_result, decode_effort, decode_function, decode_image_url, decode_schema, decode_simple_choice,
};
use crate::wire::{BadRequest, Head, Incoming, join_system, proof};
use crate::{
    Answer, Block, Error, ErrorKind, Event, Message, Request, ResponseFormat, Role, StopReason, ToolChoice, Usage,
};

/// Reads a body of `POST /v1/responses`.
///
/// # Errors
/// See [`crate::wire::Wire::decode_request`].
pub(in crate::wire) fn decode_request(body: &Value) -> Result<Incoming, BadRequest> {
    let body = Field::root(body)?;
    for name in ["previous_response_id", "conversation"] {
        if let Some(field) = body.get(name) {
            return Err(field.wrong("answers are not kept here: send the whole conversation in `input`"));
        }
    }
    if let Some(background) = body.get("background").filter(|field| field.value == true) {
        return Err(background.wrong("answers in the background are not supported here"));
    }
    if let Some(prompt) = body.get("prompt") {
        return Err(prompt.wrong("stored prompts are not supported here"));
    }
    let mut request = Request {
        model: body.need("model")?.text()?.to_owned(),
        max_tokens: body.get("max_output_tokens").map(|field| field.positive()).transpose()?,
        temperature: body.get("temperature").map(|field| field.number()).transpose()?,
        top_p: body.get("top_p").map(|field| field.number()).transpose()?,
        parallel_tool_calls: body.get("parallel_tool_calls").map(|field| field.flag()).transpose()?,
        ..Request::default()
    };
    if let Some(effort) = body.get("reasoning").and_then(|reasoning| reasoning.get("effort")) {
        request.thinking = decode_effort(&effort)?;
    }
    if let Some(instructions) = body.get("instructions") {
        join_system(&mut request.system, instructions.text()?);
    }
    let input = body.need("input")?;
    if let Value::String(text) = input.value {
        let content = vec![Block::Text { text: text.clone() }];
        request.messages.push(Message { role: Role::User, content });
    } else {
        for item in input.items()? {
            decode_item(&item, &mut request)?;
        }
    }
    if request.messages.is_empty() {
        return Err(input.wrong("at least one message of the user is required"));
    }
    for tool in body.get("tools").map(|tools| tools.items()).transpose()?.unwrap_or_default() {
        request.tools.push(match tool.kind()? {
            "function" => decode_function(&tool)?,
            other => return Err(tool.unsupported_kind(other, "function")),
        });
    }
    if let Some(choice) = body.get("tool_choice") {
        request.tool_choice = match decode_simple_choice(&choice)? {
            Some(choice) => choice,
            None => ToolChoice::Tool { name: choice.need("name")?.text()?.to_owned() },
        };
    }
    if let Some(format) = body.get("text").and_then(|text| text.get("format")) {
        request.response_format = match format.kind()? {
            "text" => ResponseFormat::Text,
            "json_object" => ResponseFormat::Json,
            "json_schema" => decode_schema(&format)?,
            other => return Err(format.unsupported_kind(other, "text, json_object or json_schema")),
        };
    }
    let stream = body.get("stream").map(|field| field.flag()).transpose()?.unwrap_or(false);
    Ok(Incoming { request, stream, include_usage: true })
}

fn decode_item(item: &Field<'_>, request: &mut Request) -> Result<(), BadRequest> {
    // A message may leave its type out.
    let kind = item.get("type").map(|kind| kind.text()).transpose()?.unwrap_or("message");
    match kind {
        "message" => {
            let role = item.need("role")?;
            let content = item.need("content")?;
            match role.text()? {
                "system" | "developer" => {
                    for block in decode_content(&content)? {
                        if let Block::Text { text } = block {
                            join_system(&mut request.system, &text);
                        }
                    }
                }
                "user" => {
                    let content = decode_content(&content)?;
                    request.messages.push(Message { role: Role::User, content });
                }
                "assistant" => {
                    for block in decode_content(&content)? {
                        add_said(request, block);
                    }
                }
                _ => return Err(role.wrong("expected user, assistant, system or developer")),
            }
        }
        "function_call" => {
            let call = Block::ToolCall {
                id: item.need("call_id")?.text()?.to_owned(),
                name: item.need("name")?.text()?.to_owned(),
                arguments: item.need("arguments")?.text()?.to_owned(),
            };
            add_said(request, call);
        }
        "function_call_output" => {
            let output = item.need("output")?;
            let mut content = decode_content(&output)?;
            content.retain(|block| !matches!(block, Block::Text { text } if text.is_empty()));
            let id = item.need("call_id")?.text()?.to_owned();
            add_result(request, Block::ToolResult { id, content, is_error: false });
        }
        "reasoning" => {
            let summary = item.get("summary").map(|summary| summary.items()).transpose()?.unwrap_or_default();
            let texts: Vec<&str> = summary.iter().map(|part| text(part.value, "text")).collect();
            let text = texts.join("\n\n");
            let sealed = item.get("encrypted_content").map(|field| field.text()).transpose()?.unwrap_or("");
            let (signature, raw) = match sealed {
                "" => (None, None),
                sealed => proof::unwrap(sealed).unwrap_or_else(|| (None, Some(item.value.clone()))),
            };
            add_said(request, Block::Thinking { text, signature, raw });
        }
        other => {
            return Err(item.unsupported_kind(other, "message, function_call, function_call_output or reasoning"));
        }
    }
    Ok(())
}

/// The items of one turn of the model belong into one message.
fn add_said(request: &mut Request, block: Block) {
    match request.messages.last_mut() {
        Some(Message { role: Role::Assistant, content }) => content.push(block),
        _ => request.messages.push(Message { role: Role::Assistant, content: vec![block] }),
    }
}

fn decode_content(content: &Field<'_>) -> Result<Vec<Block>, BadRequest> {
    if let Value::String(text) = content.value {
        return Ok(vec![Block::Text { text: text.clone() }]);
    }
    let part = |part: &Field<'_>| match part.kind()? {
        "input_text" | "output_text" | "text" => Ok(Block::Text { text: part.need("text")?.text()?.to_owned() }),
        "refusal" => Ok(Block::Text { text: part.need("refusal")?.text()?.to_owned() }),
        "input_image" => Ok(Block::Image { image: decode_image_url(&part.need("image_url")?)? }),
        other => Err(part.unsupported_kind(other, "input_text, output_text, refusal or input_image")),
    };
    content.items()?.iter().map(part).collect()
}

/// The body of an unstreamed answer.
pub(in crate::wire) fn encode_answer(answer: &Answer, head: &Head) -> Value {
    // The stream's last frame holds exactly this body.
    let mut encoder = StreamEncoder::new(head.clone());
    let mut ignored = Vec::new();
    for event in answer.to_events() {
        encoder.event(&event, &mut ignored);
    }
    encoder.last
}

/// Encodes a streamed answer.
#[derive(Debug)]
pub struct StreamEncoder {
    head: Head,
    id: String,
    model: String,
    started: bool,
    sequence: u64,
    /// Complete items.
    output: Vec<Value>,
    open: Option<OpenItem>,
    last: Value,
}

/// An item that is being told.
#[derive(Debug)]
enum OpenItem {
    Message { text: String },
    Reasoning { text: String },
    Call { id: String, name: String, arguments: String },
}

impl StreamEncoder {
    pub(in crate::wire) fn new(head: Head) -> Self {
        Self {
            head,
            id: String::new(),
            model: String::new(),
            started: false,
            sequence: 0,
            output: Vec::new(),
            open: None,
            last: Value::Null,
        }
    }

    pub(in crate::wire) fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        self.start(event, out);
        match event {
            Event::Started { .. } => {}
            Event::Text { delta } => {
                if !matches!(self.open, Some(OpenItem::Message { .. })) {
                    self.open(OpenItem::Message { text: String::new() }, out);
                }
                if let Some(OpenItem::Message { text }) = &mut self.open {
                    text.push_str(delta);
                }
                let place = json!({"item_id": self.item_id(), "content_index": 0, "delta": delta, "logprobs": []});
                self.send_at("response.output_text.delta", place, out);
            }
            Event::Thinking { delta } => {
                if !matches!(self.open, Some(OpenItem::Reasoning { .. })) {
                    self.open(OpenItem::Reasoning { text: String::new() }, out);
                }
                if matches!(&self.open, Some(OpenItem::Reasoning { text }) if text.is_empty()) {
                    let part = json!({"type": "summary_text", "text": ""});
                    let place = json!({"item_id": self.item_id(), "summary_index": 0, "part": part});
                    self.send_at("response.reasoning_summary_part.added", place, out);
                }
                if let Some(OpenItem::Reasoning { text }) = &mut self.open {
                    text.push_str(delta);
                }
                let place = json!({"item_id": self.item_id(), "summary_index": 0, "delta": delta});
                self.send_at("response.reasoning_summary_text.delta", place, out);
            }
            Event::ThinkingDone { signature, raw } => {
                if !matches!(self.open, Some(OpenItem::Reasoning { .. })) {
                    self.open(OpenItem::Reasoning { text: String::new() }, out);
                }
                self.close(encode_proof(signature.as_deref(), raw.as_ref()), out);
            }
            Event::ToolCall { id, name } => {
                self.open(OpenItem::Call { id: id.clone(), name: name.clone(), arguments: String::new() }, out);
            }
            Event::ToolArguments { id: wanted, delta } => match &mut self.open {
                Some(OpenItem::Call { id, arguments, .. }) if id == wanted => {
                    arguments.push_str(delta);
                    let place = json!({"item_id": self.item_id(), "delta": delta});
                    self.send_at("response.function_call_arguments.delta", place, out);
                }
                _ => {}
            },
            Event::ToolCallDone { .. } => {
                if matches!(self.open, Some(OpenItem::Call { .. })) {
                    self.close(None, out);
                }
            }
            Event::Done { stop, usage } => self.finish(stop, usage, out),
        }
    }

    pub(in crate::wire) fn error(&mut self, error: &Error, out: &mut Vec<u8>) {
        if !self.started {
            let event = Event::Started { id: String::new(), model: String::new(), usage: Usage::default() };
            self.start(&event, out);
        }
        let code = match error.kind {
            ErrorKind::RateLimited => "rate_limit_exceeded",
            ErrorKind::ContextOverflow => "context_length_exceeded",
            ErrorKind::Invalid => "invalid_prompt",
            _ => "server_error",
        };
        let mut response = self.response("failed", None);
        response["error"] = json!({"code": code, "message": error.message});
        self.send("response.failed", json!({"response": response}), out);
    }

    fn start(&mut self, event: &Event, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        if let Event::Started { id, model, .. } = event {
            self.id.clone_from(id);
            self.model.clone_from(model);
        }
        let response = self.response("in_progress", None);
        self.send("response.created", json!({"response": response}), out);
        self.send("response.in_progress", json!({"response": response}), out);
    }

    fn finish(&mut self, stop: &StopReason, usage: &Usage, out: &mut Vec<u8>) {
        self.close(None, out);
        let (status, reason) = match stop {
            StopReason::MaxTokens => ("incomplete", Some("max_output_tokens")),
            StopReason::Refusal => ("incomplete", Some("content_filter")),
            _ => ("completed", None),
        };
        let mut response = self.response(status, Some(usage));
        if let Some(reason) = reason {
            response["incomplete_details"] = json!({"reason": reason});
        } else {
            response["completed_at"] = json!(self.head.created);
        }
        self.last = response.clone();
        self.send(&format!("response.{status}"), json!({"response": response}), out);
    }

    fn open(&mut self, item: OpenItem, out: &mut Vec<u8>) {
        self.close(None, out);
        let message = matches!(item, OpenItem::Message { .. });
        self.open = Some(item);
        let item = self.item("in_progress", None);
        self.send_at("response.output_item.added", json!({"item": item}), out);
        if message {
            let place = json!({"item_id": self.item_id(), "content_index": 0, "part": output_text("")});
            self.send_at("response.content_part.added", place, out);
        }
    }

    /// Ends the open item, with its proof if it is reasoning.
    fn close(&mut self, proof: Option<String>, out: &mut Vec<u8>) {
        let id = self.item_id();
        match &self.open {
            None => return,
            Some(OpenItem::Message { text }) => {
                let done = json!({"item_id": id, "content_index": 0, "text": text, "logprobs": []});
                let part = json!({"item_id": id, "content_index": 0, "part": output_text(text)});
                self.send_at("response.output_text.done", done, out);
                self.send_at("response.content_part.done", part, out);
            }
            Some(OpenItem::Reasoning { text }) if !text.is_empty() => {
                let done = json!({"item_id": id, "summary_index": 0, "text": text});
                let part = json!({"item_id": id, "summary_index": 0, "part": {"type": "summary_text", "text": text}});
                self.send_at("response.reasoning_summary_text.done", done, out);
                self.send_at("response.reasoning_summary_part.done", part, out);
            }
            Some(OpenItem::Reasoning { .. }) => {}
            Some(OpenItem::Call { name, arguments, .. }) => {
                let done = json!({"item_id": id, "name": name, "arguments": arguments});
                self.send_at("response.function_call_arguments.done", done, out);
            }
        }
        let item = self.item("completed", proof);
        self.send_at("response.output_item.done", json!({"item": item}), out);
        self.open = None;
        self.output.push(item);
    }

    /// The open item as it stands.
    fn item(&self, status: &str, proof: Option<String>) -> Value {
        let id = self.item_id();
        match &self.open {
            None => Value::Null,
            Some(OpenItem::Message { text }) => {
                let content = if status == "completed" { json!([output_text(text)]) } else { json!([]) };
                json!({"id": id, "type": "message", "status": status, "role": "assistant", "content": content})
            }
            Some(OpenItem::Reasoning { text }) => {
                let summary = if text.is_empty() { json!([]) } else { json!([{"type": "summary_text", "text": text}]) };
                let mut item = json!({"id": id, "type": "reasoning", "summary": summary});
                if let Some(proof) = proof {
                    item["encrypted_content"] = json!(proof);
                }
                item
            }
            Some(OpenItem::Call { id: call_id, name, arguments }) => json!({
                "id": id, "type": "function_call", "status": status,
                "call_id": call_id, "name": name, "arguments": arguments,
            }),
        }
    }

    /// Identifier of the open item: the answer's own, with its place.
    fn item_id(&self) -> String {
        let prefix = match self.open {
            Some(OpenItem::Reasoning { .. }) => "rs",
            Some(OpenItem::Call { .. }) => "fc",
            _ => "msg",
        };
        format!("{prefix}_{}_{}", self.id, self.output.len())
    }

    fn response(&self, status: &str, usage: Option<&Usage>) -> Value {
        json!({
            "id": self.id,
            "object": "response",
            "created_at": self.head.created,
            "status": status,
            "error": null,
            "incomplete_details": null,
            "instructions": null,
            "metadata": {},
            "model": self.model,
            "output": self.output,
            "parallel_tool_calls": true,
            "previous_response_id": null,
            "store": false,
            "temperature": null,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": null,
            "truncation": "disabled",
            "usage": usage.map(encode_usage),
        })
    }

    /// Writes a frame about the open item.
    fn send_at(&mut self, event: &str, mut members: Value, out: &mut Vec<u8>) {
        members["output_index"] = json!(self.output.len());
        self.send(event, members, out);
    }

    fn send(&mut self, event: &str, mut members: Value, out: &mut Vec<u8>) {
        members["type"] = json!(event);
        members["sequence_number"] = json!(self.sequence);
        self.sequence += 1;
        write_frame(out, Some(event), &members.to_string());
    }
}

fn output_text(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

/// What goes into `encrypted_content`. The item gets an identifier of ours, so the provider's whole item travels
/// inside, also where it is of this format.
fn encode_proof(signature: Option<&str>, raw: Option<&Value>) -> Option<String> {
    (signature.is_some() || raw.is_some()).then(|| proof::wrap(signature, raw))
}
