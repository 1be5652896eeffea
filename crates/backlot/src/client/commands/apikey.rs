//! `backlot apikey …`: the API keys of the account.

use super::raw_list;
use crate::client::Context;
use crate::client::error::Error;
use crate::client::output::{Head, Table, moment};

/// What to do with API keys.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// List the keys, without their secret part
    List,
    /// Make a key; it is shown once
    Create {
        /// What it is for
        #[arg(long, default_value = "Default")]
        name: String,
        /// What it may do: all, agents or sessions; give it several times for several
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
    },
    /// Revoke a key by its id
    Revoke {
        /// The key's id, from `backlot apikey list`
        id: String,
    },
}

/// Carries the action out.
pub(crate) async fn run(action: Action, ctx: &Context) -> Result<(), Error> {
    let api = ctx.api()?;
    match action {
        Action::List => {
            let keys = api.keys().await?;
            if ctx.out.json {
                return ctx.out.json(&raw_list(&keys));
            }
            let mut table = Table::new(&[
                Head::Id("ID"),
                Head::Text("NAME"),
                Head::Word("PREFIX"),
                Head::Word("CREATED"),
                Head::Word("LAST USED"),
            ]);
            for key in &keys {
                let day = |time: &str| moment(time).chars().take(10).collect::<String>();
                table.row([
                    key.id.clone(),
                    key.name.clone(),
                    key.prefix.clone(),
                    key.created_at.as_deref().map(day).unwrap_or_default(),
                    key.last_used_at.as_deref().map_or_else(|| "Never".into(), day),
                ]);
            }
            ctx.out.table(&table, "No keys.")
        }
        Action::Create { name, scopes } => {
            let new = api.create_key(&name, &scopes).await?;
            if ctx.out.json {
                return ctx.out.json(&new.raw);
            }
            ctx.out.done(&format!("Created key {} ({})", new.api_key.id, new.api_key.name));
            ctx.out.line(new.key.expose())?;
            ctx.out.warn("this is the only time the key is shown; keep it in a safe place");
            Ok(())
        }
        Action::Revoke { id } => {
            api.revoke_key(&id).await.map_err(|e| match e.status() {
                Some(404) => e.with_hint("see `backlot apikey list`"),
                _ => e,
            })?;
            ctx.out.done(&format!("Revoked {id}"));
            Ok(())
        }
    }
}
