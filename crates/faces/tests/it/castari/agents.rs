//! Agents: create, read, change, list, remove.

use backlot_testkit::TestServer;
use insta::assert_json_snapshot;
use serde_json::json;

use super::api;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_created_read_changed_and_removed() {
    let (_server, ada, _) = TestServer::start().await;
    let created = ada
        .post(
            &api("/agents"),
            json!({"name": "Invoice Helper", "source_type": "git",
                   "git_repo_url": "https://git.example.org/acme/invoice-helper", "surprise": true}),
        )
        .await;
    assert_json_snapshot!(created.redacted(), @r#"
    {
      "status": 201,
      "body": {
        "id": "[agt]",
        "user_id": "[usr]",
        "name": "Invoice Helper",
        "slug": "invoice-helper",
        "description": null,
        "source_type": "git",
        "git_repo_url": "https://git.example.org/acme/invoice-helper",
        "git_branch": "main",
        "source_hash": null,
        "default_model": "anthropic/claude-sonnet-5-5",
        "max_turns": 50,
        "timeout_seconds": 120,
        "status": "draft",
        "status_message": null,
        "sandbox_id": null,
        "agent_config": {},
        "network": "public",
        "created_at": "[time]",
        "updated_at": "[time]"
      }
    }
    "#);

    let path = api("/agents/invoice-helper");
    assert_eq!(ada.get(&path).await.body, created.body);

    let changes = json!({"timeout_seconds": 300, "git_branch": "release", "description": "for March",
                         "agent_config": {"model": "claude-haiku", "max_turns": 3}, "network": "none"});
    let changed = ada.patch(&path, changes).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    assert_eq!(changed.body["timeout_seconds"], 300);
    assert_eq!(changed.body["git_branch"], "release");
    assert_eq!(changed.body["agent_config"], json!({"model": "claude-haiku", "max_turns": 3}));
    assert_eq!(changed.body["network"], "none");
    assert_eq!(changed.body["name"], "Invoice Helper");
    assert_eq!(ada.patch(&path, json!({"description": null})).await.body["description"], json!(null));
    assert_eq!(ada.patch(&path, json!({})).await.body["timeout_seconds"], 300);

    assert_json_snapshot!(ada.delete(&path).await.redacted(), @r#"
    {
      "status": 204,
      "body": null
    }
    "#);
    assert_json_snapshot!(ada.get(&path).await.redacted(), @r#"
    {
      "status": 404,
      "body": {
        "detail": "Agent not found",
        "code": "agent_not_found"
      }
    }
    "#);
    assert_json_snapshot!(ada.delete(&path).await.redacted(), @r#"
    {
      "status": 404,
      "body": {
        "detail": "Agent not found",
        "code": "agent_not_found"
      }
    }
    "#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slugs_are_derived_and_explicit_ones_must_be_free() {
    let (_server, ada, _) = TestServer::start().await;
    // The seed's walkthrough: nothing but name and slug.
    let first = ada.post(&api("/agents"), json!({"name": "My Agent", "slug": "my-agent"})).await;
    assert_eq!((first.status, &first.body["slug"]), (201, &json!("my-agent")));
    assert_eq!(first.body["source_type"], "git");
    let second = ada.post(&api("/agents"), json!({"name": "My  Agent!"})).await;
    assert_eq!((second.status, &second.body["slug"]), (201, &json!("my-agent-2")));
    let taken = ada.post(&api("/agents"), json!({"name": "x", "slug": "my-agent"})).await;
    assert_json_snapshot!(taken.redacted(), @r#"
    {
      "status": 400,
      "body": {
        "detail": "Agent with slug 'my-agent' already exists",
        "code": "slug_taken"
      }
    }
    "#);
    let reserved = ada.post(&api("/agents"), json!({"name": "x", "slug": "agents"})).await;
    assert_json_snapshot!(reserved.redacted(), @r#"
    {
      "status": 422,
      "body": {
        "detail": [
          {
            "loc": [
              "body",
              "slug"
            ],
            "msg": "`agents` is reserved",
            "type": "value_error"
          }
        ],
        "code": "validation_error"
      }
    }
    "#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_have_parts_and_filters() {
    let (_server, ada, _) = TestServer::start().await;
    for name in ["one", "two", "three"] {
        assert_eq!(ada.post(&api("/agents"), json!({"name": name})).await.status, 201);
    }
    let slugs = |answer: &backlot_testkit::Answer| {
        let agents = answer.body["agents"].as_array().unwrap().clone();
        agents.iter().map(|agent| agent["slug"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = ada.get(&api("/agents")).await;
    assert_eq!(slugs(&all), ["three", "two", "one"]);
    assert_eq!(all.body["meta"], json!({"total": 3, "limit": 20, "offset": 0, "has_more": false}));
    let part = ada.get(&api("/agents?limit=1&offset=1")).await;
    assert_eq!(slugs(&part), ["two"]);
    assert_eq!(part.body["meta"], json!({"total": 3, "limit": 1, "offset": 1, "has_more": true}));
    let beyond = ada.get(&api("/agents?offset=50")).await;
    assert_eq!(beyond.body["meta"], json!({"total": 3, "limit": 20, "offset": 50, "has_more": false}));
    assert_eq!(slugs(&ada.get(&api("/agents?status=draft")).await).len(), 3);
    assert_eq!(slugs(&ada.get(&api("/agents?status=active")).await).len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_was_never_deployed_is_neither_stopped_nor_invoked() {
    let (_server, ada, _) = TestServer::start().await;
    ada.post(&api("/agents"), json!({"name": "draft"})).await;
    assert_json_snapshot!(ada.delete(&api("/agents/draft/sandbox")).await.redacted(), @r#"
    {
      "status": 400,
      "body": {
        "detail": "Agent not active",
        "code": "agent_not_active"
      }
    }
    "#);
    assert_json_snapshot!(ada.invoke("draft", "hello").await.redacted(), @r#"
    {
      "status": 400,
      "body": {
        "detail": "Agent not active",
        "code": "agent_not_active"
      }
    }
    "#);
    assert_json_snapshot!(ada.post_nothing(&api("/agents/draft/deploy")).await.redacted(), @r#"
    {
      "status": 400,
      "body": {
        "detail": "Agent has no source; set git_repo_url or upload code",
        "code": "no_source"
      }
    }
    "#);
    assert_json_snapshot!(ada.post_nothing(&api("/agents/draft/rollback")).await.redacted(), @r#"
    {
      "status": 404,
      "body": {
        "detail": "There is no earlier release to go back to",
        "code": "release_not_found"
      }
    }
    "#);
}
