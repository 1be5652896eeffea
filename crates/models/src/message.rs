//! The neutral vocabulary: what is asked of a model and what comes back, independent of any provider.
//!
//! Provider blocks that must be sent back unchanged (reasoning signatures, encrypted content) keep their
//! raw form beside the neutral one, so that a conversation survives the round trip byte for byte.

use std::pin::Pin;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One request to a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The provider's own name of the model, without a provider prefix.
    pub model: String,
    /// The system prompt.
    pub system: Option<String>,
    /// The conversation, oldest first.
    pub messages: Vec<Message>,
    /// Tools the model may call.
    pub tools: Vec<Tool>,
    /// Which tool the model must or may call.
    pub tool_choice: ToolChoice,
    /// Whether several tools may be called in one turn; the provider's default when absent.
    #[serde(default)]
    pub parallel_tool_calls: Option<bool>,
    /// Upper bound of output tokens.
    pub max_tokens: Option<u32>,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Nucleus sampling.
    pub top_p: Option<f64>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Whether and how much the model may think before it answers.
    pub thinking: Option<Thinking>,
    /// The form of the answer.
    pub response_format: ResponseFormat,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The person or program that asks; also carries tool results.
    User,
    /// The model.
    Assistant,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said, in order.
    pub content: Vec<Block>,
}

/// A piece of a turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Block {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
    /// A picture.
    Image {
        /// Its bytes or address.
        image: Image,
    },
    /// Reasoning of the model.
    Thinking {
        /// What may be shown; empty when the provider hides it.
        text: String,
        /// Proof that the provider wrote it; sent back unchanged.
        signature: Option<String>,
        /// The provider's own block, sent back instead of the neutral form to the same provider.
        raw: Option<Value>,
    },
    /// The model asks for a tool.
    ToolCall {
        /// Identifier that the result refers to.
        id: String,
        /// Name of the tool.
        name: String,
        /// Arguments as the model wrote them: JSON text.
        arguments: String,
    },
    /// The answer of a tool.
    ToolResult {
        /// Identifier of the call.
        id: String,
        /// What the tool returned.
        content: Vec<Block>,
        /// Whether the tool failed.
        is_error: bool,
    },
}

/// A picture by value or by address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case")]
pub enum Image {
    /// Base64 of the bytes with their media type.
    Base64 {
        /// For example `image/png`.
        media_type: String,
        /// Standard base64.
        data: String,
    },
    /// An address the provider fetches.
    Url {
        /// The address.
        url: String,
    },
}

/// A tool the model may call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does, for the model.
    pub description: Option<String>,
    /// JSON Schema of its arguments.
    pub input_schema: Value,
}

/// Which tool the model calls.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// Some tool must be called.
    Any,
    /// None may be called.
    None,
    /// This one must be called.
    Tool {
        /// Its name.
        name: String,
    },
}

/// How much the model may think.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Thinking {
    /// As much as this effort allows.
    Effort {
        /// Provider-independent level.
        level: Effort,
    },
    /// At most so many tokens.
    Budget {
        /// Tokens.
        tokens: u32,
    },
}

/// Level of thinking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effort {
    /// A little.
    Low,
    /// Some.
    Medium,
    /// A lot.
    High,
}

/// The form of the answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat {
    /// Free text.
    #[default]
    Text,
    /// Any JSON object.
    Json,
    /// JSON that fits a schema.
    JsonSchema {
        /// A name for the schema, as some providers want one.
        name: String,
        /// The JSON Schema.
        schema: Value,
        /// Whether the provider must enforce it.
        strict: bool,
    },
}

/// A piece of a streamed answer. Blocks do not overlap: a delta belongs to the block started last of its kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The provider accepted the call.
    Started {
        /// The provider's id of the answer.
        id: String,
        /// The model that answers, as the provider names it.
        model: String,
        /// Usage known so far (input tokens, usually).
        usage: Usage,
    },
    /// More text of the answer.
    Text {
        /// The piece.
        delta: String,
    },
    /// More reasoning.
    Thinking {
        /// The piece.
        delta: String,
    },
    /// The reasoning block is complete.
    ThinkingDone {
        /// Proof of the provider.
        signature: Option<String>,
        /// The provider's own block.
        raw: Option<Value>,
    },
    /// The model begins a tool call.
    ToolCall {
        /// Identifier of the call.
        id: String,
        /// Name of the tool.
        name: String,
    },
    /// More of the arguments of a tool call.
    ToolArguments {
        /// Which call.
        id: String,
        /// A piece of JSON text.
        delta: String,
    },
    /// The tool call is complete.
    ToolCallDone {
        /// Which call.
        id: String,
    },
    /// The answer is complete.
    Done {
        /// Why it ended.
        stop: StopReason,
        /// Final usage.
        usage: Usage,
    },
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model was done.
    EndTurn,
    /// The token limit was reached.
    MaxTokens,
    /// One of [`Request::stop`] came up.
    StopSequence,
    /// The model waits for tool results.
    ToolUse,
    /// The provider refused on grounds of policy.
    Refusal,
    /// Anything else, in the provider's own word.
    Other(String),
}

/// Tokens of one call, split by price class. The classes do not overlap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Fresh input tokens.
    pub input: u64,
    /// Output tokens, reasoning included.
    pub output: u64,
    /// Input tokens read from the provider's cache.
    pub cache_read: u64,
    /// Input tokens written to the provider's five-minute cache.
    pub cache_write_5m: u64,
    /// Input tokens written to the provider's one-hour cache.
    pub cache_write_1h: u64,
    /// The part of `output` that was reasoning, where the provider says so.
    pub reasoning: u64,
}

impl Usage {
    /// All input tokens, cached or not (spec/castari.md 15.4).
    #[must_use]
    pub fn total_input(&self) -> u64 {
        self.input + self.cache_read + self.cache_write_5m + self.cache_write_1h
    }
}

/// A streamed answer.
pub type EventStream = Pin<Box<dyn futures::Stream<Item = Result<Event, crate::Error>> + Send>>;
