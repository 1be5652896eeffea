//! `GET /auth/me`

use axum::{Json, extract::State};
use serde::Serialize;

use crate::castari::{Castari, api_keys::shown_prefix, caller::CastariCaller, error::ApiError};

/// The account.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct User {
    /// `usr_…`
    id: String,
    /// Empty when an identity provider tells none.
    email: String,
    /// The public part of the key that made this call, or of the newest one when it was made with a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "cast_k3Xp09Qa")]
    api_key_prefix: Option<String>,
    /// ISO 8601 in UTC.
    created_at: String,
}

/// Tells whose credential this is.
#[utoipa::path(
    get, path = "/api/v1/auth/me", operation_id = "get_me", tag = "auth", responses((status = 200, body = User)),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
) -> Result<Json<User>, ApiError> {
    let account = castari.domain.accounts.account(&caller).await?;
    let key = castari.domain.accounts.current_key(&caller).await?;
    Ok(Json(User {
        id: account.id,
        email: account.email.unwrap_or_default(),
        api_key_prefix: key.as_ref().map(shown_prefix),
        created_at: account.created_at.to_iso(),
    }))
}
