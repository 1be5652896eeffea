//! `POST /invocations/{id}/cancel`

use axum::{Json, extract::State};

use super::{InvocationPath, InvocationResponse};
use crate::castari::{Castari, caller::CastariCaller, error::ApiError, extract::Path};

/// Stops an invocation and waits for its end; it ends as `failed` with the code `stopped`. An ended one stays as it is.
#[utoipa::path(
    post, path = "/api/v1/invocations/{id}/cancel", operation_id = "cancel_invocation", tag = "invocations",
    params(InvocationPath), responses((status = 200, body = InvocationResponse)),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Path(path): Path<InvocationPath>,
) -> Result<Json<InvocationResponse>, ApiError> {
    let invocation = castari.domain.code_agents.cancel(&caller, &path.id).await?;
    Ok(Json(InvocationResponse::new(invocation, false)))
}
