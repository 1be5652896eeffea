//! API keys, and who a credential belongs to.

use backlot_testkit::{Answer, TestServer};
use insta::assert_json_snapshot;
use reqwest::Method;
use serde_json::json;

use super::api;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_shown_once_works_and_is_revoked() {
    let (_server, ada, anonymous) = TestServer::start().await;
    let created = ada.post(&api("/api-keys"), json!({"name": "ci", "scopes": ["agents"]})).await;
    assert_json_snapshot!(created.redacted(), @r#"
    {
      "status": 201,
      "body": {
        "api_key": {
          "id": "[ak]",
          "name": "ci",
          "prefix": "[key prefix]",
          "scopes": [
            "agents"
          ],
          "created_at": "[time]",
          "last_used_at": null
        },
        "key": "[key]"
      }
    }
    "#);
    let key = created.body["key"].as_str().unwrap();
    let ci = anonymous.with_credential(key);
    assert_eq!(ci.get(&api("/agents")).await.status, 200);
    let me = ci.get(&api("/auth/me")).await;
    assert_json_snapshot!(me.redacted(), @r#"
    {
      "status": 200,
      "body": {
        "id": "[usr]",
        "email": "ada@example.com",
        "api_key_prefix": "[key prefix]",
        "created_at": "[time]"
      }
    }
    "#);
    assert_eq!(me.body["api_key_prefix"], created.body["api_key"]["prefix"]);
    assert!(key.starts_with(me.body["api_key_prefix"].as_str().unwrap()));
    // A key cannot make one that may do more than itself.
    assert_eq!(ci.post_nothing(&api("/api-keys")).await.status, 403);

    let listed = ada.get(&api("/api-keys")).await;
    assert_eq!(listed.body["meta"]["total"], 2);
    assert!(!listed.body.to_string().contains(key));
    let names: Vec<_> = listed.body["api_keys"].as_array().unwrap().iter().map(|key| key["name"].clone()).collect();
    assert_eq!(names, ["ci", "default"]);

    let id = created.body["api_key"]["id"].as_str().unwrap();
    assert_json_snapshot!(ada.delete(&api(&format!("/api-keys/{id}"))).await.redacted(), @r#"
    {
      "status": 204,
      "body": null
    }
    "#);
    assert_json_snapshot!(ada.delete(&api(&format!("/api-keys/{id}"))).await.redacted(), @r#"
    {
      "status": 404,
      "body": {
        "detail": "API key not found",
        "code": "api_key_not_found"
      }
    }
    "#);
    assert_json_snapshot!(ci.get(&api("/agents")).await.redacted(), @r#"
    {
      "status": 401,
      "body": {
        "detail": "Missing or invalid authentication",
        "code": "unauthorized"
      }
    }
    "#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_clients_make_and_revoke_keys_without_names() {
    let (_server, ada, anonymous) = TestServer::start().await;
    let created = ada.post_nothing(&api("/auth/api-key")).await;
    assert_json_snapshot!(created.redacted(), @r#"
    {
      "status": 201,
      "body": {
        "api_key": "[key]",
        "prefix": "[key prefix]"
      }
    }
    "#);
    let other = anonymous.with_credential(created.body["api_key"].as_str().unwrap());
    assert_eq!(other.delete(&api("/auth/api-key")).await.status, 204);
    assert_eq!(other.get(&api("/auth/me")).await.status, 401);
    assert_eq!(ada.get(&api("/auth/me")).await.status, 200);
    assert_eq!(ada.post_nothing(&api("/api-keys")).await.body["api_key"]["name"], "Default");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_makes_a_key_and_the_alias_header_is_read() {
    let (_server, ada, anonymous) = TestServer::start().await;
    let login = json!({"email": "ada@example.com", "password": "correct horse"});
    let login = anonymous.post("/caster/api/v1/auth/login", login).await;
    let signed_in = anonymous.with_credential(login.body["access_token"].as_str().unwrap());
    let created = signed_in.post(&api("/api-keys"), json!({"name": "laptop"})).await;
    assert_eq!(created.status, 201, "{created:?}");
    // A caller with a token sees the newest key's prefix.
    assert_eq!(signed_in.get(&api("/auth/me")).await.body["api_key_prefix"], created.body["api_key"]["prefix"]);
    let request = anonymous.request(Method::GET, &api("/auth/me")).header("X-API-Key", ada.credential());
    assert_eq!(Answer::to(request).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_of_keys_are_checked() {
    let (_server, ada, _) = TestServer::start().await;
    let wrong = ada.post(&api("/api-keys"), json!({"name": "", "scopes": ["agents", "moon", 5]})).await;
    assert_json_snapshot!(wrong.redacted(), @r#"
    {
      "status": 422,
      "body": {
        "detail": [
          {
            "loc": [
              "body",
              "name"
            ],
            "msg": "ensure this value has at least 1 characters",
            "type": "value_error.any_str.min_length",
            "ctx": {
              "limit_value": 1
            }
          },
          {
            "loc": [
              "body",
              "scopes",
              1
            ],
            "msg": "value is not a valid enumeration member; permitted: 'all', 'agents', 'sessions'",
            "type": "type_error.enum",
            "ctx": {
              "enum_values": [
                "all",
                "agents",
                "sessions"
              ]
            }
          },
          {
            "loc": [
              "body",
              "scopes",
              2
            ],
            "msg": "value is not a valid enumeration member; permitted: 'all', 'agents', 'sessions'",
            "type": "type_error.enum",
            "ctx": {
              "enum_values": [
                "all",
                "agents",
                "sessions"
              ]
            }
          }
        ],
        "code": "validation_error"
      }
    }
    "#);
    assert_eq!(ada.post(&api("/api-keys"), json!({"scopes": []})).await.status, 422);
    assert_eq!(ada.post(&api("/api-keys"), json!({"scopes": "all"})).await.status, 422);
}
