//! `POST /api-keys`

use std::collections::BTreeSet;

use axum::{Json, extract::State, http::StatusCode};
use backlot_domain::accounts::Scope;
use serde::Serialize;

use super::ApiKeyInfo;
use crate::{
    castari::{Castari, caller::CastariCaller, error::ApiError, extract::OptionalBody},
    http::fields::{Fields, FromFields, list, text, word},
};

/// What a key is called when nobody says so (spec/castari.md 4.1).
const DEFAULT_NAME: &str = "Default";
/// The words of scopes.
const SCOPES: &[&str] = &["all", "agents", "sessions"];

/// A key that somebody asks for; every field may be absent, and so may the whole body.
#[derive(Debug, utoipa::ToSchema)]
pub(crate) struct CreateApiKey {
    /// What its owner calls it; `Default` when absent.
    #[schema(min_length = 1, max_length = 100)]
    name: Option<String>,
    /// What it may do: `all`, or any of `agents`, `sessions`; `["all"]` when absent. An addition of ours.
    #[schema(value_type = Option<Vec<String>>, example = json!(["all"]))]
    scopes: Option<Vec<Scope>>,
}

impl FromFields for CreateApiKey {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            name: fields.optional("name", text(1, 100)),
            scopes: fields.optional("scopes", list(word(SCOPES, |text| text.parse().ok()), SCOPES.len())),
        }
    }
}

/// A new key; the only answer that ever shows it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct CreatedApiKey {
    api_key: ApiKeyInfo,
    /// The key in full, this once.
    #[schema(example = "cast_xxxxxxxx_xxxxxxxxxx")]
    key: String,
}

/// Creates an API key.
#[utoipa::path(
    post, path = "/api/v1/api-keys", operation_id = "create_api_key", tag = "api-keys",
    request_body(content = Option<CreateApiKey>),
    responses(
        (status = 201, body = CreatedApiKey),
        (status = 400, description = "The account has 50 keys already (`too_many_api_keys`)"),
    ),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    OptionalBody(wanted): OptionalBody<CreateApiKey>,
) -> Result<(StatusCode, Json<CreatedApiKey>), ApiError> {
    let name = wanted.name.as_deref().unwrap_or(DEFAULT_NAME);
    let scopes = wanted.scopes.map_or_else(|| BTreeSet::from([Scope::All]), BTreeSet::from_iter);
    let created = castari.domain.accounts.create_key(&caller, name, scopes).await?;
    let answer = CreatedApiKey { api_key: created.key.into(), key: created.secret.expose().to_owned() };
    Ok((StatusCode::CREATED, Json(answer)))
}
