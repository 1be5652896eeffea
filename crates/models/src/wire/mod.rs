//! The providers' wire formats, each in both directions.
//!
//! As a client, a format encodes a neutral [`Request`] and decodes the provider's answer into [`Event`]s.
//! As a server, it decodes a request body of somebody else's SDK and encodes neutral events as that SDK
//! expects them. [`Wire`] names a format and reaches all of it, so that callers need no `match` of their own.
//!
//! Reasoning must come back to its provider unchanged, also through a conversation held in another
//! provider's format: `proof` wraps what a format has no place for.
//!
//! To add a format: a folder with `client.rs` and `server.rs` like the others, and one arm in each `match` below.

pub mod anthropic;
mod field;
pub mod openai_chat;
mod openai_error;
pub mod openai_responses;
mod proof;

use serde_json::Value;

use crate::{Answer, Error, Event, Request, sse::Frame};

/// A wire format of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wire {
    /// Anthropic's Messages.
    AnthropicMessages,
    /// OpenAI's Chat Completions, spoken by many other servers too.
    OpenAiChat,
    /// OpenAI's Responses.
    OpenAiResponses,
}

/// A request that arrived in a provider's format.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming {
    /// What is asked.
    pub request: Request,
    /// Whether the client wants a stream.
    pub stream: bool,
    /// Whether the client wants usage at the end of the stream (Chat Completions only; the others always tell it).
    pub include_usage: bool,
}

/// A request body that is not understood or asks for something that cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{message}", .field, if .field.is_empty() { "" } else { ": " })]
pub struct BadRequest {
    /// Path of the field, such as `messages.0.content`; empty when the whole body is meant.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl From<BadRequest> for Error {
    fn from(bad: BadRequest) -> Self {
        Self::new(crate::ErrorKind::Invalid, bad.to_string())
    }
}

/// What an encoded answer needs to know beyond its events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// When the answer began, in seconds since 1970. Anthropic's format does not show it.
    pub created: u64,
    /// [`Incoming::include_usage`].
    pub include_usage: bool,
}

/// A model in a list of models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCard {
    /// The name that requests use.
    pub id: String,
    /// The name that people read.
    pub display_name: String,
    /// Who offers it, in one word.
    pub owner: String,
    /// When it came out, in seconds since 1970.
    pub created: u64,
}

impl Wire {
    /// The JSON body that asks a provider of this format for a streamed answer.
    #[must_use]
    pub fn encode_request(self, request: &Request) -> Value {
        match self {
            Self::AnthropicMessages => anthropic::client::encode_request(request),
            Self::OpenAiChat => openai_chat::client::encode_request(request, openai_chat::Dialect::OpenAi),
            Self::OpenAiResponses => openai_responses::client::encode_request(request),
        }
    }

    /// A decoder for the streamed answer to `request`.
    #[must_use]
    pub fn decoder(self, request: &Request) -> StreamDecoder {
        match self {
            Self::AnthropicMessages => StreamDecoder::Anthropic(anthropic::client::StreamDecoder::new(request)),
            Self::OpenAiChat => StreamDecoder::OpenAiChat(openai_chat::client::StreamDecoder::default()),
            Self::OpenAiResponses => StreamDecoder::OpenAiResponses(openai_responses::client::StreamDecoder::default()),
        }
    }

    /// Decodes an unstreamed answer to `request`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Protocol`] when the body is not an answer of this format, or what it says went wrong.
    pub fn decode_answer(self, body: &[u8], request: &Request) -> Result<Vec<Event>, Error> {
        let body: Value = serde_json::from_slice(body).map_err(|_| Error::nonsense("a body that is not JSON"))?;
        match self {
            Self::AnthropicMessages => anthropic::client::decode_answer(&body, request),
            Self::OpenAiChat => openai_chat::client::decode_answer(&body),
            Self::OpenAiResponses => openai_responses::client::decode_answer(&body),
        }
    }

    /// Decodes the body of an answer with an error status. Never fails: what is not understood is classed by its status.
    #[must_use]
    pub fn decode_error(self, status: u16, body: &[u8]) -> Error {
        match self {
            Self::AnthropicMessages => anthropic::decode_error(status, body),
            Self::OpenAiChat | Self::OpenAiResponses => openai_error::decode(status, body),
        }
    }

    /// Decodes the request body of a client that speaks this format.
    ///
    /// # Errors
    /// Names the field that is wrong, or that asks for something the neutral form cannot say.
    pub fn decode_request(self, body: &[u8]) -> Result<Incoming, BadRequest> {
        let body: Value = serde_json::from_slice(body).map_err(|error| BadRequest {
            field: String::new(),
            message: format!("the body is not valid JSON: {error}"),
        })?;
        match self {
            Self::AnthropicMessages => anthropic::server::decode_request(&body),
            Self::OpenAiChat => openai_chat::server::decode_request(&body),
            Self::OpenAiResponses => openai_responses::server::decode_request(&body),
        }
    }

    /// An encoder that turns events into this format's stream.
    #[must_use]
    pub fn encoder(self, head: Head) -> StreamEncoder {
        match self {
            Self::AnthropicMessages => StreamEncoder::Anthropic(anthropic::server::StreamEncoder::default()),
            Self::OpenAiChat => StreamEncoder::OpenAiChat(openai_chat::server::StreamEncoder::new(head)),
            Self::OpenAiResponses => StreamEncoder::OpenAiResponses(openai_responses::server::StreamEncoder::new(head)),
        }
    }

    /// The body of an unstreamed answer.
    #[must_use]
    pub fn encode_answer(self, answer: &Answer, head: &Head) -> Value {
        match self {
            Self::AnthropicMessages => anthropic::server::encode_answer(answer),
            Self::OpenAiChat => openai_chat::server::encode_answer(answer, head),
            Self::OpenAiResponses => openai_responses::server::encode_answer(answer, head),
        }
    }

    /// Status and body that tell a client of this format about a failure. `field` becomes OpenAI's `param`.
    #[must_use]
    pub fn encode_error(self, error: &Error, field: Option<&str>) -> (u16, Value) {
        match self {
            Self::AnthropicMessages => (anthropic::error_status(error), anthropic::encode_error(error)),
            Self::OpenAiChat | Self::OpenAiResponses => {
                (openai_error::status(error), openai_error::encode(error, field))
            }
        }
    }

    /// The body of this format's list of models.
    #[must_use]
    pub fn encode_models(self, cards: &[ModelCard]) -> Value {
        match self {
            Self::AnthropicMessages => anthropic::server::encode_models(cards),
            Self::OpenAiChat | Self::OpenAiResponses => openai_error::encode_models(cards),
        }
    }

    /// One model as this format shows it.
    #[must_use]
    pub fn encode_model(self, card: &ModelCard) -> Value {
        match self {
            Self::AnthropicMessages => anthropic::server::encode_model(card),
            Self::OpenAiChat | Self::OpenAiResponses => openai_error::encode_model(card),
        }
    }
}

/// Decodes the stream of one answer.
#[derive(Debug)]
#[expect(missing_docs, reason = "the variants are the formats of `Wire`")]
pub enum StreamDecoder {
    Anthropic(anthropic::client::StreamDecoder),
    OpenAiChat(openai_chat::client::StreamDecoder),
    OpenAiResponses(openai_responses::client::StreamDecoder),
}

impl StreamDecoder {
    /// Takes the next frame and appends what it means to `events`. Unknown frames mean nothing.
    ///
    /// # Errors
    /// What the provider reports inside the stream, or [`crate::ErrorKind::Protocol`] for nonsense. Events appended
    /// before the error are valid.
    pub fn frame(&mut self, frame: &Frame, events: &mut Vec<Event>) -> Result<(), Error> {
        match self {
            Self::Anthropic(decoder) => decoder.frame(frame, events),
            Self::OpenAiChat(decoder) => decoder.frame(frame, events),
            Self::OpenAiResponses(decoder) => decoder.frame(frame, events),
        }
    }

    /// Tells the decoder that the stream has ended.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Protocol`] when the answer was not complete.
    pub fn finish(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        match self {
            Self::Anthropic(decoder) => decoder.finish(),
            Self::OpenAiChat(decoder) => decoder.finish(events),
            Self::OpenAiResponses(decoder) => decoder.finish(),
        }
    }
}

/// Encodes the stream of one answer.
#[derive(Debug)]
#[expect(missing_docs, reason = "the variants are the formats of `Wire`")]
pub enum StreamEncoder {
    Anthropic(anthropic::server::StreamEncoder),
    OpenAiChat(openai_chat::server::StreamEncoder),
    OpenAiResponses(openai_responses::server::StreamEncoder),
}

impl StreamEncoder {
    /// Appends the frames that tell a client of this event. [`Event::Done`] closes the stream in the format's way.
    pub fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        if let Event::Text { delta } | Event::Thinking { delta } | Event::ToolArguments { delta, .. } = event
            && delta.is_empty()
        {
            return; // says nothing, and would open blocks
        }
        match self {
            Self::Anthropic(encoder) => encoder.event(event, out),
            Self::OpenAiChat(encoder) => encoder.event(event, out),
            Self::OpenAiResponses(encoder) => encoder.event(event, out),
        }
    }

    /// Appends the frames that tell a client that the answer failed midway. Nothing may follow.
    pub fn error(&mut self, error: &Error, out: &mut Vec<u8>) {
        match self {
            Self::Anthropic(encoder) => encoder.error(error, out),
            Self::OpenAiChat(encoder) => encoder.error(error, out),
            Self::OpenAiResponses(encoder) => encoder.error(error, out),
        }
    }
}

/// Reads a JSON number as a count of tokens; absent, negative or absurd values count as zero.
fn count(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).filter(|n| *n <= MAX_TOKENS).unwrap_or(0)
}

/// A count beyond this is nonsense, and capping it keeps sums from overflowing.
pub(crate) const MAX_TOKENS: u64 = 1 << 40;

/// Text at `name`, or empty.
fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or("")
}

/// Joins system texts that came in several pieces.
fn join_system(system: &mut Option<String>, more: &str) {
    if more.is_empty() {
        return;
    }
    match system {
        Some(text) => {
            text.push_str("\n\n");
            text.push_str(more);
        }
        None => *system = Some(more.to_owned()),
    }
}
