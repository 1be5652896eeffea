//! `backlot usage`: runs, tokens and cost of the account.

use crate::client::Context;
use crate::client::error::Error;
use crate::client::output::{Head, Table, dollars, moment, thousands};

/// Arguments of `usage`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many days back, counting today
    #[arg(short, long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=365))]
    days: u16,

    /// One line per day
    #[arg(long)]
    daily: bool,
}

/// Prints totals, or a table by day.
pub(crate) async fn run(args: Args, ctx: &Context) -> Result<(), Error> {
    let api = ctx.api()?;
    if !args.daily {
        let usage = api.usage(args.days).await?;
        if ctx.out.json {
            return ctx.out.json(&usage.raw);
        }
        return ctx.out.facts(&[
            ("runs", thousands(usage.total_invocations)),
            ("input tokens", thousands(usage.total_input_tokens)),
            ("output tokens", thousands(usage.total_output_tokens)),
            ("cost", dollars(&usage.total_cost_usd, usage.unpriced_calls)),
            ("from", moment(&usage.period_start)),
            ("to", moment(&usage.period_end)),
        ]);
    }
    let (raw, days) = api.daily_usage(args.days).await?;
    if ctx.out.json {
        return ctx.out.json(&raw);
    }
    let mut table = Table::new(&[
        Head::Word("DATE"),
        Head::Number("RUNS"),
        Head::Number("TOKENS IN"),
        Head::Number("TOKENS OUT"),
        Head::Number("COST"),
    ]);
    for day in &days {
        table.row([
            day.date.clone(),
            thousands(day.invocation_count),
            thousands(day.input_tokens),
            thousands(day.output_tokens),
            dollars(&day.cost_usd, day.unpriced_calls),
        ]);
    }
    ctx.out.table(&table, &format!("No runs in the last {} days.", args.days))
}
