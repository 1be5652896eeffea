//! `backlot deploy`: build this folder, or an agent's own source, on the server.
//!
//! In a folder: read the manifest, create the agent if it is new, pack, upload, and show the build's steps until
//! it is active; when it fails, its log. With a slug alone the server builds from the source it has.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::api::{Agent, Answer, Api, LogLine};
use crate::client::error::Error;
use crate::client::output::{bytes, harmless};
use crate::client::pack::{self, SERVER_LIMITS};
use crate::client::project::Project;
use crate::client::{Context, prompt};

/// How often the build's step is asked for: well within 100 calls a minute.
const POLL: Duration = Duration::from_millis(1500);
/// Longest wait for a build: the server's own limits on fetching and installing, and some room.
const LONGEST: Duration = Duration::from_secs(900);
/// Lines of a failed build's log that are shown.
const LOG_TAIL: usize = 40;

/// Arguments of `deploy`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Which files are uploaded: what git would track, less what .castariignore names (same syntax as .gitignore).
Never uploaded: node_modules, .git, .venv and .env* files (except .env.example). See them with --dry-run.")]
pub(crate) struct Args {
    /// Deploy this agent from its own source (git, or the code uploaded last)
    slug: Option<String>,

    /// The project folder, when it is not this one; with a slug, upload it under that name
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,

    /// Turn an agent that is built from git into one of uploaded code without asking
    #[arg(short, long)]
    yes: bool,

    /// List the files that would be uploaded, and stop
    #[arg(long)]
    dry_run: bool,
}

/// Deploys and waits for the result.
pub(crate) async fn run(args: Args, ctx: &Context) -> Result<(), Error> {
    match (&args.slug, &args.dir) {
        (Some(slug), None) if args.dry_run => {
            Err(Error::Usage(format!("--dry-run lists a folder: give --dir FOLDER with {slug}, or no slug")))
        }
        (Some(slug), None) => {
            let api = ctx.api()?;
            let progress = Progress::new(ctx);
            let outcome = build(&api, slug, &progress, async {
                let agent = api.deploy(slug).await?;
                Ok(agent.raw.clone())
            })
            .await;
            progress.clear();
            finish(&api, slug, outcome, ctx).await
        }
        _ => folder(&args, ctx).await,
    }
}

async fn folder(args: &Args, ctx: &Context) -> Result<(), Error> {
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from("."));
    let project = Project::read(&dir)?;
    let slug = args.slug.clone().unwrap_or_else(|| project.slug.clone());
    let selection = pack::select(&dir, &project.entrypoint, SERVER_LIMITS)?;
    for warning in project.warnings.iter().chain(&selection.warnings) {
        ctx.out.warn(warning);
    }
    if args.dry_run {
        return list(&selection, ctx);
    }
    let api = ctx.api()?;
    prepare_agent(&api, &project, &slug, args.yes, ctx).await?;
    let progress = Progress::new(ctx);
    progress.step("packing");
    let archive = packed(&dir, selection).await?;
    ctx.out.note(&format!("uploading {} to {slug}", bytes(archive.len() as u64)));
    progress.upload(archive.len() as u64);
    let bar = progress.bar.clone();
    let outcome = build(
        &api,
        &slug,
        &progress,
        api.upload_code(&slug, archive, move |sent| {
            if let Some(bar) = &bar {
                bar.set_position(sent);
            }
        }),
    )
    .await;
    progress.clear();
    finish(&api, &slug, outcome, ctx).await
}

fn list(selection: &pack::Selection, ctx: &Context) -> Result<(), Error> {
    if ctx.out.json {
        let paths: Vec<&String> = selection.items.keys().collect();
        return ctx.out.json(&json!({"files": paths, "bytes": selection.bytes()}));
    }
    for path in selection.items.keys() {
        ctx.out.line(&harmless(path))?;
    }
    ctx.out.note(&format!("{} files, {}", selection.items.len(), bytes(selection.bytes())));
    Ok(())
}

/// Compressing is work for a thread of its own, so that Ctrl-C and progress stay alive.
async fn packed(dir: &Path, selection: pack::Selection) -> Result<Bytes, Error> {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || pack::pack(&dir, &selection, SERVER_LIMITS))
        .await
        .map_err(|e| Error::failed(format!("packing failed: {e}")))?
        .map(Bytes::from)
}

/// Makes sure that there is an agent which takes uploaded code.
async fn prepare_agent(api: &Api, project: &Project, slug: &str, yes: bool, ctx: &Context) -> Result<(), Error> {
    match api.agent(slug).await {
        Ok(agent) if agent.source_type == "git" && agent.git_repo_url.is_some() && !yes => {
            let question = format!("{slug} is built from git. Replace its source by this folder?");
            if prompt::yes(&question, "give --yes")? { Ok(()) } else { Err(Error::failed("not deployed")) }
        }
        Ok(_) => Ok(()),
        Err(error) if error.status() == Some(404) && error.code() == "agent_not_found" => {
            api.create_agent(&json!({"name": project.name, "slug": slug, "source_type": "local"})).await?;
            ctx.out.note(&format!("created agent {slug}"));
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Waits for the call that builds, showing the agent's step meanwhile; when the server stops waiting first, goes on asking.
async fn build(
    api: &Api,
    slug: &str,
    progress: &Progress,
    call: impl Future<Output = Result<Value, Error>>,
) -> Result<Answer<Agent>, Error> {
    let deadline = Instant::now() + LONGEST;
    let mut call = std::pin::pin!(call);
    let answer = loop {
        tokio::select! {
            answer = &mut call => break answer?,
            () = tokio::time::sleep(POLL) => {
                // A failed look is no failed build.
                if progress.uploaded() && let Ok(agent) = api.agent(slug).await {
                    progress.of(&agent);
                }
            }
        }
    };
    let mut waiting = answer.get("status").and_then(Value::as_str) == Some("deploying");
    let mut misses = 0;
    loop {
        let agent = match api.agent(slug).await {
            Ok(agent) => agent,
            Err(error @ (Error::Unreachable { .. } | Error::Refused { status: 429 | 502 | 503, .. })) => {
                misses += 1;
                if misses > 20 {
                    return Err(error);
                }
                tokio::time::sleep(POLL * 2).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        misses = 0;
        if agent.status != "deploying" {
            return if waiting { judged(api, slug, agent).await } else { Ok(agent) };
        }
        waiting = true;
        if Instant::now() > deadline {
            return Err(Error::failed_with(
                format!("{slug} is still building"),
                format!("look later with `backlot agents get {slug}`"),
            ));
        }
        progress.of(&agent);
        tokio::time::sleep(POLL).await;
    }
}

/// After a build that nobody told us the end of: an agent may be active on its earlier release although the build failed.
async fn judged(api: &Api, slug: &str, agent: Answer<Agent>) -> Result<Answer<Agent>, Error> {
    let newest = api.deployments(slug, 1).await.unwrap_or_default().into_iter().next();
    let failed = match &newest {
        Some(deployment) => matches!(deployment.status.as_str(), "failed" | "error"),
        None => agent.status == "error",
    };
    if !failed {
        return Ok(agent);
    }
    let why = newest.and_then(|d| d.message.clone()).or_else(|| agent.status_message.clone());
    Err(Error::failed(why.unwrap_or_else(|| "the deployment failed".into())))
}

async fn finish(api: &Api, slug: &str, outcome: Result<Answer<Agent>, Error>, ctx: &Context) -> Result<(), Error> {
    match outcome {
        Ok(agent) if agent.status == "active" => {
            if ctx.out.json {
                return ctx.out.json(&agent.raw);
            }
            ctx.out.done(&format!("Deployed {slug}"));
            ctx.out.facts(&[
                ("status", agent.status.clone()),
                ("source", agent.source_hash.clone().map(|h| h.chars().take(12).collect()).unwrap_or_default()),
                ("sandbox", agent.sandbox_id.clone().unwrap_or_default()),
            ])?;
            ctx.out.hint(&format!("try it: backlot invoke {slug} \"Hello\""));
            Ok(())
        }
        Ok(agent) => {
            if ctx.out.json {
                ctx.out.json(&agent.raw)?;
            }
            let why = agent.status_message.clone().unwrap_or_else(|| format!("the agent is {}", agent.status));
            Err(Error::failed(format!("the deployment did not succeed: {why}")))
        }
        Err(error) => {
            let is_build = matches!(error, Error::Refused { status: 400, .. } | Error::Failed { .. });
            if is_build && error.code() != "no_source" {
                show_log(api, slug, ctx).await;
            }
            Err(match error.code() {
                "no_source" => error.with_hint(format!("upload a folder: backlot deploy {slug} --dir <folder>")),
                _ => error,
            })
        }
    }
}

/// Shows the end of the newest deployment's log. Failing to get it must not hide why the deployment failed.
async fn show_log(api: &Api, slug: &str, ctx: &Context) {
    if ctx.out.json {
        return;
    }
    let Some(deployment) = api.deployments(slug, 1).await.ok().and_then(|list| list.into_iter().next()) else { return };
    let Ok(lines) = api.deployment_log(slug, &deployment.id).await else { return };
    if lines.is_empty() {
        return;
    }
    let skipped = lines.len().saturating_sub(LOG_TAIL);
    let mut text = String::from("── build log ──\n");
    if skipped > 0 {
        text.push_str(&format!("({skipped} lines before)\n"));
    }
    for LogLine { text: line, .. } in &lines[skipped..] {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push_str("───────────────");
    ctx.out.note(&text);
}

/// A bar while uploading, then a spinner with the server's step; nothing when no person is looking.
#[derive(Debug)]
struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    fn new(ctx: &Context) -> Self {
        let bar = ctx.out.progress().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar }
    }

    fn step(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(harmless(text));
        }
    }

    fn upload(&self, length: u64) {
        let style = ProgressStyle::with_template("{spinner} {msg} [{bar:30}] {bytes}/{total_bytes}");
        if let (Some(bar), Ok(style)) = (&self.bar, style) {
            bar.set_style(style.progress_chars("=> "));
            bar.set_length(length);
            bar.set_position(0);
            bar.set_message("uploading");
        }
    }

    /// True when everything is sent, or nothing is to be sent.
    fn uploaded(&self) -> bool {
        self.bar.as_ref().is_some_and(|b| b.length().is_none_or(|l| b.position() >= l))
    }

    fn of(&self, agent: &Agent) {
        if let Some(bar) = &self.bar {
            bar.set_style(ProgressStyle::default_spinner());
            let step = agent.status_message.as_deref().filter(|m| !m.is_empty() && agent.status == "deploying");
            bar.set_message(harmless(step.unwrap_or("building")));
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
