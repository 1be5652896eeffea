//! How failures look on the wire: `{"error": …, "code": …}` (seed "Error Responses"; spec/caster.md 0.3).

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use backlot_domain::{Error, Kind};
use serde::Serialize;
use serde_json::json;

use crate::http::fields::{Fault, Problem, Segment, quoted};

/// An answer that says what went wrong.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    error: String,
    field: Option<String>,
    retry_after: Option<Duration>,
}

/// Every error.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ErrorResponse {
    /// What went wrong, for people.
    #[schema(example = "invalid email or password")]
    error: String,
    /// A stable word for programs. An addition of ours.
    #[schema(example = "unauthorized")]
    code: String,
    /// The field that is wrong, if one is. An addition of ours.
    field: Option<String>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, error: impl Into<String>) -> Self {
        Self { status, code, error: error.into(), field: None, retry_after: None }
    }

    /// Input that makes no sense.
    pub(crate) fn invalid(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", error)
    }

    /// A body past its limit.
    pub(crate) fn too_large(limit: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", format!("the body may have {limit} bytes at most"))
    }

    /// Another media type than JSON.
    pub(crate) fn media_type() -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "the body must be application/json")
    }

    /// No credential, or none that we know.
    pub(crate) fn unauthorized(error: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", error)
    }

    /// No such address.
    pub(crate) fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "not found")
    }

    /// The address exists, the method does not.
    pub(crate) fn no_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "method not allowed")
    }

    /// Wrong fields; this API tells the first.
    pub(crate) fn fields(faults: &[Fault]) -> Self {
        let Some(first) = faults.first() else { return Self::invalid("invalid request") };
        let steps = first.path.iter().map(|step| match step {
            Segment::Field(name) => name.clone(),
            Segment::Index(index) => index.to_string(),
        });
        let field = steps.collect::<Vec<_>>().join(".");
        let error = format!("{field} {}", words(&first.problem));
        Self { field: Some(field), ..Self::invalid(error) }
    }
}

fn words(problem: &Problem) -> String {
    match problem {
        Problem::Missing | Problem::Null => "is required".into(),
        Problem::NotText => "must be a string".into(),
        Problem::NotInteger => "must be an integer".into(),
        Problem::NotBoolean => "must be true or false".into(),
        Problem::NotList => "must be an array".into(),
        Problem::NotObject => "must be an object".into(),
        Problem::NotATime => "must be a time".into(),
        Problem::NoneOf(permitted) => format!("must be one of {}", quoted(permitted)),
        Problem::TooShort(least) => format!("must have at least {least} characters"),
        Problem::TooLong(most) => format!("must have at most {most} characters"),
        Problem::Pattern(pattern) => format!("must match {pattern}"),
        Problem::NotGreaterEqual(least) => format!("must be at least {least}"),
        Problem::NotLessEqual(most) => format!("must be at most {most}"),
        Problem::UrlScheme => "must be an https address".into(),
        Problem::Other(text) => text.clone(),
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let (status, code) = match error.kind {
            Kind::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Kind::Invalid => (StatusCode::BAD_REQUEST, "invalid_request"),
            Kind::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Kind::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
            Kind::Conflict | Kind::Busy => (StatusCode::CONFLICT, "conflict"),
            Kind::LimitReached => (StatusCode::BAD_REQUEST, "limit_exceeded"),
            Kind::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Kind::TimedOut => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
            Kind::Upstream => (StatusCode::BAD_GATEWAY, "upstream"),
            Kind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Kind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        if status.is_server_error() {
            tracing::error!(?error, "a request failed");
        }
        // The domain's sentence about a field is whole by itself (seed: "invalid email").
        let first = error.fields.first();
        let retry_after = match error.kind {
            Kind::Unavailable => Some(error.retry_after.unwrap_or(Duration::from_secs(5))),
            _ => error.retry_after,
        };
        Self {
            status,
            code,
            field: first.map(|field| field.path.join(".")),
            error: first.map_or_else(|| error.public.clone(), |field| field.message.clone()),
            retry_after,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = json!({ "error": self.error, "code": self.code });
        if let Some(field) = self.field {
            body["field"] = json!(field);
        }
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after {
            let seconds = u64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The answer to a panic.
pub(crate) fn panicked() -> Response {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal error").into_response()
}
