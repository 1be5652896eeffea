//! What an executor sees of its run: steps, text, notes, and the wish to stop.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use backlot_db::Db;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    Body, Channel, Event, Failure, Run, Runs,
    hub::{Delta, Live as LiveMessage},
    store,
};
use crate::{Clock, Error, Kind};

/// Whether a step may be repeated when its outcome is unknown (design: "every run is a journal").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Repeating does no harm: asking a model, reading, building.
    Idempotent,
    /// Repeating might do something twice: it is never repeated.
    Once,
}

/// Text larger than this is stored without waiting any longer.
const LARGEST_BLOCK: usize = 16 * 1024;

/// Why an execution was asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopReason {
    Requested,
    Deadline,
    LeaseLost,
}

/// Shared by everything that writes to one executing run.
pub(super) struct Live {
    stop: CancellationToken,
    reason: OnceLock<StopReason>,
    pub(super) epoch: i64,
    pending: Mutex<Pending>,
    /// Held while a text block is on its way to the database, so that blocks keep their order.
    writing: tokio::sync::Mutex<()>,
}

impl Live {
    pub(super) fn new(epoch: i64) -> Self {
        Self {
            stop: CancellationToken::new(),
            reason: OnceLock::new(),
            epoch,
            pending: Mutex::default(),
            writing: tokio::sync::Mutex::new(()),
        }
    }

    /// Asks the execution to end; the first reason counts.
    pub(super) fn stop(&self, reason: StopReason) {
        let _an_earlier_reason_counts = self.reason.set(reason);
        self.stop.cancel();
    }

    pub(super) fn stop_reason(&self) -> Option<StopReason> {
        self.reason.get().copied()
    }
}

/// Text that followers have seen and the database has not.
#[derive(Default)]
struct Pending {
    channel: Option<Channel>,
    text: String,
    block: u64,
}

/// One execution of a run. Cheap to share between tasks of the same execution.
pub struct RunContext {
    runs: Arc<Runs>,
    run: Run,
    live: Arc<Live>,
    recorded: Mutex<HashMap<String, Recorded>>,
}

/// What the journal knows of a step from an earlier execution.
enum Recorded {
    /// It was about to be executed; nobody knows whether it was.
    InDoubt,
    /// It was executed.
    Finished(Result<Value, Failure>),
}

impl RunContext {
    /// Loads what an earlier execution recorded.
    pub(super) async fn load(runs: Arc<Runs>, run: Run, live: Arc<Live>) -> Result<Self, Error> {
        let mut recorded = HashMap::new();
        let mut blocks = 0;
        if run.epoch > 1 {
            let mut connection = runs.db.read().await?;
            for event in store::recorded(&mut connection, &run.id).await? {
                match event.body {
                    Body::StepStarted { key, .. } => drop(recorded.insert(key, Recorded::InDoubt)),
                    Body::StepFinished { key, result } => drop(recorded.insert(key, Recorded::Finished(result))),
                    Body::Text { block, .. } => blocks = block + 1,
                    _ => {}
                }
            }
        }
        live.pending.lock().unwrap_or_else(PoisonError::into_inner).block = blocks;
        Ok(Self { runs, run, live, recorded: Mutex::new(recorded) })
    }

    pub(super) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// The run as it was claimed.
    #[must_use]
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Fires when the run should end soon: stopped, past its deadline, or claimed by another worker.
    #[must_use]
    pub fn stopped(&self) -> &CancellationToken {
        &self.live.stop
    }

    /// Executes a step, or returns what an earlier execution recorded of it.
    ///
    /// `key` names the step within the run and must be the same on every execution. The intent is durable before
    /// `work` starts, the result before this returns.
    ///
    /// # Errors
    /// The failure of `work`, recorded or new. `step_in_doubt` when the step has an effect, was started by an
    /// execution that died, and nobody knows whether it took place.
    pub async fn step<F>(&self, key: &str, name: &str, effect: Effect, intent: Value, work: F) -> Result<Value, Failure>
    where
        F: Future<Output = Result<Value, Failure>> + Send,
    {
        let earlier = self.recorded.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        match (earlier, effect) {
            (Some(Recorded::Finished(result)), _) => return result,
            (Some(Recorded::InDoubt), Effect::Once) => {
                return Err(Failure::new(
                    "step_in_doubt",
                    format!(
                        "The server stopped during the step `{name}`; it may have taken effect and is not repeated"
                    ),
                ));
            }
            (Some(Recorded::InDoubt), Effect::Idempotent) => {}
            (None, _) => {
                self.append(Body::StepStarted { key: key.to_owned(), name: name.to_owned(), effect, intent }).await?;
            }
        }
        let result = work.await;
        self.append(Body::StepFinished { key: key.to_owned(), result: result.clone() }).await?;
        result
    }

    /// Records something that only this run's domain understands. Durable when this returns.
    ///
    /// # Errors
    /// When the run was claimed by another worker, or the database fails.
    pub async fn note(&self, name: &str, data: Value) -> Result<(), Failure> {
        self.append(Body::Note { name: name.to_owned(), data }).await.map(drop)
    }

    /// What this run has written to a channel so far, earlier executions included.
    ///
    /// # Errors
    /// When the journal cannot be written or read.
    pub async fn text_so_far(&self, channel: Channel) -> Result<String, Failure> {
        self.flush().await?;
        let mut connection = self.runs.db.read().await.map_err(Error::from)?;
        let mut text = String::new();
        for event in store::recorded(&mut connection, &self.run.id).await? {
            if let Body::Text { channel: written, text: piece, .. } = event.body
                && written == channel
            {
                text.push_str(&piece);
            }
        }
        Ok(text)
    }

    /// Shows text to followers at once; it is stored soon after, in larger pieces.
    ///
    /// # Errors
    /// When the run was claimed by another worker, or the database fails.
    pub async fn text(&self, channel: Channel, text: &str) -> Result<(), Failure> {
        if text.is_empty() {
            return Ok(());
        }
        let delta = loop {
            {
                let mut pending = self.live.pending.lock().unwrap_or_else(PoisonError::into_inner);
                if pending.channel.is_none_or(|current| current == channel) && pending.text.len() < LARGEST_BLOCK {
                    let delta =
                        Delta { channel, block: pending.block, offset: pending.text.len(), text: Arc::from(text) };
                    pending.channel = Some(channel);
                    pending.text.push_str(text);
                    break delta;
                }
            }
            self.flush().await?;
        };
        self.runs.hub.publish(&self.run.id, LiveMessage::Delta(delta));
        Ok(())
    }

    /// Stores the text that is only shown so far.
    ///
    /// # Errors
    /// When the run was claimed by another worker, or the database fails.
    pub async fn flush(&self) -> Result<(), Failure> {
        flush(&self.runs, &self.run.id, &self.live).await
    }

    async fn append(&self, body: Body) -> Result<Event, Failure> {
        self.flush().await?;
        append(&self.runs, &self.run.id, self.live.epoch, body).await
    }

    /// Stores pending text every `every`, until dropped.
    pub(super) async fn keep_flushing(&self, every: Duration) {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // A failure here comes up again, with somebody to tell, at the next append.
            let _retried_at_the_next_append = self.flush().await;
        }
    }
}

/// Text that is shown but not stored, for a follower who joins now.
pub(super) fn pending_of(live: &Live) -> Option<Delta> {
    let pending = live.pending.lock().unwrap_or_else(PoisonError::into_inner);
    let channel = pending.channel?;
    Some(Delta { channel, block: pending.block, offset: 0, text: Arc::from(pending.text.as_str()) })
}

async fn flush(runs: &Arc<Runs>, run_id: &str, live: &Arc<Live>) -> Result<(), Failure> {
    let writing = live.writing.lock().await;
    if live.pending.lock().unwrap_or_else(PoisonError::into_inner).text.is_empty() {
        return Ok(());
    }
    drop(writing);
    // In a task of its own: whoever waits here may be dropped, and between the commit and the end of this the text is
    // in the database and in `pending`, from where it would be stored a second time.
    let (runs, run_id, live) = (Arc::clone(runs), run_id.to_owned(), Arc::clone(live));
    let flushed = tokio::spawn(async move { flush_to_the_end(&runs, &run_id, &live).await }).await;
    flushed.unwrap_or_else(|_| Err(Failure::new("journal", "The run's journal could not be written")))
}

async fn flush_to_the_end(runs: &Runs, run_id: &str, live: &Live) -> Result<(), Failure> {
    let _one_at_a_time = live.writing.lock().await;
    let (body, stored) = {
        let pending = live.pending.lock().unwrap_or_else(PoisonError::into_inner);
        match pending.channel {
            Some(channel) if !pending.text.is_empty() => {
                let body = Body::Text { channel, text: pending.text.clone(), block: pending.block };
                (body, pending.text.len())
            }
            _ => return Ok(()),
        }
    };
    append(runs, run_id, live.epoch, body).await?;
    // Text that arrived meanwhile begins the next block; its readers know it by its offset in this one, so they are
    // told again where it stands now.
    let mut pending = live.pending.lock().unwrap_or_else(PoisonError::into_inner);
    pending.block += 1;
    pending.text.drain(..stored);
    if pending.text.is_empty() {
        pending.channel = None;
    } else if let Some(channel) = pending.channel {
        let moved = Delta { channel, block: pending.block, offset: 0, text: Arc::from(pending.text.as_str()) };
        runs.hub.publish(run_id, LiveMessage::Delta(moved));
    }
    Ok(())
}

async fn append(runs: &Runs, run_id: &str, epoch: i64, body: Body) -> Result<Event, Failure> {
    let event = append_event(&runs.db, runs.clock.as_ref(), run_id, epoch, body).await.map_err(|error| {
        tracing::error!(run.id = run_id, ?error, "the journal could not be written");
        Failure::new("journal", "The run's journal could not be written")
    })?;
    match event {
        Some(event) => {
            runs.hub.publish(run_id, LiveMessage::Event(Arc::new(event.clone())));
            Ok(event)
        }
        None => Err(Failure::new("lease_lost", "Another worker has taken this run over")),
    }
}

async fn append_event(
    db: &Db,
    clock: &dyn Clock,
    run_id: &str,
    epoch: i64,
    body: Body,
) -> Result<Option<Event>, Error> {
    let now = clock.now();
    let id = run_id.to_owned();
    db.write(move |tx| Box::pin(async move { store::append(tx, &id, epoch, now, body).await })).await
}

/// Used where a failure of the domain ends a step.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        if error.kind == Kind::Internal {
            tracing::error!(?error, "a step failed through a fault of ours");
        }
        Self::new(error.code, error.public)
    }
}
