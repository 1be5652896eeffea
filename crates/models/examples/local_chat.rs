//! Asks the local model one question: fetches the weights if they are missing, prints the answer as it is made.
//!
//! `cargo run --release -p backlot-models --example local_chat -- "Why is the sky blue?" [folder] [--from <path or address>]`
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use backlot_models::local::pull::{Source, pull};
use backlot_models::local::{LocalModel, Options, catalog};
use backlot_models::{Block, Event, Message, Model as _, Request, Role};
use futures::StreamExt as _;

#[tokio::main]
async fn main() -> ExitCode {
    match chat().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\n{error}");
            ExitCode::FAILURE
        }
    }
}

async fn chat() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let (mut plain, mut source) = (Vec::new(), Source::Package);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--from" => source = Source::parse(&words.next().ok_or("--from needs a path or an address")?),
            _ => plain.push(word),
        }
    }
    let question = plain.first().map_or("Why is the sky blue?", String::as_str);
    let folder = match plain.get(1) {
        Some(folder) => PathBuf::from(folder),
        None => std::env::home_dir().ok_or("no home folder")?.join(".cache/backlot/models"),
    };
    let entry = catalog::entries().first().ok_or("an empty catalog")?;
    let path = if entry.is_installed_in(&folder) {
        entry.path_in(&folder)
    } else {
        let http = backlot_models::http::http_client(None)?;
        let show = Arc::new(|progress: backlot_models::local::pull::Progress| {
            eprint!("\r{:?} {} of {:?} bytes    ", progress.phase, progress.done, progress.total);
        });
        let path = pull(entry, &folder, &source, &http, show).await?;
        eprintln!();
        path
    };

    let model = LocalModel::load(&path, entry.name, Options::default())?;
    let content = vec![Block::Text { text: question.to_owned() }];
    let request = Request { messages: vec![Message { role: Role::User, content }], ..Request::default() };
    let begun = Instant::now();
    let mut answer = model.call(request).await?;
    let mut first = None;
    while let Some(event) = answer.next().await {
        match event? {
            Event::Text { delta } => {
                first.get_or_insert_with(Instant::now);
                print!("{delta}");
                std::io::stdout().flush()?;
            }
            Event::Done { stop, usage } => {
                let first = first.unwrap_or_else(Instant::now);
                let speed = usage.output.saturating_sub(1) as f64 / first.elapsed().as_secs_f64();
                println!();
                eprintln!(
                    "{stop:?}; {} tokens read, {} written; first text after {:.2} s (loading included), then {speed:.0} tokens/s",
                    usage.input,
                    usage.output,
                    (first - begun).as_secs_f64(),
                );
            }
            _ => {}
        }
    }
    Ok(())
}
