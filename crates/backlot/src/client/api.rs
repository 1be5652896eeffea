//! The server's HTTP interface, typed: one method per call, and one place where answers become errors.
//!
//! Paths and shapes are those of the castari seed and `spec/castari.md`; registration and login are the
//! caster face's, the model lists the gateway's. An answer keeps the server's JSON whole beside the few fields that
//! tables need, so that `--json` shows what was sent and a newer server does not break an older client.

use std::ops::Deref;
use std::time::Duration;

use bytes::Bytes;
use reqwest::{Method, RequestBuilder, Response, StatusCode, multipart};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use url::Url;

use super::credentials::{Target, server_name};
use super::error::Error;
use super::output::harmless;
use super::sse;
use crate::cli::ApiKey;

/// Longest wait for an ordinary call.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The server itself waits up to 280 s for an uploaded deployment (`spec/castari.md` 8.11).
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(330);
/// And up to 100 s for one from git (8.9).
const DEPLOY_TIMEOUT: Duration = Duration::from_secs(150);
/// Largest JSON answer we read: a whole invocation with 8 MiB of escaped output fits.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Items per page when everything is wanted; the API's maximum.
const PAGE: usize = 100;
/// Pages after which a list is cut: a server that says "more" for ever must not hang us.
const MAX_PAGES: usize = 1000;

/// A JSON object of the server: whole, and with its fields.
#[derive(Debug, Clone)]
pub(crate) struct Answer<T> {
    /// What the server sent.
    pub(crate) raw: Value,
    fields: T,
}

impl<T: DeserializeOwned> Answer<T> {
    /// Reads the fields.
    ///
    /// # Errors
    /// When a field that the client needs is absent or of another type.
    pub(crate) fn read(raw: Value) -> Result<Self, Error> {
        match T::deserialize(&raw) {
            Ok(fields) => Ok(Self { raw, fields }),
            Err(e) => Err(Error::failed_with(
                format!("the server's answer is not understood: {e}"),
                "client and server may be of different versions: compare `backlot --version` on both",
            )),
        }
    }
}

impl<T> Deref for Answer<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.fields
    }
}

/// An agent, as tables show it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Agent {
    pub(crate) slug: String,
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) description: Option<String>,
    #[serde(default)]
    pub(crate) source_type: String,
    #[serde(default)]
    pub(crate) git_repo_url: Option<String>,
    #[serde(default)]
    pub(crate) git_branch: Option<String>,
    #[serde(default)]
    pub(crate) source_hash: Option<String>,
    #[serde(default)]
    pub(crate) default_model: Option<String>,
    #[serde(default)]
    pub(crate) max_turns: Option<u64>,
    #[serde(default)]
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) status_message: Option<String>,
    #[serde(default)]
    pub(crate) sandbox_id: Option<String>,
    #[serde(default)]
    pub(crate) created_at: String,
    #[serde(default)]
    pub(crate) updated_at: String,
}

/// The result of a run (InvocationResponse of the types seed), or an item of the history.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Invocation {
    #[serde(alias = "id")]
    pub(crate) invocation_id: String,
    #[serde(default)]
    pub(crate) session_id: Option<String>,
    #[serde(default)]
    pub(crate) prompt: Option<String>,
    #[serde(default)]
    pub(crate) response_content: Option<String>,
    #[serde(default)]
    pub(crate) input_tokens: u64,
    #[serde(default)]
    pub(crate) output_tokens: u64,
    #[serde(default)]
    pub(crate) total_cost_usd: Value,
    /// Model calls whose price is unknown, so that the cost is not all of it.
    #[serde(default)]
    pub(crate) unpriced_calls: u64,
    #[serde(default)]
    pub(crate) duration_ms: Option<u64>,
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) error: Option<RunError>,
    #[serde(default)]
    pub(crate) created_at: Option<String>,
}

/// Why a run failed.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct RunError {
    #[serde(default)]
    pub(crate) code: String,
    #[serde(default)]
    pub(crate) message: String,
}

/// One build of an agent.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Deployment {
    pub(crate) id: String,
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) message: Option<String>,
}

/// A secret: its name, never its value.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Secret {
    pub(crate) key: String,
    #[serde(default)]
    pub(crate) created_at: Option<String>,
    #[serde(default)]
    pub(crate) updated_at: Option<String>,
}

/// A session of an agent.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct AgentSession {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) sandbox_id: Option<String>,
    #[serde(default)]
    pub(crate) created_at: Option<String>,
    #[serde(default)]
    pub(crate) last_invocation_at: Option<String>,
}

/// An API key's record; the key itself is only in the answer to its creation.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct KeyRecord {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) prefix: String,
    #[serde(default)]
    pub(crate) created_at: Option<String>,
    #[serde(default)]
    pub(crate) last_used_at: Option<String>,
}

/// A new API key with its record.
#[derive(Debug, Deserialize)]
pub(crate) struct NewKey {
    pub(crate) key: ApiKey,
    pub(crate) api_key: KeyRecord,
}

/// The account a key belongs to.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Me {
    #[serde(default)]
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) email: String,
    #[serde(default)]
    pub(crate) api_key_prefix: Option<String>,
}

/// Totals of a period.
#[derive(Debug, Deserialize)]
pub(crate) struct Usage {
    pub(crate) total_invocations: u64,
    pub(crate) total_input_tokens: u64,
    pub(crate) total_output_tokens: u64,
    #[serde(default)]
    pub(crate) total_cost_usd: Value,
    #[serde(default)]
    pub(crate) unpriced_calls: u64,
    #[serde(default)]
    pub(crate) period_start: String,
    #[serde(default)]
    pub(crate) period_end: String,
}

/// Totals of one day.
#[derive(Debug, Deserialize)]
pub(crate) struct DayUsage {
    pub(crate) date: String,
    #[serde(default)]
    pub(crate) invocation_count: u64,
    #[serde(default)]
    pub(crate) input_tokens: u64,
    #[serde(default)]
    pub(crate) output_tokens: u64,
    #[serde(default)]
    pub(crate) cost_usd: Value,
    #[serde(default)]
    pub(crate) unpriced_calls: u64,
}

/// One line of a run's or a build's log.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct LogLine {
    #[serde(default)]
    pub(crate) ts: Option<String>,
    #[serde(default)]
    pub(crate) stream: Option<String>,
    #[serde(default)]
    pub(crate) text: String,
}

/// What to invoke with.
#[derive(Debug)]
pub(crate) struct InvokeRequest<'a> {
    pub(crate) slug: &'a str,
    pub(crate) prompt: &'a str,
    pub(crate) session: Option<&'a str>,
    /// Names this call, so that sending it again gives the first run and starts no second one.
    pub(crate) idempotency_key: &'a str,
    /// Longest wait for the answer.
    pub(crate) timeout: Duration,
}

/// A connection to one server.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    http: reqwest::Client,
    server: Url,
    key: Option<ApiKey>,
}

impl Api {
    /// Prepares a client for the server; nothing is sent yet.
    ///
    /// # Errors
    /// When an https address is given and this machine has no certificate authorities.
    #[expect(
        clippy::disallowed_methods,
        reason = "the client of our own server: short waits, no authorities where none are needed"
    )]
    pub(crate) fn new(target: &Target) -> Result<Self, Error> {
        // A second installation answers Err and changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("backlot/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            // A redirected POST would lose its body, and a key must not follow to another host.
            .redirect(reqwest::redirect::Policy::none());
        if target.server.scheme() == "http" {
            // Without certificate authorities on the machine the TLS setup fails, which plain HTTP need not care about.
            builder = builder.tls_certs_only([]);
        }
        if is_loopback(&target.server) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|e| {
            Error::failed_with(
                format!("cannot prepare TLS: {}", deepest_cause(&e)),
                "install the certificate authorities (package ca-certificates)",
            )
        })?;
        Ok(Self { http, server: target.server.clone(), key: target.key.as_ref().map(|(k, _)| k.clone()) })
    }

    /// The same connection with another credential.
    pub(crate) fn with_key(&self, key: ApiKey) -> Self {
        Self { key: Some(key), ..self.clone() }
    }

    /// The server's address as it is printed.
    pub(crate) fn server(&self) -> &str {
        server_name(&self.server)
    }

    // ── account ──────────────────────────────────────────────────────────

    /// Makes an account; the answer carries `api_key`.
    pub(crate) async fn register(&self, email: &str, password: &str) -> Result<Value, Error> {
        let url = self.url(&["caster", "api", "v1", "auth", "register"])?;
        self.json(self.http.post(url).json(&json!({"email": email, "password": password}))).await
    }

    /// Checks a password; our servers answer with a short-lived `access_token` besides the user.
    pub(crate) async fn login(&self, email: &str, password: &str) -> Result<Value, Error> {
        let url = self.url(&["caster", "api", "v1", "auth", "login"])?;
        self.json(self.http.post(url).json(&json!({"email": email, "password": password}))).await
    }

    /// Who the key belongs to.
    pub(crate) async fn me(&self) -> Result<Answer<Me>, Error> {
        Answer::read(self.get(&["auth", "me"], &[]).await?)
    }

    /// All API keys of the account.
    pub(crate) async fn keys(&self) -> Result<Vec<Answer<KeyRecord>>, Error> {
        self.list(&["api-keys"], "api_keys", &[], None).await
    }

    /// Makes an API key.
    pub(crate) async fn create_key(&self, name: &str, scopes: &[String]) -> Result<Answer<NewKey>, Error> {
        let mut body = json!({"name": name});
        if !scopes.is_empty() {
            body["scopes"] = json!(scopes);
        }
        Answer::read(self.send(Method::POST, &["api-keys"], Some(&body)).await?)
    }

    /// Revokes an API key.
    pub(crate) async fn revoke_key(&self, id: &str) -> Result<(), Error> {
        self.send(Method::DELETE, &["api-keys", id], None).await.map(drop)
    }

    /// Totals over the last `days` days.
    pub(crate) async fn usage(&self, days: u16) -> Result<Answer<Usage>, Error> {
        Answer::read(self.get(&["usage"], &[("days", days.to_string())]).await?)
    }

    /// One entry per day with runs, and the answer as it came.
    pub(crate) async fn daily_usage(&self, days: u16) -> Result<(Value, Vec<Answer<DayUsage>>), Error> {
        let raw = self.get(&["usage", "daily"], &[("days", days.to_string())]).await?;
        let list = raw.get("daily_usage").and_then(Value::as_array).cloned().unwrap_or_default();
        let days = list.into_iter().map(Answer::read).collect::<Result<_, _>>()?;
        Ok((raw, days))
    }

    /// The model list of one gateway dialect, `anthropic` or `openai`.
    pub(crate) async fn models(&self, dialect: &str) -> Result<Vec<Value>, Error> {
        let url = self.url(&["gateway", dialect, "v1", "models"])?;
        let raw = self.json(self.authorized(self.http.get(url))?).await?;
        Ok(raw.get("data").and_then(Value::as_array).cloned().unwrap_or_default())
    }

    // ── agents ───────────────────────────────────────────────────────────

    /// All agents, newest first.
    pub(crate) async fn agents(&self, status: Option<&str>) -> Result<Vec<Answer<Agent>>, Error> {
        let query: Vec<_> = status.map(|s| ("status", s.to_owned())).into_iter().collect();
        self.list(&["agents"], "agents", &query, None).await
    }

    /// One agent.
    pub(crate) async fn agent(&self, slug: &str) -> Result<Answer<Agent>, Error> {
        Answer::read(self.get(&["agents", slug], &[]).await?)
    }

    /// Creates an agent from the fields of `body`.
    pub(crate) async fn create_agent(&self, body: &Value) -> Result<Answer<Agent>, Error> {
        Answer::read(self.send(Method::POST, &["agents"], Some(body)).await?)
    }

    /// Changes the fields in `body`.
    pub(crate) async fn update_agent(&self, slug: &str, body: &Value) -> Result<Answer<Agent>, Error> {
        Answer::read(self.send(Method::PATCH, &["agents", slug], Some(body)).await?)
    }

    /// Removes an agent with its secrets and history.
    pub(crate) async fn delete_agent(&self, slug: &str) -> Result<(), Error> {
        self.send(Method::DELETE, &["agents", slug], None).await.map(drop)
    }

    /// Destroys the agent's sandboxes and refuses invocations until the next deployment.
    pub(crate) async fn stop(&self, slug: &str) -> Result<Value, Error> {
        self.send(Method::DELETE, &["agents", slug, "sandbox"], None).await
    }

    /// Deploys from the agent's own source and waits as long as the server does.
    pub(crate) async fn deploy(&self, slug: &str) -> Result<Answer<Agent>, Error> {
        let url = self.castari(&["agents", slug, "deploy"])?;
        let request = self.authorized(self.http.post(url))?.timeout(DEPLOY_TIMEOUT);
        Answer::read(self.json(request).await?)
    }

    /// Uploads an archive and deploys it; `sent` is told how many bytes went out so far.
    pub(crate) async fn upload_code(
        &self,
        slug: &str,
        archive: Bytes,
        sent: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<Value, Error> {
        const CHUNK: usize = 64 << 10;
        let length = archive.len() as u64;
        let body = futures::stream::unfold((archive, 0_u64), move |(mut rest, mut done)| {
            let chunk = rest.split_to(rest.len().min(CHUNK));
            done += chunk.len() as u64;
            sent(done);
            let next = (!chunk.is_empty()).then_some((Ok::<_, std::io::Error>(chunk), (rest, done)));
            std::future::ready(next)
        });
        let part = multipart::Part::stream_with_length(reqwest::Body::wrap_stream(body), length)
            .file_name("code.tar.gz")
            .mime_str("application/gzip")
            .map_err(|e| Error::failed(e.to_string()))?;
        let url = self.castari(&["agents", slug, "upload-code"])?;
        let request = self
            .authorized(self.http.post(url))?
            .query(&[("auto_deploy", "true")])
            .multipart(multipart::Form::new().part("file", part))
            .timeout(UPLOAD_TIMEOUT);
        self.json(request).await
    }

    /// The newest deployments, newest first.
    pub(crate) async fn deployments(&self, slug: &str, limit: usize) -> Result<Vec<Answer<Deployment>>, Error> {
        self.list(&["agents", slug, "deployments"], "deployments", &[], Some(limit)).await
    }

    /// The build log of a deployment.
    pub(crate) async fn deployment_log(&self, slug: &str, id: &str) -> Result<Vec<LogLine>, Error> {
        let raw = self.get(&["agents", slug, "deployments", id, "logs"], &[]).await?;
        Ok(log_lines(&raw))
    }

    // ── runs ─────────────────────────────────────────────────────────────

    /// Runs the agent once and waits for its answer.
    pub(crate) async fn invoke(&self, request: &InvokeRequest<'_>) -> Result<Answer<Invocation>, Error> {
        let url = self.castari(&["agents", request.slug, "invoke"])?;
        let call = self
            .authorized(self.http.post(url))?
            .header("Idempotency-Key", request.idempotency_key)
            .json(&invoke_body(request))
            .timeout(request.timeout);
        Answer::read(self.json(call).await?)
    }

    /// Runs the agent once and follows its events.
    pub(crate) async fn stream(&self, request: &InvokeRequest<'_>) -> Result<sse::Stream, Error> {
        let url = self.castari(&["agents", request.slug, "stream"])?;
        self.open(
            self.authorized(self.http.post(url))?
                .header("Idempotency-Key", request.idempotency_key)
                .json(&invoke_body(request)),
        )
        .await
    }

    /// Follows the events of a run after the one with id `after`.
    pub(crate) async fn follow(&self, invocation: &str, after: Option<&str>) -> Result<sse::Stream, Error> {
        let url = self.castari(&["invocations", invocation, "events"])?;
        let mut request = self.authorized(self.http.get(url))?;
        if let Some(id) = after {
            request = request.header("Last-Event-ID", id);
        }
        self.open(request).await
    }

    /// The history of an agent, newest first.
    pub(crate) async fn invocations(
        &self,
        slug: &str,
        status: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Answer<Invocation>>, Error> {
        let query: Vec<_> = status.map(|s| ("status", s.to_owned())).into_iter().collect();
        self.list(&["agents", slug, "invocations"], "invocations", &query, Some(limit)).await
    }

    /// One run.
    pub(crate) async fn invocation(&self, id: &str) -> Result<Answer<Invocation>, Error> {
        Answer::read(self.get(&["invocations", id], &[]).await?)
    }

    /// The log of one run, and the answer as it came.
    pub(crate) async fn invocation_log(&self, id: &str) -> Result<(Value, Vec<LogLine>), Error> {
        let raw = self.get(&["invocations", id, "logs"], &[]).await?;
        let lines = log_lines(&raw);
        Ok((raw, lines))
    }

    /// The latest log lines of an agent, and the answer as it came.
    pub(crate) async fn agent_log(&self, slug: &str, lines: usize) -> Result<(Value, Vec<LogLine>), Error> {
        let raw = self.get(&["agents", slug, "logs"], &[("limit", lines.to_string())]).await?;
        let lines = log_lines(&raw);
        Ok((raw, lines))
    }

    /// Follows an agent's log; with `after`, from the event behind it.
    pub(crate) async fn follow_agent_log(
        &self,
        slug: &str,
        lines: usize,
        after: Option<&str>,
    ) -> Result<sse::Stream, Error> {
        let url = self.castari(&["agents", slug, "logs"])?;
        let mut request =
            self.authorized(self.http.get(url))?.query(&[("follow", "true"), ("limit", &lines.to_string())]);
        if let Some(id) = after {
            request = request.header("Last-Event-ID", id);
        }
        self.open(request).await
    }

    // ── sessions and secrets ─────────────────────────────────────────────

    /// All sessions of an agent.
    pub(crate) async fn sessions(&self, slug: &str) -> Result<Vec<Answer<AgentSession>>, Error> {
        self.list(&["agents", slug, "sessions"], "sessions", &[], None).await
    }

    /// Deletes a session with its sandbox.
    pub(crate) async fn delete_session(&self, slug: &str, id: &str) -> Result<(), Error> {
        self.send(Method::DELETE, &["agents", slug, "sessions", id], None).await.map(drop)
    }

    /// The names of an agent's secrets.
    pub(crate) async fn secrets(&self, slug: &str) -> Result<Vec<Answer<Secret>>, Error> {
        self.list(&["agents", slug, "secrets"], "secrets", &[], None).await
    }

    /// Sets a secret; an existing one is replaced.
    pub(crate) async fn set_secret(&self, slug: &str, key: &str, value: &str) -> Result<Value, Error> {
        self.send(Method::POST, &["agents", slug, "secrets"], Some(&json!({"key": key, "value": value}))).await
    }

    /// Deletes a secret.
    pub(crate) async fn delete_secret(&self, slug: &str, key: &str) -> Result<(), Error> {
        self.send(Method::DELETE, &["agents", slug, "secrets", key], None).await.map(drop)
    }

    // ── the wire ─────────────────────────────────────────────────────────

    fn url(&self, segments: &[&str]) -> Result<Url, Error> {
        let mut url = self.server.clone();
        if let Some(bad) = segments.iter().find(|s| s.is_empty() || **s == "." || **s == "..") {
            return Err(Error::Usage(format!("`{bad}` is not a name")));
        }
        url.path_segments_mut()
            .map_err(|()| Error::Usage(format!("{} cannot carry a path", self.server())))?
            .pop_if_empty()
            .extend(segments);
        Ok(url)
    }

    fn castari(&self, segments: &[&str]) -> Result<Url, Error> {
        let mut all = vec!["castari", "api", "v1"];
        all.extend(segments);
        self.url(&all)
    }

    fn authorized(&self, request: RequestBuilder) -> Result<RequestBuilder, Error> {
        match &self.key {
            Some(key) => Ok(request.bearer_auth(key.expose())),
            None => Err(Error::NotSignedIn { server: self.server().to_owned() }),
        }
    }

    async fn get(&self, segments: &[&str], query: &[(&str, String)]) -> Result<Value, Error> {
        let request = self.http.get(self.castari(segments)?).query(query);
        self.json(self.authorized(request)?).await
    }

    async fn send(&self, method: Method, segments: &[&str], body: Option<&Value>) -> Result<Value, Error> {
        let mut request = self.http.request(method, self.castari(segments)?);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.json(self.authorized(request)?).await
    }

    /// Reads a list, page by page, up to `limit` items.
    async fn list<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        plural: &str,
        query: &[(&str, String)],
        limit: Option<usize>,
    ) -> Result<Vec<Answer<T>>, Error> {
        let mut items: Vec<Answer<T>> = Vec::new();
        for _ in 0..MAX_PAGES {
            let wanted = limit.map_or(PAGE, |l| l.saturating_sub(items.len()).min(PAGE));
            if wanted == 0 {
                break;
            }
            let mut query = query.to_vec();
            query.push(("limit", wanted.to_string()));
            query.push(("offset", items.len().to_string()));
            let mut raw = self.get(segments, &query).await?;
            let page = match raw.get_mut(plural).map(Value::take) {
                Some(Value::Array(page)) => page,
                _ => return Err(Error::failed(format!("the server's answer has no list `{plural}`"))),
            };
            let empty = page.is_empty();
            for item in page {
                items.push(Answer::read(item)?);
            }
            let more = raw.pointer("/meta/has_more").and_then(Value::as_bool).unwrap_or(false);
            if empty || !more {
                break;
            }
        }
        if let Some(limit) = limit {
            items.truncate(limit);
        }
        Ok(items)
    }

    /// Sends, and reads a JSON answer; an empty one is `null`.
    async fn json(&self, request: RequestBuilder) -> Result<Value, Error> {
        let response = self.exchange(request, CALL_TIMEOUT).await?;
        let body = self.body(response).await?;
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|_| {
            Error::failed_with(
                format!("{} did not answer with JSON", self.server()),
                "is this address a Backlot server? give another one with --url",
            )
        })
    }

    /// Sends, and opens the event stream of the answer.
    async fn open(&self, request: RequestBuilder) -> Result<sse::Stream, Error> {
        // No limit on the whole: the stream lasts as long as the run. Silence is bounded by the reader.
        let request = request.header("Accept", "text/event-stream").timeout(Duration::from_secs(24 * 3600));
        let response = self.exchange(request, CALL_TIMEOUT).await?;
        let kind = response.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or("");
        if !kind.starts_with("text/event-stream") {
            return Err(Error::failed(format!("{} did not answer with an event stream", self.server())));
        }
        Ok(sse::Stream::new(response))
    }

    /// Sends a request and turns every failure into an [`Error`]. `usual` bounds calls that set no time of their own.
    async fn exchange(&self, request: RequestBuilder, usual: Duration) -> Result<Response, Error> {
        let (client, request) = request.build_split();
        let mut request = request.map_err(|e| Error::Usage(format!("cannot send this: {}", deepest_cause(&e))))?;
        let limit = *request.timeout_mut().get_or_insert(usual);
        let response = client.execute(request).await.map_err(|e| self.transport(&e, Some(limit)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if status.is_redirection() {
            let to = response.headers().get("location").and_then(|v| v.to_str().ok()).unwrap_or("another address");
            return Err(Error::failed_with(
                format!("{} redirects to {}", self.server(), harmless(to)),
                "give the final address with --url",
            ));
        }
        let retry_after =
            response.headers().get("retry-after").and_then(|v| v.to_str().ok()).and_then(|v| v.trim().parse().ok());
        let body = self.body(response).await.unwrap_or_default();
        Err(refusal(status, retry_after, &body))
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.transport(&e, None))? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(Error::failed(format!(
                    "the server's answer is larger than {} MiB",
                    MAX_ANSWER_BYTES >> 20
                )));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn transport(&self, error: &reqwest::Error, limit: Option<Duration>) -> Error {
        let cause = match limit {
            Some(limit) if error.is_timeout() && !error.is_connect() => {
                return Error::failed(format!(
                    "no answer from {} within {} s",
                    self.server(),
                    limit.as_millis().div_ceil(1000)
                ));
            }
            _ if error.is_timeout() => "timed out".to_owned(),
            _ => deepest_cause(error),
        };
        Error::Unreachable { server: self.server().to_owned(), cause, sent: !error.is_connect() }
    }
}

fn invoke_body(request: &InvokeRequest<'_>) -> Value {
    let mut body = json!({"prompt": request.prompt});
    if let Some(session) = request.session {
        body["session_id"] = json!(session);
    }
    body
}

fn is_loopback(server: &Url) -> bool {
    match server.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// The last cause in an error's chain: "Connection refused" says more than "error sending request".
pub(crate) fn deepest_cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    harmless(&deepest.to_string())
}

/// Reads an error answer. Castari says `detail` (text or a list) and `code`, caster `error`, the gateway
/// `error.message`; anything else is most likely a proxy in between.
fn refusal(status: StatusCode, retry_after: Option<u64>, body: &[u8]) -> Error {
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let text = |v: Option<&Value>| v.and_then(Value::as_str).map(str::to_owned);
    let message = text(value.get("detail"))
        .or_else(|| value.get("detail").and_then(Value::as_array).map(|list| field_errors(list)))
        .or_else(|| text(value.get("error")))
        .or_else(|| text(value.pointer("/error/message")))
        .filter(|m| !m.is_empty())
        .unwrap_or_else(|| {
            format!("the server answered {} {}", status.as_u16(), status.canonical_reason().unwrap_or_default())
        });
    Error::Refused {
        status: status.as_u16(),
        code: text(value.get("code")),
        message: harmless(message.trim_end()),
        retry_after,
        hint: None,
    }
}

/// `slug: field required; max_turns: value is not a valid integer`.
fn field_errors(list: &[Value]) -> String {
    let one = |item: &Value| {
        let place: Vec<String> = item
            .get("loc")
            .and_then(Value::as_array)
            .map(|loc| loc.iter().skip(1).map(|p| p.as_str().map_or_else(|| p.to_string(), str::to_owned)).collect())
            .unwrap_or_default();
        let message = item.get("msg").and_then(Value::as_str).unwrap_or("not valid");
        if place.is_empty() { message.to_owned() } else { format!("{}: {message}", place.join(".")) }
    };
    list.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Log lines, from `{"logs":[{ts,stream,text}]}` or from plain text under `logs` or `log`.
fn log_lines(raw: &Value) -> Vec<LogLine> {
    let plain =
        |text: &str| text.lines().map(|l| LogLine { ts: None, stream: None, text: l.to_owned() }).collect::<Vec<_>>();
    match raw.get("logs").or_else(|| raw.get("log")) {
        Some(Value::Array(items)) => items
            .iter()
            .flat_map(|item| match item {
                Value::String(text) => plain(text),
                other => LogLine::deserialize(other).into_iter().collect(),
            })
            .collect(),
        Some(Value::String(text)) => plain(text),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(status: u16, body: &str) -> String {
        refusal(StatusCode::from_u16(status).expect("status"), None, body.as_bytes()).to_string()
    }

    #[test]
    fn every_face_explains_itself() {
        assert_eq!(message(404, r#"{"detail":"Agent not found","code":"agent_not_found"}"#), "Agent not found");
        assert_eq!(
            message(
                422,
                r#"{"detail":[{"loc":["body","slug"],"msg":"field required","type":"x"},{"loc":["body","a",0],"msg":"bad"}]}"#
            ),
            "slug: field required; a.0: bad"
        );
        assert_eq!(message(401, r#"{"error":"wrong password"}"#), "wrong password");
        assert_eq!(message(400, r#"{"type":"error","error":{"type":"x","message":"no model"}}"#), "no model");
        assert_eq!(message(502, "<html>Bad gateway</html>"), "the server answered 502 Bad Gateway");
        assert_eq!(message(500, r#"{"detail":""}"#), "the server answered 500 Internal Server Error");
        assert!(!message(400, "{\"detail\":\"\\u001b[2J\"}").contains('\u{1b}'));
    }

    #[test]
    fn names_cannot_change_the_path() {
        let server = super::super::credentials::parse_server("http://127.0.0.1:1/base").expect("address");
        let api = Api::new(&Target { server, key: None }).expect("client");
        let url = api.castari(&["agents", "a/../b?x#y z", "invoke"]).expect("path");
        assert_eq!(url.as_str(), "http://127.0.0.1:1/base/castari/api/v1/agents/a%2F..%2Fb%3Fx%23y%20z/invoke");
        for bad in ["", ".", ".."] {
            assert!(matches!(api.castari(&["agents", bad]), Err(Error::Usage(_))), "{bad}");
        }
    }

    #[test]
    fn logs_are_read_in_each_form() {
        let texts = |v: Value| log_lines(&v).into_iter().map(|l| l.text).collect::<Vec<_>>();
        assert_eq!(texts(json!({"logs":[{"ts":"t","stream":"stderr","text":"a"},"b\nc"]})), ["a", "b", "c"]);
        assert_eq!(texts(json!({"log":"a\nb"})), ["a", "b"]);
        assert!(texts(json!({})).is_empty());
    }
}
