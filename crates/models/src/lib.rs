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

pub mod answer;
mod error;
pub mod http;
pub mod local;
pub mod message;
pub mod metering;
pub mod passthrough;
pub mod prices;
pub mod providers;
pub mod retry;
pub mod sse;
pub mod wire;

pub use answer::Answer;
pub use error::{Error, ErrorKind};
pub use message::{
    Block, Effort, Event, EventStream, Image, Message, Request, ResponseFormat, Role, StopReason, Thinking, Tool,
    ToolChoice, Usage,
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
