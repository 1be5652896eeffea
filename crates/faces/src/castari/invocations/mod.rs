//! Invocations: results and history (seed: SDK types, `InvocationResponse`; spec/castari.md 12, 16).

pub(crate) mod cancel;
pub(crate) mod events;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod list_of_agent;
pub(crate) mod logs;

use backlot_domain::{
    code_agents::{Invocation, InvocationStatus, LogLine, LogStream},
    runs::Failure,
};
use serde::{Deserialize, Serialize};

use super::money::usd;

/// The variable part of an invocation's address.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct InvocationPath {
    /// `inv_…`
    pub(crate) id: String,
}

/// The result of invoking an agent (seed: SDK types, `InvocationResponse`; spec/castari.md 12.1).
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct InvocationResponse {
    /// `inv_…`
    invocation_id: String,
    /// The session it belongs to; made up by us when the caller named none.
    session_id: String,
    /// The sandbox it ran in.
    sandbox_id: Option<String>,
    /// What the program wrote to standard output.
    response_content: String,
    /// Tokens of all prompts.
    input_tokens: u64,
    /// Tokens of all answers.
    output_tokens: u64,
    /// Cost in US dollars of the model calls whose price is known.
    #[schema(example = "0.004310")]
    total_cost_usd: String,
    /// Model calls whose price is unknown, and which `total_cost_usd` therefore lacks. An addition of ours.
    unpriced_calls: u64,
    /// Wall-clock time of the program.
    duration_ms: u64,
    /// `completed` or `failed`; `running` only where an unfinished invocation is answered.
    #[schema(example = "completed")]
    status: &'static str,
    /// Why it failed.
    error: Option<InvocationError>,
}

/// Why an invocation failed.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct InvocationError {
    /// A stable word, for example `nonzero_exit`, `timeout`, `oom`, `stopped`.
    #[schema(example = "nonzero_exit")]
    code: String,
    /// The sentence for people.
    message: String,
    /// The program's exit status.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i64>,
    /// The signal that ended the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<String>,
    /// The end of standard error; only with `?debug=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr_tail: Option<String>,
}

/// An item of the history (spec/castari.md 16).
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct InvocationItem {
    /// `inv_…`
    id: String,
    /// `agt_…`
    agent_id: String,
    /// The session it belonged to.
    session_id: String,
    /// The sandbox it ran in.
    sandbox_id: Option<String>,
    /// The deployment whose release it ran.
    deployment_id: Option<String>,
    /// What was asked.
    prompt: String,
    /// What the program wrote to standard output.
    response_content: String,
    /// Tokens of all prompts.
    input_tokens: u64,
    /// Tokens of all answers.
    output_tokens: u64,
    /// Cost in US dollars of the model calls whose price is known.
    #[schema(example = "0.004310")]
    total_cost_usd: String,
    /// Model calls whose price is unknown.
    unpriced_calls: u64,
    /// Model calls in all.
    model_calls: u64,
    /// Wall-clock time of the program.
    duration_ms: u64,
    /// `completed`, `failed` or `running`.
    #[schema(example = "completed")]
    status: &'static str,
    /// Why it failed.
    error: Option<InvocationError>,
    /// ISO 8601 in UTC.
    created_at: String,
}

/// A line of a log (spec/castari.md 16).
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct LogEntry {
    /// ISO 8601 in UTC.
    ts: String,
    /// `stderr` or `system`.
    #[schema(example = "stderr")]
    stream: &'static str,
    /// The text.
    text: String,
}

/// A log.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Log {
    logs: Vec<LogEntry>,
}

impl InvocationResponse {
    /// With `debug`, the end of standard error is shown.
    pub(crate) fn new(invocation: Invocation, debug: bool) -> Self {
        Self {
            invocation_id: invocation.id,
            session_id: invocation.session_id,
            sandbox_id: invocation.sandbox_id,
            response_content: invocation.response_content,
            input_tokens: invocation.usage.input_tokens,
            output_tokens: invocation.usage.output_tokens,
            total_cost_usd: usd(invocation.usage.cost_nano_usd),
            unpriced_calls: invocation.usage.unpriced_calls,
            duration_ms: millis(invocation.duration),
            status: invocation.status.as_str(),
            error: invocation.error.map(|failure| InvocationError::new(failure, debug)),
        }
    }
}

impl InvocationError {
    fn new(failure: Failure, debug: bool) -> Self {
        let text = |name: &str| failure.details.get(name).and_then(|value| value.as_str()).map(str::to_owned);
        Self {
            exit_code: failure.details.get("exit_code").and_then(serde_json::Value::as_i64),
            signal: text("signal"),
            stderr_tail: text("stderr_tail").filter(|_| debug),
            code: failure.code,
            message: failure.message,
        }
    }
}

impl From<Invocation> for InvocationItem {
    fn from(invocation: Invocation) -> Self {
        Self {
            id: invocation.id,
            agent_id: invocation.agent_id,
            session_id: invocation.session_id,
            sandbox_id: invocation.sandbox_id,
            deployment_id: invocation.deployment_id,
            prompt: invocation.prompt,
            response_content: invocation.response_content,
            input_tokens: invocation.usage.input_tokens,
            output_tokens: invocation.usage.output_tokens,
            total_cost_usd: usd(invocation.usage.cost_nano_usd),
            unpriced_calls: invocation.usage.unpriced_calls,
            model_calls: invocation.usage.model_calls,
            duration_ms: millis(invocation.duration),
            status: invocation.status.as_str(),
            error: invocation.error.map(|failure| InvocationError::new(failure, false)),
            created_at: invocation.created_at.to_iso(),
        }
    }
}

impl From<LogLine> for LogEntry {
    fn from(line: LogLine) -> Self {
        let stream = match line.stream {
            LogStream::Stderr => "stderr",
            LogStream::System => "system",
        };
        Self { ts: line.at.to_iso(), stream, text: line.text }
    }
}

impl From<Vec<LogLine>> for Log {
    fn from(lines: Vec<LogLine>) -> Self {
        Self { logs: lines.into_iter().map(LogEntry::from).collect() }
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The words that a filter by status knows.
pub(crate) const STATUSES: &[&str] = &["completed", "failed", "running"];

pub(crate) fn parse_status(text: &str) -> Option<InvocationStatus> {
    [InvocationStatus::Completed, InvocationStatus::Failed, InvocationStatus::Running]
        .into_iter()
        .find(|status| status.as_str() == text)
}
