//! The command-line client: everything that `backlot` does against a running server.
//!
//! [`Command`] lists the subcommands; `main.rs` flattens it next to `serve` and the other local ones and hands the
//! parsed command to [`run`]. Each command is a file of `commands/` with its arguments, its call and its printing;
//! `api` holds the HTTP calls and turns every failure into an [`error::Error`], which knows its exit code and hint.
//!
//! To add a command: a file in `commands/` with `Args` and `run`, a variant here, a call in `api` if it needs a new one.

pub(crate) mod api;
mod commands;
mod credentials;
mod error;
mod follow;
mod output;
mod pack;
mod project;
mod prompt;
mod sse;
mod templates;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use self::api::Api;
use self::credentials::{Store, Target};
use self::error::Error;
use self::output::Output;
use crate::cli::GlobalOptions;

/// The subcommands of the client.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Sign in and store an API key for this machine
    Login(commands::login::Args),
    /// Revoke the stored key and forget it
    Logout(commands::logout::Args),
    /// Show who is signed in, and where
    Whoami,
    /// Start a new agent from a template
    Init(commands::init::Args),
    /// Deploy this folder, or an agent by its slug
    Deploy(commands::deploy::Args),
    /// Run an agent once and print its answer
    Invoke(commands::invoke::Args),
    /// Stop an agent: destroy its sandboxes, refuse invocations until the next deployment
    Stop(commands::stop::Args),
    /// List, show, create, change and delete agents
    #[command(subcommand)]
    Agents(commands::agents::Action),
    /// List, set and delete the secrets of an agent
    #[command(subcommand)]
    Secrets(commands::secrets::Action),
    /// List and delete the sessions of an agent
    #[command(subcommand)]
    Sessions(commands::sessions::Action),
    /// List and show past runs
    #[command(subcommand)]
    Invocations(commands::invocations::Action),
    /// Show what an agent wrote to its log
    Logs(commands::logs::Args),
    /// List, create and revoke API keys
    #[command(subcommand)]
    Apikey(commands::apikey::Action),
    /// Show runs, tokens and cost of the last days
    Usage(commands::usage::Args),
    /// Print a completion script for a shell
    Completions(commands::completions::Args),
}

/// Runs a subcommand to its end and gives the exit code that `--help` documents.
///
/// `root` builds the whole program's argument parser, which the completion scripts describe.
/// Ctrl-C ends the process with 130 after the terminal was put right.
pub(crate) async fn run(command: Command, global: GlobalOptions, root: fn() -> clap::Command) -> ExitCode {
    supervise(global, async |ctx| match command {
        Command::Login(args) => commands::login::run(args, ctx).await,
        Command::Logout(args) => commands::logout::run(args, ctx).await,
        Command::Whoami => commands::whoami::run(ctx).await,
        Command::Init(args) => commands::init::run(args, ctx).await,
        Command::Deploy(args) => commands::deploy::run(args, ctx).await,
        Command::Invoke(args) => commands::invoke::run(args, ctx).await,
        Command::Stop(args) => commands::stop::run(args, ctx).await,
        Command::Agents(action) => commands::agents::run(action, ctx).await,
        Command::Secrets(action) => commands::secrets::run(action, ctx).await,
        Command::Sessions(action) => commands::sessions::run(action, ctx).await,
        Command::Invocations(action) => commands::invocations::run(action, ctx).await,
        Command::Logs(args) => commands::logs::run(args, ctx).await,
        Command::Apikey(action) => commands::apikey::run(action, ctx).await,
        Command::Usage(args) => commands::usage::run(args, ctx).await,
        Command::Completions(args) => commands::completions::run(args, ctx, root()),
    })
    .await
}

/// `backlot models`: lists what the server's gateway offers. Apart from [`Command`] because `models pull` is a
/// local command beside it.
pub(crate) async fn list_models(global: GlobalOptions) -> ExitCode {
    supervise(global, async |ctx| commands::models::run(ctx).await).await
}

async fn supervise(global: GlobalOptions, work: impl AsyncFnOnce(&Context) -> Result<(), Error>) -> ExitCode {
    let ctx = Context { out: Output::new(&global, env), options: global };
    let result = tokio::select! {
        result = work(&ctx) => result,
        // A wait for standard input cannot be cancelled, so the process ends here and not through the runtime.
        Ok(()) = tokio::signal::ctrl_c() => {
            restore_terminal();
            std::process::exit(i32::from(Error::Interrupted.exit_code()));
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if matches!(error, Error::Interrupted) {
                restore_terminal();
            } else if !matches!(error, Error::BrokenPipe) {
                ctx.out.error(&error);
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// Shows the cursor again, which a progress bar may have hidden, and starts a new line.
fn restore_terminal() {
    use std::io::IsTerminal as _;
    let mut err = std::io::stderr();
    if err.is_terminal() {
        let _ = write!(err, "\u{1b}[?25h\u{1b}[0m\r\n");
    }
}

#[expect(clippy::disallowed_methods, reason = "the client reads its environment here and nowhere else")]
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What every command works with.
#[derive(Debug)]
pub(crate) struct Context {
    options: GlobalOptions,
    out: Output,
}

impl Context {
    /// The path of the credentials file.
    fn credentials_path(&self) -> Result<PathBuf, Error> {
        credentials::path(env)
    }

    /// The server and key in force. Without a home folder there is simply no stored key.
    fn target(&self) -> Result<Target, Error> {
        let store = match self.credentials_path() {
            Ok(path) => {
                if credentials::readable_by_others(&path) {
                    self.out.warn(&format!("{0} can be read by others; run: chmod 600 {0}", path.display()));
                }
                Store::load(&path)?
            }
            Err(_) => Store::default(),
        };
        credentials::resolve(&self.options, &store, env)
    }

    /// A connection with the key in force.
    fn api(&self) -> Result<Api, Error> {
        let target = self.target()?;
        if target.key.is_none() {
            return Err(Error::NotSignedIn { server: credentials::server_name(&target.server).to_owned() });
        }
        Api::new(&target)
    }
}
