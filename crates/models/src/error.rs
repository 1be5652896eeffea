//! Why a model call failed.

use std::time::Duration;

/// Why a model call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What kind of failure, for deciding on retries.
    pub kind: ErrorKind,
    /// The provider's own words, safe to show to the caller.
    pub message: String,
    /// The provider's HTTP status, when there was one.
    pub status: Option<u16>,
    /// How long the provider asks to wait.
    pub retry_after: Option<Duration>,
}

/// Kinds of failures of a model call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is wrong; repeating it is useless.
    Invalid,
    /// The key is missing, wrong, or not allowed; or the provider's account has no credit left.
    Authentication,
    /// The model does not exist or is not served.
    NotFound,
    /// More input than the model takes.
    ContextOverflow,
    /// Too many requests.
    RateLimited,
    /// The provider is overloaded or failing.
    Unavailable,
    /// No answer in time.
    TimedOut,
    /// The answer does not make sense.
    Protocol,
}

impl ErrorKind {
    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::RateLimited | Self::Unavailable | Self::TimedOut | Self::Protocol)
    }

    /// The kind that an HTTP status alone tells.
    #[must_use]
    pub fn from_status(status: u16) -> Self {
        match status {
            401..=403 => Self::Authentication,
            404 => Self::NotFound,
            408 | 504 => Self::TimedOut,
            413 => Self::ContextOverflow,
            429 => Self::RateLimited,
            // 409 and 425: the provider's SDKs repeat these.
            409 | 425 | 500..=599 => Self::Unavailable,
            400..=499 => Self::Invalid,
            _ => Self::Protocol,
        }
    }
}

/// Longest text taken over from a provider, in characters.
const MAX_MESSAGE: usize = 2000;

impl Error {
    /// A failure without an HTTP status.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), status: None, retry_after: None }
    }

    /// A failure told by a provider. Whatever in its words looks like an API key is blotted out.
    #[must_use]
    pub fn from_provider(kind: ErrorKind, status: Option<u16>, message: &str) -> Self {
        let mut message = without_keys(&message.chars().take(MAX_MESSAGE).collect::<String>());
        if message.trim().is_empty() {
            message = match status {
                Some(status) => format!("the provider answered with status {status} and no explanation"),
                None => "the provider reported a failure without explanation".to_owned(),
            };
        }
        Self { kind, message, status, retry_after: None }
    }

    /// An answer that does not make sense: the provider sent `what`.
    #[must_use]
    pub(crate) fn nonsense(what: &str) -> Self {
        Self::new(ErrorKind::Protocol, format!("the provider sent {what}"))
    }

    /// A stream that ended before the answer did.
    #[must_use]
    pub(crate) fn incomplete() -> Self {
        Self::new(ErrorKind::Protocol, "the provider's stream ended before the answer was complete")
    }
}

/// Providers quote rejected keys, partly masked; none of it belongs into our logs and answers.
fn without_keys(text: &str) -> String {
    let looks_like_key = |word: &str| {
        let word = word.trim_start_matches(|c: char| !c.is_alphanumeric());
        word.len() >= 12 && ["sk-", "sk_", "AIza", "key-", "gsk_", "xai-"].iter().any(|prefix| word.starts_with(prefix))
    };
    let words = text.split_inclusive(char::is_whitespace).map(|word| {
        if looks_like_key(word) {
            let space = word.len() - word.trim_end().len();
            format!("[key]{}", &word[word.len() - space..])
        } else {
            word.to_owned()
        }
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_blotted_out_and_the_rest_stays() {
        let said = "Incorrect API key provided: sk-proj-abcdefghij***wxyz. See\nhttps://example.com 'sk-live-0123456789' risk-averse sk-1";
        let error = Error::from_provider(ErrorKind::Authentication, Some(401), said);
        assert_eq!(error.message, "Incorrect API key provided: [key] See\nhttps://example.com [key] risk-averse sk-1");
    }

    #[test]
    fn silence_is_explained_by_the_status() {
        let error = Error::from_provider(ErrorKind::from_status(503), Some(503), " ");
        assert!(error.kind.is_retryable());
        assert_eq!(error.message, "the provider answered with status 503 and no explanation");
    }
}
