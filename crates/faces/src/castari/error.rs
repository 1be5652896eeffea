//! How failures look on the wire: `{"detail": …, "code": …}` (seed: "Errors"; spec/castari.md 5).

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use backlot_domain::{Error, Kind};
use serde::Serialize;
use serde_json::{Value, json};

use crate::http::fields::{Fault, Problem, Segment, quoted};

/// An answer that says what went wrong.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    detail: Detail,
    retry_after: Option<Duration>,
}

#[derive(Debug)]
enum Detail {
    Text(String),
    Fields(Vec<ValidationItem>),
}

/// Every error but 422.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ErrorResponse {
    /// What went wrong, for people.
    #[schema(example = "Agent not found")]
    pub(crate) detail: String,
    /// A stable word for programs.
    #[schema(example = "agent_not_found")]
    pub(crate) code: String,
}

/// Status 422: the fields that are wrong, all of them.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ValidationErrorResponse {
    /// One entry per wrong field, in the order of the schema.
    pub(crate) detail: Vec<ValidationItem>,
    /// Always `validation_error`.
    #[schema(example = "validation_error")]
    pub(crate) code: String,
}

/// One wrong field.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ValidationItem {
    /// `body`, `query`, `path` or `header`, then field names and list indexes.
    #[schema(value_type = Vec<Value>, example = json!(["body", "slug"]))]
    loc: Vec<Value>,
    /// What is wrong.
    #[schema(example = "field required")]
    msg: String,
    /// The kind of fault.
    #[serde(rename = "type")]
    #[schema(rename = "type", example = "value_error.missing")]
    kind: &'static str,
    /// The limit, pattern or words that apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    ctx: Option<Value>,
}

/// Where a wrong field stands.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Location {
    Body,
    Query,
    Header,
}

impl Location {
    fn as_str(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Query => "query",
            Self::Header => "header",
        }
    }
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, detail: &str) -> Self {
        Self { status, code, detail: Detail::Text(detail.to_owned()), retry_after: None }
    }

    /// Nobody known is asking.
    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "Missing or invalid authentication")
    }

    /// A body past its limit.
    pub(crate) fn too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "Request body too large")
    }

    /// A body that ends before it is whole.
    pub(crate) fn broken_body() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "incomplete_body", "The request body ended early")
    }

    /// No such address.
    pub(crate) fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "Not Found")
    }

    /// The address exists, the method does not.
    pub(crate) fn no_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method Not Allowed")
    }

    /// A fault of ours.
    pub(crate) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal server error")
    }

    /// Past a limit of calls in time; says the same seconds in text and header (seed: "Rate Limits").
    pub(crate) fn rate_limited(wait: Duration) -> Self {
        let seconds = whole_seconds(wait);
        let detail = format!("Rate limit exceeded. Try again in {seconds} seconds.");
        Self { retry_after: Some(wait), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", &detail) }
    }

    /// Wrong fields.
    pub(crate) fn validation(location: Location, faults: Vec<Fault>) -> Self {
        let items = faults.into_iter().map(|fault| ValidationItem::of(location, fault)).collect();
        Self::fields(items)
    }

    /// One wrong field.
    pub(crate) fn field(location: Location, name: &str, problem: Problem) -> Self {
        Self::validation(location, vec![Fault { path: vec![Segment::Field(name.to_owned())], problem }])
    }

    /// The body as a whole is missing or of the wrong kind.
    pub(crate) fn whole_body(problem: Problem) -> Self {
        Self::validation(Location::Body, vec![Fault { path: Vec::new(), problem }])
    }

    /// A body that is not JSON.
    pub(crate) fn malformed(offset: usize, message: String) -> Self {
        Self::fields(vec![ValidationItem {
            loc: vec![json!("body"), json!(offset)],
            msg: message,
            kind: "value_error.jsondecode",
            ctx: None,
        }])
    }

    fn fields(items: Vec<ValidationItem>) -> Self {
        Self {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            code: "validation_error",
            detail: Detail::Fields(items),
            retry_after: None,
        }
    }
}

impl ValidationItem {
    fn of(location: Location, fault: Fault) -> Self {
        let mut loc = vec![json!(location.as_str())];
        loc.extend(fault.path.into_iter().map(|segment| match segment {
            Segment::Field(name) => json!(name),
            Segment::Index(index) => json!(index),
        }));
        let (msg, kind, ctx) = words(fault.problem);
        Self { loc, msg, kind, ctx }
    }
}

/// The vocabulary of pydantic 1, which the seed's example speaks (spec/castari.md 5.1).
fn words(problem: Problem) -> (String, &'static str, Option<Value>) {
    let limit = |text: String, kind, limit: Value| (text, kind, Some(json!({ "limit_value": limit })));
    match problem {
        Problem::Missing => ("field required".into(), "value_error.missing", None),
        Problem::Null => ("none is not an allowed value".into(), "type_error.none.not_allowed", None),
        Problem::NotText => ("str type expected".into(), "type_error.str", None),
        Problem::NotInteger => ("value is not a valid integer".into(), "type_error.integer", None),
        Problem::NotBoolean => ("value could not be parsed to a boolean".into(), "type_error.bool", None),
        Problem::NotList => ("value is not a valid list".into(), "type_error.list", None),
        Problem::NotObject => ("value is not a valid dict".into(), "type_error.dict", None),
        Problem::NotATime => ("invalid datetime format".into(), "value_error.datetime", None),
        Problem::NoneOf(permitted) => (
            format!("value is not a valid enumeration member; permitted: {}", quoted(permitted)),
            "type_error.enum",
            Some(json!({ "enum_values": permitted })),
        ),
        Problem::TooShort(least) => limit(
            format!("ensure this value has at least {least} characters"),
            "value_error.any_str.min_length",
            json!(least),
        ),
        Problem::TooLong(most) => limit(
            format!("ensure this value has at most {most} characters"),
            "value_error.any_str.max_length",
            json!(most),
        ),
        Problem::Pattern(pattern) => (
            format!("string does not match regex \"{pattern}\""),
            "value_error.str.regex",
            Some(json!({ "pattern": pattern })),
        ),
        Problem::NotGreaterEqual(least) => limit(
            format!("ensure this value is greater than or equal to {least}"),
            "value_error.number.not_ge",
            json!(least),
        ),
        Problem::NotLessEqual(most) => limit(
            format!("ensure this value is less than or equal to {most}"),
            "value_error.number.not_le",
            json!(most),
        ),
        Problem::UrlScheme => ("invalid or missing URL scheme".into(), "value_error.url.scheme", None),
        Problem::Other(text) => (text, "value_error", None),
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let status = match error.kind {
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Invalid => return Self::invalid(&error),
            Kind::Unauthenticated => return Self::unauthorized(),
            Kind::Forbidden => StatusCode::FORBIDDEN,
            // "Parameters valid but impossible" is 400 in this API; 409 is for what passes by itself (spec/castari.md 5).
            Kind::Conflict | Kind::LimitReached => StatusCode::BAD_REQUEST,
            Kind::Busy => StatusCode::CONFLICT,
            Kind::RateLimited => return Self::rate_limited(error.retry_after.unwrap_or(Duration::from_secs(60))),
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Upstream => StatusCode::BAD_GATEWAY,
            Kind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status.is_server_error() {
            tracing::error!(?error, "a request failed");
        }
        let retry_after = match error.kind {
            Kind::Unavailable => Some(error.retry_after.unwrap_or(Duration::from_secs(5))),
            _ => error.retry_after,
        };
        Self { status, code: error.code, detail: Detail::Text(error.public), retry_after }
    }
}

impl ApiError {
    fn invalid(error: &Error) -> Self {
        if error.fields.is_empty() {
            return Self::whole_body(Problem::Other(error.public.clone()));
        }
        let items = error.fields.iter().map(|field| {
            // The domain names one field that is a header.
            let location = if field.path.first().is_some_and(|name| name == "Last-Event-ID") {
                Location::Header
            } else {
                Location::Body
            };
            let path = field.path.iter().flat_map(|step| step.split('.')).map(|step| match step.parse::<usize>() {
                Ok(index) => Segment::Index(index),
                Err(_) => Segment::Field(step.to_owned()),
            });
            ValidationItem::of(location, Fault { path: path.collect(), problem: Problem::from_message(&field.message) })
        });
        Self::fields(items.collect())
    }
}

/// Seconds to wait, never 0: who comes back at once would only be refused again.
fn whole_seconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1)
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let detail = match self.detail {
            Detail::Text(text) => json!(text),
            Detail::Fields(items) => json!(items),
        };
        let mut response = (self.status, Json(json!({ "detail": detail, "code": self.code }))).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        response
    }
}

/// The answer to a panic.
pub(crate) fn panicked() -> Response {
    ApiError::internal().into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body(error: ApiError) -> (u16, Value) {
        let response = error.into_response();
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        (status, serde_json::from_slice(&bytes).expect("JSON"))
    }

    #[tokio::test]
    async fn wrong_fields_of_the_domain_speak_the_vocabulary_of_the_wire() {
        let mut error = Error::invalid("timeout_seconds", "ensure this value is less than or equal to 600");
        error.fields.extend(Error::invalid("agent_config.max_turns", "is strange").fields);
        assert_eq!(
            body(error.into()).await,
            (
                422,
                json!({"detail": [
                    {"loc": ["body", "timeout_seconds"], "msg": "ensure this value is less than or equal to 600",
                     "type": "value_error.number.not_le", "ctx": {"limit_value": 600}},
                    {"loc": ["body", "agent_config", "max_turns"], "msg": "is strange", "type": "value_error"},
                ], "code": "validation_error"})
            )
        );
    }

    #[tokio::test]
    async fn what_is_ours_stays_ours() {
        let error = Error::internal(std::io::Error::other("SELECT secret FROM table"));
        let (status, body) = body(error.into()).await;
        assert_eq!(status, 500);
        assert_eq!(body, json!({"detail": "Internal server error", "code": "internal"}));
    }

    #[tokio::test]
    async fn text_and_header_name_the_same_seconds() {
        let error =
            Error::new(Kind::RateLimited, "rate_limited", "too fast").retry_after(Duration::from_millis(29_001));
        let response = ApiError::from(error).into_response();
        assert_eq!(response.headers()["retry-after"], "30");
        let error = ApiError::rate_limited(Duration::from_millis(29_001));
        assert_eq!(body(error).await.1["detail"], "Rate limit exceeded. Try again in 30 seconds.");
    }
}
