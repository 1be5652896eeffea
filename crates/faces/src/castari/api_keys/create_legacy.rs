//! `POST /auth/api-key`: the one-key form of older clients (QUIRKS.md)

use std::collections::BTreeSet;

use axum::{Json, extract::State, http::StatusCode};
use backlot_domain::accounts::Scope;
use serde::Serialize;

use super::shown_prefix;
use crate::castari::{Castari, caller::CastariCaller, error::ApiError};

/// A new key in the form of older clients.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct LegacyApiKey {
    /// The key in full, this once.
    #[schema(example = "cast_xxxxxxxx_xxxxxxxxxx")]
    api_key: String,
    /// The public part.
    #[schema(example = "cast_k3Xp09Qa")]
    prefix: String,
}

/// Creates an API key named `Default` that may do everything.
#[utoipa::path(
    post, path = "/api/v1/auth/api-key", operation_id = "create_api_key_legacy", tag = "api-keys",
    responses(
        (status = 201, body = LegacyApiKey),
        (status = 400, description = "The account has 50 keys already (`too_many_api_keys`)"),
    ),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
) -> Result<(StatusCode, Json<LegacyApiKey>), ApiError> {
    let created = castari.domain.accounts.create_key(&caller, "Default", BTreeSet::from([Scope::All])).await?;
    let answer = LegacyApiKey { prefix: shown_prefix(&created.key), api_key: created.secret.expose().to_owned() };
    Ok((StatusCode::CREATED, Json(answer)))
}
