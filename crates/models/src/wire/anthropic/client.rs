//! Asking a provider that speaks Messages.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{decode_stop, error_from_object, schema, text, update_usage};
use crate::sse::Frame;
use crate::wire::{count, proof};
use crate::{
    Block, Effort, Error, Event, Image, Message, Request, ResponseFormat, Role, StopReason, Thinking, Tool, ToolChoice,
    Usage,
};

/// The JSON body that asks for a streamed answer.
#[must_use]
pub fn encode_request(request: &Request) -> Value {
    let max_tokens = request.max_tokens.unwrap_or_else(|| schema::default_max_tokens(&request.model));
    let mut body = json!({
        "model": request.model,
        "max_tokens": max_tokens,
        "messages": encode_messages(&request.messages),
        "stream": true,
    });
    let mut system = request.system.clone().unwrap_or_default();
    let mut tools: Vec<Value> = request.tools.iter().map(encode_tool).collect();
    let mut choice = encode_choice(request);
    match plan(request) {
        Plan::Free => {}
        Plan::Native { schema } => {
            body["output_config"] = json!({"format": {"type": "json_schema", "schema": schema::closed(schema)}})
        }
        Plan::ForcedTool { name, schema } => {
            tools.push(json!({"name": name, "description": "Give the answer.", "input_schema": object_schema(schema)}));
            choice = Some(json!({"type": "tool", "name": name, "disable_parallel_tool_use": true}));
        }
        Plan::Told { instruction } => {
            if !system.is_empty() {
                system.push_str("\n\n");
            }
            system.push_str(&instruction);
        }
    }
    if !system.trim().is_empty() {
        body["system"] = json!(system);
    }
    let forced = choice.as_ref().is_some_and(|choice| matches!(text(choice, "type"), "any" | "tool"));
    if !tools.is_empty() {
        body["tools"] = Value::Array(tools);
        if let Some(choice) = choice {
            body["tool_choice"] = choice;
        }
    }
    // A model that must call a tool may not think first: the API refuses the combination.
    let thinking = request.thinking.filter(|_| !forced);
    if let Some(thinking) = thinking {
        encode_thinking(thinking, &request.model, max_tokens, &mut body);
    } else {
        // Thinking fixes the temperature as well, so these are for plain answers only.
        if let Some(temperature) = request.temperature {
            body["temperature"] = json!(temperature);
        }
        if let Some(top_p) = request.top_p {
            body["top_p"] = json!(top_p);
        }
    }
    if !request.stop.is_empty() {
        body["stop_sequences"] = json!(request.stop);
    }
    body
}

/// How the form of the answer is brought about.
enum Plan<'a> {
    Free,
    Native { schema: &'a Value },
    ForcedTool { name: &'a str, schema: &'a Value },
    Told { instruction: String },
}

fn plan(request: &Request) -> Plan<'_> {
    match &request.response_format {
        ResponseFormat::Text => Plan::Free,
        ResponseFormat::Json => Plan::Told { instruction: "Answer with one JSON object and nothing else.".to_owned() },
        ResponseFormat::JsonSchema { schema, .. } if schema::answers_by_schema(&request.model) => {
            Plan::Native { schema }
        }
        ResponseFormat::JsonSchema { name, schema, .. } if request.tools.is_empty() => {
            Plan::ForcedTool { name: if name.is_empty() { "answer" } else { name }, schema }
        }
        // A forced tool would keep the model from its own tools.
        ResponseFormat::JsonSchema { schema, .. } => Plan::Told {
            instruction: format!(
                "Your final answer must be JSON that fits this JSON Schema, and nothing else:\n{schema}"
            ),
        },
    }
}

fn encode_thinking(thinking: Thinking, model: &str, max_tokens: u32, body: &mut Value) {
    if schema::thinks_adaptively(model) {
        let effort = match thinking {
            Thinking::Effort { level: Effort::Low } => "low",
            Thinking::Effort { level: Effort::Medium } => "medium",
            Thinking::Effort { level: Effort::High } => "high",
            Thinking::Budget { tokens: ..=4096 } => "low",
            Thinking::Budget { tokens: ..=16384 } => "medium",
            Thinking::Budget { .. } => "high",
        };
        body["thinking"] = json!({"type": "adaptive"});
        body["output_config"]["effort"] = json!(effort);
    } else {
        let budget = match thinking {
            Thinking::Effort { level: Effort::Low } => 2048,
            Thinking::Effort { level: Effort::Medium } => 8192,
            Thinking::Effort { level: Effort::High } => 24576,
            Thinking::Budget { tokens } => tokens.max(1024), // the least the API takes
        };
        body["thinking"] = json!({"type": "enabled", "budget_tokens": budget});
        // The bound counts thinking too; the request meant the answer.
        body["max_tokens"] = json!(max_tokens.saturating_add(budget));
    }
}

fn encode_messages(messages: &[Message]) -> Vec<Value> {
    let encoded = messages.iter().filter_map(|message| {
        // Results must come first in a turn.
        let (results, rest): (Vec<_>, Vec<_>) =
            message.content.iter().partition(|block| matches!(block, Block::ToolResult { .. }));
        let content: Vec<Value> = results.into_iter().chain(rest).filter_map(encode_block).collect();
        let role = match message.role {
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        (!content.is_empty()).then(|| json!({"role": role, "content": content}))
    });
    encoded.collect()
}

/// Blank texts are left out because the API refuses them, and reasoning of other providers because it cannot prove it.
fn encode_block(block: &Block) -> Option<Value> {
    Some(match block {
        Block::Text { text } if text.trim().is_empty() => return None,
        Block::Text { text } => json!({"type": "text", "text": text}),
        Block::Image { image } => encode_image(image),
        Block::Thinking { raw: Some(raw), .. } => {
            if !matches!(text(raw, "type"), "thinking" | "redacted_thinking") {
                return None;
            }
            raw.clone()
        }
        Block::Thinking { text, signature, raw: None } => {
            json!({"type": "thinking", "thinking": text, "signature": signature.as_ref()?})
        }
        Block::ToolCall { id, name, arguments } => {
            json!({"type": "tool_use", "id": safe_id(id), "name": name, "input": encode_arguments(arguments)})
        }
        Block::ToolResult { id, content, is_error } => {
            let content: Vec<Value> = content.iter().filter_map(encode_block).collect();
            let mut result = json!({"type": "tool_result", "tool_use_id": safe_id(id), "content": content});
            if *is_error {
                result["is_error"] = json!(true);
            }
            result
        }
    })
}

fn encode_image(image: &Image) -> Value {
    match image {
        Image::Base64 { media_type, data } => {
            json!({"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}})
        }
        Image::Url { url } => json!({"type": "image", "source": {"type": "url", "url": url}}),
    }
}

/// Arguments that are no JSON object travel the way Anthropic's manual advises for broken ones.
fn encode_arguments(arguments: &str) -> Value {
    if arguments.trim().is_empty() {
        return json!({});
    }
    match serde_json::from_str(arguments) {
        Ok(Value::Object(object)) => Value::Object(object),
        _ => json!({"INVALID_JSON": arguments}),
    }
}

/// Other providers' identifiers may hold characters that this API refuses. The map is the same for call and result.
fn safe_id(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' }).collect()
}

fn encode_tool(tool: &Tool) -> Value {
    let mut encoded = json!({"name": tool.name});
    if let Some(description) = &tool.description {
        encoded["description"] = json!(description);
    }
    encoded["input_schema"] = object_schema(&tool.input_schema);
    encoded
}

fn object_schema(schema: &Value) -> Value {
    let mut schema = schema.clone();
    match schema.as_object_mut() {
        Some(members) => {
            members.entry("type").or_insert_with(|| json!("object"));
            schema
        }
        None => json!({"type": "object"}),
    }
}

fn encode_choice(request: &Request) -> Option<Value> {
    let mut choice = match &request.tool_choice {
        ToolChoice::Auto if request.parallel_tool_calls.is_none() => return None,
        ToolChoice::Auto => json!({"type": "auto"}),
        ToolChoice::Any => json!({"type": "any"}),
        ToolChoice::None => return Some(json!({"type": "none"})),
        ToolChoice::Tool { name } => json!({"type": "tool", "name": name}),
    };
    if let Some(parallel) = request.parallel_tool_calls {
        choice["disable_parallel_tool_use"] = json!(!parallel);
    }
    Some(choice)
}

/// Decodes a streamed answer.
#[derive(Debug, Default)]
pub struct StreamDecoder {
    started: bool,
    done: bool,
    usage: Usage,
    stop: Option<StopReason>,
    open: BTreeMap<u64, OpenBlock>,
    /// Name of the tool that stands for the form of the answer; its arguments are the answer's text.
    answer_tool: Option<String>,
}

#[derive(Debug)]
enum OpenBlock {
    Text,
    /// The block as it came, completed by its deltas.
    Thinking(Value),
    Redacted(Value),
    Tool {
        id: String,
        input: Value,
        told: bool,
    },
    AnswerTool {
        input: Value,
        told: bool,
    },
}

/// More open blocks than any answer has; a provider that opens more is talking nonsense.
const MAX_OPEN_BLOCKS: usize = 1024;

impl StreamDecoder {
    /// A decoder for the answer to this request.
    #[must_use]
    pub fn new(request: &Request) -> Self {
        let answer_tool = match plan(request) {
            Plan::ForcedTool { name, .. } => Some(name.to_owned()),
            _ => None,
        };
        Self { answer_tool, ..Self::default() }
    }

    pub(in crate::wire) fn frame(&mut self, frame: &Frame, events: &mut Vec<Event>) -> Result<(), Error> {
        if self.done {
            return Ok(());
        }
        let Ok(data) = serde_json::from_str::<Value>(&frame.data) else {
            // Only the events we know must make sense.
            return match frame.event.as_str() {
                "" | "message_start" | "content_block_start" | "content_block_delta" | "message_delta" | "error" => {
                    Err(Error::nonsense("a stream event that is not JSON"))
                }
                _ => Ok(()),
            };
        };
        let index = count(&data, "index");
        match text(&data, "type") {
            "message_start" if !self.started => {
                let message = &data["message"];
                update_usage(&mut self.usage, &message["usage"]);
                self.started = true;
                let (id, model) = (text(message, "id").to_owned(), text(message, "model").to_owned());
                events.push(Event::Started { id, model, usage: Usage { output: 0, reasoning: 0, ..self.usage } });
            }
            "content_block_start" => self.block_start(index, &data["content_block"], events)?,
            "content_block_delta" => self.block_delta(index, &data["delta"], events),
            "content_block_stop" => self.block_stop(index, events),
            "message_delta" => {
                update_usage(&mut self.usage, &data["usage"]);
                if let Some(word) = data["delta"]["stop_reason"].as_str() {
                    self.stop = Some(decode_stop(word));
                }
            }
            "message_stop" => {
                for index in self.open.keys().copied().collect::<Vec<_>>() {
                    self.block_stop(index, events);
                }
                let mut stop = self.stop.take().ok_or_else(Error::incomplete)?;
                if self.answer_tool.is_some() && stop == StopReason::ToolUse {
                    stop = StopReason::EndTurn;
                }
                self.done = true;
                events.push(Event::Done { stop, usage: self.usage });
            }
            "error" => return Err(error_from_object(None, &data["error"])),
            _ => {}
        }
        Ok(())
    }

    pub(in crate::wire) fn finish(&self) -> Result<(), Error> {
        if self.done { Ok(()) } else { Err(Error::incomplete()) }
    }

    fn block_start(&mut self, index: u64, block: &Value, events: &mut Vec<Event>) -> Result<(), Error> {
        if self.open.len() >= MAX_OPEN_BLOCKS {
            return Err(Error::nonsense("an answer of too many open blocks"));
        }
        let open = match text(block, "type") {
            "text" => {
                push_text(text(block, "text"), events);
                OpenBlock::Text
            }
            "thinking" => {
                push_thinking(text(block, "thinking"), events);
                OpenBlock::Thinking(block.clone())
            }
            "redacted_thinking" => OpenBlock::Redacted(block.clone()),
            "tool_use" if self.answer_tool.as_deref() == Some(text(block, "name")) => {
                OpenBlock::AnswerTool { input: block["input"].clone(), told: false }
            }
            "tool_use" => {
                let id = match text(block, "id") {
                    "" => format!("call_{index}"),
                    id => id.to_owned(),
                };
                events.push(Event::ToolCall { id: id.clone(), name: text(block, "name").to_owned() });
                OpenBlock::Tool { id, input: block["input"].clone(), told: false }
            }
            _ => return Ok(()), // tools that the provider runs itself, and whatever comes next
        };
        self.open.insert(index, open);
        Ok(())
    }

    fn block_delta(&mut self, index: u64, delta: &Value, events: &mut Vec<Event>) {
        match (self.open.get_mut(&index), text(delta, "type")) {
            (Some(OpenBlock::Text), "text_delta") => push_text(text(delta, "text"), events),
            (Some(OpenBlock::Thinking(block)), "thinking_delta") => {
                let piece = text(delta, "thinking");
                append(block, "thinking", piece);
                push_thinking(piece, events);
            }
            (Some(OpenBlock::Thinking(block)), "signature_delta") => {
                append(block, "signature", text(delta, "signature"))
            }
            (Some(OpenBlock::Tool { id, told, .. }), "input_json_delta") => {
                let piece = text(delta, "partial_json");
                if !piece.is_empty() {
                    *told = true;
                    events.push(Event::ToolArguments { id: id.clone(), delta: piece.to_owned() });
                }
            }
            (Some(OpenBlock::AnswerTool { told, .. }), "input_json_delta") => {
                let piece = text(delta, "partial_json");
                *told |= !piece.is_empty();
                push_text(piece, events);
            }
            _ => {}
        }
    }

    fn block_stop(&mut self, index: u64, events: &mut Vec<Event>) {
        match self.open.remove(&index) {
            Some(OpenBlock::Thinking(block)) => events.push(thinking_done(block)),
            Some(OpenBlock::Redacted(block)) => events.push(Event::ThinkingDone { signature: None, raw: Some(block) }),
            Some(OpenBlock::Tool { id, input, told }) => {
                if !told {
                    let delta = if input.is_object() { input.to_string() } else { "{}".to_owned() };
                    events.push(Event::ToolArguments { id: id.clone(), delta });
                }
                events.push(Event::ToolCallDone { id });
            }
            Some(OpenBlock::AnswerTool { input, told: false }) => push_text(&input.to_string(), events),
            Some(OpenBlock::Text | OpenBlock::AnswerTool { .. }) | None => {}
        }
    }
}

/// Reads an unstreamed answer by replaying it as a stream.
pub(in crate::wire) fn decode_answer(body: &Value, request: &Request) -> Result<Vec<Event>, Error> {
    if text(body, "type") == "error" {
        return Err(error_from_object(None, &body["error"]));
    }
    let Some(content) = body["content"].as_array().filter(|_| text(body, "type") == "message") else {
        return Err(Error::nonsense("an answer that is no message"));
    };
    let mut decoder = StreamDecoder::new(request);
    let mut events = Vec::new();
    update_usage(&mut decoder.usage, &body["usage"]);
    let (id, model) = (text(body, "id").to_owned(), text(body, "model").to_owned());
    events.push(Event::Started { id, model, usage: Usage { output: 0, reasoning: 0, ..decoder.usage } });
    for (index, block) in (0..).zip(content) {
        decoder.block_start(index, block, &mut events)?;
        decoder.block_stop(index, &mut events);
    }
    decoder.stop = body["stop_reason"].as_str().map(decode_stop);
    let stop = Frame { event: "message_stop".into(), data: r#"{"type":"message_stop"}"#.into() };
    decoder.frame(&stop, &mut events)?;
    Ok(events)
}

/// A block without proof is worth nothing to the provider, so it keeps no raw form.
fn thinking_done(block: Value) -> Event {
    match text(&block, "signature") {
        "" => Event::ThinkingDone { signature: None, raw: None },
        signature => match proof::unwrap(signature) {
            Some((signature, raw)) => Event::ThinkingDone { signature, raw },
            None => Event::ThinkingDone { signature: Some(signature.to_owned()), raw: Some(block) },
        },
    }
}

fn append(block: &mut Value, name: &str, piece: &str) {
    match block.get_mut(name) {
        Some(Value::String(text)) => text.push_str(piece),
        _ => block[name] = json!(piece),
    }
}

fn push_text(delta: &str, events: &mut Vec<Event>) {
    if !delta.is_empty() {
        events.push(Event::Text { delta: delta.to_owned() });
    }
}

fn push_thinking(delta: &str, events: &mut Vec<Event>) {
    if !delta.is_empty() {
        events.push(Event::Thinking { delta: delta.to_owned() });
    }
}
