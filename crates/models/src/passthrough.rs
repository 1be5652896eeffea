//! Passing a client's request on to a provider as it is, with the real key, and the answer back as it comes.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};

use crate::http::describe;
use crate::wire::{Wire, anthropic};
use crate::{Error, ErrorKind};

/// An answer's body, in pieces as they arrive.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// A provider's answer, whatever its status.
pub struct Response {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, without those that concern one connection or the operator's account.
    pub headers: HeaderMap,
    /// Its body; dropping it breaks the call off.
    pub body: BodyStream,
}

impl Response {
    /// Whether the body is an event stream.
    #[must_use]
    pub fn is_event_stream(&self) -> bool {
        let kind = self.headers.get(reqwest::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        kind.is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream"))
    }
}

/// Never shows the content.
impl std::fmt::Debug for Response {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Response").field("status", &self.status).finish_non_exhaustive()
    }
}

/// A provider to pass requests on to.
#[derive(Clone)]
pub struct Upstream {
    wire: Wire,
    base_url: String,
    api_key: String,
    client: reqwest::Client,
    first_byte: Duration,
    idle: Duration,
}

/// Never shows the key.
impl std::fmt::Debug for Upstream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_struct("Upstream");
        shown.field("wire", &self.wire).field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

impl Upstream {
    /// `base_url` is written as the vendor's SDKs want it: `https://api.anthropic.com`, but
    /// `https://api.openai.com/v1`. An empty key sends none.
    #[must_use]
    pub fn new(wire: Wire, base_url: &str, api_key: &str, client: reqwest::Client) -> Self {
        Self {
            wire,
            base_url: base_url.trim_end_matches('/').to_owned(),
            api_key: api_key.to_owned(),
            client,
            // SDKs wait ten minutes for unstreamed answers; they shall run out of patience first.
            first_byte: Duration::from_secs(610),
            idle: Duration::from_secs(300),
        }
    }

    /// Sets the longest waits for the head of the answer and between two pieces of its body.
    #[must_use]
    pub fn with_timeouts(mut self, first_byte: Duration, idle: Duration) -> Self {
        (self.first_byte, self.idle) = (first_byte, idle);
        self
    }

    /// Passes a request on. `path` begins with a slash, may have a query, and is appended to the base address.
    ///
    /// Credentials, `Host` and what concerns one connection are taken out of `headers`; all else stays. The answer
    /// is asked for uncompressed, because its usage is read in passing.
    ///
    /// # Errors
    /// When no answer comes: [`ErrorKind::Unavailable`], [`ErrorKind::TimedOut`], or [`ErrorKind::Invalid`] for an
    /// address that is none. An answer with an error status is an answer.
    pub async fn forward(
        &self,
        method: Method,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response, Error> {
        let mut kept = HeaderMap::with_capacity(headers.len() + 2);
        for (name, value) in headers {
            if !is_withheld_from_provider(name) && !is_named_by_connection(headers, name) {
                kept.append(name.clone(), value.clone());
            }
        }
        kept.insert(reqwest::header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        self.add_key(&mut kept);
        let url = format!("{}{path}", self.base_url);
        let mut request = self.client.request(method, url).headers(kept);
        if !body.is_empty() {
            request = request.body(body);
        }
        let answer = match tokio::time::timeout(self.first_byte, request.send()).await {
            Err(_) => return Err(slow("did not answer", self.first_byte)),
            Ok(Err(error)) => return Err(broken(&error)),
            Ok(Ok(answer)) => answer,
        };
        let status = answer.status();
        let mut headers = HeaderMap::with_capacity(answer.headers().len());
        for (name, value) in answer.headers() {
            if !is_withheld_from_client(name) && !is_named_by_connection(answer.headers(), name) {
                headers.append(name.clone(), value.clone());
            }
        }
        Ok(Response { status, headers, body: bounded(answer, self.idle) })
    }

    fn add_key(&self, headers: &mut HeaderMap) {
        if self.wire == Wire::AnthropicMessages && !headers.contains_key("anthropic-version") {
            headers.insert("anthropic-version", HeaderValue::from_static(anthropic::VERSION));
        }
        if self.api_key.is_empty() {
            return;
        }
        let (name, value) = match self.wire {
            Wire::AnthropicMessages => (HeaderName::from_static("x-api-key"), self.api_key.clone()),
            Wire::OpenAiChat | Wire::OpenAiResponses => {
                (reqwest::header::AUTHORIZATION, format!("Bearer {}", self.api_key))
            }
        };
        if let Ok(mut value) = HeaderValue::try_from(value) {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
}

/// The body, with every wait bounded; ends after the first error.
fn bounded(answer: reqwest::Response, idle: Duration) -> BodyStream {
    let pieces = Some(answer.bytes_stream().boxed());
    Box::pin(futures::stream::unfold(pieces, move |pieces| async move {
        let mut pieces = pieces?;
        match tokio::time::timeout(idle, pieces.next()).await {
            Err(_) => Some((Err(slow("stopped in the middle of its answer", idle)), None)),
            Ok(None) => None,
            Ok(Some(Err(error))) => Some((Err(broken(&error)), None)),
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(pieces))),
        }
    }))
}

fn is_withheld_from_provider(name: &HeaderName) -> bool {
    is_hop_by_hop(name)
        || matches!(
            name.as_str(),
            "authorization"
                | "x-api-key"
                | "api-key"
                | "x-goog-api-key"
                | "cookie"
                | "host"
                | "content-length"
                | "accept-encoding"
                | "expect"
                | "forwarded"
                | "via"
                | "x-real-ip"
                | "openai-organization"
                | "openai-project"
        )
        || name.as_str().starts_with("x-forwarded-")
}

/// The operator's account at the provider is nobody's business in a sandbox.
fn is_withheld_from_client(name: &HeaderName) -> bool {
    is_hop_by_hop(name)
        || matches!(
            name.as_str(),
            "set-cookie"
                | "anthropic-organization-id"
                | "openai-organization"
                | "openai-project"
                | "alt-svc"
                | "strict-transport-security"
        )
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// `Connection` may name further headers that concern this connection only.
fn is_named_by_connection(headers: &HeaderMap, name: &HeaderName) -> bool {
    let named = headers.get_all(reqwest::header::CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    named.flat_map(|list| list.split(',')).any(|item| item.trim().eq_ignore_ascii_case(name.as_str()))
}

fn slow(what: &str, limit: Duration) -> Error {
    Error::new(ErrorKind::TimedOut, format!("the provider {what} within {} s", limit.as_secs_f32()))
}

fn broken(error: &reqwest::Error) -> Error {
    let kind = match error {
        error if error.is_timeout() => ErrorKind::TimedOut,
        error if error.is_builder() => ErrorKind::Invalid,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, describe(error))
}
