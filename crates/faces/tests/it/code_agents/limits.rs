//! What a program may use, and what happens when it uses more (spec/castari.md 10.1, 10.2, 26).

use backlot_testkit::{Answer, Project, TestServer};
use reqwest::Method;
use serde_json::json;

use super::{Running, api, ask, create, deploy, processes_with, turn, until};

/// Needs far more memory than a sandbox has.
const HOG: &str =
    "const all = []; for (let i = 0; i < 48; i++) all.push(Buffer.alloc(64 << 20, 1)); console.log(all.length);";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_its_time_limit_a_program_dies_with_all_it_started() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "stubborn").await;
    ada.patch(&api("/agents/stubborn"), json!({"timeout_seconds": 1})).await;
    // The prompt names the sleepers, so that they can be told from those of other tests.
    let program = "import { spawn } from 'node:child_process'; import fs from 'node:fs';
        process.on('SIGTERM', () => console.log('no'));
        const time = fs.readFileSync(0, 'utf8');
        spawn('sleep', [time], { stdio: 'ignore' });
        spawn('setsid', ['-f', 'sh', '-c', `trap '' TERM HUP; sleep ${time}`], { stdio: 'ignore', detached: true }).unref();
        console.log('begun');
        setInterval(() => {}, 1000);";
    deploy(&ada, "stubborn", &Project::node(program)).await;
    let time = format!("600.{}", std::process::id());
    let running = Running::begin(&ada, "stubborn", json!({"prompt": time}), "begun").await;
    until("the sleepers run", async || processes_with(&time) >= 2).await;
    let ended = running.end().await;
    assert_eq!((&ended["status"], &ended["error"]["code"]), (&json!("failed"), &json!("timeout")), "{ended}");
    assert_eq!(ended["error"]["message"], "Timeout exceeded after 1 s");
    assert!(ended["response_content"].as_str().unwrap().starts_with("begun"), "what it wrote is kept: {ended}");
    assert!(ended["duration_ms"].as_u64().unwrap() >= 1000);
    until("the sleepers are gone", async || processes_with(&time) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_left_behind_die_with_the_program() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "parent").await;
    let program = "import { spawn } from 'node:child_process'; import fs from 'node:fs';
        spawn('sleep', [fs.readFileSync(0, 'utf8')], { stdio: 'ignore', detached: true }).unref();
        console.log('done');";
    deploy(&ada, "parent", &Project::node(program)).await;
    let time = format!("601.{}", std::process::id());
    assert_eq!(ask(&ada, "parent", &time).await, "done");
    until("the child is gone", async || processes_with(&time) == 0).await;
    // In a session, too, whose sandbox stays.
    assert_eq!(turn(&ada, "parent", "s", &time).await.body["response_content"], "done");
    until("the child is gone", async || processes_with(&time) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_gibibytes_are_too_much_and_a_session_survives_it() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "hog").await;
    let program = format!(
        "import fs from 'node:fs';
        const prompt = fs.readFileSync(0, 'utf8');
        if (prompt === 'read') console.log(fs.readFileSync('kept', 'utf8'));
        else {{ fs.writeFileSync('kept', 'before'); console.log('writing'); {HOG} }}"
    );
    deploy(&ada, "hog", &Project::node(&program)).await;
    for _ in 0..2 {
        let failed = turn(&ada, "hog", "s", "eat").await;
        assert_eq!((failed.status, &failed.body["status"]), (200, &json!("failed")), "{failed:?}");
        assert_eq!(failed.body["error"]["code"], "oom", "{failed:?}");
        assert_eq!(failed.body["response_content"], "writing");
    }
    let after = turn(&ada, "hog", "s", "read").await;
    assert_eq!(after.body["response_content"], "before", "{after:?}");
    let alone = ada.invoke("hog", "eat").await;
    assert_eq!(alone.body["error"]["code"], "oom", "{alone:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_has_a_largest_size() {
    const LARGEST: usize = 8 << 20;
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "flood").await;
    let program = "const piece = Buffer.alloc(1 << 20, 'x');
        const more = () => process.stdout.write(piece, more);
        more();";
    deploy(&ada, "flood", &Project::node(program)).await;
    let flooded = ada.invoke("flood", "").await;
    assert_eq!((flooded.status, &flooded.body["status"]), (200, &json!("failed")));
    assert_eq!(flooded.body["error"]["code"], "output_limit", "{}", flooded.body["error"]);
    let length = flooded.body["response_content"].as_str().unwrap().len();
    assert!(length > LARGEST / 2 && length <= LARGEST, "{length} bytes are kept");

    // Exactly the limit is not too much.
    deploy(&ada, "flood", &Project::node("process.stdout.write(Buffer.alloc(8 << 20, 'x'))")).await;
    let full = ada.invoke("flood", "").await;
    assert_eq!(full.body["status"], "completed", "{}", full.body["error"]);
    assert_eq!(full.body["response_content"].as_str().unwrap().len(), LARGEST);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_error_is_logged_and_its_end_shown_to_who_asks() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "noisy").await;
    let program = "console.log('half');
        for (let i = 0; i < 2000; i++) console.error(`line ${i}`);
        process.exitCode = 4;";
    deploy(&ada, "noisy", &Project::node(program)).await;
    let invoke = async |query: &str| {
        let request = ada.request(Method::POST, &api(&format!("/agents/noisy/invoke{query}")));
        Answer::to(request.json(&json!({"prompt": ""}))).await
    };
    let failed = invoke("?debug=true").await;
    let error = &failed.body["error"];
    assert_eq!((&error["code"], &error["exit_code"]), (&json!("nonzero_exit"), &json!(4)), "{failed:?}");
    let tail = error["stderr_tail"].as_str().unwrap();
    assert!(tail.ends_with("line 1999\n") && tail.len() <= 4096, "{tail}");
    assert_eq!(failed.body["response_content"], "half");
    let silent = invoke("").await;
    assert_eq!(silent.body["error"].get("stderr_tail"), None, "{silent:?}");
    let id = failed.body["invocation_id"].as_str().unwrap();
    let log = ada.get(&api(&format!("/invocations/{id}/logs"))).await;
    let lines = log.body["logs"].as_array().unwrap();
    let text: String =
        lines.iter().filter(|line| line["stream"] == "stderr").map(|line| line["text"].as_str().unwrap()).collect();
    assert!(text.starts_with("line 0\n") && text.ends_with("line 1999\n"), "{} bytes", text.len());

    let killed = Project::node("process.kill(process.pid, 'SIGKILL'); setTimeout(() => {}, 1000)");
    deploy(&ada, "noisy", &killed).await;
    let killed = invoke("").await;
    assert_eq!((&killed.body["error"]["code"], &killed.body["error"]["signal"]), (&json!("killed"), &json!("SIGKILL")));
}
