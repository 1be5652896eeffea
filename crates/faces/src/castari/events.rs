//! The journal of an invocation as server-sent events (spec/castari.md 12.2).
//!
//! An event's id is its place in the journal ([`Position`]): `12`, or `12.345` in the middle of text. Whoever comes
//! back with the id of the last event they saw continues right after it.

use std::{
    collections::VecDeque,
    pin::Pin,
    time::{Duration, Instant},
};

use axum::response::sse::Event;
use backlot_domain::{
    Domain, Error,
    accounts::Caller,
    runs::{Body, Channel, Followed, Item, Position},
};
use futures::{Stream, StreamExt as _, stream};
use serde::Serialize;
use serde_json::json;

use super::{error::ApiError, invocations::InvocationResponse, money::usd};

/// Running totals are told at most so often.
const USAGE_EVERY: Duration = Duration::from_secs(1);

/// What a reader wants to see.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wishes {
    /// Standard error too.
    pub(crate) stderr: bool,
}

/// The events of an invocation after a place in its journal, to its end.
///
/// # Errors
/// When the invocation does not exist for the caller. Later failures end the stream with an `error` event, after
/// which a reader may come back.
pub(crate) async fn follow(
    domain: &Domain,
    caller: &Caller,
    invocation_id: &str,
    after: Position,
    wishes: Wishes,
) -> Result<impl Stream<Item = Event> + Send + use<>, ApiError> {
    let invocation = domain.code_agents.invocation(caller, invocation_id).await?;
    let journal = domain.code_agents.follow(caller, invocation_id, after).await?;
    let teller = Teller {
        domain: domain.clone(),
        caller: caller.clone(),
        invocation_id: invocation.id,
        session_id: invocation.session_id,
        journal: Box::pin(journal),
        wishes,
        usage_told: None,
        ready: VecDeque::new(),
        ended: false,
    };
    Ok(stream::unfold(teller, |mut teller| async move { Some((teller.next().await?, teller)) }))
}

struct Teller {
    domain: Domain,
    caller: Caller,
    invocation_id: String,
    session_id: String,
    journal: Pin<Box<dyn Stream<Item = Result<Followed, Error>> + Send>>,
    wishes: Wishes,
    usage_told: Option<Instant>,
    ready: VecDeque<Event>,
    ended: bool,
}

impl Teller {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            match self.journal.next().await? {
                Ok(followed) => {
                    if let Err(error) = self.take(followed).await {
                        return Some(self.break_off(error));
                    }
                }
                Err(error) => return Some(self.break_off(error)),
            }
        }
    }

    async fn take(&mut self, followed: Followed) -> Result<(), Error> {
        let at = followed.position;
        match followed.item {
            Item::Text { channel: Channel::Answer, text } => self.tell(at, "stdout", &json!({ "text": text })),
            Item::Text { channel: Channel::Stderr, text } if self.wishes.stderr => {
                self.tell(at, "stderr", &json!({ "text": text }));
            }
            Item::Text { channel: Channel::Stderr | Channel::System, .. } => {}
            Item::Event(event) => match event.body {
                Body::StepStarted { intent, .. } => {
                    // The step that runs the program names its sandbox.
                    if let Some(sandbox_id) = intent.get("sandbox_id") {
                        let started = json!({
                            "invocation_id": self.invocation_id,
                            "session_id": self.session_id,
                            "sandbox_id": sandbox_id,
                        });
                        self.tell(at, "started", &started);
                    }
                }
                Body::ModelCalled { .. } => self.tell_usage(at).await?,
                Body::Completed | Body::Failed { .. } | Body::Stopped => {
                    let invocation = self.domain.code_agents.invocation(&self.caller, &self.invocation_id).await?;
                    let name = if matches!(event.body, Body::Completed) { "completed" } else { "failed" };
                    self.tell(at, name, &InvocationResponse::new(invocation, false));
                    self.ended = true;
                }
                Body::Started | Body::Resumed | Body::Text { .. } | Body::StepFinished { .. } | Body::Note { .. } => {}
            },
        }
        Ok(())
    }

    async fn tell_usage(&mut self, at: Position) -> Result<(), Error> {
        if self.usage_told.is_some_and(|told| told.elapsed() < USAGE_EVERY) {
            return Ok(());
        }
        let usage = self.domain.code_agents.invocation(&self.caller, &self.invocation_id).await?.usage;
        self.usage_told = Some(Instant::now());
        let totals = json!({
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_cost_usd": usd(usage.cost_nano_usd),
            "unpriced_calls": usage.unpriced_calls,
        });
        self.tell(at, "usage", &totals);
        Ok(())
    }

    fn tell(&mut self, at: Position, name: &str, data: &impl Serialize) {
        match serde_json::to_string(data) {
            Ok(data) => self.ready.push_back(Event::default().id(at.to_string()).event(name).data(data)),
            Err(error) => tracing::error!(%error, "an event could not be written"),
        }
    }

    /// Ends the stream in the middle; without an id, so that the reader continues from the last whole event.
    fn break_off(&mut self, error: Error) -> Event {
        self.ended = true;
        tracing::error!(run.id = self.invocation_id, ?error, "a stream of events breaks off");
        let told = json!({ "detail": error.public, "code": error.code });
        Event::default().event("error").data(told.to_string())
    }
}
