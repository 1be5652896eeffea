//! People who call a server: `ada.post("/castari/api/v1/agents", json!({…})).await`.

use std::fmt;

use reqwest::{Method, RequestBuilder, header::HeaderMap};
use serde_json::Value;

use crate::project::Project;

/// Somebody with a connection to a server, and perhaps with a credential.
#[derive(Clone)]
pub struct Person {
    http: reqwest::Client,
    base: String,
    credential: Option<String>,
}

impl Person {
    #[expect(clippy::disallowed_methods, reason = "a client that knows nothing of the server")]
    pub(crate) fn new(base: &str, credential: Option<String>) -> Self {
        // Without TLS there is nothing to verify, and machines without certificate authorities exist.
        let _installed_already = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client");
        Self { http, base: base.to_owned(), credential }
    }

    /// The same person with another credential.
    #[must_use]
    pub fn with_credential(&self, credential: &str) -> Self {
        Self { credential: Some(credential.to_owned()), ..self.clone() }
    }

    /// The credential.
    ///
    /// # Panics
    /// When this person has none.
    #[must_use]
    pub fn credential(&self) -> &str {
        self.credential.as_deref().expect("this person has no credential")
    }

    /// A request to be refined, with the credential in place.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.credential {
            Some(credential) => request.bearer_auth(credential),
            None => request,
        }
    }

    /// Reads.
    pub async fn get(&self, path: &str) -> Answer {
        Answer::to(self.request(Method::GET, path)).await
    }

    /// Sends a JSON body.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        Answer::to(self.request(Method::POST, path).json(&body)).await
    }

    /// Sends no body.
    pub async fn post_nothing(&self, path: &str) -> Answer {
        Answer::to(self.request(Method::POST, path)).await
    }

    /// Sends a JSON body that changes something.
    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        Answer::to(self.request(Method::PATCH, path).json(&body)).await
    }

    /// Removes.
    pub async fn delete(&self, path: &str) -> Answer {
        Answer::to(self.request(Method::DELETE, path)).await
    }

    /// Uploads a project as the code of an agent.
    pub async fn upload(&self, slug: &str, project: &Project) -> Answer {
        let part = reqwest::multipart::Part::bytes(project.pack()).file_name("code.tar.gz");
        let form = reqwest::multipart::Form::new().part("file", part);
        let path = format!("/castari/api/v1/agents/{slug}/upload-code");
        Answer::to(self.request(Method::POST, &path).multipart(form)).await
    }

    /// Creates an agent and deploys a project as its code.
    ///
    /// # Panics
    /// When the server does not play along.
    pub async fn deploy(&self, slug: &str, project: &Project) {
        let agent = serde_json::json!({ "name": slug, "slug": slug, "source_type": "local" });
        let created = self.post("/castari/api/v1/agents", agent).await;
        assert_eq!(created.status, 201, "{created:?}");
        let uploaded = self.upload(slug, project).await;
        assert_eq!(uploaded.status, 201, "{uploaded:?}");
        assert_eq!(uploaded.body["status"], "active", "{uploaded:?}");
    }

    /// Invokes an agent.
    pub async fn invoke(&self, slug: &str, prompt: &str) -> Answer {
        self.post(&format!("/castari/api/v1/agents/{slug}/invoke"), serde_json::json!({ "prompt": prompt })).await
    }
}

/// What a server answered.
#[derive(Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body: JSON, or else a string.
    pub body: Value,
}

impl Answer {
    /// Sends a request and reads the answer to its end.
    ///
    /// # Panics
    /// When the server cannot be reached or breaks off.
    pub async fn to(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("the server answers");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.expect("the server finishes its answer");
        let body = match text.as_str() {
            "" => Value::Null,
            _ => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        };
        Self { status, headers, body }
    }

    /// A header as text; empty when it is absent.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Status and body, with everything that differs from run to run replaced by what it is: identifiers by their
    /// prefix, times by `[time]`, keys by `[key]`. What does not have the right form stays and fails the comparison.
    #[must_use]
    pub fn redacted(&self) -> Value {
        let mut body = self.body.clone();
        redact(&mut body);
        serde_json::json!({ "status": self.status, "body": body })
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.body)
    }
}

fn redact(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(kind) = kind_of(text) {
                *text = kind;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == "duration_ms" && value.is_u64() {
                    *value = Value::from("[milliseconds]");
                }
                redact(value);
            }
        }
        _ => {}
    }
}

fn kind_of(text: &str) -> Option<String> {
    if let Some((prefix, rest)) = text.split_once('_') {
        let is_ulid = rest.len() == 26 && rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if is_ulid && !prefix.is_empty() {
            return Some(format!("[{prefix}]"));
        }
        let parts: Vec<_> = rest.split('_').collect();
        let is_plain = rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if prefix == "cast" && is_plain && parts.first().is_some_and(|public| public.len() == 8) {
            return match parts.get(1) {
                None => Some("[key prefix]".into()),
                Some(secret) if secret.len() == 43 => Some("[key]".into()),
                Some(_) => None,
            };
        }
    }
    let is_time = text.len() == 24 && text.ends_with('Z') && text.as_bytes()[10] == b'T' && text.as_bytes()[19] == b'.';
    let is_whole_time = text.len() == 20 && text.ends_with('Z') && text.as_bytes()[10] == b'T';
    if is_time {
        return Some("[time]".into());
    }
    if is_whole_time {
        return Some("[whole time]".into());
    }
    let is_hash = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| "[sha256]".into())
}
