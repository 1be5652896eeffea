//! The run journal: everything Backlot does for somebody is a *run*, and a run is a gapless sequence of events
//! with exactly one terminal event at its end.
//!
//! Words: a run has a *kind*, and an [`Executor`] is registered for each kind. A *step* is a piece of a run with an
//! effect, journaled as intent, then result. A run is *claimed* by a worker for a *lease*, which grows the run's
//! *epoch*; every write of the worker names its epoch, so that a worker that lost its lease cannot write. A run whose
//! worker died is claimed again after the lease, and its executor starts anew with all recorded step results at hand.
//!
//! Invariants, held by tests in `tests/it/runs.rs`: events are numbered 1, 2, 3 …; nothing follows a terminal event;
//! a recorded step is never executed again; a step in doubt is repeated only when it is idempotent; an event is shown
//! to a follower only after it is durable, except deltas of text, which are shown at once and stored coalesced.
//!
//! Tables: `runs`, `run_events`, `idempotency_keys`, `usage_daily`.

mod context;
mod event;
mod follow;
mod hub;
mod start;
mod stop;
pub(crate) mod store;
mod usage;
mod worker;

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
    time::Duration,
};

use backlot_db::{Db, Tx};
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::{Notify, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use context::{Effect, RunContext};
pub use event::{Body, Channel, Event, Failure};
pub use follow::{Followed, Item, Position};
pub use start::{NewRun, Started};
pub use usage::{CallUsage, DailyUsage, UsageTotals};

use crate::{Clock, Error, Ids, Kind, Timestamp};

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Waits for a worker.
    Queued,
    /// A worker has it.
    Running,
    /// Ended well.
    Completed,
    /// Ended with a [`Failure`].
    Failed,
    /// Ended because somebody stopped it.
    Stopped,
}

impl Status {
    /// The word in the database and on most wires.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }

    /// Whether no further event can follow.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Stopped)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Queued, Self::Running, Self::Completed, Self::Failed, Self::Stopped]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

/// A run as the database has it.
#[derive(Debug, Clone)]
pub struct Run {
    /// Identifier; its prefix tells the kind, for example `inv_…`.
    pub id: String,
    /// Whose run it is.
    pub account_id: String,
    /// Which executor runs it.
    pub kind: String,
    /// What it is a run of, for example an agent's id.
    pub subject: String,
    /// The session it belongs to.
    pub session: Option<String>,
    /// The run that started it.
    pub parent_id: Option<String>,
    /// How far it has come.
    pub status: Status,
    /// What the executor was given.
    pub input: Value,
    /// What it produced, possibly in part when it failed.
    pub output: Option<Value>,
    /// Why it failed.
    pub error: Option<Failure>,
    /// Grows with every claim.
    pub epoch: i64,
    /// When it must have ended.
    pub deadline_at: Option<Timestamp>,
    /// What its model calls used, children included.
    pub usage: UsageTotals,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When a worker first had it.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// Work to be committed together with the end of a run.
pub type AtCommit = Box<dyn for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<(), Error>> + Send>;

/// How an execution ended.
pub struct Outcome {
    /// What the run produced. Kept for failed runs too, where partial results matter.
    pub output: Value,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
    /// Changes that belong to the same commit as the run's end.
    pub at_commit: Option<AtCommit>,
}

impl Outcome {
    /// A run that ended well.
    #[must_use]
    pub fn completed(output: Value) -> Self {
        Self { output, failure: None, at_commit: None }
    }

    /// A run that failed.
    #[must_use]
    pub fn failed(failure: Failure) -> Self {
        Self { output: Value::Null, failure: Some(failure), at_commit: None }
    }
}

impl From<Error> for Outcome {
    /// An operation of the domain failed inside a run: the run ends with its public sentence.
    fn from(error: Error) -> Self {
        if error.kind == Kind::Internal {
            tracing::error!(?error, "a run failed through a fault of ours");
        }
        Self::failed(Failure { code: error.code.to_owned(), message: error.public, details: Value::Null })
    }
}

/// Executes runs of one kind. Called again with the same run after a crash: everything with an effect must go
/// through [`RunContext::step`].
#[async_trait::async_trait]
pub trait Executor: Send + Sync {
    /// Executes a claimed run to its end. When [`RunContext::stopped`] fires, it should end soon.
    async fn execute(&self, run: &RunContext) -> Outcome;

    /// How many runs of this kind one node executes at a time.
    fn slots(&self) -> usize;

    /// Whether runs of this kind count in the account's daily usage.
    fn is_metered(&self) -> bool {
        false
    }
}

/// Figures of the journal that operators may want to change.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a claim holds without renewal.
    pub lease: Duration,
    /// How long text is held back before it is stored.
    pub coalesce: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { lease: Duration::from_secs(15), coalesce: Duration::from_millis(100) }
    }
}

/// The service.
pub struct Runs {
    db: Db,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    settings: Settings,
    hub: hub::Hub,
    executors: RwLock<HashMap<&'static str, Registered>>,
    /// Names this process in claims; new at every start, so that an earlier life's claims are not ours.
    worker: String,
    wake: Notify,
    shutdown: CancellationToken,
    executing: TaskTracker,
    claiming: TaskTracker,
    live: RwLock<HashMap<String, Arc<context::Live>>>,
}

#[derive(Clone)]
struct Registered {
    executor: Arc<dyn Executor>,
    slots: Arc<Semaphore>,
}

impl Runs {
    /// Makes the service; nothing is executed before [`Runs::spawn_workers`].
    #[must_use]
    pub fn new(db: Db, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>, settings: Settings) -> Arc<Self> {
        let worker = ids.next("node", clock.now());
        Arc::new(Self {
            db,
            clock,
            ids,
            settings,
            hub: hub::Hub::default(),
            executors: RwLock::default(),
            worker,
            wake: Notify::new(),
            shutdown: CancellationToken::new(),
            executing: TaskTracker::new(),
            claiming: TaskTracker::new(),
            live: RwLock::default(),
        })
    }

    /// Registers the executor of a kind of run. Called once per kind, at start.
    pub fn register(&self, kind: &'static str, executor: Arc<dyn Executor>) {
        let slots = Arc::new(Semaphore::new(executor.slots()));
        if let Ok(mut executors) = self.executors.write() {
            executors.insert(kind, Registered { executor, slots });
        }
    }

    /// A run of an account.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when it does not exist or is somebody else's.
    pub async fn get(&self, account_id: &str, run_id: &str) -> Result<Run, Error> {
        let mut connection = self.db.read().await?;
        store::find(&mut connection, run_id)
            .await?
            .filter(|run| run.account_id == account_id)
            .ok_or_else(|| Error::new(Kind::NotFound, "run_not_found", "Run not found"))
    }

    /// The stored events of a run after `after`, at most `limit`.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when the run does not exist or is somebody else's.
    pub async fn events(&self, account_id: &str, run_id: &str, after: i64, limit: u32) -> Result<Vec<Event>, Error> {
        let run = self.get(account_id, run_id).await?;
        let mut connection = self.db.read().await?;
        store::events_after(&mut connection, &run.id, after, limit).await
    }

    /// Whether a run of a kind waits or is executed, whosever it is: for upkeep, not for callers.
    ///
    /// # Errors
    /// Database failures.
    pub async fn is_any_open(&self, kind: &str) -> Result<bool, Error> {
        let mut connection = self.db.read().await?;
        store::is_any_open(&mut connection, kind).await
    }

    /// Runs that match a filter, newest first.
    ///
    /// # Errors
    /// Database failures.
    pub async fn list(&self, filter: Filter, window: crate::page::Window) -> Result<crate::page::Page<Run>, Error> {
        let mut connection = self.db.read().await?;
        store::list(&mut connection, &filter, window).await
    }
}

/// Which runs a list shows.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Runs of this account only.
    pub account_id: String,
    /// Runs of this kind only.
    pub kind: &'static str,
    /// Runs of this subject only.
    pub subject: Option<String>,
    /// Runs of this session only.
    pub session: Option<String>,
    /// Runs with one of these statuses only; empty means any.
    pub statuses: Vec<Status>,
    /// Runs asked for at or after this moment.
    pub since: Option<Timestamp>,
    /// Runs asked for before this moment.
    pub until: Option<Timestamp>,
}

/// Removes every run of a subject inside the caller's transaction, for when the subject itself is removed. Daily usage
/// stays.
///
/// # Errors
/// Database failures.
pub async fn forget_subject(tx: &mut Tx, account_id: &str, subject: &str) -> Result<(), Error> {
    store::delete_of_subject(tx, account_id, subject).await
}
