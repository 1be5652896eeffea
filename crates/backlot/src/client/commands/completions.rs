//! `backlot completions`: completion scripts for shells.

use crate::client::Context;
use crate::client::error::Error;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Install, for example:\n  bash  backlot completions bash > ~/.local/share/bash-completion/completions/backlot\n  zsh   backlot completions zsh > \"${fpath[1]}/_backlot\"\n  fish  backlot completions fish > ~/.config/fish/completions/backlot.fish"
)]
pub(crate) struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

/// Prints the script for the whole program.
pub(crate) fn run(args: Args, ctx: &Context, mut root: clap::Command) -> Result<(), Error> {
    let name = root.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut root, name, &mut script);
    ctx.out.write(&String::from_utf8_lossy(&script))
}
