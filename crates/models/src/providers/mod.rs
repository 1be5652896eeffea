//! Remote providers as [`Model`]s: an address, a key, and the wire format spoken there.
//!
//! A call is tried once. Until the first event arrived a failure is an `Err` of [`Model::call`], and repeating
//! the call is safe; see [`crate::retry`].

mod stream;

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::wire::{Wire, anthropic, openai_chat};
use crate::{Error, ErrorKind, EventStream, Model, Request};

/// How long to wait for a provider. Connecting has its own limit, see [`crate::http::CONNECT_TIMEOUT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From sending the request to the first event. Models that think in silence take minutes.
    pub first_event: Duration,
    /// Between two pieces of the answer.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { first_event: Duration::from_secs(300), idle: Duration::from_secs(120) }
    }
}

/// What all providers have in common.
#[derive(Clone)]
struct Endpoint {
    client: reqwest::Client,
    url: String,
    headers: HeaderMap,
    key: String,
    timeouts: Timeouts,
}

/// Never shows the key.
impl std::fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Endpoint")
            .field("url", &self.url)
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    fn new(base_url: &str, path: &str, api_key: &str, client: reqwest::Client) -> Self {
        let url = format!("{}{path}", base_url.trim_end_matches('/'));
        Self { client, url, headers: HeaderMap::new(), key: api_key.to_owned(), timeouts: Timeouts::default() }
    }

    fn anthropic(base_url: &str, api_key: &str, client: reqwest::Client) -> Self {
        let mut endpoint = Self::new(base_url, "/v1/messages", api_key, client);
        endpoint.headers.insert("anthropic-version", HeaderValue::from_static(anthropic::VERSION));
        endpoint.secret_header(HeaderName::from_static("x-api-key"), api_key.to_owned());
        endpoint
    }

    fn bearer(base_url: &str, path: &str, api_key: &str, client: reqwest::Client) -> Self {
        let mut endpoint = Self::new(base_url, path, api_key, client);
        if !api_key.is_empty() {
            endpoint.secret_header(reqwest::header::AUTHORIZATION, format!("Bearer {api_key}"));
        }
        endpoint
    }

    /// A key that no header can hold is left out; the provider then says that it is missing.
    fn secret_header(&mut self, name: HeaderName, value: String) {
        if let Ok(mut value) = HeaderValue::try_from(value) {
            value.set_sensitive(true);
            self.headers.insert(name, value);
        }
    }

    async fn call(&self, wire: Wire, request: &Request, body: &serde_json::Value) -> Result<EventStream, Error> {
        let sent = self.client.post(&self.url).headers(self.headers.clone()).json(body);
        stream::open(sent, wire, request, self.timeouts, &self.key).await
    }
}

macro_rules! provider {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name {
            endpoint: Endpoint,
        }

        impl $name {
            /// Sets how long to wait for this provider.
            #[must_use]
            pub fn with_timeouts(mut self, timeouts: Timeouts) -> Self {
                self.endpoint.timeouts = timeouts;
                self
            }

            /// Adds a header to every request, as proxies in front of a provider may want.
            ///
            /// # Errors
            /// [`ErrorKind::Invalid`] when name or value cannot stand in a header.
            pub fn with_header(mut self, name: &str, value: &str) -> Result<Self, Error> {
                let name = HeaderName::try_from(name);
                let value = HeaderValue::try_from(value);
                let (Ok(name), Ok(value)) = (name, value) else {
                    return Err(Error::new(ErrorKind::Invalid, "a header of this provider has characters that no header may have"));
                };
                self.endpoint.headers.insert(name, value);
                Ok(self)
            }
        }
    };
}

provider! {
    /// Anthropic, or a server that speaks its Messages format.
    Anthropic
}
provider! {
    /// OpenAI's Chat Completions.
    OpenAiChat
}
provider! {
    /// OpenAI's Responses.
    OpenAiResponses
}
provider! {
    /// Any server that speaks Chat Completions: vLLM, Ollama, OpenRouter, a company's proxy.
    Compatible
}

impl Anthropic {
    /// `base_url` is written as Anthropic's SDKs want it, without `/v1`: `https://api.anthropic.com`.
    #[must_use]
    pub fn new(base_url: &str, api_key: &str, client: reqwest::Client) -> Self {
        Self { endpoint: Endpoint::anthropic(base_url, api_key, client) }
    }
}

impl OpenAiChat {
    /// `base_url` is written as OpenAI's SDKs want it, with `/v1`: `https://api.openai.com/v1`.
    #[must_use]
    pub fn new(base_url: &str, api_key: &str, client: reqwest::Client) -> Self {
        Self { endpoint: Endpoint::bearer(base_url, "/chat/completions", api_key, client) }
    }
}

impl OpenAiResponses {
    /// `base_url` is written as OpenAI's SDKs want it, with `/v1`: `https://api.openai.com/v1`.
    #[must_use]
    pub fn new(base_url: &str, api_key: &str, client: reqwest::Client) -> Self {
        Self { endpoint: Endpoint::bearer(base_url, "/responses", api_key, client) }
    }
}

impl Compatible {
    /// `base_url` is what `/chat/completions` is appended to. An empty key sends none.
    #[must_use]
    pub fn new(base_url: &str, api_key: &str, client: reqwest::Client) -> Self {
        Self { endpoint: Endpoint::bearer(base_url, "/chat/completions", api_key, client) }
    }
}

#[async_trait::async_trait]
impl Model for Anthropic {
    async fn call(&self, request: Request) -> Result<EventStream, Error> {
        let wire = Wire::AnthropicMessages;
        self.endpoint.call(wire, &request, &wire.encode_request(&request)).await
    }
}

#[async_trait::async_trait]
impl Model for OpenAiChat {
    async fn call(&self, request: Request) -> Result<EventStream, Error> {
        let wire = Wire::OpenAiChat;
        self.endpoint.call(wire, &request, &wire.encode_request(&request)).await
    }
}

#[async_trait::async_trait]
impl Model for OpenAiResponses {
    async fn call(&self, request: Request) -> Result<EventStream, Error> {
        let wire = Wire::OpenAiResponses;
        self.endpoint.call(wire, &request, &wire.encode_request(&request)).await
    }
}

#[async_trait::async_trait]
impl Model for Compatible {
    async fn call(&self, request: Request) -> Result<EventStream, Error> {
        let body = openai_chat::client::encode_request(&request, openai_chat::Dialect::Compatible);
        self.endpoint.call(Wire::OpenAiChat, &request, &body).await
    }
}
