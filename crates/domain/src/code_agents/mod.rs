//! Agents made of code: a small program plus settings, deployed into sandboxes and invoked with a prompt.
//!
//! Words: *deploying* an agent builds its source into an immutable *release*, made of directory *layers*. An
//! *invocation* runs the program once: the prompt goes in on standard input, the answer comes out on standard output.
//! A *session* is a caller-chosen name that pins several invocations to the same sandbox. Deployments and invocations
//! are runs of the journal; their history, logs and usage are read from there.
//!
//! Invariants: an invocation without a session runs in a sandbox that nobody used before; prepared sandboxes hold no
//! secret and no prompt; only an active agent is invoked; what the program caused is a failed invocation, what we
//! caused is an error (spec/castari.md 12.1).
//!
//! Tables: `agents`, `releases`, `agent_sessions`.

mod agent;
mod build;
mod deploy;
mod history;
mod install_plan;
mod invoke;
mod layers;
mod manage;
mod manifest;
mod pool;
mod secrets;
mod sessions;
mod source;
mod store;

use std::{path::PathBuf, sync::Arc, time::Duration};

use backlot_blobs::Blobs;
use backlot_db::Db;
use backlot_sandbox::{Driver, Limits};
use ipnet::IpNet;

pub use agent::{Agent, AgentConfig, AgentPatch, AgentStatus, NetworkMode, NewAgent, SourceType};
pub use deploy::{DeployRequest, Deployed, Deployment, DeploymentStatus, Uploaded};
pub use history::{Invocation, InvocationFilter, InvocationStatus, LogLine, LogStream, UsageSummary};
pub use invoke::Invoke;
pub use secrets::SecretInfo;
pub use sessions::Session;
pub use source::LARGEST_ARCHIVE;

use crate::{Clock, Error, Ids, accounts::Accounts, models::Models, runs::Runs};

/// The kind of run that a deployment is.
pub const DEPLOYMENT: &str = "deployment";
/// The kind of run that an invocation is.
pub const INVOCATION: &str = "invocation";

/// Figures and places that the operator decides.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder for layers, scratch space and sessions.
    pub data: PathBuf,
    /// `host:port` on the host that answers gateway traffic out of sandboxes.
    pub gateway: Option<std::net::SocketAddr>,
    /// Private networks that sandboxes may reach.
    pub allow_networks: Vec<IpNet>,
    /// PEM file of further certificate authorities, shown to install steps.
    pub extra_ca: Option<PathBuf>,
    /// The server's own variables that install steps may see, with their values.
    pub build_env: Vec<(String, String)>,
    /// Limits of a sandbox that runs an agent.
    pub limits: Limits,
    /// Prepared sandboxes per active agent.
    pub warm_per_agent: usize,
    /// Prepared sandboxes in all.
    pub warm_total: usize,
    /// How long an agent stays prepared without being invoked.
    pub warm_idle: Duration,
    /// Invocations that one node executes at a time.
    pub parallel_invocations: usize,
    /// How long an invocation may wait for a worker or its session before it is refused.
    pub queue_patience: Duration,
    /// How long a session's sandbox idles before it is put away; its files stay.
    pub session_idle: Duration,
    /// How long an unused session's files stay.
    pub session_life: Duration,
}

/// The service.
pub struct CodeAgents {
    db: Db,
    blobs: Arc<Blobs>,
    driver: Arc<dyn Driver>,
    accounts: Arc<Accounts>,
    runs: Arc<Runs>,
    models: Arc<Models>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    settings: Settings,
    pool: pool::Pool,
    sessions: sessions::LiveSessions,
    layers: Arc<layers::Layers>,
    /// Held while somebody decides whether to start a deployment.
    deploying: tokio::sync::Mutex<()>,
    /// Held while a tool that all agents of this node share is installed.
    tools: tokio::sync::Mutex<()>,
    /// Held while an uploaded archive is unpacked, which may take a gigabyte of disk and a processor for long.
    unpacking: tokio::sync::Semaphore,
}

/// Archives that are unpacked at a time.
const PARALLEL_UNPACKS: usize = 2;

/// What the service is made of.
pub struct Parts {
    /// The database.
    pub db: Db,
    /// Packed source.
    pub blobs: Arc<Blobs>,
    /// Makes sandboxes.
    pub driver: Arc<dyn Driver>,
    /// Secrets of agents.
    pub accounts: Arc<Accounts>,
    /// The journal.
    pub runs: Arc<Runs>,
    /// Tokens for the model gateway.
    pub models: Arc<Models>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Identifiers.
    pub ids: Arc<dyn Ids>,
    /// Figures and places.
    pub settings: Settings,
}

/// How often idle sandboxes, sessions and layers are looked through.
const TIDY_EVERY: Duration = Duration::from_secs(60);

impl CodeAgents {
    /// Makes the service and registers its executors with the journal. Blocking: it looks through folders.
    ///
    /// # Errors
    /// When the folders below [`Settings::data`] cannot be used.
    pub fn new(parts: Parts) -> Result<Arc<Self>, Error> {
        let layers = layers::Layers::open(&parts.settings.data).map_err(Error::from_disk)?;
        let agents = Arc::new(Self {
            db: parts.db,
            blobs: parts.blobs,
            driver: parts.driver,
            accounts: parts.accounts,
            runs: parts.runs,
            models: parts.models,
            clock: parts.clock,
            ids: parts.ids,
            settings: parts.settings,
            pool: pool::Pool::default(),
            sessions: sessions::LiveSessions::default(),
            layers: Arc::new(layers),
            deploying: tokio::sync::Mutex::new(()),
            tools: tokio::sync::Mutex::new(()),
            unpacking: tokio::sync::Semaphore::new(PARALLEL_UNPACKS),
        });
        agents.runs.register(DEPLOYMENT, Arc::new(deploy::DeploymentExecutor(Arc::downgrade(&agents))));
        let invocations = invoke::InvocationExecutor {
            agents: Arc::downgrade(&agents),
            parallel: agents.settings.parallel_invocations,
        };
        agents.runs.register(INVOCATION, Arc::new(invocations));
        Ok(agents)
    }

    /// Prepares sandboxes and keeps looking after idle ones until the service is dropped.
    ///
    /// # Errors
    /// Database failures.
    pub async fn spawn_upkeep(self: &Arc<Self>) -> Result<(), Error> {
        match self.sweep_layers().await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(layers = removed, "removed layers that no release needs"),
            // They take room, nothing else.
            Err(error) => tracing::error!(?error, "layers that no release needs could not be removed"),
        }
        self.warm_up().await?;
        let agents = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(TIDY_EVERY).await;
                let Some(agents) = agents.upgrade() else { return };
                agents.discard_idle().await;
                if let Err(error) = agents.tidy_sessions().await {
                    tracing::error!(?error, "sessions could not be looked through");
                }
                if let Err(error) = agents.free_stuck_agents().await {
                    tracing::error!(?error, "agents whose deployment was lost could not be looked through");
                }
            }
        });
        Ok(())
    }

    /// Destroys every sandbox of this node, at the end of its life. Files of sessions stay.
    pub async fn shut_down(&self) {
        self.pool.clear().await;
        self.sessions.clear().await;
    }
}

/// Carries an operation to its end also when its caller goes away in the middle.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work).await.map_err(Error::internal)?
}
