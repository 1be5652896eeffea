//! Calls in doubt: begun by a process that died before it could write their end.
//!
//! What they took is not known to anybody but the provider. They are booked with the guessed input, no output, marked
//! as estimated and with status 599, so that the run and its owner see that there was a call, and that its figures
//! are a guess. The answer itself is lost; whether the call is repeated is for whoever resumes the run to decide.

use std::{sync::Arc, time::Duration};

use backlot_db::Engine;

use super::{Models, store};
use crate::{Error, Timestamp};

/// Longer than any call can take. On PostgreSQL, where other processes have calls of their own, a call is given up
/// only after this.
const LONGEST_CALL: Duration = Duration::from_secs(3 * 3600);

impl Models {
    /// Books the calls that died with their process, and tells how many. To be called at start, before workers claim
    /// runs and before the gateway answers.
    ///
    /// # Errors
    /// Database failures.
    pub async fn recover(&self) -> Result<u64, Error> {
        let now = self.clock.now();
        let before = match self.db.engine() {
            // One process alone uses an embedded database: whoever had a call is dead.
            Engine::Sqlite => now,
            Engine::Postgres => Timestamp(now.0 - i64::try_from(LONGEST_CALL.as_millis()).unwrap_or(0)),
        };
        let booked = self.book_in_doubt(before, None).await?;
        if booked > 0 {
            tracing::warn!(calls = booked, "model calls were interrupted; what they took is estimated");
        }
        Ok(booked)
    }

    /// Books the calls of other processes that died, now and then. Does nothing on an embedded database, where every
    /// call in progress is our own.
    ///
    /// # Errors
    /// Database failures.
    pub async fn recover_of_others(&self) -> Result<u64, Error> {
        match self.db.engine() {
            Engine::Sqlite => Ok(0),
            Engine::Postgres => self.recover().await,
        }
    }

    /// Books what an earlier execution of a run left, which is dead or has lost its claim.
    pub(super) async fn recover_run(&self, run_id: &str, before: Timestamp) -> Result<u64, Error> {
        self.book_in_doubt(before, Some(run_id)).await
    }

    async fn book_in_doubt(&self, before: Timestamp, run_id: Option<&str>) -> Result<u64, Error> {
        let mut booked = 0;
        loop {
            let calls = {
                let mut connection = self.db.read().await?;
                store::open_before(&mut connection, before, run_id).await?
            };
            if calls.is_empty() {
                return Ok(booked);
            }
            for call in calls {
                let ended = self.end_in_doubt(&call);
                self.write_end(&Arc::new(call), &ended).await?;
                booked += 1;
            }
        }
    }
}
