//! Asking a provider that speaks Chat Completions.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{Dialect, decode_stop, decode_usage, reasoning_of, text};
use crate::sse::Frame;
use crate::wire::openai_error;
use crate::{
    Block, Effort, Error, Event, Image, Message, Request, ResponseFormat, Role, StopReason, Thinking, Tool, ToolChoice,
    Usage,
};

/// The JSON body that asks for a streamed answer with usage at its end.
#[must_use]
pub fn encode_request(request: &Request, dialect: Dialect) -> Value {
    let mut body = json!({
        "model": request.model,
        "messages": encode_messages(request, dialect),
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    if let Some(max_tokens) = request.max_tokens {
        let name = match dialect {
            Dialect::OpenAi => "max_completion_tokens",
            Dialect::Compatible => "max_tokens",
        };
        body[name] = json!(max_tokens);
    }
    if let Some(temperature) = request.temperature {
        body["temperature"] = json!(temperature);
    }
    if let Some(top_p) = request.top_p {
        body["top_p"] = json!(top_p);
    }
    if !request.stop.is_empty() {
        body["stop"] = json!(request.stop);
    }
    if let Some(thinking) = request.thinking {
        body["reasoning_effort"] = json!(encode_effort(thinking));
    }
    if !request.tools.is_empty() {
        body["tools"] = request.tools.iter().map(encode_tool).collect();
        match &request.tool_choice {
            ToolChoice::Auto => {}
            ToolChoice::Any => body["tool_choice"] = json!("required"),
            ToolChoice::None => body["tool_choice"] = json!("none"),
            ToolChoice::Tool { name } => {
                body["tool_choice"] = json!({"type": "function", "function": {"name": name}});
            }
        }
        if let Some(parallel) = request.parallel_tool_calls {
            body["parallel_tool_calls"] = json!(parallel);
        }
    }
    match &request.response_format {
        ResponseFormat::Text => {}
        ResponseFormat::Json => body["response_format"] = json!({"type": "json_object"}),
        ResponseFormat::JsonSchema { name, schema, strict } => {
            let schema = json!({"name": name, "schema": schema, "strict": strict});
            body["response_format"] = json!({"type": "json_schema", "json_schema": schema});
        }
    }
    body
}

/// The word of both OpenAI formats for an amount of thinking.
pub(in crate::wire) fn encode_effort(thinking: Thinking) -> &'static str {
    match thinking {
        Thinking::Effort { level: Effort::Low } | Thinking::Budget { tokens: ..=4096 } => "low",
        Thinking::Effort { level: Effort::Medium } | Thinking::Budget { tokens: ..=16384 } => "medium",
        Thinking::Effort { level: Effort::High } | Thinking::Budget { .. } => "high",
    }
}

fn encode_tool(tool: &Tool) -> Value {
    let mut function = json!({"name": tool.name});
    if let Some(description) = &tool.description {
        function["description"] = json!(description);
    }
    function["parameters"] = tool.input_schema.clone();
    json!({"type": "function", "function": function})
}

fn encode_messages(request: &Request, dialect: Dialect) -> Vec<Value> {
    let mut out = Vec::new();
    if let Some(system) = request.system.as_ref().filter(|system| !system.is_empty()) {
        out.push(json!({"role": "system", "content": system}));
    }
    for message in &request.messages {
        match message.role {
            Role::User => encode_user(message, &mut out),
            Role::Assistant => out.extend(encode_assistant(message, dialect)),
        }
    }
    out
}

/// Results of tools are messages of their own and come first. They hold text only, so their pictures follow as
/// the user's.
fn encode_user(message: &Message, out: &mut Vec<Value>) {
    let mut parts = Vec::new();
    for block in &message.content {
        match block {
            Block::ToolResult { id, content, .. } => {
                let mut said = String::new();
                for block in content {
                    match block {
                        Block::Text { text } => said.push_str(text),
                        Block::Image { image } => parts.push(encode_image(image)),
                        _ => {}
                    }
                }
                out.push(json!({"role": "tool", "tool_call_id": id, "content": said}));
            }
            Block::Text { text } => parts.push(json!({"type": "text", "text": text})),
            Block::Image { image } => parts.push(encode_image(image)),
            Block::Thinking { .. } | Block::ToolCall { .. } => {}
        }
    }
    match parts.as_slice() {
        [] => {}
        // Plain text is the form that every compatible server knows.
        [part] if part["type"] == "text" => out.push(json!({"role": "user", "content": part["text"]})),
        _ => out.push(json!({"role": "user", "content": parts})),
    }
}

fn encode_assistant(message: &Message, dialect: Dialect) -> Option<Value> {
    let (mut said, mut reasoning, mut calls) = (String::new(), String::new(), Vec::new());
    for block in &message.content {
        match block {
            Block::Text { text } => said.push_str(text),
            // Only what came without another provider's proof is this format's own.
            Block::Thinking { text, signature: None, raw: None } => reasoning.push_str(text),
            Block::ToolCall { id, name, arguments } => calls.push(json!({
                "id": id, "type": "function", "function": {"name": name, "arguments": arguments},
            })),
            Block::Thinking { .. } | Block::Image { .. } | Block::ToolResult { .. } => {}
        }
    }
    if said.is_empty() && calls.is_empty() {
        return None;
    }
    let mut encoded = json!({"role": "assistant", "content": if said.is_empty() { Value::Null } else { json!(said) }});
    if !calls.is_empty() {
        encoded["tool_calls"] = Value::Array(calls);
        // Reasoning models behind compatible servers go on thinking between tool calls and want theirs back.
        if dialect == Dialect::Compatible && !reasoning.is_empty() {
            encoded["reasoning_content"] = json!(reasoning);
        }
    }
    Some(encoded)
}

fn encode_image(image: &Image) -> Value {
    json!({"type": "image_url", "image_url": {"url": image_url(image)}})
}

/// The address of a picture, as a `data:` URL where it comes by value.
pub(in crate::wire) fn image_url(image: &Image) -> String {
    match image {
        Image::Base64 { media_type, data } => format!("data:{media_type};base64,{data}"),
        Image::Url { url } => url.clone(),
    }
}

/// Decodes a streamed answer.
#[derive(Debug, Default)]
pub struct StreamDecoder {
    id: String,
    started: bool,
    done: bool,
    thinking: bool,
    usage: Usage,
    stop: Option<StopReason>,
    open_call: Option<OpenCall>,
    calls_seen: HashSet<String>,
    count: u64,
}

#[derive(Debug)]
struct OpenCall {
    /// Its place in the provider's list.
    index: u64,
    /// The provider's identifier; some give none.
    given_id: String,
    /// The identifier that events carry.
    id: String,
}

impl StreamDecoder {
    pub(in crate::wire) fn frame(&mut self, frame: &Frame, events: &mut Vec<Event>) -> Result<(), Error> {
        if self.done {
            return Ok(());
        }
        if frame.data.trim() == "[DONE]" {
            return self.finish(events);
        }
        let Ok(chunk) = serde_json::from_str::<Value>(&frame.data) else {
            // Some servers put named events of their own between the chunks.
            return if matches!(frame.event.as_str(), "" | "message" | "error") {
                Err(Error::nonsense("a stream event that is not JSON"))
            } else {
                Ok(())
            };
        };
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            return Err(openai_error::from_object(None, error));
        }
        if frame.event == "error" {
            return Err(openai_error::from_object(None, &chunk));
        }
        if chunk["usage"].is_object() {
            self.usage = decode_usage(&chunk["usage"]);
        }
        let choice = &chunk["choices"][0];
        if !self.started && chunk["choices"].is_array() {
            self.start(&chunk, events);
        }
        self.delta(&choice["delta"], events)?;
        if let Some(word) = choice["finish_reason"].as_str() {
            self.stop = Some(decode_stop(word));
            self.close(events);
        }
        Ok(())
    }

    /// The end of the stream ends the answer, if its reason has come: not every server says `[DONE]`.
    pub(in crate::wire) fn finish(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        if self.done {
            return Ok(());
        }
        let mut stop = self.stop.take().ok_or_else(Error::incomplete)?;
        self.close(events);
        if self.count > 0 && stop == StopReason::EndTurn {
            stop = StopReason::ToolUse; // a forced call ends with `stop`
        }
        self.done = true;
        events.push(Event::Done { stop, usage: self.usage });
        Ok(())
    }

    fn start(&mut self, body: &Value, events: &mut Vec<Event>) {
        self.started = true;
        self.id = text(body, "id").to_owned();
        let usage = Usage { output: 0, reasoning: 0, ..self.usage };
        events.push(Event::Started { id: self.id.clone(), model: text(body, "model").to_owned(), usage });
    }

    /// Takes a `delta`, or the `message` of an unstreamed answer, which differs in being whole.
    fn delta(&mut self, delta: &Value, events: &mut Vec<Event>) -> Result<(), Error> {
        let reasoning = reasoning_of(delta);
        if !reasoning.is_empty() {
            self.thinking = true;
            events.push(Event::Thinking { delta: reasoning.to_owned() });
        }
        for said in [text(delta, "content"), text(delta, "refusal")] {
            if !said.is_empty() {
                self.close(events);
                events.push(Event::Text { delta: said.to_owned() });
            }
        }
        let calls = delta["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
        for (position, call) in (0..).zip(calls) {
            let index = call["index"].as_u64().unwrap_or(position);
            self.call(index, call, events)?;
        }
        Ok(())
    }

    /// Calls come one after the other. A piece for a call that was closed by the next one has no place any more.
    fn call(&mut self, index: u64, call: &Value, events: &mut Vec<Event>) -> Result<(), Error> {
        let function = &call["function"];
        let (id, name) = (text(call, "id"), text(function, "name"));
        let delta = match &function["arguments"] {
            Value::String(arguments) => arguments.clone(),
            // An object instead of its text is a known mistake of compatible servers.
            arguments @ Value::Object(_) => arguments.to_string(),
            _ => String::new(),
        };
        // Some servers count every call as number 0; a new identifier with a name tells them apart. Others repeat
        // identifier and name in every piece.
        let same = self
            .open_call
            .as_ref()
            .is_some_and(|open| open.index == index && (id.is_empty() || name.is_empty() || open.given_id == id));
        if !same {
            if name.is_empty() || self.calls_seen.contains(id) {
                return if delta.is_empty() {
                    Ok(())
                } else {
                    Err(Error::nonsense("arguments of tool calls in disorder"))
                };
            }
            self.close(events);
            let own = if id.is_empty() { format!("call_{}_{}", self.id, self.count) } else { id.to_owned() };
            self.count += 1;
            if !id.is_empty() {
                self.calls_seen.insert(id.to_owned());
            }
            events.push(Event::ToolCall { id: own.clone(), name: name.to_owned() });
            self.open_call = Some(OpenCall { index, given_id: id.to_owned(), id: own });
        }
        if let Some(open) = self.open_call.as_ref().filter(|_| !delta.is_empty()) {
            events.push(Event::ToolArguments { id: open.id.clone(), delta });
        }
        Ok(())
    }

    /// Closes what is open, because another block or the end has come.
    fn close(&mut self, events: &mut Vec<Event>) {
        if std::mem::take(&mut self.thinking) {
            events.push(Event::ThinkingDone { signature: None, raw: None });
        }
        events.extend(self.open_call.take().map(|open| Event::ToolCallDone { id: open.id }));
    }
}

/// Reads an unstreamed answer.
pub(in crate::wire) fn decode_answer(body: &Value) -> Result<Vec<Event>, Error> {
    if let Some(error) = body.get("error").filter(|error| !error.is_null()) {
        return Err(openai_error::from_object(None, error));
    }
    let choice = &body["choices"][0];
    if !choice["message"].is_object() {
        return Err(Error::nonsense("an answer without a message"));
    }
    let mut decoder = StreamDecoder { usage: decode_usage(&body["usage"]), ..StreamDecoder::default() };
    let mut events = Vec::new();
    decoder.start(body, &mut events);
    decoder.delta(&choice["message"], &mut events)?;
    decoder.stop = Some(decode_stop(choice["finish_reason"].as_str().unwrap_or("stop")));
    decoder.finish(&mut events)?;
    Ok(events)
}
