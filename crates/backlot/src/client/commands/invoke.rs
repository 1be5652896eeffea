//! `backlot invoke`: run an agent once.
//!
//! Only the answer goes to standard output, so that it can be piped; figures, failures and hints go to standard error.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::api::{Answer, Api, Invocation, InvokeRequest};
use crate::client::error::Error;
use crate::client::output::{dollars, duration, thousands};
use crate::client::sse::Event;
use crate::client::{Context, follow, prompt};

/// Largest prompt the server takes (`spec/castari.md` 12.1).
const MAX_PROMPT_BYTES: usize = 1 << 20;
/// The longest an agent may run is 600 s; a minute more covers the wait for a sandbox.
const DEFAULT_TIMEOUT_SECS: u64 = 660;

/// Arguments of `invoke`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backlot invoke my-agent \"What is in this folder?\"
  git diff | backlot invoke reviewer
  backlot invoke my-agent -i question.txt --stream
  backlot invoke my-agent \"and now?\" --session desk-42

Exit codes: 0 the run completed, 1 it failed; the others as in `backlot --help`.")]
pub(crate) struct Args {
    /// The agent
    slug: String,

    /// The prompt; `-`, or nothing with a pipe, reads standard input
    prompt: Option<String>,

    /// Read the prompt from a file
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    input: Option<PathBuf>,

    /// Run in the sandbox of this session, which keeps its files
    #[arg(short, long, value_name = "ID")]
    session: Option<String>,

    /// Print the answer while it is made; a broken connection is taken up again
    #[arg(long)]
    stream: bool,

    /// Longest wait in seconds; the run itself goes on
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_TIMEOUT_SECS, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

/// Runs the agent and prints its answer.
pub(crate) async fn run(args: Args, ctx: &Context) -> Result<(), Error> {
    let api = ctx.api()?;
    let prompt = read_prompt(&args)?;
    let request = InvokeRequest {
        slug: &args.slug,
        prompt: &prompt,
        session: args.session.as_deref(),
        idempotency_key: &fresh_key(),
        timeout: Duration::from_secs(args.timeout),
    };
    let result = if args.stream { stream(&api, &request, ctx).await } else { wait(&api, &request, ctx).await };
    let run = result.map_err(|e| advise(e, &args.slug))?;
    report(&run, &args.slug, ctx)
}

fn read_prompt(args: &Args) -> Result<String, Error> {
    let text = match (&args.prompt, &args.input) {
        (Some(text), _) if text != "-" => text.clone(),
        (None, Some(path)) if path.as_os_str() != "-" => {
            let file = std::fs::File::open(path).map_err(|e| Error::file("read", path, e))?;
            let mut bytes = Vec::new();
            file.take(MAX_PROMPT_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|e| Error::file("read", path, e))?;
            String::from_utf8(bytes).map_err(|_| Error::Usage(format!("{} is not UTF-8 text", path.display())))?
        }
        (None, None) if prompt::is_interactive() => {
            return Err(Error::Usage(format!(
                "no prompt given: backlot invoke {} \"your question\" (or -i FILE, or a pipe)",
                args.slug
            )));
        }
        _ => prompt::stdin(MAX_PROMPT_BYTES, "the prompt")?,
    };
    if text.len() > MAX_PROMPT_BYTES {
        return Err(Error::Usage(format!("the prompt is longer than {MAX_PROMPT_BYTES} bytes")));
    }
    Ok(text)
}

async fn wait(api: &Api, request: &InvokeRequest<'_>, ctx: &Context) -> Result<Answer<Invocation>, Error> {
    let spinner = ctx.out.progress().then(|| {
        let spinner = indicatif::ProgressBar::new_spinner().with_message(format!("running {}", request.slug));
        spinner.enable_steady_tick(Duration::from_millis(120));
        spinner
    });
    let result = invoke_through_restarts(api, request).await;
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    let run = result?;
    if ctx.out.json {
        ctx.out.json(&run.raw)?;
    } else {
        print_rest(&run, "", ctx)?;
    }
    Ok(run)
}

/// Invokes, and asks again when the connection breaks: the key makes the server answer with the first run, which goes on
/// over its restart. A server that was never reached is an error at once.
async fn invoke_through_restarts(api: &Api, request: &InvokeRequest<'_>) -> Result<Answer<Invocation>, Error> {
    let deadline = Instant::now() + request.timeout;
    let mut attempts = 0;
    let mut sent = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let broken = match api.invoke(&InvokeRequest { timeout: left, ..*request }).await {
            Err(error @ Error::Unreachable { sent: now, .. }) if sent || now => error,
            // What answers while a server restarts behind a proxy.
            Err(error @ Error::Refused { status: 502 | 504, .. }) if sent => error,
            other => return other,
        };
        sent = true;
        attempts += 1;
        let pause = follow::pause(attempts);
        if attempts > follow::ATTEMPTS || Instant::now() + pause >= deadline {
            return Err(follow::goes_on(&format!("lost the connection to the run: {broken}"), None));
        }
        tokio::time::sleep(pause).await;
    }
}

/// A name that no other call has: the process's random hash keys, twice.
fn fresh_key() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    let random = || RandomState::new().hash_one(std::process::id());
    format!("cli-{:016x}{:016x}", random(), random())
}

async fn stream(api: &Api, request: &InvokeRequest<'_>, ctx: &Context) -> Result<Answer<Invocation>, Error> {
    let deadline = Instant::now() + request.timeout;
    let first = api.stream(request).await?;
    let mut printed = String::new();
    let run = follow::to_end(api, first, deadline, |event| {
        if ctx.out.json {
            return ctx.out.json_line(&as_json(event));
        }
        if event.name == "stdout"
            && let Some(text) = text_of(event)
        {
            ctx.out.write(&text)?;
            printed.push_str(&text);
        }
        Ok(())
    })
    .await?;
    if !ctx.out.json {
        print_rest(&run, &printed, ctx)?;
    }
    Ok(run)
}

/// Prints what of the answer was not yet seen, and a line break if it does not end with one.
fn print_rest(run: &Invocation, printed: &str, ctx: &Context) -> Result<(), Error> {
    let answer = run.response_content.as_deref().unwrap_or("");
    let rest = answer.strip_prefix(printed).unwrap_or("");
    ctx.out.write(rest)?;
    let last = if rest.is_empty() { printed } else { rest };
    if !last.is_empty() && !last.ends_with('\n') {
        ctx.out.write("\n")?;
    }
    Ok(())
}

fn report(run: &Invocation, slug: &str, ctx: &Context) -> Result<(), Error> {
    if !ctx.out.json {
        ctx.out.note(&summary(run));
    }
    if run.status == "completed" {
        return Ok(());
    }
    let why = match &run.error {
        Some(error) if !error.message.is_empty() => format!("the run failed: {}", error.message),
        Some(error) if !error.code.is_empty() => format!("the run failed: {}", error.code),
        _ => format!("the run ended as {}", run.status),
    };
    Err(Error::failed_with(why, format!("see its log: backlot logs {slug} --invocation {}", run.invocation_id)))
}

fn summary(run: &Invocation) -> String {
    let mut parts = vec![
        run.status.clone(),
        format!("{} tokens in, {} out", thousands(run.input_tokens), thousands(run.output_tokens)),
        dollars(&run.total_cost_usd, run.unpriced_calls),
    ];
    parts.extend(run.duration_ms.map(duration));
    parts.push(run.invocation_id.clone());
    parts.join(" · ")
}

fn advise(error: Error, slug: &str) -> Error {
    match error.code() {
        "agent_not_active" => error.with_hint(format!("deploy it first: backlot deploy {slug}")),
        "session_busy" => error.with_hint("another run of this session is still going on; try again later"),
        _ => match error {
            Error::Failed { message, hint: None } if message.starts_with("no answer from") => {
                follow::goes_on(&message, None)
            }
            error => error,
        },
    }
}

fn text_of(event: &Event) -> Option<String> {
    serde_json::from_str::<Value>(&event.data).ok()?.get("text")?.as_str().map(str::to_owned)
}

fn as_json(event: &Event) -> Value {
    let data = serde_json::from_str(&event.data).unwrap_or_else(|_| Value::String(event.data.clone()));
    json!({"event": event.name, "id": event.id, "data": data})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_the_figures() {
        let raw = json!({"invocation_id": "inv_1", "status": "completed", "input_tokens": 1840, "output_tokens": 96,
            "total_cost_usd": "0.006960", "duration_ms": 5210});
        let run: Answer<Invocation> = Answer::read(raw).expect("fields");
        assert_eq!(summary(&run), "completed · 1,840 tokens in, 96 out · $0.0070 · 5.2 s · inv_1");
    }

    #[test]
    fn history_items_are_read_by_their_id() {
        let run: Answer<Invocation> =
            Answer::read(json!({"id": "inv_2", "status": "failed", "total_cost_usd": null})).expect("fields");
        assert_eq!(run.invocation_id, "inv_2");
        assert!(summary(&run).contains("price unknown"));
    }
}
