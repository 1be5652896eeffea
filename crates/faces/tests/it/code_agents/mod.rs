//! Code agents for real: whole servers, real sandboxes, real package managers, a real git server.
//!
//! Tests that install packages need the package registries that the host is configured for; they fail when those
//! cannot be reached.

mod archives;
mod confinement;
mod environment;
mod failed_builds;
mod git;
mod git_server;
mod lifecycle;
mod limits;
mod node_builds;
mod one_at_a_time;
mod python_builds;
mod sessions;

use std::time::Duration;

use backlot_testkit::{Answer, Person, Project};
use reqwest::Method;
use serde_json::{Value, json};

/// An address of the face.
fn api(path: &str) -> String {
    format!("/castari/api/v1{path}")
}

/// Creates an agent of uploaded code.
async fn create(who: &Person, slug: &str) {
    let created = who.post(&api("/agents"), json!({"name": slug, "slug": slug, "source_type": "local"})).await;
    assert_eq!(created.status, 201, "{created:?}");
}

/// Uploads code that must become active, and returns its build log. When it does not, the log is the reason.
async fn deploy(who: &Person, slug: &str, project: &Project) -> String {
    let uploaded = who.upload(slug, project).await;
    let log = build_log(who, slug).await;
    assert_eq!(uploaded.status, 201, "{uploaded:?}, which may need reachable package registries:\n{log}");
    assert_eq!(uploaded.body["status"], "active", "{uploaded:?}\n{log}");
    log
}

/// The build log of an agent's newest deployment; empty when there is none.
async fn build_log(who: &Person, slug: &str) -> String {
    let newest = who.get(&api(&format!("/agents/{slug}/deployments?limit=1"))).await;
    let Some(id) = newest.body["deployments"][0]["id"].as_str() else { return String::new() };
    let log = who.get(&api(&format!("/agents/{slug}/deployments/{id}/logs"))).await;
    log.body["logs"].as_array().unwrap().iter().map(|line| line["text"].as_str().unwrap()).collect()
}

/// Invokes an agent whose program must succeed, and returns its answer.
async fn ask(who: &Person, slug: &str, prompt: &str) -> String {
    let answer = who.invoke(slug, prompt).await;
    assert_eq!((answer.status, &answer.body["status"]), (200, &json!("completed")), "{answer:?}");
    answer.body["response_content"].as_str().unwrap().to_owned()
}

/// Invokes an agent in a session.
async fn turn(who: &Person, slug: &str, session: &str, prompt: &str) -> Answer {
    who.post(&api(&format!("/agents/{slug}/invoke")), json!({"prompt": prompt, "session_id": session})).await
}

/// A manifest with one more field.
fn manifest(runtime: &str, entrypoint: &str, key: &str, value: &Value) -> String {
    json!({"name": "Test agent", "version": "1.0.0", "runtime": runtime, "entrypoint": entrypoint, key: value})
        .to_string()
}

/// A project for node whose installation is a script of ours.
fn installed_by(script: &str, program: &str) -> Project {
    let install = json!(["node", "-e", script]);
    Project::node(program).with("castari.json", manifest("node", "main.mjs", "install", &install))
}

/// An invocation whose program is known to run.
struct Running {
    id: String,
    response: reqwest::Response,
    seen: String,
}

impl Running {
    /// Invokes, and waits until the program wrote a word.
    async fn begin(who: &Person, slug: &str, body: Value, word: &str) -> Self {
        let request = who.request(Method::POST, &api(&format!("/agents/{slug}/stream"))).json(&body);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        let id = response.headers()["x-invocation-id"].to_str().unwrap().to_owned();
        let mut running = Self { id, response, seen: String::new() };
        while !running.seen.contains(word) {
            assert!(running.read_on().await, "ended before it wrote `{word}`: {}", running.seen);
        }
        running
    }

    async fn read_on(&mut self) -> bool {
        let Some(chunk) = self.response.chunk().await.unwrap() else { return false };
        self.seen.push_str(&String::from_utf8_lossy(&chunk));
        true
    }

    /// Waits for the end and returns what the last event says.
    async fn end(mut self) -> Value {
        while self.read_on().await {}
        let last = self.seen.lines().rev().find_map(|line| line.strip_prefix("data: ")).unwrap();
        serde_json::from_str(last).unwrap()
    }
}

/// Waits for something that happens soon, though not at once.
async fn until(what: &str, mut happened: impl AsyncFnMut() -> bool) {
    const PATIENCE: Duration = Duration::from_secs(60);
    let waiting = async {
        while !happened().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "still waiting until {what}");
}

/// How many processes of this machine were started with this text among their arguments.
fn processes_with(text: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .filter(|arguments| String::from_utf8_lossy(arguments).contains(text))
        .count()
}

/// Names below a folder; none when it does not exist.
fn names_in(folder: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
