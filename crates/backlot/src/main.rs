//! The `backlot` binary: the server, and the command-line client that talks to one.

mod cli;
mod client;
mod config;
mod doctor;
mod serve;
mod weights;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

/// The argument of the hidden subcommand that runs as the sandbox launcher.
pub(crate) const LAUNCHER: &str = "sandbox-launcher";

/// An agent cloud in one program: deploy agent code into sandboxes and invoke it.
#[derive(Debug, clap::Parser)]
#[command(name = "backlot", version, after_long_help = cli::EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: cli::GlobalOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Start the server
    Serve(Box<config::ServeArgs>),
    /// Tell what this host offers to the server, what is missing, and what to do
    Doctor(Box<config::ServeArgs>),
    /// List the models the server offers, or fetch the local one
    Models(weights::Args),
    #[command(flatten)]
    Client(client::Command),
    /// Makes sandboxes for a server; not for people
    #[command(name = LAUNCHER, hide = true)]
    SandboxLauncher,
}

fn main() -> ExitCode {
    // The launcher is a small process of one thread: it must not meet the runtime, the allocator's threads or even
    // the argument parser of the server.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == LAUNCHER) {
        return backlot_sandbox::process::launcher_main();
    }
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start")),
    };
    let code = runtime.block_on(async {
        match cli.command {
            Command::Serve(args) => done(serve::run(*args).await),
            Command::Doctor(args) => doctor::run(*args).await.unwrap_or_else(|error| fail(&error)),
            Command::Models(args) => weights::run(args, cli.global).await.unwrap_or_else(|error| fail(&error)),
            Command::Client(command) => client::run(command, cli.global, Cli::command).await,
            Command::SandboxLauncher => backlot_sandbox::process::launcher_main(),
        }
    });
    // A thread that still reads standard input must not hold the process.
    runtime.shutdown_background();
    code
}

fn done(result: anyhow::Result<()>) -> ExitCode {
    result.map_or_else(|error| fail(&error), |()| ExitCode::SUCCESS)
}

#[expect(clippy::print_stderr, reason = "this is where a failed command speaks to its user")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
