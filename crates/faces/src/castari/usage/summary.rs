//! `GET /usage`

use axum::{Json, extract::State};
use serde::Serialize;

use super::UsageQuery;
use crate::castari::{Castari, caller::CastariCaller, error::ApiError, extract::Query, money::usd};

/// What was used in a period.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct UsageSummary {
    /// Ended invocations, failed ones included.
    total_invocations: u64,
    /// Tokens of all prompts.
    total_input_tokens: u64,
    /// Tokens of all answers.
    total_output_tokens: u64,
    /// Cost in US dollars of the model calls whose price is known.
    #[schema(example = "0.286260")]
    total_cost_usd: String,
    /// Model calls whose price is unknown. An addition of ours.
    unpriced_calls: u64,
    /// Midnight of the first day.
    period_start: String,
    /// Now.
    period_end: String,
}

/// Sums up the account's usage.
#[utoipa::path(
    get, path = "/api/v1/usage", operation_id = "get_usage", tag = "usage", params(UsageQuery),
    responses((status = 200, body = UsageSummary)),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Query(query): Query<UsageQuery>,
) -> Result<Json<UsageSummary>, ApiError> {
    let usage = castari.domain.code_agents.usage(&caller, query.days(), query.agent.as_deref()).await?;
    Ok(Json(UsageSummary {
        total_invocations: usage.invocations,
        total_input_tokens: usage.totals.input_tokens,
        total_output_tokens: usage.totals.output_tokens,
        total_cost_usd: usd(usage.totals.cost_nano_usd),
        unpriced_calls: usage.totals.unpriced_calls,
        period_start: usage.period_start.to_iso(),
        period_end: usage.period_end.to_iso(),
    }))
}
