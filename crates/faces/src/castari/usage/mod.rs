//! What the account used (seed: "Usage"; spec/castari.md 17).

pub(crate) mod daily;
pub(crate) mod summary;

use crate::http::fields::{Fields, FromFields, integer, text};

/// Which usage.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct UsageQuery {
    /// The last so many calendar days in UTC, today included.
    #[param(minimum = 1, maximum = 365, default = 30)]
    days: Option<u32>,
    /// Of this agent only, by slug.
    #[param(max_length = 100)]
    agent: Option<String>,
}

impl FromFields for UsageQuery {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self { days: fields.optional("days", integer(1, 365)), agent: fields.optional("agent", text(1, 100)) }
    }
}

impl UsageQuery {
    fn days(&self) -> u32 {
        self.days.unwrap_or(30)
    }
}
