//! Models: who may call which, who answers, what it takes, and who pays.
//!
//! Words: a *caller* of the gateway is a run, known by its token, or an account, known by an API key. A *name* is what
//! a client asks for; an *answerer* is the provider and model that it stands for. A *call* is one request to one
//! answerer; it is *booked* when its tokens and cost stand in `model_calls` and in the totals of its run. A run's
//! *ledger* holds what it has spent and what its calls in progress have reserved.
//!
//! Two ways to an answer: where the provider speaks the client's format the bytes are passed through and metered in
//! passing; otherwise request and answer go through the neutral form of `backlot-models`.
//!
//! Invariants, held by tests: a call is booked once, whatever happens to its client, its provider or this process; a
//! run's calls cannot together reserve more than its limits; an unknown price stays unknown; no key of a provider
//! reaches a client or a log.
//!
//! Table: `model_calls`. Its token counts do not overlap: `input_tokens` are the fresh ones, `cache_*` come on top.

mod booking;
mod budget;
mod call_error;
mod catalog;
mod complete;
mod count_tokens;
mod estimate;
mod key_guard;
mod metered_events;
mod passing_body;
mod recovery;
mod relay;
mod resolve;
mod run_token;
mod settings;
mod store;
mod surviving;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use backlot_db::Db;
use backlot_models::local::LocalModel;
use tokio_util::task::TaskTracker;

pub use backlot_models::{
    Block, ErrorKind, EventStream, Request, Usage,
    prices::Prices,
    wire::{ModelCard, Wire},
};
pub use call_error::CallError;
pub use count_tokens::ESTIMATED_HEADER;
pub use relay::{Admission, Asked, MODEL_HEADER, Relayed, RelayedBody};
pub use resolve::{Answerer, Resolved};
pub use run_token::{GatewayCaller, RunToken};
pub use settings::{Api, Limits, Local, Provider, ProviderKeys, Settings};

use crate::{Clock, Error, Ids, Timestamp, accounts::Accounts, runs::Runs};

/// The service.
pub struct Models {
    db: Db,
    runs: Arc<Runs>,
    accounts: Arc<Accounts>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    settings: Settings,
    client: reqwest::Client,
    tokens: Arc<run_token::Tokens>,
    /// Calls that are not booked yet.
    bookings: TaskTracker,
    local: Mutex<Option<Arc<LocalModel>>>,
    lists: Mutex<catalog::Lists>,
    /// Models without a price, and the day on which that was last logged.
    warned: Mutex<HashMap<String, String>>,
}

/// A call in the books.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Identifier, `call_…`.
    pub id: String,
    /// The run it belongs to.
    pub run_id: Option<String>,
    /// Who answered.
    pub provider: String,
    /// Which model answered.
    pub model: String,
    /// The tokens it took.
    pub usage: Usage,
    /// Cost in thousand-millionths of a US dollar; none when the price is unknown.
    pub cost_nano_usd: Option<u64>,
    /// Whether some of this is a guess.
    pub estimated: bool,
    /// The provider's HTTP status, 499 when the client went away before there was one, 599 when the server died during
    /// the call; none while it is in progress.
    pub status: Option<u16>,
    /// Milliseconds from request to the end of the answer.
    pub duration_ms: u64,
    /// When it began.
    pub created_at: Timestamp,
}

impl Models {
    /// Makes the service. [`Models::recover`] comes next, before anybody is served.
    ///
    /// # Errors
    /// When the extra certificate authorities cannot be read, or the default model names an unknown provider.
    pub fn new(
        db: Db,
        runs: Arc<Runs>,
        accounts: Arc<Accounts>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
        settings: Settings,
    ) -> Result<Arc<Self>, Error> {
        let client = backlot_models::http::http_client(settings.extra_ca.as_deref())
            .map_err(|error| Error::invalid("extra-ca", error.to_string()))?;
        let models = Self {
            db,
            runs,
            accounts,
            clock,
            ids,
            settings,
            client,
            tokens: Arc::default(),
            bookings: TaskTracker::new(),
            local: Mutex::default(),
            lists: Mutex::default(),
            warned: Mutex::default(),
        };
        models.check_default_model()?;
        Ok(Arc::new(models))
    }

    /// Waits until everything that a run's calls took is booked, and takes no more calls for it. To be awaited before
    /// the run ends, so that its totals are complete: what is booked later would miss them.
    ///
    /// Answers that nobody reads any longer are waited for as long as the limit `settle` says; then they are cut off
    /// and what they took is estimated.
    pub async fn settle(&self, run_id: &str) {
        let Some(ledger) = self.tokens.take_run(run_id) else { return };
        if !ledger.close().await {
            tracing::error!(run.id = run_id, "a run ends with model calls that are not booked yet");
        }
        if let Some(resumed_at) = ledger.resumed_at
            && self.db.engine() == backlot_db::Engine::Postgres
            && let Err(error) = self.recover_run(run_id, resumed_at).await
        {
            tracing::error!(run.id = run_id, ?error, "calls of an earlier execution are not booked yet");
        }
    }

    /// Waits until every call is booked, at most `patience`; for shutting down. What is left then is booked at the
    /// next start.
    pub async fn drain(&self, patience: Duration) {
        self.bookings.close();
        if tokio::time::timeout(patience, self.bookings.wait()).await.is_err() {
            tracing::warn!(
                calls = self.bookings.len(),
                "leaving model calls behind; they are booked at the next start"
            );
        }
    }

    /// The latest calls of an account, newest first.
    ///
    /// # Errors
    /// Database failures.
    pub async fn calls(&self, account_id: &str, limit: u32) -> Result<Vec<Call>, Error> {
        let mut connection = self.db.read().await?;
        store::list(&mut connection, account_id, limit).await
    }
}
