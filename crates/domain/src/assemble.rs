//! Putting the services together, in the order of their dependence.

use std::{path::PathBuf, sync::Arc, time::Duration};

use backlot_blobs::Blobs;
use backlot_db::Db;
use backlot_sandbox::Driver;

use crate::{
    Clock, Domain, Error, Ids,
    accounts::{self, Accounts, Vault},
    code_agents::{self, CodeAgents},
    models::{self, Models},
    runs::{self, Runs},
};

/// Everything the domain is made of: drivers that are chosen at start, and what the operator decides.
pub struct Parts {
    /// The database.
    pub db: Db,
    /// Packed source code.
    pub blobs: Arc<Blobs>,
    /// Makes sandboxes.
    pub driver: Arc<dyn Driver>,
    /// Encrypts secrets.
    pub vault: Arc<Vault>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Identifiers and randomness.
    pub ids: Arc<dyn Ids>,
    /// Settings of accounts.
    pub accounts: accounts::Settings,
    /// Settings of the journal.
    pub runs: runs::Settings,
    /// Settings of models.
    pub models: models::Settings,
    /// Settings of code agents.
    pub code_agents: code_agents::Settings,
}

/// Makes all services. Nothing is executed before [`start`].
///
/// # Errors
/// When folders cannot be used or settings contradict each other.
pub fn assemble(parts: Parts) -> Result<Domain, Error> {
    let Parts { db, blobs, driver, vault, clock, ids, .. } = parts;
    let accounts = Arc::new(Accounts::new(db.clone(), vault, Arc::clone(&clock), Arc::clone(&ids), parts.accounts));
    let runs = Runs::new(db.clone(), Arc::clone(&clock), Arc::clone(&ids), parts.runs);
    let models = Models::new(
        db.clone(),
        Arc::clone(&runs),
        Arc::clone(&accounts),
        Arc::clone(&clock),
        Arc::clone(&ids),
        parts.models,
    )?;
    let code_agents = CodeAgents::new(code_agents::Parts {
        db,
        blobs,
        driver,
        accounts: Arc::clone(&accounts),
        runs: Arc::clone(&runs),
        models: Arc::clone(&models),
        clock,
        ids,
        settings: parts.code_agents,
    })?;
    Ok(Domain { accounts, runs, models, code_agents })
}

/// Starts workers and upkeep.
///
/// # Errors
/// Database failures.
pub async fn start(domain: &Domain) -> Result<(), Error> {
    domain.models.recover().await?;
    domain.code_agents.spawn_upkeep().await?;
    spawn_hourly(domain);
    domain.runs.spawn_workers().await
}

/// Looks through what only time makes superfluous, until the domain is gone.
fn spawn_hourly(domain: &Domain) {
    let (accounts, models) = (Arc::downgrade(&domain.accounts), Arc::downgrade(&domain.models));
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            let (Some(accounts), Some(models)) = (accounts.upgrade(), models.upgrade()) else { return };
            if let Err(error) = accounts.sweep().await {
                tracing::error!(?error, "expired sign-ins could not be removed");
            }
            if let Err(error) = models.recover_of_others().await {
                tracing::error!(?error, "calls of dead nodes could not be booked");
            }
        }
    });
}

/// Ends a node's life in order: no new runs, time for those under way, no sandbox left.
pub async fn stop(domain: &Domain, patience: Duration) {
    domain.runs.drain(patience).await;
    domain.models.drain(patience).await;
    domain.code_agents.shut_down().await;
}

/// Where a data folder keeps what: the one place that knows.
#[derive(Debug, Clone)]
pub struct DataFolder(pub PathBuf);

impl DataFolder {
    /// The embedded database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.0.join("backlot.db")
    }

    /// Packed source code.
    #[must_use]
    pub fn blobs(&self) -> PathBuf {
        self.0.join("blobs")
    }

    /// The master key of all secrets.
    #[must_use]
    pub fn master_key(&self) -> PathBuf {
        self.0.join("keys/master.key")
    }

    /// Layers, scratch space and sessions of code agents.
    #[must_use]
    pub fn code_agents(&self) -> PathBuf {
        self.0.join("code-agents")
    }

    /// What the sandbox driver keeps.
    #[must_use]
    pub fn sandboxes(&self) -> PathBuf {
        self.0.join("sandboxes")
    }

    /// Archives that are being received.
    #[must_use]
    pub fn uploads(&self) -> PathBuf {
        self.0.join("uploads")
    }

    /// Weights of local models.
    #[must_use]
    pub fn models(&self) -> PathBuf {
        self.0.join("models")
    }

    /// Held by the one process that uses the folder.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }
}
