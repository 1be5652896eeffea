//! `backlot secrets …`: variables that an agent's program finds in its environment.

use super::raw_list;
use crate::client::error::Error;
use crate::client::output::{Head, Table, moment};
use crate::client::{Context, prompt};

/// Largest value the server takes (`spec/castari.md` 14).
const MAX_VALUE_BYTES: usize = 64 << 10;

/// What to do with secrets.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// List the names; values never leave the server
    List {
        /// The agent
        slug: String,
    },
    /// Set a secret: asks for the value, or reads it from standard input
    #[command(
        after_help = "A value given as an argument stays in your shell's history; prefer\n  backlot secrets set my-agent API_TOKEN < token.txt"
    )]
    Set {
        /// The agent
        slug: String,
        /// Name of the variable
        key: String,
        /// The value; asked for without echo when absent
        value: Option<String>,
    },
    /// Delete a secret
    Delete {
        /// The agent
        slug: String,
        /// Name of the variable
        key: String,
    },
}

/// Carries the action out.
pub(crate) async fn run(action: Action, ctx: &Context) -> Result<(), Error> {
    let api = ctx.api()?;
    match action {
        Action::List { slug } => {
            let secrets = api.secrets(&slug).await?;
            if ctx.out.json {
                return ctx.out.json(&raw_list(&secrets));
            }
            let mut table = Table::new(&[Head::Id("KEY"), Head::Word("CREATED"), Head::Word("UPDATED")]);
            for secret in &secrets {
                let time = |t: &Option<String>| t.as_deref().map(moment).unwrap_or_default();
                table.row([secret.key.clone(), time(&secret.created_at), time(&secret.updated_at)]);
            }
            ctx.out.table(&table, &format!("No secrets. Set one with `backlot secrets set {slug} <KEY>`."))
        }
        Action::Set { slug, key, value } => {
            let value = match value {
                Some(value) => value,
                None if prompt::is_interactive() => {
                    prompt::secret(&format!("Value of {key}:"), false, "give the value on standard input")?
                }
                None => prompt::stdin_line(MAX_VALUE_BYTES, "the value")?,
            };
            if value.is_empty() {
                return Err(Error::Usage("the value is empty; to remove a secret use `backlot secrets delete`".into()));
            }
            let answer = api.set_secret(&slug, &key, &value).await?;
            if ctx.out.json {
                return ctx.out.json(&answer);
            }
            ctx.out.done(&format!("Set {key} for {slug}; it takes effect with the next run"));
            Ok(())
        }
        Action::Delete { slug, key } => {
            api.delete_secret(&slug, &key).await.map_err(|e| match e {
                e if e.code() == "secret_not_found" => e.with_hint(format!("see `backlot secrets list {slug}`")),
                e => e,
            })?;
            ctx.out.done(&format!("Deleted {key} of {slug}"));
            Ok(())
        }
    }
}
