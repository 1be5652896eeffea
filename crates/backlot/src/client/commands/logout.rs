//! `backlot logout`: revoke the key that `login` made, and forget it.

use crate::client::api::Api;
use crate::client::credentials::{Store, Target, resolve, server_name};
use crate::client::error::Error;
use crate::client::{Context, env};

/// Arguments of `logout`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Forget the key here, but leave it valid on the server
    #[arg(long)]
    keep_key: bool,
}

/// Removes the entry of the server in force; revoking is tried, forgetting always happens.
pub(crate) async fn run(args: Args, ctx: &Context) -> Result<(), Error> {
    let path = ctx.credentials_path()?;
    let mut store = Store::load(&path)?;
    let server = resolve(&ctx.options, &store, env)?.server;
    let name = server_name(&server).to_owned();
    let Some(entry) = store.servers.remove(&name) else {
        ctx.out.note(&format!("Not logged in to {name}"));
        return Ok(());
    };
    if store.default.as_ref() == Some(&name) {
        store.default = store.servers.keys().next().cloned();
    }
    store.save(&path)?;
    if entry.created_by_login && !args.keep_key {
        let key = entry.api_key;
        let api = Api::new(&Target { server, key: Some((key.clone(), crate::client::credentials::Source::File)) })?;
        if let Err(error) = revoke(&api, key.prefix()).await {
            ctx.out.warn(&format!("the key is forgotten here, but could not be revoked on the server: {error}"));
        }
    }
    ctx.out.done(&format!("Logged out of {name}"));
    Ok(())
}

/// Finds the key's record by its public part, since the record's id is not stored.
async fn revoke(api: &Api, prefix: Option<&str>) -> Result<(), Error> {
    let prefix = prefix.ok_or_else(|| Error::failed("the key has an unknown form"))?;
    match api.keys().await {
        Ok(keys) => match keys.iter().find(|k| k.prefix == prefix) {
            Some(record) => api.revoke_key(&record.id).await,
            None => Err(Error::failed("the server does not list it")),
        },
        // Revoked elsewhere already.
        Err(error) if error.status() == Some(401) => Ok(()),
        Err(error) => Err(error),
    }
}
