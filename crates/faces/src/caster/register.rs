//! `POST /auth/register`

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;

use super::{
    Caster,
    error::ApiError,
    extract::Body,
    user::{EmailAndPassword, User},
};
use crate::http::client_address::ClientAddress;

/// A new account with its first key.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Registered {
    user: User,
    /// The key in full, this once; it may do everything.
    #[schema(example = "cast_xxxxxxxx_xxxxxxxxxx")]
    api_key: String,
}

/// Creates an account. No credential needed; the operator decides who may (`--signup`).
#[utoipa::path(
    post, path = "/api/v1/auth/register", operation_id = "register", tag = "auth", request_body = EmailAndPassword,
    security(()),
    responses(
        (status = 201, body = Registered),
        (status = 400, description = "Malformed e-mail address or password"),
        (status = 403, description = "Registration is disabled"),
        (status = 409, description = "The e-mail address is taken"),
    ),
)]
pub(crate) async fn handler(
    State(caster): State<Caster>,
    ClientAddress(address): ClientAddress,
    Body(wanted): Body<EmailAndPassword>,
) -> Result<(StatusCode, Json<Registered>), ApiError> {
    let registered = caster.domain.accounts.register(wanted.from(address)).await?;
    let answer = Registered { user: registered.account.into(), api_key: registered.api_key.expose().to_owned() };
    Ok((StatusCode::CREATED, Json(answer)))
}
