//! `backlot logs`: what an agent's program wrote to standard error, and what the platform noted.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::Context;
use crate::client::api::{Api, LogLine};
use crate::client::error::Error;
use crate::client::output::{harmless, moment};

/// The server says something every 15 s on a followed log.
const SILENCE: Duration = Duration::from_secs(45);
/// How often one run's log is asked for while it goes on.
const POLL: Duration = Duration::from_millis(1500);
/// Failed attempts to reconnect, one after another, after which we give up.
const ATTEMPTS: u32 = 10;

/// Arguments of `logs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The agent
    slug: String,

    /// How many of the latest lines
    #[arg(short = 'n', long, value_name = "LINES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    lines: u32,

    /// Go on printing new lines until Ctrl-C, or until the run given with --invocation ends
    #[arg(short, long)]
    follow: bool,

    /// Only the log of this run
    #[arg(long, value_name = "ID")]
    invocation: Option<String>,
}

/// Prints log lines.
pub(crate) async fn run(args: Args, ctx: &Context) -> Result<(), Error> {
    let api = ctx.api()?;
    let wanted = args.lines as usize;
    match (&args.invocation, args.follow) {
        (Some(id), false) => {
            let (raw, lines) = api.invocation_log(id).await?;
            print(&raw, tail(&lines, wanted), ctx)
        }
        (Some(id), true) => follow_run(&api, id, wanted, ctx).await,
        (None, false) => {
            let (raw, lines) = api.agent_log(&args.slug, wanted).await?;
            print(&raw, tail(&lines, wanted), ctx)
        }
        (None, true) => follow_agent(&api, &args.slug, wanted, ctx).await,
    }
}

fn tail(lines: &[LogLine], count: usize) -> &[LogLine] {
    &lines[lines.len().saturating_sub(count)..]
}

fn print(raw: &Value, lines: &[LogLine], ctx: &Context) -> Result<(), Error> {
    if ctx.out.json {
        return ctx.out.json(raw);
    }
    if lines.is_empty() {
        ctx.out.note("The log is empty.");
    }
    lines.iter().try_for_each(|line| print_line(line, ctx))
}

fn print_line(line: &LogLine, ctx: &Context) -> Result<(), Error> {
    let time = line.ts.as_deref().map(|t| format!("{} ", clock(t))).unwrap_or_default();
    let mark = if line.stream.as_deref() == Some("system") { "[system] " } else { "" };
    ctx.out.line(&format!("{time}{mark}{}", harmless(line.text.trim_end_matches('\n'))))
}

/// Seconds matter in a log, the zone does not.
fn clock(time: &str) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(t) => t.to_zoned(jiff::tz::TimeZone::system()).strftime("%m-%d %H:%M:%S").to_string(),
        Err(_) => moment(time),
    }
}

async fn follow_run(api: &Api, id: &str, wanted: usize, ctx: &Context) -> Result<(), Error> {
    let mut seen = 0;
    let mut first = true;
    loop {
        // The status is asked for first: what is logged before a run ends is then surely in the log read after it.
        let ended = !matches!(api.invocation(id).await?.status.as_str(), "running" | "queued");
        let (_, lines) = api.invocation_log(id).await?;
        if std::mem::take(&mut first) {
            seen = lines.len().saturating_sub(wanted);
        }
        for line in lines.get(seen..).unwrap_or_default() {
            if ctx.out.json {
                ctx.out.json_line(&json!({"ts": line.ts, "stream": line.stream, "text": line.text}))?;
            } else {
                print_line(line, ctx)?;
            }
        }
        seen = seen.max(lines.len());
        if ended {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn follow_agent(api: &Api, slug: &str, wanted: usize, ctx: &Context) -> Result<(), Error> {
    let mut last: Option<String> = None;
    let mut attempts = 0;
    let mut lines = wanted;
    loop {
        match api.follow_agent_log(slug, lines, last.as_deref()).await {
            Ok(mut stream) => {
                while let Ok(Ok(Some(event))) = tokio::time::timeout(SILENCE, stream.next()).await {
                    attempts = 0;
                    last.clone_from(&event.id);
                    let Ok(data) = serde_json::from_str::<Value>(&event.data) else { continue };
                    if ctx.out.json {
                        ctx.out.json_line(&data)?;
                    } else if let Ok(line) = serde_json::from_value::<LogLine>(data) {
                        print_line(&line, ctx)?;
                    }
                }
            }
            Err(error @ (Error::Refused { status: 400..=428, .. } | Error::NotSignedIn { .. })) => return Err(error),
            Err(error) if attempts >= ATTEMPTS => return Err(error),
            Err(_) => {}
        }
        // A server without resumable ids would send the old lines again.
        lines = 0;
        attempts += 1;
        tokio::time::sleep(Duration::from_millis(100 << attempts.min(6))).await;
    }
}
