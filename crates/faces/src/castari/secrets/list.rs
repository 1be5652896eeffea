//! `GET /agents/{slug}/secrets`

use axum::{Json, extract::State};
use backlot_domain::code_agents::SecretInfo;
use serde::Serialize;

use crate::castari::{
    Castari,
    agents::AgentPath,
    caller::CastariCaller,
    error::ApiError,
    extract::{Path, Query},
    page::{Meta, PageQuery},
};

/// What may be known of a secret (seed: SDK types, `Secret`).
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Secret {
    /// Its name, which is the name of the program's variable.
    #[schema(example = "STRIPE_SECRET_KEY")]
    key: String,
    /// ISO 8601 in UTC.
    created_at: String,
    /// ISO 8601 in UTC.
    updated_at: String,
}

impl From<SecretInfo> for Secret {
    fn from(secret: SecretInfo) -> Self {
        Self { key: secret.key, created_at: secret.created_at.to_iso(), updated_at: secret.updated_at.to_iso() }
    }
}

/// A part of the list of secrets.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct SecretList {
    secrets: Vec<Secret>,
    meta: Meta,
}

/// Lists the names of an agent's secrets, newest first.
#[utoipa::path(
    get, path = "/api/v1/agents/{slug}/secrets", operation_id = "list_secrets", tag = "secrets",
    params(AgentPath, PageQuery), responses((status = 200, body = SecretList)),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Path(path): Path<AgentPath>,
    Query(page): Query<PageQuery>,
) -> Result<Json<SecretList>, ApiError> {
    let page = castari.domain.code_agents.secrets(&caller, &path.slug, page.window()).await?;
    Ok(Json(SecretList { meta: Meta::from(&page), secrets: page.items.into_iter().map(Secret::from).collect() }))
}
