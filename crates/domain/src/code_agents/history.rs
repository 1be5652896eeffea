//! What was invoked, what it said, and what it used: read from the journal.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{CodeAgents, INVOCATION};
use crate::{
    Error, Kind, Timestamp,
    accounts::{Caller, Scope},
    page::{Page, Window},
    runs::{self, Body, Channel, DailyUsage, Failure, Position, Run, Status, UsageTotals},
};

/// One run of an agent's program (seed: InvocationResponse; spec/castari.md 12.1, 16).
#[derive(Debug, Clone)]
pub struct Invocation {
    /// `inv_…`
    pub id: String,
    /// The agent.
    pub agent_id: String,
    /// The session it belonged to; made up by us when the caller named none.
    pub session_id: String,
    /// The sandbox it ran in.
    pub sandbox_id: Option<String>,
    /// The deployment whose release it ran.
    pub deployment_id: Option<String>,
    /// What was asked.
    pub prompt: String,
    /// What the program wrote to standard output.
    pub response_content: String,
    /// How far it has come.
    pub status: InvocationStatus,
    /// Why it failed.
    pub error: Option<Failure>,
    /// What its model calls used.
    pub usage: UsageTotals,
    /// Wall-clock time of the program; zero when it never started.
    pub duration: Duration,
    /// When it was asked for.
    pub created_at: Timestamp,
}

/// How far an invocation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvocationStatus {
    /// Waiting or running.
    Running,
    /// The program left with status 0.
    Completed,
    /// Anything else.
    Failed,
}

impl InvocationStatus {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    fn runs(self) -> Vec<Status> {
        match self {
            Self::Running => vec![Status::Queued, Status::Running],
            Self::Completed => vec![Status::Completed],
            Self::Failed => vec![Status::Failed, Status::Stopped],
        }
    }
}

/// What the journal keeps of an invocation's request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct InvocationInput {
    pub(super) prompt: String,
    pub(super) release_id: String,
    pub(super) deployment_id: String,
    /// Whether the caller named the session, so that it owns a sandbox.
    pub(super) keeps_session: bool,
}

/// What the journal keeps of an invocation's result.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct InvocationOutput {
    pub(super) response_content: String,
    pub(super) sandbox_id: Option<String>,
    pub(super) duration_ms: u64,
}

impl TryFrom<Run> for Invocation {
    type Error = Error;

    fn try_from(run: Run) -> Result<Self, Error> {
        let input: InvocationInput = serde_json::from_value(run.input).map_err(Error::internal)?;
        let output: InvocationOutput = match run.output {
            Some(output) if output.is_object() => serde_json::from_value(output).map_err(Error::internal)?,
            _ => InvocationOutput::default(),
        };
        let (status, error) = match run.status {
            Status::Queued | Status::Running => (InvocationStatus::Running, None),
            Status::Completed => (InvocationStatus::Completed, None),
            Status::Failed => (InvocationStatus::Failed, run.error),
            Status::Stopped => (InvocationStatus::Failed, Some(Failure::new("stopped", "The invocation was stopped"))),
        };
        Ok(Self {
            id: run.id,
            agent_id: run.subject,
            session_id: run.session.unwrap_or_default(),
            sandbox_id: output.sandbox_id,
            deployment_id: Some(input.deployment_id),
            prompt: input.prompt,
            response_content: output.response_content,
            status,
            error,
            usage: run.usage,
            duration: Duration::from_millis(output.duration_ms),
            created_at: run.created_at,
        })
    }
}

/// Which invocations a list shows.
#[derive(Debug, Clone, Default)]
pub struct InvocationFilter {
    /// Of this agent only.
    pub agent_slug: Option<String>,
    /// Of this session only.
    pub session_id: Option<String>,
    /// With this status only; absent means ended ones.
    pub status: Option<InvocationStatus>,
    /// Asked for at or after this moment.
    pub since: Option<Timestamp>,
    /// Asked for before this moment.
    pub until: Option<Timestamp>,
}

/// A line of an invocation's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When it was recorded.
    pub at: Timestamp,
    /// Who wrote it.
    pub stream: LogStream,
    /// The text.
    pub text: String,
}

/// Who wrote a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// The program, on standard error.
    Stderr,
    /// Backlot.
    System,
}

/// Usage of an account over a period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageSummary {
    /// Ended invocations.
    pub invocations: u64,
    /// What they used.
    pub totals: UsageTotals,
    /// Begin of the period.
    pub period_start: Timestamp,
    /// End of the period: now.
    pub period_end: Timestamp,
}

impl CodeAgents {
    /// Invocations, newest first. Ended ones unless the filter asks for running ones.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when the filter names an unknown agent.
    pub async fn invocations(
        &self,
        caller: &Caller,
        filter: InvocationFilter,
        window: Window,
    ) -> Result<Page<Invocation>, Error> {
        caller.require(Scope::Agents)?;
        let subject = match &filter.agent_slug {
            Some(slug) => Some(self.find(caller, slug).await?.id),
            None => None,
        };
        let statuses = match filter.status {
            Some(status) => status.runs(),
            None => vec![Status::Completed, Status::Failed, Status::Stopped],
        };
        let filter = runs::Filter {
            account_id: caller.account_id.to_string(),
            kind: INVOCATION,
            subject,
            session: filter.session_id,
            statuses,
            since: filter.since,
            until: filter.until,
        };
        let page = self.runs.list(filter, window).await?;
        let items = page.items.into_iter().map(Invocation::try_from).collect::<Result<_, _>>()?;
        Ok(Page { items, total: page.total, window: page.window })
    }

    /// One invocation.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when it does not exist or is somebody else's.
    pub async fn invocation(&self, caller: &Caller, id: &str) -> Result<Invocation, Error> {
        caller.require(Scope::Agents)?;
        self.invocation_run(caller, id).await?.try_into()
    }

    async fn invocation_run(&self, caller: &Caller, id: &str) -> Result<Run, Error> {
        match self.runs.get(&caller.account_id, id).await {
            Ok(run) if run.kind == INVOCATION => Ok(run),
            Ok(_) => Err(invocation_not_found()),
            Err(error) if error.kind == Kind::NotFound => Err(invocation_not_found()),
            Err(error) => Err(error),
        }
    }

    /// Follows an invocation from a place in its journal.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when it does not exist or is somebody else's.
    pub async fn follow(
        &self,
        caller: &Caller,
        id: &str,
        after: Position,
    ) -> Result<impl futures::Stream<Item = Result<runs::Followed, Error>> + Send + use<>, Error> {
        caller.require(Scope::Agents)?;
        let run = self.invocation_run(caller, id).await?;
        self.runs.follow(&caller.account_id, &run.id, after).await
    }

    /// Stops an invocation; it ends as failed with the code `stopped`.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when it does not exist or is somebody else's.
    pub async fn cancel(&self, caller: &Caller, id: &str) -> Result<Invocation, Error> {
        caller.require(Scope::Agents)?;
        let run = self.invocation_run(caller, id).await?;
        self.runs.stop(&run.id).await?;
        self.runs.wait(&run.id).await?.try_into()
    }

    /// What an invocation wrote to standard error, and what Backlot noted, at most 10,000 pieces.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when it does not exist or is somebody else's.
    pub async fn invocation_logs(&self, caller: &Caller, id: &str) -> Result<Vec<LogLine>, Error> {
        caller.require(Scope::Agents)?;
        let run = self.invocation_run(caller, id).await?;
        self.log_of(&caller.account_id, &run.id).await
    }

    pub(super) async fn log_of(&self, account_id: &str, run_id: &str) -> Result<Vec<LogLine>, Error> {
        /// Events, and bytes of text: a log is read into memory as a whole.
        const MOST: (usize, usize) = (10_000, 32 << 20);
        const AT_ONCE: u32 = 256;
        let mut lines = Vec::new();
        let (mut seen, mut bytes, mut after) = (0, 0, 0);
        loop {
            let events = self.runs.events(account_id, run_id, after, AT_ONCE).await?;
            let is_last = events.len() < AT_ONCE as usize;
            seen += events.len();
            for event in events {
                after = event.seq;
                let (stream, text) = match event.body {
                    Body::Text { channel: Channel::Stderr, text, .. } => (LogStream::Stderr, text),
                    Body::Text { channel: Channel::System, text, .. } => (LogStream::System, text),
                    Body::Failed { failure } => (LogStream::System, failure.message),
                    _ => continue,
                };
                bytes += text.len();
                lines.push(LogLine { at: event.at, stream, text });
            }
            if is_last {
                return Ok(lines);
            }
            if seen >= MOST.0 || bytes >= MOST.1 {
                let at = lines.last().map_or(self.clock.now(), |line| line.at);
                let text = String::from("\nThe rest of this log is too long to be shown.\n");
                lines.push(LogLine { at, stream: LogStream::System, text });
                return Ok(lines);
            }
        }
    }

    /// Usage over the last `days` calendar days, today included; of one agent if named.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when the agent does not exist.
    pub async fn usage(&self, caller: &Caller, days: u32, agent: Option<&str>) -> Result<UsageSummary, Error> {
        let daily = self.daily_usage(caller, days, agent).await?;
        let now = self.clock.now();
        let mut summary = UsageSummary {
            invocations: 0,
            totals: UsageTotals::default(),
            period_start: first_day(now, days),
            period_end: now,
        };
        for day in daily {
            summary.invocations += day.runs;
            summary.totals.input_tokens += day.totals.input_tokens;
            summary.totals.output_tokens += day.totals.output_tokens;
            summary.totals.cost_nano_usd += day.totals.cost_nano_usd;
            summary.totals.unpriced_calls += day.totals.unpriced_calls;
        }
        Ok(summary)
    }

    /// The same per day, ascending, days without invocations left out.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when the agent does not exist.
    pub async fn daily_usage(&self, caller: &Caller, days: u32, agent: Option<&str>) -> Result<Vec<DailyUsage>, Error> {
        caller.require(Scope::Agents)?;
        let subject = match agent {
            Some(slug) => Some(self.find(caller, slug).await?.id),
            None => None,
        };
        let from = first_day(self.clock.now(), days).date();
        self.runs.daily_usage(&caller.account_id, &from, subject.as_deref()).await
    }
}

/// Midnight of the first of the last `days` days, today included.
fn first_day(now: Timestamp, days: u32) -> Timestamp {
    const DAY: i64 = 24 * 3600 * 1000;
    Timestamp((now.0.div_euclid(DAY) - i64::from(days.saturating_sub(1))) * DAY)
}

fn invocation_not_found() -> Error {
    Error::new(Kind::NotFound, "invocation_not_found", "Invocation not found")
}
