//! The server is killed with SIGKILL at random points while invocations are going on, and started again: no acknowledged
//! event is lost, no program runs twice, no model call is repeated, every run ends, and nothing is left running.

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use backlot_testkit::scripted_model::{ScriptedModel, Turn};
use futures::StreamExt as _;
use rand::Rng as _;
use serde_json::{Value, json};

/// How often the server is killed. Each time is another random point.
const KILLS: usize = 10;
/// Invocations under way at each kill.
const PARALLEL: usize = 4;

/// A real server process.
pub(super) struct Server {
    process: Child,
    pub(super) url: String,
}

impl Server {
    pub(super) fn start(data: &Path, model: &ScriptedModel) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_backlot"))
            .args(["serve", "--listen", "127.0.0.1:0", "--rate-limits", "off", "--data"])
            .arg(data)
            .env_remove("OPENAI_API_KEY")
            .env("ANTHROPIC_API_KEY", "provider-key")
            .env("ANTHROPIC_BASE_URL", model.anthropic_url())
            .env("BACKLOT_LOG", "warn")
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the server starts");
        let out = process.stdout.take().expect("piped");
        let ready = BufReader::new(out).lines().next().expect("a line").expect("readable");
        let url = ready.strip_prefix("backlot ready on ").expect("the ready line").to_owned();
        Self { process, url }
    }

    pub(super) fn kill(mut self) {
        self.process.kill().expect("SIGKILL");
        self.process.wait().expect("reaped");
    }

    /// Ends it in order.
    pub(super) fn terminate(mut self) {
        let id = i32::try_from(self.process.id()).expect("a process id");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGTERM).expect("SIGTERM");
        assert!(self.process.wait().expect("reaped").success(), "it ends well");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _already_dead = self.process.kill();
        let _already_reaped = self.process.wait();
    }
}

/// What a client was told of one invocation before the connection broke: event ids with their content.
#[derive(Debug, Default, Clone)]
struct Told {
    id: Option<String>,
    events: BTreeMap<String, (String, Value)>,
    text: String,
}

/// Asks the model three times, telling who asks, with output in between.
const PROGRAM: &str = r#"
const ask = async (turn) => {
  const response = await fetch(process.env.ANTHROPIC_BASE_URL + '/v1/messages', {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'x-api-key': process.env.ANTHROPIC_API_KEY, 'anthropic-version': '2023-06-01' },
    body: JSON.stringify({ model: 'claude-test', max_tokens: 20,
      messages: [{ role: 'user', content: process.env.CASTARI_INVOCATION_ID + ' ' + turn }] }),
  });
  console.log(turn + ' ' + (await response.json()).content[0].text);
};
for (const turn of [1, 2, 3]) await ask(turn);
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_and_nothing_recorded_is_repeated() {
    let folder = tempfile::tempdir().expect("temp dir");
    let data = folder.path().join("data");
    let model = ScriptedModel::start().await;
    model.respond_with(|_| Turn::new().delay(Duration::from_millis(60)).say("fine"));
    let mut server = Server::start(&data, &model);
    let key = register(&server.url).await;
    deploy(&server.url, &key).await;

    let told: Arc<Mutex<HashMap<usize, Told>>> = Arc::default();
    for round in 0..KILLS {
        let clients: Vec<_> = (0..PARALLEL)
            .map(|client| {
                let (url, key, told) = (server.url.clone(), key.clone(), Arc::clone(&told));
                tokio::spawn(async move { listen(&url, &key, round * PARALLEL + client, &told).await })
            })
            .collect();
        let moment = rand_millis(1200);
        tokio::time::sleep(Duration::from_millis(moment)).await;
        server.kill();
        for client in clients {
            client.await.expect("the client itself does not fail");
        }
        server = Server::start(&data, &model);
    }

    let told = told.lock().expect("lock").clone();
    let acknowledged: Vec<&Told> = told.values().filter(|told| told.id.is_some()).collect();
    assert!(!acknowledged.is_empty(), "some invocation was acknowledged");
    for told in acknowledged {
        let id = told.id.as_deref().expect("acknowledged");
        let (ended, events, text) = replay(&server.url, &key, id).await;
        assert!(ended == "completed" || ended == "failed", "{id} ended as {ended}");
        for (place, event) in &told.events {
            assert_eq!(events.get(place), Some(event), "event {place} of {id} was told and is kept");
        }
        if ended == "completed" {
            assert!(text.starts_with(&told.text), "{id}: {text:?} begins with what was shown, {:?}", told.text);
        }
    }
    let mut asked: HashMap<String, usize> = HashMap::new();
    for request in model.requests() {
        let body = request.json();
        let prompt = body["messages"][0]["content"].as_str().unwrap_or_default().to_owned();
        *asked.entry(prompt).or_default() += 1;
    }
    let repeated: Vec<_> = asked.iter().filter(|(_, times)| **times > 1).collect();
    assert!(repeated.is_empty(), "asked again: {repeated:?}");

    // The server is whole: it still does its job, and everything of its earlier lives has gone.
    let (status, answer) = invoke(&server.url, &key).await;
    assert_eq!((status, answer["status"].as_str()), (200, Some("completed")), "{answer}");
    let open = get(&server.url, &key, "/castari/api/v1/invocations?status=running").await;
    assert_eq!(open["meta"]["total"], 0, "no run is left open");
    let staging = data.join("code-agents/staging");
    let left = std::fs::read_dir(staging).expect("staging").count();
    assert!(left <= 2, "{left} scratch folders are left; one or two belong to prepared sandboxes");
}

/// A random number below `limit`, printed so that a failure tells the moments.
#[expect(clippy::print_stderr, reason = "a failed test shows what it prints")]
fn rand_millis(limit: u64) -> u64 {
    let moment = rand::rng().random_range(0..limit);
    eprintln!("killing after {moment} ms");
    moment
}

/// A client of its own for each call: the server it talked to before is dead.
pub(super) fn http() -> reqwest::Client {
    backlot_models::http::http_client(None).expect("a client")
}

pub(super) async fn register(url: &str) -> String {
    let answer: Value = http()
        .post(format!("{url}/caster/api/v1/auth/register"))
        .json(&json!({ "email": "ada@example.org", "password": "correct horse battery" }))
        .send()
        .await
        .expect("register")
        .json()
        .await
        .expect("JSON");
    answer["api_key"].as_str().expect("a key").to_owned()
}

async fn deploy(url: &str, key: &str) {
    let archive = pack(&[
        ("castari.json", r#"{"name":"Asker","version":"1.0.0","runtime":"node","entrypoint":"index.mjs"}"#),
        ("index.mjs", PROGRAM),
    ]);
    let client = http();
    let created = client
        .post(format!("{url}/castari/api/v1/agents"))
        .bearer_auth(key)
        .json(&json!({ "name": "Asker", "source_type": "local" }))
        .send()
        .await
        .expect("create");
    assert_eq!(created.status(), 201);
    let form =
        reqwest::multipart::Form::new().part("file", reqwest::multipart::Part::bytes(archive).file_name("code.tar.gz"));
    let deployed = client
        .post(format!("{url}/castari/api/v1/agents/asker/upload-code"))
        .bearer_auth(key)
        .multipart(form)
        .send()
        .await
        .expect("upload");
    let status = deployed.status();
    let body = deployed.text().await.expect("text");
    assert_eq!(status, 201, "{body}");
}

pub(super) fn pack(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, PathBuf::from(path), content.as_bytes()).expect("pack");
    }
    archive.into_inner().expect("tar").finish().expect("gzip")
}

/// Invokes with streaming and writes down what comes until the connection breaks or the run ends.
async fn listen(url: &str, key: &str, number: usize, told: &Mutex<HashMap<usize, Told>>) {
    let request = http()
        .post(format!("{url}/castari/api/v1/agents/asker/stream"))
        .bearer_auth(key)
        .json(&json!({ "prompt": "go" }));
    let Ok(response) = request.send().await else { return };
    let mut body = response.bytes_stream();
    let mut text = String::new();
    while let Some(Ok(bytes)) = body.next().await {
        text.push_str(&String::from_utf8_lossy(&bytes));
        while let Some(end) = text.find("\n\n") {
            let frame: String = text.drain(..end + 2).collect();
            let Some((place, name, data)) = parse(&frame) else { continue };
            let mut told = told.lock().expect("lock");
            let told = told.entry(number).or_default();
            if let Some(id) = data["invocation_id"].as_str() {
                told.id = Some(id.to_owned());
            }
            match name.as_str() {
                "stdout" => told.text.push_str(data["text"].as_str().unwrap_or_default()),
                // Running totals are a view of the moment, not an event.
                "usage" => {}
                _ => drop(told.events.insert(place, (name, data))),
            }
        }
    }
}

fn parse(frame: &str) -> Option<(String, String, Value)> {
    let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name)).map(|text| text.trim().to_owned());
    Some((field("id:")?, field("event:")?, serde_json::from_str(&field("data:")?).ok()?))
}

/// Waits for the end of an invocation and reads all its events again.
async fn replay(url: &str, key: &str, id: &str) -> (String, BTreeMap<String, (String, Value)>, String) {
    let response = http()
        .get(format!("{url}/castari/api/v1/invocations/{id}/events"))
        .bearer_auth(key)
        .send()
        .await
        .expect("events");
    assert_eq!(response.status(), 200, "{id} is known");
    let frames = response.text().await.expect("the stream ends with the run");
    let mut events = BTreeMap::new();
    let mut text = String::new();
    for (place, name, data) in frames.split("\n\n").filter_map(parse) {
        match name.as_str() {
            "stdout" => text.push_str(data["text"].as_str().unwrap_or_default()),
            "usage" => {}
            _ => drop(events.insert(place, (name, data))),
        }
    }
    let ended = events.values().find(|(name, _)| name == "completed" || name == "failed");
    (ended.map_or_else(|| String::from("open"), |(name, _)| name.clone()), events, text)
}

async fn invoke(url: &str, key: &str) -> (u16, Value) {
    let response = http()
        .post(format!("{url}/castari/api/v1/agents/asker/invoke"))
        .bearer_auth(key)
        .json(&json!({ "prompt": "go" }))
        .send()
        .await
        .expect("invoke");
    (response.status().as_u16(), response.json().await.expect("JSON"))
}

pub(super) async fn get(url: &str, key: &str, path: &str) -> Value {
    let response = http().get(format!("{url}{path}")).bearer_auth(key).send().await.expect("get");
    response.json().await.expect("JSON")
}
