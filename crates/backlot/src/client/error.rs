//! Everything that can go wrong in the client: what is printed, with which hint, and which exit code it gives.

use std::io;
use std::path::{Path, PathBuf};

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The arguments make no sense together, or a value that would be asked for cannot be asked for.
    #[error("{0}")]
    Usage(String),

    /// There is no credential for the server.
    #[error("not signed in to {server}")]
    NotSignedIn {
        /// Base address of the server.
        server: String,
    },

    /// The server answered with an error.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Stable code of the castari face, such as `agent_not_found`.
        code: Option<String>,
        /// The server's own words, made safe for a terminal.
        message: String,
        /// Seconds to wait before trying again, from `Retry-After`.
        retry_after: Option<u64>,
        /// What to do, when the command knows better than the status does.
        hint: Option<String>,
    },

    /// No connection, or it broke before an answer came.
    #[error("cannot reach the server at {server}: {cause}")]
    Unreachable {
        /// Base address of the server.
        server: String,
        /// The deepest cause, for example "Connection refused".
        cause: String,
        /// True when a connection stood, so that the server may have got the request.
        sent: bool,
    },

    /// A failure that the client found or was told of, with advice.
    #[error("{message}")]
    Failed {
        /// What happened.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },

    /// A local file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// "read", "write", "create" and the like.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },

    /// Ctrl-C, also at a prompt.
    #[error("interrupted")]
    Interrupted,

    /// Whoever read our output has gone away, as `| head` does. That is no failure of ours.
    #[error("output closed")]
    BrokenPipe,
}

impl Error {
    /// A failure with no advice to give.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), hint: None }
    }

    /// A failure with advice.
    pub(crate) fn failed_with(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), hint: Some(hint.into()) }
    }

    /// A failure of a local file; `action` is a verb in its base form.
    pub(crate) fn file(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File { action, path: path.to_owned(), source }
    }

    /// The HTTP status when the server refused the call.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Replaces the advice of a refusal, where the command knows what would help.
    #[must_use]
    pub(crate) fn with_hint(mut self, advice: impl Into<String>) -> Self {
        if let Self::Refused { hint, .. } | Self::Failed { hint, .. } = &mut self {
            *hint = Some(advice.into());
        }
        self
    }

    /// The exit code, as `--help` documents it.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::BrokenPipe => 0,
            Self::Usage(_) => 2,
            Self::NotSignedIn { .. } | Self::Refused { status: 401, .. } => 3,
            Self::Refused { status: 404, .. } => 4,
            Self::Refused { status: 429, .. } => 5,
            Self::Unreachable { .. } => 6,
            Self::Interrupted => 130,
            Self::Refused { .. } | Self::Failed { .. } | Self::File { .. } => 1,
        }
    }

    /// A short machine-readable name, printed with `--json`.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Usage(_) => "usage",
            Self::NotSignedIn { .. } => "not_signed_in",
            Self::Refused { code: Some(code), .. } => code,
            Self::Refused { status: 401, .. } => "unauthorized",
            Self::Refused { status: 404, .. } => "not_found",
            Self::Refused { status: 429, .. } => "rate_limited",
            Self::Refused { .. } => "refused",
            Self::Unreachable { .. } => "unreachable",
            Self::Failed { .. } => "failed",
            Self::File { .. } => "file",
            Self::Interrupted => "interrupted",
            Self::BrokenPipe => "broken_pipe",
        }
    }

    /// What the person can do next.
    pub(crate) fn hint(&self) -> Option<String> {
        let advice = match self {
            Self::Refused { hint: Some(hint), .. } | Self::Failed { hint: Some(hint), .. } => hint.clone(),
            Self::NotSignedIn { .. } => "sign in with `backlot login` (or set BACKLOT_API_KEY)".into(),
            Self::Refused { status: 401, .. } => "the key is not valid here; sign in again with `backlot login`".into(),
            Self::Refused { status: 404, code, .. } => match code.as_deref() {
                Some("agent_not_found") => "see your agents with `backlot agents list`".into(),
                Some("not_found") | None => "is this address a Backlot server, and of this version?".into(),
                Some(_) => return None,
            },
            Self::Refused { status: 429, retry_after, .. } => match retry_after {
                Some(seconds) => format!("wait {seconds} s and try again"),
                None => "wait a minute and try again".into(),
            },
            Self::Refused { status: 503, retry_after: Some(seconds), .. } => {
                format!("the server is busy; try again in {seconds} s")
            }
            Self::Unreachable { server, .. } => format!(
                "is it running? start it with `backlot serve`, or name another server with --url (now {server})"
            ),
            _ => return None,
        };
        Some(advice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: Option<&str>) -> Error {
        Error::Refused { status, code: code.map(str::to_owned), message: "no".into(), retry_after: Some(7), hint: None }
    }

    #[test]
    fn each_kind_has_its_exit_code() {
        assert_eq!(Error::Usage("x".into()).exit_code(), 2);
        assert_eq!(Error::NotSignedIn { server: "x".into() }.exit_code(), 3);
        assert_eq!(refused(401, None).exit_code(), 3);
        assert_eq!(refused(404, None).exit_code(), 4);
        assert_eq!(refused(429, None).exit_code(), 5);
        assert_eq!(refused(500, None).exit_code(), 1);
        assert_eq!(Error::Interrupted.exit_code(), 130);
        assert_eq!(Error::BrokenPipe.exit_code(), 0);
    }

    #[test]
    fn hints_name_the_next_step() {
        assert!(refused(401, None).hint().is_some_and(|h| h.contains("backlot login")));
        assert!(refused(404, Some("agent_not_found")).hint().is_some_and(|h| h.contains("backlot agents list")));
        assert!(refused(429, None).hint().is_some_and(|h| h.contains("7 s")));
        assert_eq!(refused(404, Some("secret_not_found")).hint(), None);
        assert_eq!(refused(400, None).with_hint("do this").hint().as_deref(), Some("do this"));
    }
}
