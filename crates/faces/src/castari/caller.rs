//! Who is asking: `Authorization: Bearer …`, with `X-API-Key` as an alias (seed: "Authentication"; spec/castari.md 4).
//!
//! The extractor also counts the call, because that comes right after the question who is asking and before
//! anything of the request is looked at (spec/castari.md 3, "order of evaluation").

use std::convert::Infallible;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use backlot_domain::{
    Error, Kind,
    accounts::{Caller, Principal, RateClass},
};

use super::{Castari, error::ApiError};
use crate::http::{client_address::ClientAddress, rate_limit};

/// The caller of an ordinary endpoint.
pub(crate) struct CastariCaller(pub(crate) Caller);

/// The caller of an endpoint that starts an invocation, which has a limit of its own.
pub(crate) struct InvokingCaller(pub(crate) Caller);

impl FromRequestParts<Castari> for CastariCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, castari: &Castari) -> Result<Self, ApiError> {
        identify(parts, castari, RateClass::Crud).await.map(Self)
    }
}

impl FromRequestParts<Castari> for InvokingCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, castari: &Castari) -> Result<Self, ApiError> {
        identify(parts, castari, RateClass::Invocation).await.map(Self)
    }
}

async fn identify(parts: &Parts, castari: &Castari, class: RateClass) -> Result<Caller, ApiError> {
    let accounts = &castari.domain.accounts;
    let known = match credential(&parts.headers) {
        Some(credential) => accounts.authenticate(credential).await,
        None => Err(Error::new(Kind::Unauthenticated, "unauthorized", "Missing or invalid authentication")),
    };
    match known {
        Ok(caller) => {
            count(parts, castari, Principal::Account(&caller.account_id), class).await?;
            Ok(caller)
        }
        Err(error) if error.kind == Kind::Unauthenticated => {
            // Guessing is counted by address (spec/castari.md 6).
            let ClientAddress(address) = ClientAddress::of(parts);
            count(parts, castari, Principal::Address(address), RateClass::Anonymous).await?;
            Err(ApiError::unauthorized())
        }
        Err(error) => Err(error.into()),
    }
}

/// Somebody who asks for what no route answers; counted by address, but never refused for it.
pub(crate) struct Stray;

impl FromRequestParts<Castari> for Stray {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, castari: &Castari) -> Result<Self, Infallible> {
        let ClientAddress(address) = ClientAddress::of(parts);
        let _refusal = count(parts, castari, Principal::Address(address), RateClass::Anonymous).await;
        Ok(Self)
    }
}

async fn count(parts: &Parts, castari: &Castari, who: Principal<'_>, class: RateClass) -> Result<(), ApiError> {
    match castari.domain.accounts.spend(who, class).await {
        Ok(status) => {
            rate_limit::note(parts, status);
            Ok(())
        }
        Err((status, error)) => {
            rate_limit::note(parts, status);
            Err(error.into())
        }
    }
}

/// The credential of a request. With both headers `Authorization` counts.
fn credential(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, credential) = value.to_str().ok()?.split_once(' ')?;
        let credential = credential.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !credential.is_empty()).then_some(credential);
    }
    let key = headers.get("x-api-key")?.to_str().ok()?.trim();
    (!key.is_empty()).then_some(key)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn of(pairs: &[(&'static str, &'static str)]) -> Option<String> {
        let headers: HeaderMap = pairs
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        credential(&headers).map(str::to_owned)
    }

    #[test]
    fn both_headers_are_read_and_bearer_wins() {
        assert_eq!(of(&[("authorization", "Bearer cast_a_b")]), Some("cast_a_b".to_owned()));
        assert_eq!(of(&[("authorization", "bearer  cast_a_b ")]), Some("cast_a_b".to_owned()));
        assert_eq!(of(&[("x-api-key", "cast_a_b")]), Some("cast_a_b".to_owned()));
        assert_eq!(of(&[("x-api-key", "one"), ("authorization", "Bearer two")]), Some("two".to_owned()));
        for bad in ["cast_a_b", "Basic YTpi", "Bearer", "Bearer ", ""] {
            assert_eq!(of(&[("authorization", bad)]), None, "{bad}");
        }
        assert_eq!(of(&[]), None);
    }
}
