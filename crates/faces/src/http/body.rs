//! Reading bodies, never more than allowed.

use axum::{body::Body, http::HeaderMap};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

/// Largest JSON body in bytes (spec/castari.md 3).
pub(crate) const JSON_LIMIT: usize = 2 * 1024 * 1024;

/// Why a body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// Larger than allowed.
    TooLarge,
    /// The client broke off.
    Broken,
}

/// Whether the client announces a body larger than `limit`, so that it can be refused unread.
pub(crate) fn announces_more_than(headers: &HeaderMap, limit: usize) -> bool {
    headers
        .get(axum::http::header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok())
        .is_some_and(|length| length > limit as u64)
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// [`BodyError::TooLarge`] as soon as the limit is passed, before the rest is read.
pub(crate) async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, BodyError> {
    if announces_more_than(headers, limit) {
        return Err(BodyError::TooLarge);
    }
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge),
        Err(_) => Err(BodyError::Broken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn limits_hold_with_and_without_an_announcement() {
        let none = HeaderMap::new();
        assert_eq!(read(&none, Body::from("12345"), 5).await, Ok(Bytes::from_static(b"12345")));
        assert_eq!(read(&none, Body::from("123456"), 5).await, Err(BodyError::TooLarge));
        let mut announced = HeaderMap::new();
        announced.insert("content-length", axum::http::HeaderValue::from_static("6"));
        assert_eq!(read(&announced, Body::empty(), 5).await, Err(BodyError::TooLarge));
    }
}
