//! Workers: claim a run, hold its lease, execute it, end it.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, PoisonError},
    time::Duration,
};

use backlot_db::{Engine, Tx};
use futures::FutureExt as _;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Body, Failure, Outcome, Registered, Run, RunContext, Runs,
    context::{Live, StopReason},
    hub, store,
};
use crate::Error;

/// How often a worker looks for work that no message told it of.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long an executor may take to end after it was asked to. Programs and installations get five seconds and their
/// last model calls a little more; what takes longer is stuck.
const LAST_PATIENCE: Duration = Duration::from_secs(120);

impl Runs {
    /// Starts claiming and executing. Called once, after every executor is registered.
    ///
    /// # Errors
    /// Database failures.
    pub async fn spawn_workers(self: &Arc<Self>) -> Result<(), Error> {
        if self.db.engine() == Engine::Sqlite {
            // One process alone uses an embedded database: whoever held a claim is dead.
            let worker = self.worker.clone();
            let expired = self
                .db
                .write(move |tx| Box::pin(async move { store::expire_foreign_leases(tx, &worker).await }))
                .await?;
            if expired > 0 {
                tracing::info!(runs = expired, "resuming runs that were interrupted");
            }
        }
        self.claiming.spawn(Arc::clone(self).claim_forever());
        tokio::spawn(Arc::clone(self).renew_forever());
        tokio::spawn(Arc::clone(self).listen_forever());
        Ok(())
    }

    /// Stops claiming and waits until the runs of this process have ended, at most `patience`. What still runs then
    /// is resumed by whoever claims it after the lease.
    pub async fn drain(&self, patience: Duration) {
        self.shutdown.cancel();
        self.claiming.close();
        self.executing.close();
        let ended = async {
            // First, since it may be about to start one more.
            self.claiming.wait().await;
            self.executing.wait().await;
        };
        if tokio::time::timeout(patience, ended).await.is_err() {
            tracing::warn!(runs = self.executing.len(), "leaving runs behind that did not end in time");
        }
    }

    /// How many runs this process is executing.
    #[must_use]
    pub fn executing(&self) -> usize {
        self.executing.len()
    }

    async fn claim_forever(self: Arc<Self>) {
        while !self.shutdown.is_cancelled() {
            match self.claim_one().await {
                Ok(true) => {}
                Ok(false) => {
                    tokio::select! {
                        () = self.wake.notified() => {}
                        () = tokio::time::sleep(LOOK_EVERY) => {}
                        () = self.shutdown.cancelled() => {}
                    }
                }
                Err(error) => {
                    tracing::error!(?error, "cannot claim runs; trying again");
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        }
    }

    /// Claims one run and starts to execute it; tells whether there was one.
    async fn claim_one(self: &Arc<Self>) -> Result<bool, Error> {
        let mut free: Vec<(&'static str, Registered, OwnedSemaphorePermit)> = {
            let executors = self.executors.read().unwrap_or_else(PoisonError::into_inner);
            executors
                .iter()
                .filter_map(|(kind, registered)| {
                    let permit = Arc::clone(&registered.slots).try_acquire_owned().ok()?;
                    Some((*kind, registered.clone(), permit))
                })
                .collect()
        };
        if free.is_empty() {
            return Ok(false);
        }
        let kinds = free.iter().fold(String::from(","), |list, (kind, ..)| list + kind + ",");
        let now = self.clock.now();
        let lease_until = now.after(self.settings.lease);
        let worker = self.worker.clone();
        let executing = list(self.live.read().unwrap_or_else(PoisonError::into_inner).keys());
        let claimed = self
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let Some(run) = store::claim(tx, &kinds, &executing, &worker, now, lease_until).await? else {
                        return Ok(None);
                    };
                    let body = if run.epoch == 1 { Body::Started } else { Body::Resumed };
                    let event = store::append(tx, &run.id, run.epoch, now, body).await?;
                    Ok::<_, Error>(event.map(|event| (run, event)))
                })
            })
            .await?;
        let Some((run, event)) = claimed else { return Ok(false) };
        let Some(index) = free.iter().position(|(kind, ..)| *kind == run.kind) else { return Ok(false) };
        let (_, registered, permit) = free.swap_remove(index);
        // From here on the lease is held up, and nobody here claims the run a second time.
        let live = Arc::new(Live::new(run.epoch));
        self.live.write().unwrap_or_else(PoisonError::into_inner).insert(run.id.clone(), Arc::clone(&live));
        self.show(&run.id, event);
        self.executing.spawn(Arc::clone(self).execute(run, live, registered, permit));
        Ok(true)
    }

    async fn execute(self: Arc<Self>, run: Run, live: Arc<Live>, registered: Registered, permit: OwnedSemaphorePermit) {
        let run_id = run.id.clone();
        let _held_to_the_end = Held::begin(&self, &run, permit);
        let context = match RunContext::load(Arc::clone(&self), run, Arc::clone(&live)).await {
            Ok(context) => context,
            Err(error) => {
                // The lease runs out, and then the run is claimed again.
                tracing::error!(run.id = run_id, ?error, "cannot load what an earlier execution recorded");
                return;
            }
        };
        let outcome = self.execute_within_deadline(&context, &registered).await;
        if live.stop_reason() == Some(StopReason::LeaseLost) {
            tracing::warn!(run.id = run_id, "another worker has taken this run over");
        } else {
            self.finish(&context, outcome, registered.executor.is_metered()).await;
        }
    }

    async fn execute_within_deadline(&self, context: &RunContext, registered: &Registered) -> Outcome {
        let deadline = context.run().deadline_at.map(|at| at.since(self.clock.now()));
        let work = AssertUnwindSafe(registered.executor.execute(context)).catch_unwind();
        let watch = async {
            if let Some(left) = deadline {
                tokio::select! {
                    () = tokio::time::sleep(left) => context.live().stop(StopReason::Deadline),
                    () = context.stopped().cancelled() => {}
                }
            } else {
                context.stopped().cancelled().await;
            }
            // It was asked to end, and has not: it must not hold its slot, its session and whoever waits for ever.
            tokio::time::sleep(LAST_PATIENCE).await;
            tracing::error!(
                run.id = context.run().id,
                "an executor does not end although it was asked to; giving it up"
            );
        };
        tokio::select! {
            outcome = work => outcome.unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<&str>().copied().map(str::to_owned)
                    .or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                tracing::error!(run.id = context.run().id, panic = text, "the executor of a run panicked");
                Outcome::failed(Failure::new("internal", "The run failed through a fault of the server"))
            }),
            () = watch => Outcome::failed(Failure::new("timeout", "Timeout exceeded")),
            () = context.keep_flushing(self.settings.coalesce) => Outcome::completed(Value::Null),
        }
    }

    async fn finish(&self, context: &RunContext, outcome: Outcome, is_metered: bool) {
        let run = context.run();
        let Outcome { output, failure, at_commit } = outcome;
        let body = match (failure, context.live().stop_reason()) {
            (None, _) => Body::Completed,
            (Some(_), Some(StopReason::Requested)) => Body::Stopped,
            (Some(failure), _) => Body::Failed { failure },
        };
        if let Err(failure) = context.flush().await {
            tracing::error!(run.id = run.id, code = failure.code, "the last text of a run could not be stored");
        }
        let (id, epoch, now) = (run.id.clone(), run.epoch, self.clock.now());
        let ended = self
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let ended = store::end(tx, &id, epoch, now, body, Some(output)).await?;
                    if let Some((run, _)) = &ended {
                        book_end(tx, run, is_metered, now).await?;
                        if let Some(at_commit) = at_commit {
                            at_commit(tx).await?;
                        }
                    }
                    Ok::<_, Error>(ended)
                })
            })
            .await;
        match ended {
            Ok(Some((run, event))) => self.show_end(run, event),
            Ok(None) => tracing::warn!(run.id = run.id, "another worker has taken this run over"),
            Err(error) => self.finish_after_failed_commit(run, &error, is_metered).await,
        }
    }

    /// The end could not be committed, for example because the disk is full: try to end the run as failed, a few
    /// times; otherwise it is claimed again after its lease.
    async fn finish_after_failed_commit(&self, run: &Run, error: &Error, is_metered: bool) {
        tracing::error!(run.id = run.id, ?error, "the end of a run could not be committed");
        for wait in [1, 2, 4] {
            tokio::time::sleep(Duration::from_secs(wait)).await;
            let failure = Failure::new("internal", "The result of the run could not be stored");
            let (id, epoch, now) = (run.id.clone(), run.epoch, self.clock.now());
            let ended = self
                .db
                .write(move |tx| {
                    Box::pin(async move {
                        let ended = store::end(tx, &id, epoch, now, Body::Failed { failure }, None).await?;
                        if let Some((run, _)) = &ended {
                            book_end(tx, run, is_metered, now).await?;
                        }
                        Ok::<_, Error>(ended)
                    })
                })
                .await;
            match ended {
                Ok(Some((run, event))) => return self.show_end(run, event),
                Ok(None) => return,
                Err(error) => tracing::error!(run.id = run.id, ?error, "still cannot store the end of a run"),
            }
        }
    }

    async fn renew_forever(self: Arc<Self>) {
        while !(self.shutdown.is_cancelled() && self.executing.is_empty()) {
            tokio::time::sleep(self.settings.lease / 3).await;
            if let Err(error) = self.renew().await {
                tracing::error!(?error, "cannot renew the leases of running runs");
            }
        }
    }

    /// Prolongs our leases, gives up runs that others took, honours stop requests, ends runs that waited too long.
    async fn renew(&self) -> Result<(), Error> {
        let now = self.clock.now();
        let lease_until = now.after(self.settings.lease);
        let worker = self.worker.clone();
        // Taken before the query, so that a run claimed meanwhile is not mistaken for a lost one.
        let executing: Vec<(String, Arc<Live>)> = {
            let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
            live.iter().map(|(id, live)| (id.clone(), Arc::clone(live))).collect()
        };
        let ids = list(executing.iter().map(|(id, _)| id));
        let held = self
            .db
            .write(move |tx| Box::pin(async move { store::renew_leases(tx, &worker, &ids, lease_until).await }))
            .await?;
        for (id, live) in executing {
            // A run that ended in between is not held either; its execution is over and does not mind.
            if !held.contains(&(id, live.epoch)) {
                live.stop(StopReason::LeaseLost);
            }
        }
        self.honour_stop_requests().await?;
        let overdue = {
            let mut connection = self.db.read().await?;
            store::overdue(&mut connection, now).await?
        };
        for id in overdue {
            self.withdraw(&id, Failure::new("timeout", "Timeout exceeded before a worker was free")).await?;
        }
        Ok(())
    }

    /// Tells executions of this process that somebody wants them stopped.
    pub(super) async fn honour_stop_requests(&self) -> Result<(), Error> {
        if self.live.read().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return Ok(());
        }
        let requests = {
            let mut connection = self.db.read().await?;
            store::stop_requests(&mut connection, &self.worker).await?
        };
        for id in requests {
            if let Some(live) = self.live_of(&id) {
                live.stop(StopReason::Requested);
            }
        }
        Ok(())
    }

    pub(super) fn live_of(&self, run_id: &str) -> Option<Arc<Live>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).get(run_id).cloned()
    }

    /// Passes on what other processes tell through the database.
    async fn listen_forever(self: Arc<Self>) {
        let mut signals = self.db.signals();
        loop {
            let signal = tokio::select! {
                signal = signals.recv() => signal,
                () = self.shutdown.cancelled() => return,
            };
            let Ok(signal) = signal else {
                self.wake.notify_one();
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            match signal.topic.as_str() {
                "queue" => self.wake.notify_one(),
                "run" if self.db.engine() == Engine::Postgres && self.hub.is_read(&signal.about) => {
                    self.hub.publish(&signal.about, hub::Live::LookAgain);
                }
                "stop" if self.live_of(&signal.about).is_some() => {
                    if let Err(error) = self.honour_stop_requests().await {
                        tracing::error!(?error, "cannot read stop requests");
                    }
                }
                _ => {}
            }
        }
    }
}

/// A run that is executed here: its lease is held up, and a slot is taken. Both end with this, however that comes about.
struct Held {
    runs: Arc<Runs>,
    run_id: String,
    kind: String,
    permit: Option<OwnedSemaphorePermit>,
}

impl Held {
    fn begin(runs: &Arc<Runs>, run: &Run, permit: OwnedSemaphorePermit) -> Self {
        metrics::counter!("backlot_runs_started_total", "kind" => run.kind.clone()).increment(1);
        metrics::gauge!("backlot_runs_executing", "kind" => run.kind.clone()).increment(1.0);
        Self { runs: Arc::clone(runs), run_id: run.id.clone(), kind: run.kind.clone(), permit: Some(permit) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        metrics::gauge!("backlot_runs_executing", "kind" => self.kind.clone()).decrement(1.0);
        self.runs.live.write().unwrap_or_else(PoisonError::into_inner).remove(&self.run_id);
        drop(self.permit.take());
        self.runs.wake.notify_one();
    }
}

/// The form in which queries take a list: `,a,b,`.
fn list<'a>(ids: impl Iterator<Item = &'a String>) -> String {
    ids.fold(String::from(","), |list, id| list + id + ",")
}

async fn book_end(tx: &mut Tx, run: &Run, is_metered: bool, now: crate::Timestamp) -> Result<(), Error> {
    if is_metered {
        store::add_to_day(tx, run, now).await?;
    }
    Ok(())
}
