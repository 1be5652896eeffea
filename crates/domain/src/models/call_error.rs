//! Why the gateway refuses or fails a call, told in the provider's own shape.

use backlot_models::{
    Error, ErrorKind,
    wire::{BadRequest, Wire},
};
use serde_json::{Value, json};

use crate::Kind;

/// A call that got no answer of a model.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{error}")]
pub struct CallError {
    /// What happened, in the vocabulary of the providers.
    pub error: Error,
    /// A word of ours for programs, for example `budget_exceeded`; the format's own words are used where absent.
    pub code: Option<&'static str>,
    /// Which field of the request is wrong.
    pub field: Option<String>,
}

impl CallError {
    /// A failure with nothing but its kind and its sentence.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { error: Error::new(kind, message), code: None, field: None }
    }

    /// Nobody known is asking.
    #[must_use]
    pub fn unauthenticated(message: &str) -> Self {
        Self::new(ErrorKind::Authentication, message).status(401)
    }

    /// The address is none of the gateway's.
    #[must_use]
    pub fn unknown_address(message: &str) -> Self {
        Self::new(ErrorKind::NotFound, message).code("unknown_url")
    }

    /// The body is larger than `limit` bytes.
    #[must_use]
    pub fn too_large(limit: usize) -> Self {
        let message = format!("the request body is larger than {} MiB", limit / (1024 * 1024));
        Self::new(ErrorKind::ContextOverflow, message).status(413).code("request_too_large")
    }

    /// A limit of the run is used up (spec/castari.md 15.6). Status 400, because SDKs repeat most others.
    pub(super) fn budget(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, format!("budget_exceeded: {}", message.into()))
            .status(400)
            .code("budget_exceeded")
    }

    pub(super) fn status(mut self, status: u16) -> Self {
        self.error.status = Some(status);
        self
    }

    /// The same failure with a word of ours for programs.
    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Status and body that tell a client of this format.
    #[must_use]
    pub fn encode(&self, wire: Wire) -> (u16, Value) {
        let (status, mut body) = wire.encode_error(&self.error, self.field.as_deref());
        if let Some(code) = self.code {
            body["error"]["code"] = json!(code);
        }
        (status, body)
    }
}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        Self { error, code: None, field: None }
    }
}

impl From<BadRequest> for CallError {
    fn from(bad: BadRequest) -> Self {
        let field = Some(bad.field.clone()).filter(|field| !field.is_empty());
        Self { error: bad.into(), code: None, field }
    }
}

impl From<crate::Error> for CallError {
    fn from(error: crate::Error) -> Self {
        let (kind, status) = match error.kind {
            Kind::Unauthenticated => (ErrorKind::Authentication, Some(401)),
            Kind::Forbidden => (ErrorKind::Authentication, Some(403)),
            Kind::NotFound => (ErrorKind::NotFound, None),
            Kind::Invalid | Kind::Conflict | Kind::LimitReached => (ErrorKind::Invalid, None),
            Kind::RateLimited => (ErrorKind::RateLimited, None),
            Kind::TimedOut => (ErrorKind::TimedOut, None),
            Kind::Busy | Kind::Upstream | Kind::Unavailable | Kind::Internal => (ErrorKind::Unavailable, None),
        };
        if error.kind == Kind::Internal {
            tracing::error!(?error, "a call of the gateway failed through a fault of ours");
        }
        Self {
            error: Error { kind, message: error.public, status, retry_after: error.retry_after },
            code: None,
            field: None,
        }
    }
}

impl From<CallError> for crate::Error {
    fn from(failed: CallError) -> Self {
        let kind = match failed.error.kind {
            _ if failed.code == Some("budget_exceeded") => Kind::LimitReached,
            ErrorKind::Invalid | ErrorKind::ContextOverflow => Kind::Invalid,
            ErrorKind::NotFound => Kind::NotFound,
            ErrorKind::RateLimited => Kind::RateLimited,
            ErrorKind::TimedOut => Kind::TimedOut,
            ErrorKind::Authentication | ErrorKind::Unavailable | ErrorKind::Protocol => Kind::Upstream,
        };
        let mut error = Self::new(kind, failed.code.unwrap_or("model_call_failed"), failed.error.message.clone());
        error.retry_after = failed.error.retry_after;
        error
    }
}
