//! Deployments: upload, deploy, redeploy, stop, history, logs, rollback.

use backlot_testkit::{ECHO, Project, TestServer};
use insta::assert_json_snapshot;
use reqwest::Method;
use serde_json::json;

use super::api;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_is_uploaded_deployed_stopped_and_deployed_again() {
    let (_server, ada, _) = TestServer::start().await;
    ada.post(&api("/agents"), json!({"name": "hello", "source_type": "local"})).await;
    let uploaded = ada.upload("hello", &Project::node(ECHO)).await;
    assert_json_snapshot!(uploaded.redacted(), @r#"
    {
      "status": 201,
      "body": {
        "agent_id": "[agt]",
        "source_hash": "[sha256]",
        "status": "active",
        "sandbox_id": "[sbx]",
        "message": "Code uploaded and deployed"
      }
    }
    "#);
    let agent = ada.get(&api("/agents/hello")).await;
    assert_eq!(agent.body["status"], "active");
    assert_eq!(agent.body["source_hash"], uploaded.body["source_hash"]);
    assert_eq!(ada.invoke("hello", "one").await.body["response_content"], "one");

    // At the address of the documentation, and at the one of the released client.
    let stopped = ada.delete(&api("/agents/hello/sandbox")).await;
    assert_eq!((stopped.status, &stopped.body["status"]), (200, &json!("stopped")));
    assert_eq!(stopped.body["sandbox_id"], json!(null));
    let again = ada.delete(&api("/hello/sandbox")).await;
    assert_eq!((again.status, &again.body["status"]), (200, &json!("stopped")));
    assert_eq!(ada.invoke("hello", "two").await.body["code"], "agent_not_active");

    let deployed = ada.post_nothing(&api("/agents/hello/deploy")).await;
    assert_eq!((deployed.status, &deployed.body["status"]), (200, &json!("active")), "{deployed:?}");
    let redeployed = ada.post(&api("/agents/hello/redeploy"), json!({})).await;
    assert_eq!((redeployed.status, &redeployed.body["status"]), (200, &json!("active")), "{redeployed:?}");
    assert_eq!(ada.invoke("hello", "three").await.body["response_content"], "three");

    let history = ada.get(&api("/agents/hello/deployments?limit=2")).await;
    assert_eq!(history.body["meta"], json!({"total": 3, "limit": 2, "offset": 0, "has_more": true}));
    assert_json_snapshot!(history.redacted()["body"]["deployments"][0], @r#"
    {
      "id": "[dep]",
      "source_hash": "[sha256]",
      "status": "completed",
      "message": null,
      "started_at": "[time]",
      "finished_at": "[time]"
    }
    "#);
    let id = history.body["deployments"][0]["id"].as_str().unwrap();
    let log = ada.get(&api(&format!("/agents/hello/deployments/{id}/logs"))).await;
    assert_eq!(log.status, 200);
    let lines = log.body["logs"].as_array().unwrap();
    assert!(!lines.is_empty() && lines.iter().all(|line| line["stream"] == "system"), "{log:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploaded_code_can_wait_for_its_deployment() {
    let (_server, ada, _) = TestServer::start().await;
    ada.post(&api("/agents"), json!({"name": "later"})).await;
    let part = reqwest::multipart::Part::bytes(Project::node(ECHO).pack()).file_name("code.tar.gz");
    let form = reqwest::multipart::Form::new().text("note", "ignored").part("file", part);
    let request = ada.request(Method::POST, &api("/agents/later/upload?auto_deploy=false")).multipart(form);
    let uploaded = backlot_testkit::Answer::to(request).await;
    assert_json_snapshot!(uploaded.redacted(), @r#"
    {
      "status": 201,
      "body": {
        "agent_id": "[agt]",
        "source_hash": "[sha256]",
        "status": "draft",
        "sandbox_id": null,
        "message": "Code uploaded"
      }
    }
    "#);
    // Uploading turns a git agent into one of local code.
    let agent = ada.get(&api("/agents/later")).await;
    assert_eq!((&agent.body["status"], &agent.body["source_type"]), (&json!("draft"), &json!("local")));
    let accepted = ada.post(&api("/agents/later/deploy"), json!({"wait": false})).await;
    assert_eq!((accepted.status, &accepted.body["status"]), (202, &json!("deploying")), "{accepted:?}");
    // The same request joins the deployment that is under way, or finds it done.
    let joined = ada.post_nothing(&api("/agents/later/deploy")).await;
    assert_eq!((joined.status, &joined.body["status"]), (200, &json!("active")), "{joined:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_release_answers_again() {
    let (_server, ada, _) = TestServer::start().await;
    ada.deploy("versions", &Project::node("console.log('first')")).await;
    assert_eq!(ada.upload("versions", &Project::node("console.log('second')")).await.status, 201);
    assert_eq!(ada.invoke("versions", "").await.body["response_content"], "second");
    let back = ada.post_nothing(&api("/agents/versions/rollback")).await;
    assert_eq!((back.status, &back.body["status"]), (200, &json!("active")), "{back:?}");
    assert_eq!(ada.invoke("versions", "").await.body["response_content"], "first");
    let newest = ada.get(&api("/agents/versions/deployments?limit=1")).await.body["deployments"][0]["id"].clone();
    let forth = ada.post(&api("/agents/versions/rollback"), json!({"deployment_id": newest})).await;
    assert_eq!(forth.status, 200, "{forth:?}");
    assert_eq!(ada.invoke("versions", "").await.body["response_content"], "second");
    let unknown = ada.post(&api("/agents/versions/rollback"), json!({"deployment_id": "dep_none"})).await;
    assert_json_snapshot!(unknown.redacted(), @r#"
    {
      "status": 404,
      "body": {
        "detail": "There is no earlier release to go back to",
        "code": "release_not_found"
      }
    }
    "#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_deployed_says_why_and_keeps_the_old_release() {
    let (_server, ada, _) = TestServer::start().await;
    ada.post(&api("/agents"), json!({"name": "broken"})).await;
    let nameless = ada.upload("broken", &Project::empty().with("main.mjs", ECHO)).await;
    assert_json_snapshot!(nameless.redacted(), @r#"
    {
      "status": 400,
      "body": {
        "detail": "castari.json not found",
        "code": "manifest_missing"
      }
    }
    "#);
    assert_eq!(ada.get(&api("/agents/broken")).await.body["status"], "draft", "a refused upload changes nothing");
    let failing_install = Project::node(ECHO).with(
        "castari.json",
        json!({"name": "x", "version": "1.0.0", "runtime": "node", "entrypoint": "main.mjs",
               "install": ["node", "-e", "console.error('no moon'); process.exit(1)"]})
        .to_string(),
    );
    let failed = ada.upload("broken", &failing_install).await;
    assert_eq!((failed.status, &failed.body["code"]), (400, &json!("install_failed")), "{failed:?}");
    let agent = ada.get(&api("/agents/broken")).await;
    assert_eq!(agent.body["status"], "error");
    assert_eq!(agent.body["status_message"], failed.body["detail"]);
    let deployments = ada.get(&api("/agents/broken/deployments")).await;
    assert_eq!(deployments.body["deployments"][0]["status"], "failed");
    assert_eq!(deployments.body["deployments"][0]["message"], failed.body["detail"]);
    assert_eq!(ada.upload("broken", &Project::node(ECHO)).await.status, 201);
    let not_an_archive = {
        let part = reqwest::multipart::Part::bytes(b"not an archive".to_vec()).file_name("code.tar.gz");
        let form = reqwest::multipart::Form::new().part("file", part);
        backlot_testkit::Answer::to(ada.request(Method::POST, &api("/agents/broken/upload-code")).multipart(form)).await
    };
    assert_eq!(not_an_archive.status, 400, "{not_an_archive:?}");
    assert_eq!(not_an_archive.body["code"], "archive_refused");
    let kept = ada.get(&api("/agents/broken")).await;
    assert_eq!(kept.body["status"], "active", "the old release goes on: {kept:?}");
    let no_file = ada.post(&api("/agents/broken/upload-code"), json!({})).await;
    assert_json_snapshot!(no_file.redacted(), @r#"
    {
      "status": 422,
      "body": {
        "detail": [
          {
            "loc": [
              "body",
              "file"
            ],
            "msg": "field required",
            "type": "value_error.missing"
          }
        ],
        "code": "validation_error"
      }
    }
    "#);
}
