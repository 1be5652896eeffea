//! The journal's own vocabulary. Faces translate it; nothing of theirs is in here.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::usage::CallUsage;
use crate::Timestamp;

/// One entry of a run's journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Place in the run: 1, 2, 3 …
    pub seq: i64,
    /// When it was recorded.
    pub at: Timestamp,
    /// What happened.
    pub body: Body,
}

/// What happened. Stored as JSON with the kind beside it; new kinds and optional fields may be added, old ones stay
/// readable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Body {
    /// A worker has the run for the first time.
    Started,
    /// A worker has the run again, after the one before it died.
    Resumed,
    /// Text that the run produced, coalesced.
    Text {
        /// Where it was written.
        channel: Channel,
        /// The text.
        text: String,
        /// Counts the texts of a run, so that followers can tell which deltas they have seen.
        block: u64,
    },
    /// A step is about to be executed.
    StepStarted {
        /// Names the step within the run; the same on every execution.
        key: String,
        /// What it does, for people.
        name: String,
        /// Whether it may be repeated when its outcome is unknown.
        effect: super::Effect,
        /// What it is about to do, as far as its domain wants it kept.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        intent: Value,
    },
    /// A step has been executed.
    StepFinished {
        /// Names the step.
        key: String,
        /// What it produced, or the failure it ended with.
        result: Result<Value, Failure>,
    },
    /// A model call was made for this run.
    ModelCalled {
        /// Identifier of the call.
        call_id: String,
        /// Who answered.
        provider: String,
        /// Which model answered.
        model: String,
        /// What it took.
        usage: CallUsage,
        /// The provider's HTTP status.
        status: u16,
        /// Milliseconds from request to the end of the answer.
        duration_ms: u64,
    },
    /// Anything that only one domain understands.
    Note {
        /// What it is, for example `sandbox`.
        name: String,
        /// Its content.
        data: Value,
    },
    /// The run ended well.
    Completed,
    /// The run failed.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// Somebody stopped the run.
    Stopped,
}

impl Body {
    /// Whether nothing may follow.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Completed | Self::Failed { .. } | Self::Stopped)
    }
}

/// Where text of a run belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// The answer, standard output of a program.
    Answer,
    /// Standard error of a program.
    Stderr,
    /// What Backlot itself has to say, for example a build log.
    System,
}

/// Why a run or step failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A stable word for programs, for example `timeout`.
    pub code: String,
    /// The sentence for people.
    pub message: String,
    /// What else is known, for example an exit code.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

impl Failure {
    /// A failure with nothing but a code and a sentence.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), details: Value::Null }
    }
}
