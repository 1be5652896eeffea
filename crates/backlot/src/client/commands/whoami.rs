//! `backlot whoami`: the account and server in force.

use serde_json::Value;

use crate::client::Context;
use crate::client::api::Api;
use crate::client::credentials::{Source, server_name};
use crate::client::error::Error;

/// Asks the server whose key this is.
pub(crate) async fn run(ctx: &Context) -> Result<(), Error> {
    let target = ctx.target()?;
    let server = server_name(&target.server).to_owned();
    let Some((key, source)) = target.key.as_ref().map(|(k, s)| (k.clone(), *s)) else {
        return Err(Error::NotSignedIn { server });
    };
    let me = Api::new(&target)?.me().await?;
    if ctx.out.json {
        let mut report = me.raw.clone();
        report["server"] = Value::String(server);
        return ctx.out.json(&report);
    }
    let prefix = me.api_key_prefix.clone().or_else(|| key.prefix().map(str::to_owned)).unwrap_or_default();
    ctx.out.facts(&[
        ("email", me.email.clone()),
        ("account", me.id.clone()),
        ("key", format!("{prefix}...")),
        ("server", server),
        (
            "from",
            match source {
                Source::Given => "--api-key or a variable".into(),
                Source::File => ctx.credentials_path()?.display().to_string(),
            },
        ),
    ])
}
