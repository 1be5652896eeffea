//! From an HTTP request to a question of the domain: who asks, and what.

use axum::{
    Json,
    extract::Request,
    http::{HeaderMap, header::AUTHORIZATION},
    response::{IntoResponse as _, Response},
};
use backlot_domain::{
    Domain,
    models::{Admission, Asked, CallError, ErrorKind, GatewayCaller, Relayed, Wire},
};

use super::{BODY_LIMIT, answer};
use crate::http::body::{self, BodyError};

/// Answers a model call.
pub(super) async fn relay(domain: &Domain, wire: Wire, request: Request) -> Response {
    let relayed = async {
        let (caller, turn, asked) = accept(domain, wire, request).await?;
        domain.models.relay(&caller, turn, asked).await
    };
    respond(wire, relayed.await)
}

/// Answers how many tokens a request has.
pub(super) async fn count_tokens(domain: &Domain, request: Request) -> Response {
    let wire = Wire::AnthropicMessages;
    let counted = async {
        let (caller, turn, asked) = accept(domain, wire, request).await?;
        domain.models.count_tokens(&caller, turn, asked).await
    };
    respond(wire, counted.await)
}

/// Answers which models there are.
pub(super) async fn list_models(domain: &Domain, wire: Wire, headers: &HeaderMap) -> Response {
    match authenticate(domain, headers).await {
        Ok(_) => Json(wire.encode_models(&domain.models.list_models().await)).into_response(),
        Err(error) => answer::refuse(wire, &error),
    }
}

/// Answers what is known of one model.
pub(super) async fn find_model(domain: &Domain, wire: Wire, headers: &HeaderMap, id: &str) -> Response {
    let found = async {
        let caller = authenticate(domain, headers).await?;
        domain.models.find_model(&caller, id, wire).await
    };
    match found.await {
        Ok(card) => Json(wire.encode_model(&card)).into_response(),
        Err(error) => answer::refuse(wire, &error),
    }
}

fn respond(wire: Wire, relayed: Result<Relayed, CallError>) -> Response {
    match relayed {
        Ok(relayed) => answer::pass_on(relayed),
        Err(error) => answer::refuse(wire, &error),
    }
}

/// Who asks comes first, then a turn among their calls, and only then is the body read: nobody unknown, and nobody in
/// excess, gets our memory.
async fn accept(domain: &Domain, wire: Wire, request: Request) -> Result<(GatewayCaller, Admission, Asked), CallError> {
    let (parts, body) = request.into_parts();
    let caller = authenticate(domain, &parts.headers).await?;
    let turn = domain.models.admit(&caller).await?;
    let body = body::read(&parts.headers, body, BODY_LIMIT).await.map_err(|error| match error {
        BodyError::TooLarge => CallError::too_large(BODY_LIMIT),
        BodyError::Broken => CallError::new(ErrorKind::Invalid, "the request body broke off"),
    })?;
    let query = parts.uri.query().map(str::to_owned);
    Ok((caller, turn, Asked { wire, query, headers: parts.headers, body }))
}

/// Takes the credential where either vendor's SDK puts it.
async fn authenticate(domain: &Domain, headers: &HeaderMap) -> Result<GatewayCaller, CallError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let bearer = text(AUTHORIZATION.as_str()).and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    match text("x-api-key").or(bearer).filter(|token| !token.is_empty()) {
        Some(token) => domain.models.authenticate(token).await,
        None => Err(CallError::unauthenticated(
            "no credential; send the token of a run or an API key as `x-api-key` or `Authorization: Bearer`",
        )),
    }
}
