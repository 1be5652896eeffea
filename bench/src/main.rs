//! Measures Backlot beside its peers on the machine it runs on, all in one run, and prints a table and JSON.
//!
//! Every figure is the median of several rounds. Where a peer is installed it is measured in the same round, in turn, so
//! that a busy machine is equally busy for both: ratios are to be quoted, not milliseconds. What is not installed is
//! listed as skipped.

mod api;
mod gateway;
mod invoke;
mod journal;
mod sandbox;
mod server;
mod start;
mod statistics;

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;

/// One line of the result.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) part: &'static str,
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// What we aim at, in words.
    pub(crate) aim: Option<&'static str>,
    /// Whether the aim is reached; absent where there is none.
    pub(crate) reached: Option<bool>,
}

impl Figure {
    pub(crate) fn new(part: &'static str, what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { part, what: what.into(), value, unit, aim: None, reached: None }
    }

    pub(crate) fn aim(mut self, aim: &'static str, reached: bool) -> Self {
        self.aim = Some(aim);
        self.reached = Some(reached);
        self
    }
}

const PARTS: &[&str] = &["sandbox", "invoke", "api", "gateway", "journal", "start"];

/// The argument that makes this program the sandbox launcher.
pub(crate) const LAUNCHER: &str = "sandbox-launcher";

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.peek().is_some_and(|first| first == LAUNCHER) {
        let _code = backlot_sandbox::process::launcher_main();
        return Ok(());
    }
    let (mut server, mut json, mut parts) = (PathBuf::from("target/release/backlot"), None, Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--server" => server = arguments.next().context("--server needs a path")?.into(),
            "--json" => json = Some(PathBuf::from(arguments.next().context("--json needs a path")?)),
            part if PARTS.contains(&part) => parts.push(argument),
            other => bail!("`{other}` is none of {}", PARTS.join(", ")),
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let figures = runtime.block_on(measure(server, &parts))?;
    print(&figures);
    if let Some(path) = json {
        let report = serde_json::json!({ "machine": machine(), "figures": figures });
        std::fs::write(&path, serde_json::to_string_pretty(&report)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

async fn measure(server: PathBuf, parts: &[String]) -> anyhow::Result<Vec<Figure>> {
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|named| named == part);
    let mut figures = Vec::new();
    if wanted("sandbox") {
        figures.extend(sandbox::measure().await.context("sandbox")?);
    }
    if wanted("invoke") {
        figures.extend(invoke::measure(&server).await.context("invoke")?);
    }
    if wanted("api") {
        figures.extend(api::measure(&server).await.context("api")?);
    }
    if wanted("gateway") {
        figures.extend(gateway::measure(&server).await.context("gateway")?);
    }
    if wanted("journal") {
        figures.extend(journal::measure().await.context("journal")?);
    }
    if wanted("start") {
        figures.extend(start::measure(&server).await.context("start")?);
    }
    Ok(figures)
}

#[expect(clippy::print_stdout, reason = "the result of this program")]
fn print(figures: &[Figure]) {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(["part", "what", "value", "aim", ""]);
    for figure in figures {
        table.add_row([
            figure.part.to_owned(),
            figure.what.clone(),
            format!("{:.2} {}", figure.value, figure.unit),
            figure.aim.unwrap_or_default().to_owned(),
            figure.reached.map_or("", |reached| if reached { "reached" } else { "missed" }).to_owned(),
        ]);
    }
    println!("{}\n{table}", machine());
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores, Linux {}", kernel.trim())
}
