//! Answering a client that speaks Chat Completions.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{encode_stop, encode_usage, reasoning_of};
use crate::sse::write_frame;
use crate::wire::field::Field;
use crate::wire::{BadRequest, Head, Incoming, join_system, openai_error};
use crate::{
    Answer, Block, Effort, Error, Event, Image, Message, Request, ResponseFormat, Role, StopReason, Thinking, Tool,
    ToolChoice,
};

/// Reads a body of `POST /v1/chat/completions`.
///
/// # Errors
/// See [`crate::wire::Wire::decode_request`].
pub(in crate::wire) fn decode_request(body: &Value) -> Result<Incoming, BadRequest> {
    let body = Field::root(body)?;
    if let Some(n) = body.get("n").filter(|n| n.value != 1) {
        return Err(n.wrong("only one answer per request is supported here"));
    }
    if let Some(logprobs) = body.get("logprobs").filter(|field| field.value == true) {
        return Err(logprobs.wrong("log probabilities are not supported here"));
    }
    for name in ["audio", "functions", "function_call", "web_search_options"] {
        if let Some(field) = body.get(name) {
            return Err(field.wrong("this is not supported here"));
        }
    }
    let max_tokens = body.get("max_completion_tokens").or_else(|| body.get("max_tokens"));
    let mut request = Request {
        model: body.need("model")?.text()?.to_owned(),
        max_tokens: max_tokens.map(|field| field.positive()).transpose()?,
        temperature: body.get("temperature").map(|field| field.number()).transpose()?,
        top_p: body.get("top_p").map(|field| field.number()).transpose()?,
        thinking: body.get("reasoning_effort").map(|field| decode_effort(&field)).transpose()?.flatten(),
        parallel_tool_calls: body.get("parallel_tool_calls").map(|field| field.flag()).transpose()?,
        ..Request::default()
    };
    if let Some(stop) = body.get("stop") {
        request.stop = match stop.value {
            Value::String(text) => vec![text.clone()],
            _ => stop.texts()?,
        };
    }
    for message in body.need("messages")?.items()? {
        decode_message(&message, &mut request)?;
    }
    if request.messages.is_empty() {
        return Err(body.need("messages")?.wrong("at least one message of the user is required"));
    }
    for tool in body.get("tools").map(|tools| tools.items()).transpose()?.unwrap_or_default() {
        request.tools.push(match tool.kind()? {
            "function" => decode_function(&tool.need("function")?)?,
            other => return Err(tool.unsupported_kind(other, "function")),
        });
    }
    if let Some(choice) = body.get("tool_choice") {
        request.tool_choice = match decode_simple_choice(&choice)? {
            Some(choice) => choice,
            None => ToolChoice::Tool { name: choice.need("function")?.need("name")?.text()?.to_owned() },
        };
    }
    if let Some(format) = body.get("response_format") {
        request.response_format = match format.kind()? {
            "text" => ResponseFormat::Text,
            "json_object" => ResponseFormat::Json,
            "json_schema" => decode_schema(&format.need("json_schema")?)?,
            other => return Err(format.unsupported_kind(other, "text, json_object or json_schema")),
        };
    }
    let stream = body.get("stream").map(|field| field.flag()).transpose()?.unwrap_or(false);
    let options = body.get("stream_options");
    let include_usage = options.and_then(|options| options.get("include_usage"));
    let include_usage = include_usage.map(|field| field.flag()).transpose()?.unwrap_or(false);
    Ok(Incoming { request, stream, include_usage })
}

/// An amount of thinking, in the words of both OpenAI formats.
pub(in crate::wire) fn decode_effort(field: &Field<'_>) -> Result<Option<Thinking>, BadRequest> {
    let level = match field.text()? {
        "none" => return Ok(None),
        "minimal" | "low" => Effort::Low,
        "medium" => Effort::Medium,
        "high" | "xhigh" | "max" => Effort::High,
        _ => return Err(field.wrong("expected none, minimal, low, medium or high")),
    };
    Ok(Some(Thinking::Effort { level }))
}

/// A choice of tools that both OpenAI formats write alike; `None` for the choice of one function.
pub(in crate::wire) fn decode_simple_choice(choice: &Field<'_>) -> Result<Option<ToolChoice>, BadRequest> {
    Ok(match choice.value.as_str() {
        Some("auto") => Some(ToolChoice::Auto),
        Some("none") => Some(ToolChoice::None),
        Some("required") => Some(ToolChoice::Any),
        Some(_) => return Err(choice.wrong("expected auto, none, required or a function")),
        None => match choice.kind()? {
            "function" => None,
            other => return Err(choice.unsupported_kind(other, "function")),
        },
    })
}

/// A JSON Schema format, which both OpenAI formats write alike.
pub(in crate::wire) fn decode_schema(format: &Field<'_>) -> Result<ResponseFormat, BadRequest> {
    let schema = format.need("schema")?;
    schema.object()?;
    Ok(ResponseFormat::JsonSchema {
        name: format.need("name")?.text()?.to_owned(),
        schema: schema.value.clone(),
        strict: format.get("strict").map(|field| field.flag()).transpose()?.unwrap_or(false),
    })
}

/// A function tool, which both OpenAI formats write alike. Without parameters it takes none.
pub(in crate::wire) fn decode_function(function: &Field<'_>) -> Result<Tool, BadRequest> {
    let parameters = function.get("parameters");
    if let Some(parameters) = &parameters {
        parameters.object()?;
    }
    Ok(Tool {
        name: function.need("name")?.text()?.to_owned(),
        description: function.get("description").map(|field| field.text().map(str::to_owned)).transpose()?,
        input_schema: parameters
            .map_or_else(|| json!({"type": "object", "properties": {}}), |field| field.value.clone()),
    })
}

fn decode_message(message: &Field<'_>, request: &mut Request) -> Result<(), BadRequest> {
    let role = message.need("role")?;
    match role.text()? {
        "system" | "developer" => {
            join_system(&mut request.system, &text_of(&message.need("content")?)?);
        }
        "user" => {
            let content = decode_user(&message.need("content")?)?;
            request.messages.push(Message { role: Role::User, content });
        }
        "assistant" => {
            let content = decode_assistant(message)?;
            request.messages.push(Message { role: Role::Assistant, content });
        }
        "tool" => {
            let text = text_of(&message.need("content")?)?;
            let result = Block::ToolResult {
                id: message.need("tool_call_id")?.text()?.to_owned(),
                content: if text.is_empty() { Vec::new() } else { vec![Block::Text { text }] },
                is_error: false,
            };
            add_result(request, result);
        }
        _ => return Err(role.wrong("expected system, developer, user, assistant or tool")),
    }
    Ok(())
}

/// The results of one turn's calls belong into one message.
pub(in crate::wire) fn add_result(request: &mut Request, result: Block) {
    match request.messages.last_mut() {
        Some(Message { role: Role::User, content })
            if content.iter().all(|block| matches!(block, Block::ToolResult { .. })) =>
        {
            content.push(result);
        }
        _ => request.messages.push(Message { role: Role::User, content: vec![result] }),
    }
}

fn decode_user(content: &Field<'_>) -> Result<Vec<Block>, BadRequest> {
    if let Value::String(text) = content.value {
        return Ok(vec![Block::Text { text: text.clone() }]);
    }
    let part = |part: &Field<'_>| match part.kind()? {
        "text" => Ok(Block::Text { text: part.need("text")?.text()?.to_owned() }),
        "image_url" => Ok(Block::Image { image: decode_image_url(&part.need("image_url")?.need("url")?)? }),
        other => Err(part.unsupported_kind(other, "text or image_url")),
    };
    content.items()?.iter().map(part).collect()
}

fn decode_assistant(message: &Field<'_>) -> Result<Vec<Block>, BadRequest> {
    let mut blocks = Vec::new();
    let reasoning = reasoning_of(message.value);
    if !reasoning.is_empty() {
        blocks.push(Block::Thinking { text: reasoning.to_owned(), signature: None, raw: None });
    }
    let said = message.get("content").map(|content| text_of(&content)).transpose()?.unwrap_or_default();
    let refused = message.get("refusal").map(|field| field.text()).transpose()?.unwrap_or("");
    let text = said + refused;
    if !text.is_empty() {
        blocks.push(Block::Text { text });
    }
    for call in message.get("tool_calls").map(|calls| calls.items()).transpose()?.unwrap_or_default() {
        if let Some(other) = call.get("type").map(|kind| kind.text()).transpose()?.filter(|kind| *kind != "function") {
            return Err(call.unsupported_kind(other, "function"));
        }
        let function = call.need("function")?;
        blocks.push(Block::ToolCall {
            id: call.need("id")?.text()?.to_owned(),
            name: function.need("name")?.text()?.to_owned(),
            arguments: function.need("arguments")?.text()?.to_owned(),
        });
    }
    Ok(blocks)
}

/// A text, or the texts of an array of parts, joined.
fn text_of(content: &Field<'_>) -> Result<String, BadRequest> {
    if let Value::String(text) = content.value {
        return Ok(text.clone());
    }
    let part = |part: &Field<'_>| match part.kind()? {
        "text" => part.need("text")?.text().map(str::to_owned),
        "refusal" => part.need("refusal")?.text().map(str::to_owned),
        other => Err(part.unsupported_kind(other, "text")),
    };
    content.items()?.iter().map(part).collect()
}

/// A picture by its address, where `data:` URLs hold it by value.
pub(in crate::wire) fn decode_image_url(url: &Field<'_>) -> Result<Image, BadRequest> {
    let text = url.text()?;
    let Some(rest) = text.strip_prefix("data:") else {
        return Ok(Image::Url { url: text.to_owned() });
    };
    let (media_type, data) = rest
        .split_once(";base64,")
        .ok_or_else(|| url.wrong("a data: URL must have the form data:<type>;base64,<data>"))?;
    Ok(Image::Base64 { media_type: media_type.to_owned(), data: data.to_owned() })
}

/// The body of an unstreamed answer.
pub(in crate::wire) fn encode_answer(answer: &Answer, head: &Head) -> Value {
    let (mut reasoning, mut calls) = (String::new(), Vec::new());
    for block in &answer.content {
        match block {
            Block::Thinking { text, .. } => reasoning.push_str(text),
            Block::ToolCall { id, name, arguments } => calls.push(json!({
                "id": id, "type": "function", "function": {"name": name, "arguments": arguments},
            })),
            Block::Text { .. } | Block::Image { .. } | Block::ToolResult { .. } => {}
        }
    }
    let said = answer.text();
    let content = if said.is_empty() && !calls.is_empty() { Value::Null } else { Value::String(said) };
    let mut message = json!({"role": "assistant", "content": content, "refusal": null});
    if !reasoning.is_empty() {
        message["reasoning_content"] = json!(reasoning);
    }
    if !calls.is_empty() {
        message["tool_calls"] = Value::Array(calls);
    }
    json!({
        "id": answer.id,
        "object": "chat.completion",
        "created": head.created,
        "model": answer.model,
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": encode_stop(&answer.stop)}],
        "usage": encode_usage(&answer.usage),
    })
}

/// Encodes a streamed answer.
#[derive(Debug)]
pub struct StreamEncoder {
    head: Head,
    id: String,
    model: String,
    started: bool,
    calls: HashMap<String, usize>,
}

impl StreamEncoder {
    pub(in crate::wire) fn new(head: Head) -> Self {
        Self { head, id: String::new(), model: String::new(), started: false, calls: HashMap::new() }
    }

    pub(in crate::wire) fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        if let Event::Started { id, model, .. } = event {
            self.id.clone_from(id);
            self.model.clone_from(model);
        }
        if !std::mem::replace(&mut self.started, true) {
            self.chunk(&json!({"role": "assistant", "content": "", "refusal": null}), None, out);
        }
        match event {
            Event::Started { .. } | Event::ThinkingDone { .. } | Event::ToolCallDone { .. } => {}
            Event::Text { delta } => self.chunk(&json!({"content": delta}), None, out),
            Event::Thinking { delta } => self.chunk(&json!({"reasoning_content": delta}), None, out),
            Event::ToolCall { id, name } => {
                let index = self.calls.len();
                self.calls.insert(id.clone(), index);
                let function = json!({"name": name, "arguments": ""});
                let call = json!({"index": index, "id": id, "type": "function", "function": function});
                self.chunk(&json!({"tool_calls": [call]}), None, out);
            }
            Event::ToolArguments { id, delta } => {
                if let Some(index) = self.calls.get(id) {
                    let call = json!({"index": index, "function": {"arguments": delta}});
                    self.chunk(&json!({"tool_calls": [call]}), None, out);
                }
            }
            Event::Done { stop, usage } => {
                self.chunk(&json!({}), Some(stop), out);
                if self.head.include_usage {
                    let mut last = self.body();
                    last["choices"] = json!([]);
                    last["usage"] = encode_usage(usage);
                    write_frame(out, None, &last.to_string());
                }
                write_frame(out, None, "[DONE]");
            }
        }
    }

    pub(in crate::wire) fn error(&mut self, error: &Error, out: &mut Vec<u8>) {
        write_frame(out, None, &openai_error::encode(error, None).to_string());
    }

    fn chunk(&self, delta: &Value, stop: Option<&StopReason>, out: &mut Vec<u8>) {
        let mut body = self.body();
        let finish_reason = stop.map(encode_stop);
        body["choices"] = json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason}]);
        if self.head.include_usage {
            body["usage"] = Value::Null;
        }
        write_frame(out, None, &body.to_string());
    }

    fn body(&self) -> Value {
        json!({"id": self.id, "object": "chat.completion.chunk", "created": self.head.created, "model": self.model})
    }
}
