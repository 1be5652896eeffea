//! Language models behind one neutral request and one neutral stream.
//!
//! A [`Model`] takes a [`Request`] and answers with a stream of [`Event`]s, whatever the provider. The
//! wire formats of the providers live in [`wire`], each in both directions, because Backlot speaks them
//! as a client (to providers) and as a server (the gateway). Calls that need no translation are passed
//! through byte for byte while [`metering`] reads their usage.
//!
//! This crate knows nothing of accounts or runs, and reads no environment: addresses and keys are passed in.
//!
//! To add a provider: a codec in `wire/` if its format is new, then a constructor in `providers/`.

pub mod local;
pub mod message;

pub use message::{
    Block, Event, EventStream, Image, Message, Request, ResponseFormat, Role, StopReason, Thinking, Tool, ToolChoice,
    Usage,
};

/// Something that answers requests: a remote provider's model family or the local model.
#[async_trait::async_trait]
pub trait Model: Send + Sync {
    /// Starts one call. The stream ends after [`Event::Done`] or the first error.
    ///
    /// # Errors
    /// What the provider said before the first event; later failures arrive in the stream.
    async fn call(&self, request: Request) -> Result<EventStream, Error>;
}

/// Why a model call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What kind of failure, for deciding on retries.
    pub kind: ErrorKind,
    /// The provider's own words, safe to show to the caller.
    pub message: String,
    /// The provider's HTTP status, when there was one.
    pub status: Option<u16>,
    /// How long the provider asks to wait.
    pub retry_after: Option<std::time::Duration>,
}

/// Kinds of failures of a model call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is wrong; repeating it is useless.
    Invalid,
    /// The key is missing, wrong, or not allowed.
    Authentication,
    /// The model does not exist or is not served.
    NotFound,
    /// More input than the model takes.
    ContextOverflow,
    /// Too many requests.
    RateLimited,
    /// The provider is overloaded or failing.
    Unavailable,
    /// No answer in time.
    TimedOut,
    /// The answer does not make sense.
    Protocol,
}

impl ErrorKind {
    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::RateLimited | Self::Unavailable | Self::TimedOut | Self::Protocol)
    }
}
