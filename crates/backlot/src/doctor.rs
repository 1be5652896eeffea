//! `backlot doctor`: what this host offers to the server, what is missing, and what to do.

use std::{io::Write as _, path::Path, process::ExitCode};

use backlot_db::Db;
use backlot_sandbox::{
    Driver as _,
    process::{Options, ProcessDriver},
};

use crate::config::{Config, ServeArgs};

/// One line of the report.
struct Finding {
    name: String,
    state: State,
    found: String,
    advice: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Good,
    /// Works, but something is lost.
    Lacking,
    /// The server cannot do its main job.
    Broken,
}

impl State {
    fn of(ok: bool, required: bool) -> Self {
        match (ok, required) {
            (true, _) => Self::Good,
            (false, true) => Self::Broken,
            (false, false) => Self::Lacking,
        }
    }
}

/// Looks at everything and prints one line for each thing, with advice where something is missing.
pub(crate) async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let config = Config::resolve(args)?;
    let mut findings = vec![
        Finding {
            name: String::from("configuration"),
            state: State::Good,
            found: format!("data in {}", config.data.0.display()),
            advice: None,
        },
        database(&config).await,
    ];
    findings.extend(sandboxes());
    findings.extend(programs());
    findings.extend(models(&config));
    print(&findings)?;
    let broken = findings.iter().any(|finding| finding.state == State::Broken);
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn database(config: &Config) -> Finding {
    let name = String::from("database");
    let path = config.database_url.strip_prefix("sqlite://").map(Path::new);
    match path {
        // Looking must not create anything.
        Some(path) if !path.exists() => Finding {
            name,
            state: State::Good,
            found: String::from("SQLite, created at the first start"),
            advice: None,
        },
        _ => match Db::open(&config.database_url).await {
            Ok(db) => {
                let found = format!("{:?}, schema up to date", db.engine());
                db.close().await;
                Finding { name, state: State::Good, found, advice: None }
            }
            Err(error) => Finding {
                name,
                state: State::Broken,
                found: error.to_string(),
                advice: Some(String::from("check --database-url and whether the database server runs")),
            },
        },
    }
}

fn sandboxes() -> Vec<Finding> {
    let broken =
        |found: String| vec![Finding { name: String::from("sandboxes"), state: State::Broken, found, advice: None }];
    let launcher = match std::env::current_exe() {
        Ok(path) => path,
        Err(error) => return broken(error.to_string()),
    };
    let state = match tempfile::tempdir() {
        Ok(state) => state,
        Err(error) => return broken(error.to_string()),
    };
    let options = Options::new(launcher, vec![crate::LAUNCHER.to_owned()], state.path().to_owned());
    match ProcessDriver::start(options) {
        Ok(driver) => driver
            .preflight()
            .checks
            .into_iter()
            .map(|check| Finding {
                name: format!("sandbox: {}", check.name),
                state: State::of(check.ok, check.required),
                found: check.found,
                advice: check.advice,
            })
            .collect(),
        Err(error) => broken(error.to_string()),
    }
}

/// Programs of the host that sandboxes use.
fn programs() -> Vec<Finding> {
    const WANTED: [(&str, &str, &str); 5] = [
        ("node", "agents in JavaScript and TypeScript", "apt install nodejs npm"),
        ("npm", "dependencies of node agents", "apt install npm"),
        ("python3", "agents in Python", "apt install python3"),
        ("pip", "dependencies of Python agents", "apt install python3-pip"),
        ("git", "agents deployed from git", "apt install git"),
    ];
    WANTED
        .into_iter()
        .map(|(program, purpose, advice)| {
            // Sandboxes see /usr and nothing else of the host.
            let places = match program {
                "pip" => vec!["/usr/lib/python3/dist-packages/pip"],
                _ => vec!["/usr/local/bin", "/usr/bin", "/bin"],
            };
            let found = places
                .into_iter()
                .map(|place| if program == "pip" { place.to_owned() } else { format!("{place}/{program}") })
                .find(|path| Path::new(path).exists());
            Finding {
                name: format!("program: {program}"),
                state: State::of(found.is_some(), false),
                found: found.clone().unwrap_or_else(|| format!("not below /usr; needed for {purpose}")),
                advice: found.is_none().then(|| advice.to_owned()),
            }
        })
        .collect()
}

fn models(config: &Config) -> Vec<Finding> {
    let mut findings: Vec<Finding> = config
        .models
        .providers
        .iter()
        .map(|provider| Finding {
            name: format!("model provider: {}", provider.name),
            state: State::Good,
            found: String::from("configured"),
            advice: None,
        })
        .collect();
    if let Some(local) = &config.models.local {
        let is_there = local.weights.is_file();
        findings.push(Finding {
            name: String::from("local model"),
            state: State::of(is_there, config.models.providers.is_empty()),
            found: if is_there { local.weights.display().to_string() } else { String::from("not fetched") },
            advice: (!is_there)
                .then(|| String::from("backlot models pull, or set ANTHROPIC_API_KEY or OPENAI_API_KEY")),
        });
    }
    findings
}

fn print(findings: &[Finding]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for finding in findings {
        let mark = match finding.state {
            State::Good => "ok  ",
            State::Lacking => "warn",
            State::Broken => "FAIL",
        };
        writeln!(out, "{mark}  {:<34} {}", finding.name, finding.found)?;
        if let Some(advice) = &finding.advice {
            writeln!(out, "      {:<34} → {advice}", "")?;
        }
    }
    let broken = findings.iter().filter(|finding| finding.state == State::Broken).count();
    let lacking = findings.iter().filter(|finding| finding.state == State::Lacking).count();
    match (broken, lacking) {
        (0, 0) => writeln!(out, "\nEverything is there."),
        (0, _) => writeln!(out, "\nThe server works here; {lacking} thing(s) above would make it better."),
        (_, _) => writeln!(out, "\n{broken} thing(s) above must be put right before the server can do its job."),
    }
}
