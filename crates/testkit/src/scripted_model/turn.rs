//! What the scripted model does on one request.

use std::time::Duration;

use backlot_models::{Event, StopReason, Usage};
use bytes::Bytes;

/// One scripted answer: built from what the model says, in order, and what goes wrong.
///
/// ```ignore
/// Turn::text("Let me look.").tool_call("call_1", "get_weather", r#"{"city":"Paris"}"#)
/// ```
#[derive(Debug, Clone, Default)]
pub struct Turn {
    pub(super) steps: Vec<Step>,
    pub(super) stop: Option<StopReason>,
    pub(super) usage: Option<Usage>,
    pub(super) failure: Option<Failure>,
    pub(super) raw: Option<Raw>,
}

/// A step of an answer.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Something is said.
    Say(Event),
    /// Time passes.
    Delay(Duration),
    /// Nothing more comes, and the connection stays open.
    Stall,
    /// The connection is cut.
    Cut,
    /// The provider reports this in the middle of its stream.
    Fail(Failure),
}

/// An error that the provider reports in its own shape.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) status: u16,
    pub(super) message: String,
    pub(super) retry_after: Option<String>,
}

/// An answer that is no provider's.
#[derive(Debug, Clone)]
pub(super) struct Raw {
    pub(super) status: u16,
    pub(super) content_type: String,
    pub(super) chunks: Vec<Bytes>,
}

impl Turn {
    /// An answer that says nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An answer that begins with this text.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::new().say(text)
    }

    /// Says this, in one piece.
    #[must_use]
    pub fn say(self, text: &str) -> Self {
        self.step(Step::Say(Event::Text { delta: text.to_owned() }))
    }

    /// Says this, a piece each.
    #[must_use]
    pub fn say_pieces<'a>(self, pieces: impl IntoIterator<Item = &'a str>) -> Self {
        pieces.into_iter().fold(self, Self::say)
    }

    /// Thinks this, and signs it.
    #[must_use]
    pub fn think(self, text: &str) -> Self {
        let signature = "c2lnbmVkIGJ5IHRoZSBzY3JpcHQ=".to_owned();
        self.step(Step::Say(Event::Thinking { delta: text.to_owned() }))
            .step(Step::Say(Event::ThinkingDone { signature: Some(signature), raw: None }))
    }

    /// Calls a tool. The arguments, JSON text, are streamed in two pieces.
    #[must_use]
    pub fn tool_call(self, id: &str, name: &str, arguments: &str) -> Self {
        let middle = (0..=arguments.len() / 2).rev().find(|&at| arguments.is_char_boundary(at)).unwrap_or(0);
        let (left, right) = arguments.split_at(middle);
        let id = id.to_owned();
        let mut turn = self.step(Step::Say(Event::ToolCall { id: id.clone(), name: name.to_owned() }));
        for delta in [left, right] {
            turn = turn.step(Step::Say(Event::ToolArguments { id: id.clone(), delta: delta.to_owned() }));
        }
        turn.step(Step::Say(Event::ToolCallDone { id }))
    }

    /// Lets time pass before the next step.
    #[must_use]
    pub fn delay(self, time: Duration) -> Self {
        self.step(Step::Delay(time))
    }

    /// Sends nothing more and keeps the connection open.
    #[must_use]
    pub fn stall(self) -> Self {
        self.step(Step::Stall)
    }

    /// Cuts the connection here.
    #[must_use]
    pub fn cut(self) -> Self {
        self.step(Step::Cut)
    }

    /// Reports an error in the middle of the stream; unstreamed, the whole answer is that error.
    #[must_use]
    pub fn then_fail(self, status: u16, message: &str) -> Self {
        self.step(Step::Fail(Failure { status, message: message.to_owned(), retry_after: None }))
    }

    /// An error instead of an answer, in the provider's shape.
    #[must_use]
    pub fn fail(status: u16, message: &str) -> Self {
        let failure = Failure { status, message: message.to_owned(), retry_after: None };
        Self { failure: Some(failure), ..Self::default() }
    }

    /// Lets a failing turn ask for patience (the value of `Retry-After`).
    #[must_use]
    pub fn retry_after(mut self, value: &str) -> Self {
        if let Some(failure) = &mut self.failure {
            failure.retry_after = Some(value.to_owned());
        }
        self
    }

    /// These bytes instead of an answer, chunk by chunk.
    #[must_use]
    pub fn raw(status: u16, content_type: &str, chunks: impl IntoIterator<Item = Bytes>) -> Self {
        let raw = Raw { status, content_type: content_type.to_owned(), chunks: chunks.into_iter().collect() };
        Self { raw: Some(raw), ..Self::default() }
    }

    /// Ends for this reason; otherwise `tool_use` after calls and `end_turn` without.
    #[must_use]
    pub fn stop(mut self, stop: StopReason) -> Self {
        self.stop = Some(stop);
        self
    }

    /// Reports this usage; otherwise a count of the words of question and answer.
    #[must_use]
    pub fn usage(mut self, usage: Usage) -> Self {
        self.usage = Some(usage);
        self
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}
