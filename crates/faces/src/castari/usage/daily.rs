//! `GET /usage/daily`

use axum::{Json, extract::State};
use backlot_domain::runs;
use serde::Serialize;

use super::UsageQuery;
use crate::castari::{Castari, caller::CastariCaller, error::ApiError, extract::Query, money::usd};

/// What was used on a day.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct DailyUsage {
    /// `YYYY-MM-DD`, UTC.
    #[schema(example = "2026-03-01")]
    date: String,
    /// Invocations that ended on this day.
    invocation_count: u64,
    /// Tokens of all prompts.
    input_tokens: u64,
    /// Tokens of all answers.
    output_tokens: u64,
    /// Cost in US dollars of the model calls whose price is known.
    #[schema(example = "0.106800")]
    cost_usd: String,
    /// Model calls whose price is unknown. An addition of ours.
    unpriced_calls: u64,
}

impl From<runs::DailyUsage> for DailyUsage {
    fn from(day: runs::DailyUsage) -> Self {
        Self {
            date: day.date,
            invocation_count: day.runs,
            input_tokens: day.totals.input_tokens,
            output_tokens: day.totals.output_tokens,
            cost_usd: usd(day.totals.cost_nano_usd),
            unpriced_calls: day.totals.unpriced_calls,
        }
    }
}

/// Usage per day.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct DailyUsageList {
    /// Ascending; days without invocations are left out.
    daily_usage: Vec<DailyUsage>,
    /// The number of days asked for.
    total_days: u32,
}

/// Tells the account's usage per day.
#[utoipa::path(
    get, path = "/api/v1/usage/daily", operation_id = "get_daily_usage", tag = "usage", params(UsageQuery),
    responses((status = 200, body = DailyUsageList)),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Query(query): Query<UsageQuery>,
) -> Result<Json<DailyUsageList>, ApiError> {
    let days = castari.domain.code_agents.daily_usage(&caller, query.days(), query.agent.as_deref()).await?;
    Ok(Json(DailyUsageList { daily_usage: days.into_iter().map(DailyUsage::from).collect(), total_days: query.days() }))
}
