//! Invocations do not see each other, and reach what they may (spec/castari.md 11).

use backlot_testkit::{Project, TestServer};
use serde_json::{Value, json};

use super::{Running, api, ask, create, deploy, manifest};

/// Leaves a file in every place it may write to, after telling what it found there.
const NOSY: &str = "import fs from 'node:fs'; import os from 'node:os';
    const prompt = fs.readFileSync(0, 'utf8');
    const found = ['/tmp', '/workspace', os.homedir(), '/dev/shm']
        .flatMap(place => fs.readdirSync(place)).filter(name => name.startsWith('left-by-'));
    for (const place of ['/tmp', '/workspace', os.homedir(), '/dev/shm']) fs.writeFileSync(`${place}/left-by-${prompt}`, '');
    console.log('found:' + found.join());
    if (prompt === 'patient') setTimeout(() => {}, 60_000);";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_invocation_has_a_sandbox_of_its_own() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "nosy").await;
    deploy(&ada, "nosy", &Project::node(NOSY)).await;
    // One after the other,
    let (first, second) = (ada.invoke("nosy", "first").await, ada.invoke("nosy", "second").await);
    assert_eq!(first.body["response_content"], "found:", "{first:?}");
    assert_eq!(second.body["response_content"], "found:", "{second:?}");
    assert_ne!(first.body["sandbox_id"], second.body["sandbox_id"]);
    // and while another one runs.
    let running = Running::begin(&ada, "nosy", json!({"prompt": "patient"}), "found:").await;
    assert_eq!(ask(&ada, "nosy", "third").await, "found:");
    let stopped = ada.post_nothing(&api(&format!("/invocations/{}/cancel", running.id))).await;
    assert_eq!(stopped.body["error"]["code"], "stopped");
    assert_eq!(running.end().await["response_content"], "found:");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_of_the_host_and_of_neighbours_are_not_seen() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "alone").await;
    let program = "import fs from 'node:fs';
        const own = fs.readdirSync('/proc').filter(name => /^[0-9]+$/.test(name));
        console.log(JSON.stringify({ processes: own.length, user: process.getuid(), directory: process.cwd() }));
        if (fs.readFileSync(0, 'utf8') === 'patient') setTimeout(() => {}, 60_000);";
    deploy(&ada, "alone", &Project::node(program)).await;
    let running = Running::begin(&ada, "alone", json!({"prompt": "patient"}), "processes").await;
    let seen: Value = serde_json::from_str(&ask(&ada, "alone", "").await).unwrap();
    assert!(seen["processes"].as_u64().unwrap() <= 3, "its init and itself: {seen}");
    assert_eq!((&seen["user"], &seen["directory"]), (&json!(1000), &json!("/workspace")));
    ada.post_nothing(&api(&format!("/invocations/{}/cancel", running.id))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_without_network_reaches_nothing_until_it_is_given_one() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "offline").await;
    let patched = ada.patch(&api("/agents/offline"), json!({"network": "none"})).await;
    assert_eq!(patched.body["network"], "none", "{patched:?}");
    // Asks the registry that the host is configured for, as an installation would.
    let program = "import { execFileSync } from 'node:child_process';
        try {
            const options = { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], timeout: 60_000 };
            console.log(execFileSync('npm', ['view', 'is-number@7.0.0', 'version', '--fetch-retries=0'], options).trim());
        } catch (error) { console.log('failed'); console.error(String(error.stderr)); }";
    let ca = json!({"NODE_EXTRA_CA_CERTS": "/etc/ssl/certs/ca-certificates.crt"});
    let project = Project::node(program).with("castari.json", manifest("node", "main.mjs", "env", &ca));
    deploy(&ada, "offline", &project).await;
    assert_eq!(ask(&ada, "offline", "").await, "failed");
    // The change is in effect at the next invocation: no sandbox of the old reach is used.
    ada.patch(&api("/agents/offline"), json!({"network": "public"})).await;
    assert_eq!(ask(&ada, "offline", "").await, "7.0.0", "this needs a reachable package registry");
    ada.patch(&api("/agents/offline"), json!({"network": "none"})).await;
    assert_eq!(ask(&ada, "offline", "").await, "failed");
}
