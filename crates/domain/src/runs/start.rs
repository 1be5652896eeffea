//! Asking for a run.

use std::time::Duration;

use backlot_db::Tx;
use serde_json::Value;

use super::{AtCommit, Run, Runs, Status, UsageTotals, store};
use crate::Error;

/// A run that somebody asks for.
pub struct NewRun {
    /// Prefix of its identifier, for example `inv`.
    pub prefix: &'static str,
    /// Which executor runs it.
    pub kind: &'static str,
    /// Whose run it is.
    pub account_id: String,
    /// What it is a run of.
    pub subject: String,
    /// The session it belongs to.
    pub session: Option<String>,
    /// The run that starts it.
    pub parent_id: Option<String>,
    /// What the executor is given.
    pub input: Value,
    /// How long it may take in all, waiting included.
    pub deadline: Option<Duration>,
    /// Repeating a key within a day returns the first run instead of a new one, unless that failed before it began.
    pub idempotency_key: Option<String>,
}

/// The answer to asking for a run.
#[derive(Debug)]
pub struct Started {
    /// The run.
    pub run: Run,
    /// Whether it is an earlier run with the same idempotency key.
    pub repeated: bool,
}

/// How long an idempotency key is remembered (spec/castari.md 12.1).
const KEY_LIFE: Duration = Duration::from_secs(24 * 3600);

impl Runs {
    /// Asks for a run. `with` is committed together with it. The run is durable when this returns.
    ///
    /// # Errors
    /// Database failures, and those of `with`.
    pub async fn start(&self, new: NewRun, with: Option<AtCommit>) -> Result<Started, Error> {
        let now = self.clock.now();
        let run = Run {
            id: self.ids.next(new.prefix, now),
            account_id: new.account_id,
            kind: new.kind.to_owned(),
            subject: new.subject,
            session: new.session,
            parent_id: new.parent_id,
            status: Status::Queued,
            input: new.input,
            output: None,
            error: None,
            epoch: 0,
            deadline_at: new.deadline.map(|deadline| now.after(deadline)),
            usage: UsageTotals::default(),
            created_at: now,
            started_at: None,
            ended_at: None,
        };
        let key = new.idempotency_key;
        let started = self.db.write(move |tx| Box::pin(insert(tx, run, key, with))).await?;
        self.wake.notify_one();
        Ok(started)
    }
}

async fn insert(tx: &mut Tx, run: Run, key: Option<String>, with: Option<AtCommit>) -> Result<Started, Error> {
    if let Some(key) = &key {
        let not_before = run.created_at.0 - i64::try_from(KEY_LIFE.as_millis()).unwrap_or(i64::MAX);
        let earlier = store::find_by_idempotency_key(tx, &run.account_id, key, not_before).await?;
        // A run that was given up before anything of it took place is no result: repeating is what the key is for.
        if let Some(earlier) = earlier.filter(|run| run.status != Status::Failed || run.started_at.is_some()) {
            return Ok(Started { run: earlier, repeated: true });
        }
        store::remember_idempotency_key(tx, &run, key).await?;
    }
    if let Some(with) = with {
        with(tx).await?;
    }
    store::insert(tx, &run).await?;
    tx.signal("queue", "");
    Ok(Started { run, repeated: false })
}
