//! A model provider that follows a script: a real HTTP server that speaks Anthropic's Messages (with
//! `count_tokens` and `models`), OpenAI's Chat Completions and Responses, streamed and not.
//!
//! Say what the model does with [`ScriptedModel::push`], run what is to be tested, and look at what was asked with
//! [`ScriptedModel::requests`]. Requests that a real provider would refuse are refused in the provider's shape, and
//! kept in [`ScriptedModel::violations`]. Without a script it echoes: `echo: ` and the last text of the user, word
//! by word; a text `/tool <name> <json>` makes it call that tool, once.

mod answer;
mod check;
mod turn;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{OriginalUri, Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::{get, post};
use backlot_models::wire::{ModelCard, Wire};
use backlot_models::{Block, Request, Role};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use turn::Turn;

/// A running scripted provider; it ends with this value.
#[derive(Debug)]
pub struct ScriptedModel {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

/// A request that came in.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The format it was written in.
    pub wire: Wire,
    /// Path and query.
    pub path: String,
    /// Headers as they came; keep them out of logs, for they hold the key.
    pub headers: HeaderMap,
    /// The body as it came.
    pub body: Bytes,
    /// The body in neutral form, if it was understood.
    pub request: Option<Request>,
    /// Whether a stream was asked for.
    pub stream: bool,
}

impl Recorded {
    /// The key that came with the request, whichever header held it.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        key(&self.headers)
    }

    /// The body as JSON; `null` if it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

type Responder = Arc<dyn Fn(&Request) -> Turn + Send + Sync>;

#[derive(Default)]
struct Shared {
    state: Mutex<Script>,
}

#[derive(Default)]
struct Script {
    turns: VecDeque<Turn>,
    responder: Option<Responder>,
    requests: Vec<Recorded>,
    violations: Vec<String>,
    key: Option<String>,
    forgetful: bool,
    answered: u64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Drop for ScriptedModel {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl ScriptedModel {
    /// Starts on a free port of the loopback interface.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::serve(listener)
    }

    /// Serves on this listener.
    ///
    /// # Panics
    /// When the listener has no address.
    #[must_use]
    pub fn serve(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("a bound listener");
        let shared = Arc::new(Shared::default());
        let router = router(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            // Ends with the task only.
            let _ = axum::serve(
                axum::serve::ListenerExt::tap_io(listener, |stream| {
                    let _ = stream.set_nodelay(true); // pieces are to arrive as they are written
                }),
                router,
            )
            .await;
        });
        Self { address, shared, server }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base address for Anthropic's SDKs.
    #[must_use]
    pub fn anthropic_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The base address for OpenAI's SDKs.
    #[must_use]
    pub fn openai_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Adds what it does on the next request that has no turn yet.
    pub fn push(&self, turn: Turn) {
        self.shared.lock().turns.push_back(turn);
    }

    /// Adds several turns.
    pub fn script(&self, turns: impl IntoIterator<Item = Turn>) {
        self.shared.lock().turns.extend(turns);
    }

    /// Decides by the request when no pushed turn is left, instead of echoing.
    pub fn respond_with(&self, responder: impl Fn(&Request) -> Turn + Send + Sync + 'static) {
        self.shared.lock().responder = Some(Arc::new(responder));
    }

    /// Accepts this key only; otherwise any key will do, but one there must be.
    pub fn require_key(&self, key: &str) {
        self.shared.lock().key = Some(key.to_owned());
    }

    /// Keeps no requests, for benchmarks.
    pub fn forget_requests(&self) {
        self.shared.lock().forgetful = true;
    }

    /// The requests for answers so far, refused ones included.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.lock().requests.clone()
    }

    /// Why requests were refused that a real provider would have refused too.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.shared.lock().violations.clone()
    }

    /// How many pushed turns have not been used.
    #[must_use]
    pub fn turns_left(&self) -> usize {
        self.shared.lock().turns.len()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Script> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/messages", post(messages))
        .route("/v1/messages/count_tokens", post(count_tokens))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/responses", post(responses))
        .route("/v1/models", get(models))
        .route("/v1/models/{id}", get(model))
        .layer(axum::extract::DefaultBodyLimit::max(64 * 1024 * 1024))
        .with_state(shared)
}

async fn messages(shared: State<Arc<Shared>>, uri: OriginalUri, headers: HeaderMap, body: Bytes) -> Response {
    answer::answer(&shared, Wire::AnthropicMessages, &uri, headers, body).await
}

async fn chat(shared: State<Arc<Shared>>, uri: OriginalUri, headers: HeaderMap, body: Bytes) -> Response {
    answer::answer(&shared, Wire::OpenAiChat, &uri, headers, body).await
}

async fn responses(shared: State<Arc<Shared>>, uri: OriginalUri, headers: HeaderMap, body: Bytes) -> Response {
    answer::answer(&shared, Wire::OpenAiResponses, &uri, headers, body).await
}

async fn count_tokens(shared: State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    answer::count_tokens(&shared, &headers, &body)
}

async fn models(shared: State<Arc<Shared>>, headers: HeaderMap) -> Response {
    answer::listing(&shared, &headers, |wire| Some(wire.encode_models(&cards())))
}

async fn model(shared: State<Arc<Shared>>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    answer::listing(&shared, &headers, |wire| {
        cards().iter().find(|card| card.id == id).map(|card| wire.encode_model(card))
    })
}

fn cards() -> Vec<ModelCard> {
    let card = |id: &str, display_name: &str| ModelCard {
        id: id.to_owned(),
        display_name: display_name.to_owned(),
        owner: "backlot".to_owned(),
        created: 1_760_000_000,
    };
    vec![card("scripted-1", "Scripted 1"), card("scripted-2", "Scripted 2")]
}

fn key(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let key = text("x-api-key").or_else(|| text("authorization").and_then(|value| value.strip_prefix("Bearer ")));
    key.filter(|key| !key.is_empty())
}

/// What it does without a script.
fn echo(request: &Request) -> Turn {
    let last = request.messages.last().filter(|message| message.role == Role::User);
    let blocks = last.map(|message| message.content.as_slice()).unwrap_or_default();
    let mut said = String::new();
    for block in blocks {
        match block {
            Block::Text { text } => said = text.clone(),
            Block::ToolResult { content, .. } => {
                let texts = content.iter().filter_map(|block| match block {
                    Block::Text { text } => Some(text.as_str()),
                    _ => None,
                });
                said = texts.collect();
            }
            _ => {}
        }
    }
    let order = said.strip_prefix("/tool ").map(|order| order.trim().split_once(' ').unwrap_or((order.trim(), "{}")));
    if let Some((name, arguments)) = order
        && request.tools.iter().any(|tool| tool.name == name)
    {
        return Turn::text("Calling.").tool_call("call_echo", name, arguments);
    }
    Turn::text("echo: ").say_pieces(said.split_inclusive(' '))
}
