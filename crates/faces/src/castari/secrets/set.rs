//! `POST /agents/{slug}/secrets`

use std::fmt;

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;

use crate::{
    castari::{
        Castari,
        agents::AgentPath,
        caller::CastariCaller,
        error::ApiError,
        extract::{Body, Path},
    },
    http::fields::{Fields, FromFields, text},
};

/// A secret to set. Setting a name again replaces its value.
#[derive(utoipa::ToSchema)]
pub(crate) struct SetSecret {
    /// The name of the program's variable.
    #[schema(pattern = "^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
    key: String,
    /// The value, at most 64 KiB.
    #[schema(max_length = 65_536)]
    value: String,
}

impl fmt::Debug for SetSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetSecret").field("key", &self.key).finish_non_exhaustive()
    }
}

impl FromFields for SetSecret {
    fn read(fields: &mut Fields<'_>) -> Self {
        // The grammar of names and the reserved ones are the domain's.
        Self { key: fields.required("key", text(0, 10_000)), value: fields.required("value", text(0, 65_536)) }
    }
}

/// The name of a secret that was set.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct SecretName {
    key: String,
}

/// Sets a secret, in effect from the next invocation.
#[utoipa::path(
    post, path = "/api/v1/agents/{slug}/secrets", operation_id = "set_secret", tag = "secrets", params(AgentPath),
    request_body = SetSecret,
    responses(
        (status = 201, body = SecretName, description = "It is new"),
        (status = 200, body = SecretName, description = "It was replaced"),
        (status = 400, description = "The agent has 100 secrets already (`too_many_secrets`)"),
    ),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Path(path): Path<AgentPath>,
    Body(secret): Body<SetSecret>,
) -> Result<(StatusCode, Json<SecretName>), ApiError> {
    let is_new = castari.domain.code_agents.set_secret(&caller, &path.slug, &secret.key, &secret.value).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(SecretName { key: secret.key })))
}
