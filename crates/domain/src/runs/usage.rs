//! What model calls used: per call, per run, per day.

use std::sync::Arc;

use backlot_db::Tx;
use serde::{Deserialize, Serialize};

use super::{Body, Runs, hub::Live, store};
use crate::{Error, Timestamp};

/// What one model call used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallUsage {
    /// Input tokens, cached ones included.
    pub input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Cost in thousand-millionths of a US dollar; absent when the price is unknown.
    pub cost_nano_usd: Option<u64>,
    /// Whether the provider gave no final figures and these are an estimate.
    pub estimated: bool,
}

/// What all model calls of a run, or of many runs, used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageTotals {
    /// Input tokens.
    pub input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Cost of the calls whose price is known, in thousand-millionths of a US dollar.
    pub cost_nano_usd: u64,
    /// Calls whose price is unknown.
    pub unpriced_calls: u64,
    /// All calls.
    pub model_calls: u64,
}

/// Usage of an account on one day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DailyUsage {
    /// `YYYY-MM-DD`, UTC.
    pub date: String,
    /// Metered runs that ended on this day.
    pub runs: u64,
    /// What they used.
    pub totals: UsageTotals,
}

impl Runs {
    /// Books a finished model call on its run and the run's ancestors, inside the caller's transaction. Returns what
    /// to show followers after the commit, for [`Runs::show`].
    ///
    /// A call that ends after its run is still booked, but gets no event: nothing follows a terminal event.
    ///
    /// # Errors
    /// Database failures.
    pub async fn book_model_call(
        tx: &mut Tx,
        now: Timestamp,
        run_id: &str,
        body: Body,
        usage: CallUsage,
    ) -> Result<Option<super::Event>, Error> {
        store::add_usage(tx, run_id, usage).await?;
        store::append_if_open(tx, run_id, now, body).await
    }

    /// Shows an event that another domain appended in its own transaction, after the commit.
    pub fn show(&self, run_id: &str, event: super::Event) {
        self.hub.publish(run_id, Live::Event(Arc::new(event)));
    }

    /// Usage of an account per day, ascending, days without runs left out.
    ///
    /// # Errors
    /// Database failures.
    pub async fn daily_usage(
        &self,
        account_id: &str,
        from_date: &str,
        subject: Option<&str>,
    ) -> Result<Vec<DailyUsage>, Error> {
        let mut connection = self.db.read().await?;
        store::daily_usage(&mut connection, account_id, from_date, subject).await
    }
}
