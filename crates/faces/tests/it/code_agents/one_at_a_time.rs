//! What waits, joins or is refused while something else is under way (spec/castari.md 8.2, 12.1).

use std::time::Duration;

use backlot_testkit::{ECHO, Person, Project, Setup, TestServer};
use reqwest::Method;
use serde_json::json;

use super::{Running, api, ask, build_log, create, deploy, installed_by, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_free_worker_there_is_no_capacity() {
    let setup = Setup { queue_patience: Duration::from_millis(500), parallel_invocations: 1, ..Setup::default() };
    let (_server, ada, _) = TestServer::with(setup).await;
    create(&ada, "narrow").await;
    let program = "import fs from 'node:fs'; console.log('begun');
        if (fs.readFileSync(0, 'utf8') === 'patient') setTimeout(() => {}, 60_000);";
    deploy(&ada, "narrow", &Project::node(program)).await;
    let running = Running::begin(&ada, "narrow", json!({"prompt": "patient"}), "begun").await;
    let refused = ada.invoke("narrow", "refused").await;
    assert_eq!((refused.status, &refused.body["code"]), (503, &json!("capacity")), "{refused:?}");
    assert_eq!(refused.body["detail"], "No capacity available");
    assert_eq!(refused.header("retry-after"), "5");
    let waiting = ada.get(&api("/agents/narrow/invocations?status=running")).await;
    assert_eq!(waiting.body["meta"]["total"], 1, "who was refused does not wait on: {waiting:?}");
    ada.post_nothing(&api(&format!("/invocations/{}/cancel", running.id))).await;
    running.end().await;
    until("the worker is free", async || ada.invoke("narrow", "").await.status == 200).await;
}

/// Uploads without waiting for the deployment.
async fn upload_async(who: &Person, slug: &str, project: &Project) -> backlot_testkit::Answer {
    let part = reqwest::multipart::Part::bytes(project.pack()).file_name("code.tar.gz");
    let form = reqwest::multipart::Form::new().part("file", part);
    let request = who.request(Method::POST, &api(&format!("/agents/{slug}/upload-code")));
    backlot_testkit::Answer::to(request.header("Prefer", "respond-async").multipart(form)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_deployment_at_a_time_and_the_same_one_is_joined() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "slow").await;
    deploy(&ada, "slow", &Project::node("console.log('old')")).await;
    let slow = installed_by("console.log('installing'); setTimeout(() => {}, 3000)", "console.log('new')");
    let begun = upload_async(&ada, "slow", &slow).await;
    assert_eq!((begun.status, &begun.body["status"]), (202, &json!("deploying")), "{begun:?}");
    until("it installs", async || build_log(&ada, "slow").await.contains("installing\n")).await;
    assert_eq!(ada.get(&api("/agents/slow")).await.body["status_message"], "installing dependencies");
    assert_eq!(ask(&ada, "slow", "").await, "old", "the old release goes on answering");
    let other = ada.upload("slow", &Project::node(ECHO)).await;
    assert_eq!((other.status, &other.body["code"]), (409, &json!("deploy_in_progress")), "{other:?}");
    let forced = ada.post_nothing(&api("/agents/slow/redeploy")).await;
    assert_eq!((forced.status, &forced.body["code"]), (409, &json!("deploy_in_progress")), "{forced:?}");
    // What was refused has left nothing behind: the source is still that of the deployment under way, which is joined.
    let joined = ada.post(&api("/agents/slow/deploy"), json!({"wait": false})).await;
    assert_eq!((joined.status, &joined.body["status"]), (202, &json!("deploying")), "{joined:?}");
    let again = upload_async(&ada, "slow", &slow).await;
    assert_eq!(again.status, 202, "{again:?}");
    let joined = ada.post_nothing(&api("/agents/slow/deploy")).await;
    assert_eq!((joined.status, &joined.body["status"]), (200, &json!("active")), "{joined:?}");
    assert_eq!(joined.body["source_hash"], again.body["source_hash"]);
    assert_eq!(ask(&ada, "slow", "").await, "new");
    let deployments = ada.get(&api("/agents/slow/deployments")).await;
    assert_eq!(deployments.body["meta"]["total"], 2, "{deployments:?}");
    assert_eq!(ada.post_nothing(&api("/agents/slow/deploy")).await.status, 200);
    assert_eq!(ask(&ada, "slow", "").await, "new");
}
