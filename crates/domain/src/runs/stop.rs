//! Ending a run from outside.

use std::{sync::Arc, time::Duration};

use super::{Body, Failure, Run, Runs, Status, hub::Live, store};
use crate::{Error, Kind};

impl Runs {
    /// Stops a run and everything it started. A waiting run ends at once; a running one is asked to end and this
    /// returns without waiting for it. Stopping an ended run does nothing.
    ///
    /// # Errors
    /// Database failures.
    pub async fn stop(&self, run_id: &str) -> Result<(), Error> {
        let now = self.clock.now();
        let root = run_id.to_owned();
        let stopped = self
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let mut ended = Vec::new();
                    for run in store::open_tree(tx, &root).await? {
                        if run.status == Status::Queued
                            && let Some(end) = store::end_queued(tx, &run.id, now, Body::Stopped).await?
                        {
                            ended.push(end);
                        } else {
                            // Running, or claimed by another node since it was read.
                            store::request_stop(tx, &run.id).await?;
                            tx.signal("stop", run.id.as_str());
                        }
                    }
                    Ok::<_, Error>(ended)
                })
            })
            .await?;
        for (run, event) in stopped {
            self.show_end(run, event);
        }
        self.honour_stop_requests().await
    }

    /// Waits until a run has ended.
    ///
    /// # Errors
    /// Database failures.
    pub async fn wait(&self, run_id: &str) -> Result<Run, Error> {
        let mut live = self.hub.subscribe(run_id);
        loop {
            // First the stored state: the run may have ended before we listened.
            {
                let mut connection = self.db.read().await?;
                match store::find(&mut connection, run_id).await? {
                    Some(run) if run.status.is_terminal() => return Ok(run),
                    Some(_) => {}
                    None => return Err(Error::new(Kind::NotFound, "run_not_found", "Run not found")),
                }
            }
            // The timeout covers what no message tells, for example a process of another node that died.
            let deadline = tokio::time::sleep(Duration::from_secs(1));
            tokio::pin!(deadline);
            loop {
                tokio::select! {
                    message = live.next() => match message {
                        Ok(Live::Ended(run)) => return Ok(Run::clone(&run)),
                        Ok(Live::LookAgain) | Err(_) => break,
                        Ok(_) => {}
                    },
                    () = &mut deadline => break,
                }
            }
            if self.shutdown.is_cancelled() && self.executing.is_empty() {
                return Err(Error::new(Kind::Unavailable, "shutting_down", "The server is shutting down"));
            }
        }
    }

    /// Takes back a run that no worker has claimed yet; tells whether it was taken back.
    ///
    /// # Errors
    /// Database failures.
    pub async fn withdraw(&self, run_id: &str, failure: Failure) -> Result<bool, Error> {
        let now = self.clock.now();
        let id = run_id.to_owned();
        let ended = self
            .db
            .write(move |tx| Box::pin(async move { store::end_queued(tx, &id, now, Body::Failed { failure }).await }))
            .await?;
        let withdrawn = ended.is_some();
        if let Some((run, event)) = ended {
            self.show_end(run, event);
        }
        Ok(withdrawn)
    }

    pub(super) fn show_end(&self, run: Run, event: super::Event) {
        let id = run.id.clone();
        metrics::counter!("backlot_runs_ended_total", "kind" => run.kind.clone(), "status" => run.status.as_str())
            .increment(1);
        self.hub.publish(&id, Live::Event(Arc::new(event)));
        self.hub.publish(&id, Live::Ended(Arc::new(run)));
    }
}
