//! The one error of the domain: it knows kinds, not status codes.
//!
//! A face turns [`Error`] into its own envelope in one exhaustive match over [`Kind`]. The public text is for
//! the caller; the cause is for the operator's log and never leaves the server.

use std::{fmt, time::Duration};

/// Why an operation failed, as far as callers must tell failures apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The thing does not exist, or belongs to somebody else.
    NotFound,
    /// The input does not make sense; [`Error::fields`] says where.
    Invalid,
    /// Nobody known is asking.
    Unauthenticated,
    /// Somebody known asks for what they may not do.
    Forbidden,
    /// The input is fine, but the state of the thing does not allow it.
    Conflict,
    /// The thing is busy with another call; repeating later may succeed.
    Busy,
    /// A limit of size or number was reached; repeating is useless.
    LimitReached,
    /// Too many calls in too short a time; [`Error::retry_after`] says when to come back.
    RateLimited,
    /// Something took longer than allowed.
    TimedOut,
    /// Somebody else's service failed us.
    Upstream,
    /// We cannot right now; repeating later may succeed.
    Unavailable,
    /// A fault of ours.
    Internal,
}

/// What is wrong with one field of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Path to the field, for example `["slug"]` or `["env", "PATH"]`.
    pub path: Vec<String>,
    /// What is wrong with it.
    pub message: String,
}

/// A failed operation.
pub struct Error {
    /// What kind of failure.
    pub kind: Kind,
    /// A stable word for programs, for example `agent_not_found`.
    pub code: &'static str,
    /// The sentence for the caller.
    pub public: String,
    /// Which fields are wrong, when `kind` is [`Kind::Invalid`].
    pub fields: Vec<FieldError>,
    /// When to come back, when that is known.
    pub retry_after: Option<Duration>,
    cause: Option<anyhow::Error>,
}

impl Error {
    /// A failure with the sentence that the caller sees.
    pub fn new(kind: Kind, code: &'static str, public: impl Into<String>) -> Self {
        Self { kind, code, public: public.into(), fields: Vec::new(), retry_after: None, cause: None }
    }

    /// Wrong input in one field.
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let mut error = Self::new(Kind::Invalid, "validation_error", format!("{field}: {message}"));
        error.fields.push(FieldError { path: vec![field.to_owned()], message });
        error
    }

    /// A fault of ours: the caller learns nothing but that, the log gets `cause`.
    pub fn internal(cause: impl Into<anyhow::Error>) -> Self {
        Self::new(Kind::Internal, "internal", "Internal server error").because(cause)
    }

    /// A failure of our disk: a full one is told as such, everything else is a fault of ours.
    #[must_use]
    pub fn from_disk(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::storage_full(error),
            _ => Self::internal(error),
        }
    }

    fn storage_full(cause: impl Into<anyhow::Error>) -> Self {
        Self::new(Kind::Unavailable, "storage_full", "The server's disk is full").because(cause)
    }

    /// The same error with its cause for the log.
    #[must_use]
    pub fn because(mut self, cause: impl Into<anyhow::Error>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The same error with the time to come back after.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The cause for the log.
    #[must_use]
    pub fn cause(&self) -> Option<&anyhow::Error> {
        self.cause.as_ref()
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({}): {}", self.kind, self.code, self.public)?;
        if let Some(cause) = &self.cause {
            write!(f, " because {cause:#}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.public)
    }
}

impl std::error::Error for Error {}

impl From<backlot_db::Error> for Error {
    fn from(error: backlot_db::Error) -> Self {
        match error {
            backlot_db::Error::Closed => {
                Self::new(Kind::Unavailable, "shutting_down", "The server is shutting down").because(error)
            }
            backlot_db::Error::Full => Self::storage_full(error),
            other => Self::internal(other),
        }
    }
}
