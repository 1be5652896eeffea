//! `GET /invocations/{id}/logs`

use axum::{Json, extract::State};

use super::{InvocationPath, Log};
use crate::castari::{Castari, caller::CastariCaller, error::ApiError, extract::Path};

/// Reads what an invocation wrote to standard error, and what Backlot noted.
#[utoipa::path(
    get, path = "/api/v1/invocations/{id}/logs", operation_id = "get_invocation_logs", tag = "invocations",
    params(InvocationPath), responses((status = 200, body = Log)),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Path(path): Path<InvocationPath>,
) -> Result<Json<Log>, ApiError> {
    let lines = castari.domain.code_agents.invocation_logs(&caller, &path.id).await?;
    Ok(Json(lines.into()))
}
