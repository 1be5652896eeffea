//! A whole server in the test's process: real domain, real sandboxes, real HTTP on a free port; the models are
//! scripted.

use std::{net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use backlot_blobs::Blobs;
use backlot_db::Db;
use backlot_domain::{
    Clock, DataFolder, Domain, Parts, RandomIds, SystemClock,
    accounts::{self, RateLimits, SecretString, Signup, Vault},
    code_agents,
    models::{self, Provider},
    runs,
};
use backlot_faces::{
    FacesSettings,
    http::{ConnectionLimits, Readiness},
};
use backlot_sandbox::{
    Limits,
    process::{Options, ProcessDriver},
};
use ipnet::IpNet;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{Person, TestDatabase, launcher, scripted_model::ScriptedModel};

/// The operator's key at the scripted provider.
pub const PROVIDER_KEY: &str = "sk-operator-0123456789-SECRET";

/// How a server is set up.
pub struct Setup {
    /// Time; the machine's unless a test has its own.
    pub clock: Arc<dyn Clock>,
    /// Who may register; anybody.
    pub signup: Signup,
    /// Rate limits; none unless a test is about them.
    pub rate_limits: RateLimits,
    /// The database; SQLite in a temporary folder unless given.
    pub database: Option<TestDatabase>,
    /// Settings of the faces.
    pub faces: FacesSettings,
    /// How long an invocation waits for its session or a worker.
    pub queue_patience: Duration,
    /// Invocations that are executed at a time.
    pub parallel_invocations: usize,
    /// Otherwise refused networks that sandboxes may reach.
    pub allow_networks: Vec<IpNet>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            signup: Signup::Open,
            rate_limits: RateLimits { enabled: false, ..RateLimits::default() },
            database: None,
            faces: FacesSettings::default(),
            queue_patience: Duration::from_secs(30),
            parallel_invocations: 8,
            allow_networks: Vec::new(),
        }
    }
}

/// A running server. Dropping it stops it, without waiting.
pub struct TestServer {
    /// The services behind it.
    pub domain: Domain,
    /// The provider of models.
    pub model: ScriptedModel,
    /// Told at `/readyz`.
    pub readiness: Readiness,
    /// `http://127.0.0.1:<port>`
    pub url: String,
    shutdown: CancellationToken,
    listeners: Vec<JoinHandle<()>>,
    _database: Option<TestDatabase>,
    folder: tempfile::TempDir,
}

impl TestServer {
    /// A server, Ada who has an account, and somebody without one.
    pub async fn start() -> (Self, Person, Person) {
        Self::with(Setup::default()).await
    }

    /// The same, set up otherwise.
    ///
    /// # Panics
    /// When something does not start.
    pub async fn with(setup: Setup) -> (Self, Person, Person) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        open_to_sandboxes(folder.path());
        let data = DataFolder(folder.path().to_owned());
        let model = ScriptedModel::start().await;
        model.require_key(PROVIDER_KEY);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let gateway = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound listener"));
        let db = match &setup.database {
            Some(database) => database.db().clone(),
            None => {
                let url = format!("sqlite://{}", data.database().display());
                Db::open(&url).await.expect("SQLite opens")
            }
        };
        let (launcher, arguments) = launcher::command();
        let driver = ProcessDriver::start(Options::new(launcher, arguments, data.sandboxes())).expect("a driver");
        let ids = Arc::new(RandomIds);
        let vault = Vault::open(&data.master_key(), ids.as_ref()).expect("a master key");
        let domain = backlot_domain::assemble(Parts {
            db,
            blobs: Arc::new(Blobs::open(data.blobs()).expect("a folder")),
            driver: Arc::new(driver),
            vault: Arc::new(vault),
            clock: Arc::clone(&setup.clock),
            ids,
            accounts: accounts::Settings {
                signup: setup.signup,
                rate_limits: setup.rate_limits,
                ..accounts::Settings::default()
            },
            runs: runs::Settings::default(),
            models: model_settings(&model),
            code_agents: code_agents::Settings {
                data: data.code_agents(),
                gateway: Some(gateway.local_addr().expect("a bound listener")),
                allow_networks: setup.allow_networks,
                extra_ca: None,
                build_env: Vec::new(),
                limits: Limits::default(),
                warm_per_agent: 1,
                warm_total: 4,
                warm_idle: Duration::from_secs(1800),
                parallel_invocations: setup.parallel_invocations,
                queue_patience: setup.queue_patience,
                session_idle: Duration::from_secs(600),
                session_life: Duration::from_secs(7 * 24 * 3600),
            },
        })
        .expect("a domain");
        backlot_domain::start(&domain).await.expect("workers start");
        let shutdown = CancellationToken::new();
        let readiness = setup.faces.readiness.clone();
        let routers = [
            (listener, backlot_faces::router(domain.clone(), setup.faces)),
            (gateway, backlot_faces::gateway_router(domain.clone())),
        ];
        let listeners = routers.into_iter().map(|(listener, router)| {
            let limits = ConnectionLimits { drain: Duration::from_secs(5), ..ConnectionLimits::default() };
            let ended = shutdown.clone().cancelled_owned();
            tokio::spawn(backlot_faces::http::serve(listener, router, limits, ended))
        });
        let listeners = listeners.collect();
        let server = Self { domain, model, readiness, url, shutdown, listeners, _database: setup.database, folder };
        let anonymous = server.stranger();
        let ada = match setup.signup {
            Signup::Closed => anonymous.clone(),
            Signup::First | Signup::Open => server.register("ada@example.com").await,
        };
        (server, ada, anonymous)
    }

    /// Where the server keeps its data; gone with the server.
    #[must_use]
    pub fn data(&self) -> DataFolder {
        DataFolder(self.folder.path().to_owned())
    }

    /// Somebody without an account.
    #[must_use]
    pub fn stranger(&self) -> Person {
        Person::new(&self.url, None)
    }

    /// Somebody with a new account, and its first API key as credential.
    ///
    /// # Panics
    /// When the server does not play along.
    pub async fn register(&self, email: &str) -> Person {
        let body = serde_json::json!({ "email": email, "password": "correct horse" });
        let answer = self.stranger().post("/caster/api/v1/auth/register", body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let key = answer.body["api_key"].as_str().expect("a key");
        Person::new(&self.url, Some(key.to_owned()))
    }

    /// Closes the listeners, and waits until answers under way are finished.
    ///
    /// # Panics
    /// When a listener panicked.
    pub async fn close_listeners(&mut self) {
        self.shutdown.cancel();
        for listener in self.listeners.drain(..) {
            listener.await.expect("a listener ends well");
        }
    }

    /// Ends everything in order, as SIGTERM does.
    pub async fn stop(mut self) {
        self.readiness.drain();
        backlot_domain::stop(&self.domain, Duration::from_secs(10)).await;
        self.close_listeners().await;
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        for listener in &self.listeners {
            listener.abort();
        }
    }
}

fn model_settings(model: &ScriptedModel) -> models::Settings {
    let key = || Some(SecretString::from(PROVIDER_KEY));
    models::Settings {
        providers: vec![
            Provider::anthropic(Some(&model.anthropic_url()), key()),
            Provider::openai(Some(&model.openai_url()), key()),
        ],
        ..models::Settings::default()
    }
}

/// Sandboxes run as other users, who must be able to pass through.
fn open_to_sandboxes(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("the folder is ours");
}
