//! Builds that fail: what is said, and what goes on answering (spec/castari.md 8.2, 8.9, 9.4).

use backlot_testkit::{ECHO, Project, TestServer};
use serde_json::json;

use super::{api, ask, build_log, create, deploy, installed_by, manifest, names_in, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_installation_tells_its_reason_and_an_earlier_release_goes_on() {
    let (server, ada, _) = TestServer::start().await;
    create(&ada, "careful").await;
    let absent = Project::node(ECHO)
        .with("package.json", json!({"name": "agent", "dependencies": {"is-number": "999.999.999"}}).to_string());
    let failed = ada.upload("careful", &absent).await;
    let log = build_log(&ada, "careful").await;
    assert_eq!((failed.status, &failed.body["code"]), (400, &json!("install_failed")), "{failed:?}\n{log}");
    let detail = failed.body["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.starts_with("npm install failed: ") && detail.contains("No matching version found for is-number@999"),
        "{detail}"
    );
    assert!(log.contains("No matching version found"), "{log}");
    let agent = ada.get(&api("/agents/careful")).await;
    assert_eq!((&agent.body["status"], &agent.body["status_message"]), (&json!("error"), &json!(detail)));
    assert_eq!(ada.invoke("careful", "").await.body["code"], "agent_not_active");

    deploy(&ada, "careful", &Project::node("console.log('good')")).await;
    let good = ada.get(&api("/agents/careful")).await.body;
    assert_eq!((&good["status"], &good["status_message"]), (&json!("active"), &json!(null)));
    let failed = ada.upload("careful", &absent).await;
    assert_eq!((failed.status, &failed.body["detail"]), (400, &json!(detail)), "{failed:?}");
    let kept = ada.get(&api("/agents/careful")).await.body;
    assert_eq!((&kept["status"], &kept["status_message"]), (&json!("active"), &json!(detail)));
    assert_eq!(kept["source_hash"], good["source_hash"], "what answers is the old code");
    assert_eq!(ask(&ada, "careful", "").await, "good");
    // Only the prepared sandbox is left of it all.
    let staging = server.data().code_agents().join("staging");
    until("the build's folders are gone", async || names_in(&staging).len() <= 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_installation_says_last_is_told() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "telling").await;
    for (script, told) in [
        (
            "console.error('reading'); console.error('Error: no moon'); console.error('bye'); process.exit(1)",
            "install failed: Error: no moon",
        ),
        ("console.log('nothing speaks of it'); process.exit(3)", "install failed: nothing speaks of it"),
        ("process.exit(3)", "install failed: it wrote nothing"),
        ("process.kill(process.pid, 'SIGKILL'); setTimeout(() => {}, 1000)", "install failed: it wrote nothing"),
    ] {
        let failed = ada.upload("telling", &installed_by(script, ECHO)).await;
        assert_eq!((failed.status, &failed.body["code"]), (400, &json!("install_failed")), "{script}: {failed:?}");
        assert_eq!(failed.body["detail"], told, "{script}");
    }
    let unknown = Project::node(ECHO)
        .with("castari.json", manifest("node", "main.mjs", "install", &json!(["no-such-installer"])));
    let failed = ada.upload("telling", &unknown).await;
    assert_eq!((failed.status, &failed.body["code"]), (400, &json!("install_failed")), "{failed:?}");
    assert!(failed.body["detail"].as_str().unwrap().contains("no-such-installer"), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_and_entry_points_that_do_not_work_are_refused() {
    let (server, ada, _) = TestServer::start().await;
    create(&ada, "odd").await;
    let with = |manifest: &str| Project::node(ECHO).with("castari.json", manifest);
    let entry = |path: &str| manifest("node", path, "slug", &json!("odd"));
    for (project, code, told) in [
        (Project::empty().with("main.mjs", ECHO), "manifest_missing", "castari.json not found"),
        (Project::empty(), "manifest_missing", "castari.json not found"),
        (with("{"), "manifest_invalid", "castari.json: EOF"),
        (with("[]"), "manifest_invalid", "castari.json:"),
        (with("{}"), "manifest_invalid", "`name` is missing"),
        (with(&json!({"name": "x", "runtime": "node"}).to_string()), "manifest_invalid", "`entrypoint` is missing"),
        (with(&json!({"name": "x", "entrypoint": "main.mjs"}).to_string()), "manifest_invalid", "`runtime` is missing"),
        (
            with(&manifest("cobol", "main.mjs", "slug", &json!("x"))),
            "manifest_invalid",
            "runtime `cobol` is not supported",
        ),
        (with(&manifest("node", "main.mjs", "install", &json!([]))), "manifest_invalid", "`install`"),
        (with(&manifest("node", "main.mjs", "env", &json!({"A=B": "x"}))), "manifest_invalid", "`A=B`"),
        (with(&entry("../main.mjs")), "manifest_invalid", "`../main.mjs`"),
        (with(&entry("/etc/passwd")), "manifest_invalid", "`/etc/passwd`"),
        (with(&entry("absent.mjs")), "entrypoint_missing", "`absent.mjs`"),
        (with(&" ".repeat((1 << 20) + 1)), "manifest_invalid", "larger than 1 MiB"),
        (Project::node(ECHO).with("package.json", "{"), "install_failed", "package.json:"),
    ] {
        let refused = ada.upload("odd", &project).await;
        let detail = refused.body["detail"].as_str().unwrap_or_default().to_owned();
        assert_eq!((refused.status, &refused.body["code"]), (400, &json!(code)), "{told}: {refused:?}");
        assert!(detail.contains(told), "{told}: {refused:?}");
    }
    let staging = server.data().code_agents().join("staging");
    until("the build's folders are gone", async || names_in(&staging).is_empty()).await;
    // A folder around the project is looked into.
    let wrapped = Project::empty().with("outer/castari.json", entry("main.mjs")).with("outer/main.mjs", ECHO);
    deploy(&ada, "odd", &wrapped).await;
    assert_eq!(ask(&ada, "odd", "hello").await, "hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_without_source_cannot_be_deployed() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "empty").await;
    assert_eq!(ada.post(&api("/agents"), json!({"name": "walkthrough"})).await.status, 201);
    for slug in ["empty", "walkthrough"] {
        for way in ["deploy", "redeploy"] {
            let refused = ada.post_nothing(&api(&format!("/agents/{slug}/{way}"))).await;
            assert_eq!((refused.status, &refused.body["code"]), (400, &json!("no_source")), "{refused:?}");
        }
        assert_eq!(ada.get(&api(&format!("/agents/{slug}"))).await.body["status"], "draft");
    }
}
