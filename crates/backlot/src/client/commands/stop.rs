//! `backlot stop`: destroy an agent's sandboxes.

use crate::client::Context;
use crate::client::error::Error;

/// Arguments of `stop`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The agent
    slug: String,
}

/// Stops the agent; running invocations end as failed.
pub(crate) async fn run(args: Args, ctx: &Context) -> Result<(), Error> {
    let agent = ctx.api()?.stop(&args.slug).await?;
    if ctx.out.json {
        return ctx.out.json(&agent);
    }
    ctx.out.done(&format!("Stopped {}", args.slug));
    ctx.out.hint(&format!("start it again with `backlot deploy {}`", args.slug));
    Ok(())
}
