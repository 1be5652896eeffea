//! Serving a face's API document.

use axum::{
    http::header,
    response::{IntoResponse as _, Response},
};
use utoipa::openapi::OpenApi;

/// The document as text, the same text that is committed as `openapi.json`.
pub(crate) fn text(document: &OpenApi) -> String {
    match document.to_pretty_json() {
        Ok(mut text) => {
            text.push('\n');
            text
        }
        Err(error) => {
            tracing::error!(%error, "an API document could not be written");
            String::from("{}")
        }
    }
}

/// `GET /openapi.json`, no credential needed.
pub(crate) fn answer(text: &str) -> Response {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")], text.to_owned()).into_response()
}
