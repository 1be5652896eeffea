//! A server with the gateway, one account, and a run that lasts as long as a test wants.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use backlot_blobs::Blobs;
use backlot_db::Db;
use backlot_domain::{
    Domain, Parts, RandomIds, SystemClock,
    accounts::{self, Credentials, Vault},
    assemble, code_agents,
    models::{Call, Limits, Provider, ProviderKeys, RunToken, Settings, Wire},
    runs::{self, Body, Event, Executor, NewRun, Outcome, Run, RunContext, Status},
};
use backlot_faces::gateway;
use backlot_sandbox::{Driver, Preflight, Sandbox, Spec};
use backlot_testkit::scripted_model::ScriptedModel;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// The operator's key at the provider, which nobody else must ever see.
pub(crate) const PROVIDER_KEY: &str = "sk-operator-0123456789abcdef-SECRET";
/// The kind of run that tests make.
const KIND: &str = "gateway_test";

/// The running server.
pub(crate) struct World {
    pub(crate) domain: Domain,
    pub(crate) provider: Arc<ScriptedModel>,
    /// Base address for Anthropic's SDKs; OpenAI's is next to it.
    pub(crate) url: String,
    pub(crate) account_id: String,
    /// An API key of the account.
    pub(crate) key: String,
    pub(crate) client: reqwest::Client,
    waiting: Arc<Waiting>,
    folder: Option<tempfile::TempDir>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// How the server is set up.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) anthropic: bool,
    pub(crate) openai: bool,
    pub(crate) compatible: bool,
    /// Where Anthropic is, if not at the scripted provider.
    pub(crate) anthropic_url: Option<String>,
    pub(crate) default_model: Option<String>,
    pub(crate) limits: Limits,
    /// TOML of prices; without it the models of tests have prices.
    pub(crate) prices: Option<&'static str>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            anthropic: true,
            openai: true,
            compatible: false,
            anthropic_url: None,
            default_model: None,
            // The prices of tests are high.
            limits: Limits { run_cost_nano_usd: Some(1_000_000_000_000), ..Limits::default() },
            prices: Some(PRICES),
        }
    }
}

/// One cent per token in, two per token out: figures that are easy to check.
pub(crate) const PRICES: &str = r#"
[models]
"claude-test*" = { input = 10000, output = 20000, cache_read = 1000, cache_write_5m = 12500, cache_write_1h = 20000 }
"gpt-test*" = { input = 10000, output = 20000, cache_read = 1000 }
"claude-cheap*" = { input = 1, output = 2 }
"#;

impl World {
    /// A server with both vendors behind it.
    pub(crate) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub(crate) async fn with(setup: Setup) -> Self {
        let provider = Arc::new(ScriptedModel::start().await);
        provider.require_key(PROVIDER_KEY);
        let folder = tempfile::tempdir().unwrap();
        Self::open(folder, provider, &setup).await
    }

    /// A server with Anthropic's API, and all default models, at this address.
    pub(crate) async fn behind(anthropic_url: &str) -> Self {
        let setup = Setup { openai: false, anthropic_url: Some(anthropic_url.to_owned()), ..Setup::default() };
        Self::with(setup).await
    }

    /// The same data and provider in a new life of the server, as after a kill: nothing of the old one is closed.
    pub(crate) async fn restart(mut self, setup: &Setup) -> Self {
        self.server.abort();
        let folder = self.folder.take().unwrap();
        let (provider, key, account_id) = (Arc::clone(&self.provider), self.key.clone(), self.account_id.clone());
        drop(self);
        let mut world = Self::open(folder, provider, setup).await;
        world.key = key;
        world.account_id = account_id;
        world
    }

    async fn open(folder: tempfile::TempDir, provider: Arc<ScriptedModel>, setup: &Setup) -> Self {
        let (domain, waiting) = open_domain(folder.path(), &provider, setup).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/gateway/anthropic", listener.local_addr().unwrap());
        let router = axum::Router::new().nest("/gateway", gateway::router(domain.clone()));
        let server = tokio::spawn(async move {
            let listener = axum::serve::ListenerExt::tap_io(listener, |stream| stream.set_nodelay(true).unwrap());
            axum::serve(listener, router).await.unwrap();
        });
        let credentials = Credentials {
            email: format!("ada-{}@example.com", rand_suffix()),
            password: "a long password".into(),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
        };
        let registered = domain.accounts.register(credentials).await.unwrap();
        Self {
            url,
            account_id: registered.account.id,
            key: registered.api_key.expose().to_owned(),
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            domain,
            provider,
            waiting,
            folder: Some(folder),
            server,
        }
    }

    /// The base address for OpenAI's SDKs.
    pub(crate) fn openai_url(&self) -> String {
        self.url.replace("/gateway/anthropic", "/gateway/openai/v1")
    }

    /// Where calls of this format go.
    pub(crate) fn address(&self, wire: Wire) -> String {
        match wire {
            Wire::AnthropicMessages => format!("{}/v1/messages", self.url),
            Wire::OpenAiChat => format!("{}/chat/completions", self.openai_url()),
            Wire::OpenAiResponses => format!("{}/responses", self.openai_url()),
        }
    }

    /// A call with a credential.
    pub(crate) fn post(&self, wire: Wire, credential: &str, body: &Value) -> reqwest::RequestBuilder {
        self.client.post(self.address(wire)).bearer_auth(credential).json(body)
    }

    /// Starts a run and gives it a token of the gateway.
    pub(crate) async fn run(&self) -> OpenRun {
        self.run_with(ProviderKeys::default()).await
    }

    pub(crate) async fn run_with(&self, keys: ProviderKeys) -> OpenRun {
        let (send_token, token) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        self.waiting.0.lock().unwrap().push(Script { keys, send_token, ended });
        let new = NewRun {
            prefix: "inv",
            kind: KIND,
            account_id: self.account_id.clone(),
            subject: "agt_test".into(),
            session: None,
            parent_id: None,
            input: Value::Null,
            deadline: None,
            idempotency_key: None,
        };
        let id = self.domain.runs.start(new, None).await.unwrap().run.id;
        let secret = token.await.unwrap();
        OpenRun { id, secret, end: Some(end) }
    }

    /// The run as the journal has it.
    pub(crate) async fn journal(&self, run_id: &str) -> Run {
        self.domain.runs.get(&self.account_id, run_id).await.unwrap()
    }

    /// Lets a run end, and waits for that.
    pub(crate) async fn end(&self, run: &mut OpenRun) -> Run {
        run.end.take().unwrap().send(()).unwrap();
        self.ended(&run.id).await
    }

    /// Waits for the end of a run.
    pub(crate) async fn ended(&self, run_id: &str) -> Run {
        let followed = self.domain.runs.follow(&self.account_id, run_id, runs::Position::default()).await.unwrap();
        let count = followed.count().await;
        assert!(count > 0);
        let run = self.journal(run_id).await;
        assert!(run.status.is_terminal());
        run
    }

    /// The model calls in a run's journal.
    pub(crate) async fn model_events(&self, run_id: &str) -> Vec<Event> {
        let events = self.domain.runs.events(&self.account_id, run_id, 0, 1000).await.unwrap();
        events.into_iter().filter(|event| matches!(event.body, Body::ModelCalled { .. })).collect()
    }

    /// The account's calls, newest first, as soon as there are `count` that have ended.
    pub(crate) async fn calls(&self, count: usize) -> Vec<Call> {
        let wait = async {
            loop {
                let calls = self.domain.models.calls(&self.account_id, 1000).await.unwrap();
                if calls.len() >= count && calls.iter().all(|call| call.status.is_some()) {
                    assert_eq!(calls.len(), count);
                    return calls;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.expect("the calls are booked")
    }
}

/// A run in progress.
pub(crate) struct OpenRun {
    pub(crate) id: String,
    pub(crate) secret: String,
    end: Option<oneshot::Sender<()>>,
}

struct Script {
    keys: ProviderKeys,
    send_token: oneshot::Sender<String>,
    ended: oneshot::Receiver<()>,
}

/// Runs that are asked for and not executed yet.
#[derive(Default)]
struct Waiting(Mutex<Vec<Script>>);

/// Holds a token as an agent's execution would, and ends as it should.
struct Holder {
    models: Arc<backlot_domain::models::Models>,
    waiting: Arc<Waiting>,
}

#[async_trait::async_trait]
impl Executor for Holder {
    async fn execute(&self, run: &RunContext) -> Outcome {
        let Some(script) = self.waiting.0.lock().unwrap().pop() else { return Outcome::completed(Value::Null) };
        let token: RunToken = self.models.open_run_token(run.run(), script.keys);
        script.send_token.send(token.secret().to_owned()).unwrap();
        let _told_or_forgotten = script.ended.await;
        drop(token);
        self.models.settle(&run.run().id).await;
        Outcome::completed(json!("done"))
    }

    fn slots(&self) -> usize {
        64
    }

    fn is_metered(&self) -> bool {
        true
    }
}

async fn open_domain(folder: &Path, provider: &ScriptedModel, setup: &Setup) -> (Domain, Arc<Waiting>) {
    let db = Db::open(&format!("sqlite://{}", folder.join("test.db").display())).await.unwrap();
    let key = || Some(PROVIDER_KEY.into());
    let mut providers = Vec::new();
    if setup.anthropic {
        let url = setup.anthropic_url.clone().unwrap_or_else(|| provider.anthropic_url());
        providers.push(Provider::anthropic(Some(&url), key()));
    }
    if setup.openai {
        providers.push(Provider::openai(Some(&provider.openai_url()), key()));
    }
    if setup.compatible {
        let default = Some("llama-test".to_owned());
        providers.push(Provider::compatible("lab", &provider.openai_url(), key(), default));
    }
    let mut models = Settings {
        providers,
        default_model: setup.default_model.clone(),
        limits: setup.limits.clone(),
        ..Settings::default()
    };
    if let Some(prices) = setup.prices {
        models.prices = backlot_domain::models::Prices::parse(prices).unwrap();
    }
    let parts = Parts {
        db,
        blobs: Arc::new(Blobs::open(folder.join("blobs")).unwrap()),
        driver: Arc::new(NoSandboxes),
        vault: Arc::new(Vault::open(&folder.join("master.key"), &RandomIds).unwrap()),
        clock: Arc::new(SystemClock),
        ids: Arc::new(RandomIds),
        accounts: accounts::Settings { signup: accounts::Signup::Open, ..accounts::Settings::default() },
        runs: runs::Settings::default(),
        models,
        code_agents: code_agents_settings(folder),
    };
    let domain = assemble(parts).unwrap();
    let waiting = Arc::new(Waiting::default());
    let holder = Holder { models: Arc::clone(&domain.models), waiting: Arc::clone(&waiting) };
    domain.runs.register(KIND, Arc::new(holder));
    domain.models.recover().await.unwrap();
    domain.runs.spawn_workers().await.unwrap();
    (domain, waiting)
}

fn code_agents_settings(folder: &Path) -> code_agents::Settings {
    let hour = Duration::from_secs(3600);
    code_agents::Settings {
        data: folder.to_owned(),
        gateway: None,
        allow_networks: Vec::new(),
        extra_ca: None,
        build_env: Vec::new(),
        limits: backlot_sandbox::Limits::default(),
        warm_per_agent: 0,
        warm_total: 0,
        warm_idle: hour,
        parallel_invocations: 1,
        queue_patience: hour,
        session_idle: hour,
        session_life: hour,
    }
}

/// No test here executes an agent.
struct NoSandboxes;

#[async_trait::async_trait]
impl Driver for NoSandboxes {
    async fn create(&self, _spec: Spec) -> Result<Box<dyn Sandbox>, backlot_sandbox::Error> {
        Err(backlot_sandbox::Error::Unsupported("this test has none".into()))
    }

    fn preflight(&self) -> Preflight {
        Preflight { checks: Vec::new() }
    }
}

fn rand_suffix() -> String {
    use backlot_domain::Ids as _;
    RandomIds.base62(12).to_lowercase()
}

/// A request in each format, with a model and a question.
pub(crate) fn question(wire: Wire, model: &str, text: &str, stream: bool) -> Value {
    let messages = json!([{"role": "user", "content": text}]);
    match wire {
        Wire::AnthropicMessages => json!({"model": model, "max_tokens": 100, "messages": messages, "stream": stream}),
        Wire::OpenAiChat => {
            json!({"model": model, "max_completion_tokens": 100, "messages": messages, "stream": stream})
        }
        Wire::OpenAiResponses => json!({"model": model, "max_output_tokens": 100, "input": text, "stream": stream}),
    }
}

/// The text of an unstreamed answer in each format.
pub(crate) fn said(wire: Wire, body: &Value) -> &str {
    let text = match wire {
        Wire::AnthropicMessages => &body["content"][0]["text"],
        Wire::OpenAiChat => &body["choices"][0]["message"]["content"],
        Wire::OpenAiResponses => &body["output"][0]["content"][0]["text"],
    };
    text.as_str().unwrap_or_else(|| panic!("an answer with text: {body}"))
}

pub(crate) const WIRES: [Wire; 3] = [Wire::AnthropicMessages, Wire::OpenAiChat, Wire::OpenAiResponses];

pub(crate) fn is_over(run: &Run) -> bool {
    run.status == Status::Completed
}
