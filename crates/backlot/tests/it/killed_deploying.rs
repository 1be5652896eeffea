//! The server ends in the middle of deployments and is started again on the same data. After SIGKILL every deployment is
//! taken up and ends, agents answer as before meanwhile, and nothing of the first life is left; SIGTERM waits for them.

use std::{path::Path, time::Duration};

use backlot_testkit::scripted_model::ScriptedModel;
use serde_json::{Value, json};

use super::killed::{Server, get, http, pack, register};

/// How long a deployment may take after the restart. Its lease has to run out first.
const PATIENCE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_that_was_cut_off_is_taken_up_again() {
    let folder = tempfile::tempdir().expect("temp dir");
    let data = folder.path().join("data");
    let model = ScriptedModel::start().await;
    let server = Server::start(&data, &model);
    let client = Client { url: server.url.clone(), key: register(&server.url).await };
    // One that answered before, a new one, and one that waits behind them.
    let marker = format!("4.{}", std::process::id());
    assert_eq!(client.deploy("before", "console.log('old')", None, false).await, 201);
    for slug in ["before", "new", "waiting"] {
        let program = "console.log('new')";
        assert_eq!(client.deploy(slug, program, Some(&marker), true).await, 202, "{slug}");
    }
    until("two of them install", async || processes_with(&marker) >= 2).await;
    server.kill();
    until("what they ran is gone", async || processes_with(&marker) == 0).await;

    let server = Server::start(&data, &model);
    let client = Client { url: server.url.clone(), ..client };
    let answer = client.invoke("before").await;
    assert_eq!(answer["status"], "completed", "the old release answers meanwhile: {answer}");
    for slug in ["before", "new", "waiting"] {
        client.until_active(slug).await;
        assert_eq!(client.invoke(slug).await["response_content"], "new", "{slug}");
    }
    let agents = get(&client.url, &client.key, "/castari/api/v1/agents").await;
    assert_eq!(agents["meta"]["total"], 3, "{agents}");
    assert_eq!(client.deployments("before").await, ["completed", "completed"]);
    assert_eq!(client.deployments("new").await, ["completed"]);
    until("only prepared sandboxes are left", async || scratch_folders(&data) <= 3).await;
    assert_eq!(processes_with(&marker), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orderly_end_waits_for_a_deployment_that_is_nearly_done() {
    let folder = tempfile::tempdir().expect("temp dir");
    let data = folder.path().join("data");
    let model = ScriptedModel::start().await;
    let server = Server::start(&data, &model);
    let client = Client { url: server.url.clone(), key: register(&server.url).await };
    let marker = format!("5.{}", std::process::id());
    assert_eq!(client.deploy("calm", "console.log('fine')", Some(&marker), true).await, 202);
    until("it installs", async || processes_with(&marker) >= 1).await;
    server.terminate();
    assert_eq!(processes_with(&marker), 0, "nothing of it is left");

    let server = Server::start(&data, &model);
    let client = Client { url: server.url.clone(), ..client };
    // Nothing has to be taken up again.
    assert_eq!(client.deployments("calm").await, ["completed"]);
    assert_eq!(client.invoke("calm").await["response_content"], "fine");
}

/// Somebody with an account, who talks to one life of the server.
struct Client {
    url: String,
    key: String,
}

impl Client {
    /// Creates the agent if it is new, uploads its code and deploys it. With a marker, the installation sleeps for that
    /// many seconds.
    async fn deploy(&self, slug: &str, program: &str, marker: Option<&str>, is_async: bool) -> u16 {
        let mut manifest = json!({"name": slug, "version": "1.0.0", "runtime": "node", "entrypoint": "index.mjs"});
        if let Some(marker) = marker {
            manifest["install"] = json!(["sleep", marker]);
        }
        let archive = pack(&[("castari.json", &manifest.to_string()), ("index.mjs", program)]);
        let agents = format!("{}/castari/api/v1/agents", self.url);
        let new = json!({"name": slug, "slug": slug, "source_type": "local"});
        // That it exists already is fine.
        http().post(&agents).bearer_auth(&self.key).json(&new).send().await.expect("create");
        let part = reqwest::multipart::Part::bytes(archive).file_name("code.tar.gz");
        let request = http().post(format!("{agents}/{slug}/upload-code")).bearer_auth(&self.key);
        let request = if is_async { request.header("Prefer", "respond-async") } else { request };
        let form = reqwest::multipart::Form::new().part("file", part);
        request.multipart(form).send().await.expect("upload").status().as_u16()
    }

    async fn invoke(&self, slug: &str) -> Value {
        let request = http().post(format!("{}/castari/api/v1/agents/{slug}/invoke", self.url)).bearer_auth(&self.key);
        request.json(&json!({"prompt": ""})).send().await.expect("invoke").json().await.expect("JSON")
    }

    async fn until_active(&self, slug: &str) {
        let path = format!("/castari/api/v1/agents/{slug}");
        until(&format!("`{slug}` is deployed"), async || {
            let agent = get(&self.url, &self.key, &path).await;
            assert_ne!(agent["status"], "error", "{agent}");
            agent["status"] == "active"
        })
        .await;
    }

    /// How each deployment of an agent ended.
    async fn deployments(&self, slug: &str) -> Vec<String> {
        let page = get(&self.url, &self.key, &format!("/castari/api/v1/agents/{slug}/deployments")).await;
        let deployments = page["deployments"].as_array().expect("a list").iter();
        deployments.map(|deployment| deployment["status"].as_str().expect("a status").to_owned()).collect()
    }
}

async fn until(what: &str, mut happened: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !happened().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "still waiting until {what}");
}

/// How many processes of this machine were started with this text among their arguments.
fn processes_with(text: &str) -> usize {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    processes
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .filter(|arguments| String::from_utf8_lossy(arguments).contains(text))
        .count()
}

fn scratch_folders(data: &Path) -> usize {
    std::fs::read_dir(data.join("code-agents/staging")).expect("staging").count()
}
