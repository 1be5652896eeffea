//! Stopping and removing agents while something is going on (spec/castari.md 8.7, 8.8).

use backlot_testkit::{ECHO, Project, TestServer};
use serde_json::json;

use super::{Running, api, ask, build_log, create, deploy, installed_by, names_in, processes_with, turn, until};

/// Runs on until it is ended, with its prompt among the arguments of a child.
const PATIENT: &str = "import { spawn } from 'node:child_process'; import fs from 'node:fs';
    spawn('sleep', [fs.readFileSync(0, 'utf8')], { stdio: 'ignore' });
    console.log('begun');
    setTimeout(() => {}, 60_000);";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_ends_what_runs_and_leaves_no_sandbox() {
    let (server, ada, _) = TestServer::start().await;
    create(&ada, "patient").await;
    deploy(&ada, "patient", &Project::node(PATIENT)).await;
    let time = format!("602.{}", std::process::id());
    let alone = Running::begin(&ada, "patient", json!({"prompt": time}), "begun").await;
    let in_session = Running::begin(&ada, "patient", json!({"prompt": time, "session_id": "s"}), "begun").await;
    until("both run", async || processes_with(&time) == 2).await;
    let stopped = ada.delete(&api("/agents/patient/sandbox")).await;
    assert_eq!((stopped.status, &stopped.body["status"]), (200, &json!("stopped")), "{stopped:?}");
    for running in [alone, in_session] {
        let ended = running.end().await;
        assert_eq!((&ended["status"], &ended["error"]["code"]), (&json!("failed"), &json!("stopped")), "{ended}");
        assert_eq!(ended["response_content"], "begun");
    }
    assert_eq!(ada.invoke("patient", "1").await.body["code"], "agent_not_active");
    until("the programs are gone", async || processes_with(&time) == 0).await;
    let staging = server.data().code_agents().join("staging");
    until("the sandboxes are gone", async || names_in(&staging).is_empty()).await;
    assert_eq!(server.domain.code_agents.prepared_sandboxes(), 0);
    create(&ada, "draft").await;
    let draft = ada.delete(&api("/agents/draft/sandbox")).await;
    assert_eq!((draft.status, &draft.body["code"]), (400, &json!("agent_not_active")), "{draft:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_ends_a_deployment_and_it_stays_stopped() {
    let (server, ada, _) = TestServer::start().await;
    create(&ada, "slow").await;
    deploy(&ada, "slow", &Project::node(ECHO)).await;
    let slow = installed_by("console.log('installing'); setTimeout(() => {}, 60_000)", ECHO);
    let deploying = {
        let ada = ada.clone();
        tokio::spawn(async move { ada.upload("slow", &slow).await })
    };
    until("it installs", async || build_log(&ada, "slow").await.contains("installing\n")).await;
    let stopped = ada.delete(&api("/agents/slow/sandbox")).await;
    assert_eq!((stopped.status, &stopped.body["status"]), (200, &json!("stopped")), "{stopped:?}");
    let ended = deploying.await.unwrap();
    assert_eq!((ended.status, &ended.body["code"]), (400, &json!("stopped")), "{ended:?}");
    let staging = server.data().code_agents().join("staging");
    until("the sandboxes are gone", async || names_in(&staging).is_empty()).await;
    let agent = ada.get(&api("/agents/slow")).await;
    assert_eq!(agent.body["status"], "stopped", "{agent:?}");
    assert_eq!(server.domain.code_agents.prepared_sandboxes(), 0, "nothing is prepared for a stopped agent");
    assert_eq!(ada.invoke("slow", "").await.body["code"], "agent_not_active");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_agent_leaves_nothing() {
    let (server, ada, _) = TestServer::start().await;
    create(&ada, "gone").await;
    deploy(&ada, "gone", &Project::node(PATIENT)).await;
    let id = ada.get(&api("/agents/gone")).await.body["id"].as_str().unwrap().to_owned();
    let secret = json!({"key": "MOON_KEY", "value": "silver"});
    assert_eq!(ada.post(&api("/agents/gone/secrets"), secret).await.status, 201);
    let time = format!("603.{}", std::process::id());
    let session = json!({"prompt": time, "session_id": "s"});
    let running = Running::begin(&ada, "gone", session, "begun").await;
    until("it runs", async || processes_with(&time) == 1).await;
    let sessions = server.data().code_agents().join("sessions").join(&id);
    assert!(!names_in(&sessions).is_empty());
    assert_eq!(ada.delete(&api("/agents/gone")).await.status, 204);
    until("the program is gone", async || processes_with(&time) == 0).await;
    let invocation = running.id.clone();
    for path in ["/agents/gone", "/agents/gone/secrets", "/agents/gone/sessions", "/agents/gone/deployments"] {
        assert_eq!(ada.get(&api(path)).await.status, 404, "{path}");
    }
    assert_eq!(ada.get(&api(&format!("/invocations/{invocation}"))).await.status, 404);
    assert_eq!(ada.get(&api("/invocations")).await.body["meta"]["total"], 0);
    assert!(!sessions.exists(), "{:?}", names_in(&sessions));
    let staging = server.data().code_agents().join("staging");
    until("the sandboxes are gone", async || names_in(&staging).is_empty()).await;

    // Its name is free, and whoever takes it inherits nothing.
    create(&ada, "gone").await;
    let program = "import fs from 'node:fs'; console.log(process.env.MOON_KEY, fs.existsSync('/tmp/x'))";
    deploy(&ada, "gone", &Project::node(program)).await;
    assert_eq!(ask(&ada, "gone", "").await, "undefined false");
    assert_eq!(turn(&ada, "gone", "s", "").await.body["response_content"], "undefined false");
    assert_eq!(ada.get(&api("/agents/gone/invocations")).await.body["meta"]["total"], 2);
    assert_ne!(ada.get(&api("/agents/gone")).await.body["id"], json!(id));
}
