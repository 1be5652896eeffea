//! API keys of the account (seed: "API Keys"; spec/castari.md 4.1, 4.3).

pub(crate) mod create;
pub(crate) mod create_legacy;
pub(crate) mod list;
pub(crate) mod revoke;
pub(crate) mod revoke_legacy;

use backlot_domain::{Timestamp, accounts};
use serde::Serialize;

/// What may be known of an API key.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ApiKeyInfo {
    /// `ak_…`
    id: String,
    /// What its owner calls it.
    name: String,
    /// The public part.
    #[schema(example = "cast_k3Xp09Qa")]
    prefix: String,
    /// What it may do. An addition of ours.
    scopes: Vec<String>,
    /// ISO 8601 in UTC.
    created_at: String,
    /// ISO 8601 in UTC, to the minute; null until it is used.
    last_used_at: Option<String>,
}

impl From<accounts::ApiKey> for ApiKeyInfo {
    fn from(key: accounts::ApiKey) -> Self {
        Self {
            prefix: shown_prefix(&key),
            id: key.id,
            name: key.name,
            scopes: key.scopes.iter().map(ToString::to_string).collect(),
            created_at: key.created_at.to_iso(),
            last_used_at: key.last_used_at.map(Timestamp::to_iso),
        }
    }
}

/// The public part as listings show it (spec/castari.md 4.1).
pub(crate) fn shown_prefix(key: &accounts::ApiKey) -> String {
    format!("cast_{}", key.prefix)
}
