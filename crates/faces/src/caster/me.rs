//! `GET /me`

use axum::{Json, extract::State};

use super::{Caster, error::ApiError, extract::CasterCaller, user::UserResponse};

/// Tells whose credential this is.
#[utoipa::path(
    get, path = "/api/v1/me", operation_id = "get_me", tag = "auth", responses((status = 200, body = UserResponse)),
)]
pub(crate) async fn handler(
    State(caster): State<Caster>,
    CasterCaller(caller): CasterCaller,
) -> Result<Json<UserResponse>, ApiError> {
    let account = caster.domain.accounts.account(&caller).await?;
    Ok(Json(UserResponse { user: account.into() }))
}
