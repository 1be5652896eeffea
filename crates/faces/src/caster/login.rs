//! `POST /auth/login`

use axum::{Json, extract::State};
use serde::Serialize;

use super::{
    Caster,
    error::ApiError,
    extract::Body,
    user::{EmailAndPassword, User, whole_seconds},
};
use crate::http::client_address::ClientAddress;

/// An account that signed in. It gets no API key (seed); the tokens are an addition of ours (QUIRKS.md).
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct SignedIn {
    user: User,
    /// A bearer token for every face, for example to create an API key with.
    access_token: String,
    /// When `access_token` ends.
    access_expires_at: String,
    /// Good for one exchange against new tokens.
    refresh_token: String,
}

/// Signs in with e-mail and password.
#[utoipa::path(
    post, path = "/api/v1/auth/login", operation_id = "login", tag = "auth", request_body = EmailAndPassword,
    security(()),
    responses((status = 200, body = SignedIn), (status = 401, description = "Invalid email or password")),
)]
pub(crate) async fn handler(
    State(caster): State<Caster>,
    ClientAddress(address): ClientAddress,
    Body(wanted): Body<EmailAndPassword>,
) -> Result<Json<SignedIn>, ApiError> {
    let signed_in = caster.domain.accounts.login(wanted.from(address)).await?;
    Ok(Json(SignedIn {
        user: signed_in.account.into(),
        access_token: signed_in.tokens.access_token.expose().to_owned(),
        access_expires_at: whole_seconds(signed_in.tokens.access_expires_at),
        refresh_token: signed_in.tokens.refresh_token.expose().to_owned(),
    }))
}
