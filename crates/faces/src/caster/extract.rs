//! Who is asking, and with which body (spec/caster.md 0.2, 0.4).

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, header, request::Parts},
};
use backlot_domain::{
    Kind,
    accounts::{Caller, Principal, RateClass},
};

use super::{Caster, error::ApiError};
use crate::http::{
    body::{self, BodyError, JSON_LIMIT},
    client_address::ClientAddress,
    fields::{self, FromFields},
    json::{self, JsonFault},
    rate_limit,
};

/// The caller of an endpoint.
pub(crate) struct CasterCaller(pub(crate) Caller);

impl FromRequestParts<Caster> for CasterCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, caster: &Caster) -> Result<Self, ApiError> {
        let accounts = &caster.domain.accounts;
        let refused = match credential(&parts.headers) {
            Err(refused) => refused,
            Ok(credential) => match accounts.authenticate(credential).await {
                Ok(caller) => {
                    count(parts, caster, Principal::Account(&caller.account_id), RateClass::Crud).await?;
                    return Ok(Self(caller));
                }
                Err(error) if error.kind == Kind::Unauthenticated => ApiError::unauthorized("invalid API key"),
                Err(error) => return Err(error.into()),
            },
        };
        let ClientAddress(address) = ClientAddress::of(parts);
        count(parts, caster, Principal::Address(address), RateClass::Anonymous).await?;
        Err(refused)
    }
}

fn credential(headers: &HeaderMap) -> Result<&str, ApiError> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(ApiError::unauthorized("missing API key"));
    };
    let bearer = value.to_str().ok().and_then(|value| value.split_once(' '));
    match bearer {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") && !key.trim().is_empty() => Ok(key.trim()),
        _ => Err(ApiError::unauthorized("invalid API key")),
    }
}

async fn count(parts: &Parts, caster: &Caster, who: Principal<'_>, class: RateClass) -> Result<(), ApiError> {
    let (status, refused) = match caster.domain.accounts.spend(who, class).await {
        Ok(status) => (status, Ok(())),
        Err((status, error)) => (status, Err(error.into())),
    };
    rate_limit::note(parts, status);
    refused
}

/// A JSON object as body. A missing content type is read as JSON; another one is refused.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: FromFields> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, content) = request.into_parts();
        if !is_json(&parts.headers) {
            return Err(ApiError::media_type());
        }
        let bytes = body::read(&parts.headers, content, JSON_LIMIT).await.map_err(|error| match error {
            BodyError::TooLarge => ApiError::too_large(JSON_LIMIT),
            BodyError::Broken => ApiError::invalid("the body ended early"),
        })?;
        match json::object(&bytes) {
            Ok(object) => fields::read_object(&object).map(Self).map_err(|faults| ApiError::fields(&faults)),
            Err(JsonFault::Empty | JsonFault::NotAnObject) => Err(ApiError::invalid("the body must be a JSON object")),
            Err(JsonFault::Malformed { offset, message }) => {
                Err(ApiError::invalid(format!("the body is not JSON: {message} at byte {offset}")))
            }
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return true };
    value.to_str().is_ok_and(|value| {
        let kind = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        kind == "application/json" || kind.ends_with("+json")
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn another_media_type_than_json_is_refused() {
        let of = |value: &'static str| {
            is_json(&HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(value))]))
        };
        assert!(is_json(&HeaderMap::new()));
        assert!(of("application/json; charset=utf-8"));
        assert!(of("Application/JSON"));
        assert!(of("application/problem+json"));
        assert!(!of("text/plain"));
        assert!(!of("application/x-www-form-urlencoded"));
    }
}
