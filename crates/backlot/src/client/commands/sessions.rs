//! `backlot sessions …`: the sandboxes that an agent keeps for its callers.

use super::raw_list;
use crate::client::Context;
use crate::client::error::Error;
use crate::client::output::{Head, Table, moment, short_id};

/// What to do with sessions.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// List the sessions of an agent
    List {
        /// The agent
        slug: String,
    },
    /// Delete a session with its sandbox
    Delete {
        /// The agent
        slug: String,
        /// The session
        session: String,
    },
}

/// Carries the action out.
pub(crate) async fn run(action: Action, ctx: &Context) -> Result<(), Error> {
    let api = ctx.api()?;
    match action {
        Action::List { slug } => {
            let sessions = api.sessions(&slug).await?;
            if ctx.out.json {
                return ctx.out.json(&raw_list(&sessions));
            }
            let mut table = Table::new(&[
                Head::Id("SESSION"),
                Head::Word("SANDBOX"),
                Head::Word("CREATED"),
                Head::Word("LAST RUN"),
            ]);
            for session in &sessions {
                table.row([
                    session.id.clone(),
                    session.sandbox_id.as_deref().map_or_else(|| "N/A".into(), short_id),
                    session.created_at.as_deref().map(moment).unwrap_or_default(),
                    session.last_invocation_at.as_deref().map_or_else(|| "Never".into(), moment),
                ]);
            }
            ctx.out.table(&table, &format!("No sessions. Start one with `backlot invoke {slug} --session <name> …`."))
        }
        Action::Delete { slug, session } => {
            api.delete_session(&slug, &session).await.map_err(|e| match e {
                e if e.code() == "session_not_found" => e.with_hint(format!("see `backlot sessions list {slug}`")),
                e => e,
            })?;
            ctx.out.done(&format!("Deleted session {session} of {slug}"));
            Ok(())
        }
    }
}
