//! `backlot invocations …`: the history of an agent's runs.

use super::raw_list;
use crate::client::Context;
use crate::client::error::Error;
use crate::client::output::{Head, Table, compact, dollars, duration, harmless, moment, thousands};

/// What to do with the history.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// List the runs of an agent, newest first
    List {
        /// The agent
        slug: String,
        /// Only runs in this status: completed, failed or running
        #[arg(long)]
        status: Option<String>,
        /// How many
        #[arg(long, short = 'n', default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Show one run with its prompt and answer
    Get {
        /// The run
        id: String,
    },
}

/// Carries the action out.
pub(crate) async fn run(action: Action, ctx: &Context) -> Result<(), Error> {
    let api = ctx.api()?;
    match action {
        Action::List { slug, status, limit } => {
            let runs = api.invocations(&slug, status.as_deref(), limit as usize).await?;
            if ctx.out.json {
                return ctx.out.json(&raw_list(&runs));
            }
            // The id is 30 characters that people copy into the next command, so it is not cut; the date goes without its year.
            let mut table = Table::new(&[
                Head::Id("ID"),
                Head::Word("STATUS"),
                Head::Number("TOKENS"),
                Head::Number("COST"),
                Head::Number("TIME"),
                Head::Word("CREATED"),
            ]);
            for run in &runs {
                let created = run.created_at.as_deref().map(moment).unwrap_or_default();
                table.row([
                    run.invocation_id.clone(),
                    run.status.clone(),
                    compact(run.input_tokens.saturating_add(run.output_tokens)),
                    short_cost(dollars(&run.total_cost_usd, run.unpriced_calls)),
                    run.duration_ms.map(|ms| format!("{}.{} s", ms / 1000, ms % 1000 / 100)).unwrap_or_default(),
                    created.get(5..).unwrap_or(&created).to_owned(),
                ]);
            }
            ctx.out.table(&table, "No runs yet.")?;
            if !runs.is_empty() {
                ctx.out.note(&format!("{} runs shown", runs.len()));
            }
            Ok(())
        }
        Action::Get { id } => {
            let run = api.invocation(&id).await?;
            if ctx.out.json {
                return ctx.out.json(&run.raw);
            }
            let error = run.error.as_ref().map(|e| format!("{} ({})", e.message, e.code)).unwrap_or_default();
            ctx.out.facts(&[
                ("id", run.invocation_id.clone()),
                ("status", run.status.clone()),
                ("error", error),
                ("session", run.session_id.clone().unwrap_or_default()),
                ("tokens", format!("{} in, {} out", thousands(run.input_tokens), thousands(run.output_tokens))),
                ("cost", dollars(&run.total_cost_usd, run.unpriced_calls)),
                ("duration", run.duration_ms.map(duration).unwrap_or_default()),
                ("created", run.created_at.as_deref().map(moment).unwrap_or_default()),
            ])?;
            for (title, text) in [("Prompt", &run.prompt), ("Answer", &run.response_content)] {
                if let Some(text) = text {
                    ctx.out.line(&format!("\n{title}:\n{}", harmless(text)))?;
                }
            }
            Ok(())
        }
    }
}

/// A cost for a narrow column; `+` stands for calls of unknown price.
fn short_cost(cost: String) -> String {
    match cost.strip_suffix(" + unknown") {
        Some(known) => format!("{known}+"),
        None if cost == "price unknown" => "unknown".into(),
        None => cost,
    }
}
