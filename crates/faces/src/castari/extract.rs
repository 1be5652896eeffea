//! Bodies, queries and paths as this face reads them: everything that does not fit is a 422 in its own vocabulary.

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    http::request::Parts,
};
use serde::de::DeserializeOwned;
use serde_json::Map;

use super::error::{ApiError, Location};
use crate::http::{
    body::{self, BodyError, JSON_LIMIT},
    fields::{self, FromFields, Problem},
    json::{self, JsonFault},
};

/// A JSON object as body. Its declared content type does not matter, as in the imitated service.
pub(crate) struct Body<T>(pub(crate) T);

/// A JSON object as body; no body is an empty object.
pub(crate) struct OptionalBody<T>(pub(crate) T);

/// The query string.
pub(crate) struct Query<T>(pub(crate) T);

/// The variable parts of the path, percent-decoded once.
pub(crate) struct Path<T>(pub(crate) T);

impl<S: Send + Sync, T: FromFields> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        match json::object(&bytes(request).await?) {
            Ok(object) => read(&object).map(Self),
            Err(JsonFault::Empty) => Err(ApiError::whole_body(Problem::Missing)),
            Err(fault) => Err(refuse(fault)),
        }
    }
}

impl<S: Send + Sync, T: FromFields> FromRequest<S> for OptionalBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        match json::object(&bytes(request).await?) {
            Ok(object) => read(&object).map(Self),
            Err(JsonFault::Empty) => read(&Map::new()).map(Self),
            Err(fault) => Err(refuse(fault)),
        }
    }
}

fn read<T: FromFields>(object: &Map<String, serde_json::Value>) -> Result<T, ApiError> {
    fields::read_object(object).map_err(|faults| ApiError::validation(Location::Body, faults))
}

async fn bytes(request: Request) -> Result<bytes::Bytes, ApiError> {
    let (parts, content) = request.into_parts();
    body::read(&parts.headers, content, JSON_LIMIT).await.map_err(|error| match error {
        BodyError::TooLarge => ApiError::too_large(),
        BodyError::Broken => ApiError::broken_body(),
    })
}

fn refuse(fault: JsonFault) -> ApiError {
    match fault {
        JsonFault::Empty => ApiError::whole_body(Problem::Missing),
        JsonFault::NotAnObject => ApiError::whole_body(Problem::NotObject),
        JsonFault::Malformed { offset, message } => ApiError::malformed(offset, message),
    }
}

impl<S: Sync, T: FromFields> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let pairs = fields::query_pairs(parts.uri.query().unwrap_or_default());
        fields::read_query(&pairs).map(Self).map_err(|faults| ApiError::validation(Location::Query, faults))
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        // A name that is not UTF-8 or holds a NUL is nobody's: no object can be called so.
        if parts.uri.path().contains("%00") {
            return Err(ApiError::no_route());
        }
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(path)) => Ok(Self(path)),
            Err(_) => Err(ApiError::no_route()),
        }
    }
}
