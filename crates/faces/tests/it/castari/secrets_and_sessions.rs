//! Secrets reach the program and nobody else; sessions keep files between invocations.

use backlot_testkit::{Project, TestServer};
use insta::assert_json_snapshot;
use serde_json::json;

use super::api;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_set_replaced_listed_and_removed() {
    let (_server, ada, _) = TestServer::start().await;
    ada.deploy("vault", &Project::node("console.log(process.env.MOON_KEY ?? 'none')")).await;
    let path = api("/agents/vault/secrets");
    assert_json_snapshot!(ada.post(&path, json!({"key": "MOON_KEY", "value": "silver"})).await.redacted(), @r#"
    {
      "status": 201,
      "body": {
        "key": "MOON_KEY"
      }
    }
    "#);
    assert_eq!(ada.invoke("vault", "").await.body["response_content"], "silver");
    assert_eq!(ada.post(&path, json!({"key": "MOON_KEY", "value": "gold"})).await.status, 200);
    assert_eq!(ada.invoke("vault", "").await.body["response_content"], "gold");
    let listed = ada.get(&path).await;
    assert_json_snapshot!(listed.redacted(), @r#"
    {
      "status": 200,
      "body": {
        "secrets": [
          {
            "key": "MOON_KEY",
            "created_at": "[time]",
            "updated_at": "[time]"
          }
        ],
        "meta": {
          "total": 1,
          "limit": 20,
          "offset": 0,
          "has_more": false
        }
      }
    }
    "#);
    assert_json_snapshot!(ada.delete(&format!("{path}/MOON_KEY")).await.redacted(), @r#"
    {
      "status": 204,
      "body": null
    }
    "#);
    assert_json_snapshot!(ada.delete(&format!("{path}/MOON_KEY")).await.redacted(), @r#"
    {
      "status": 404,
      "body": {
        "detail": "Secret not found",
        "code": "secret_not_found"
      }
    }
    "#);
    assert_eq!(ada.invoke("vault", "").await.body["response_content"], "none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_values_of_secrets_have_rules() {
    let (_server, ada, _) = TestServer::start().await;
    ada.post(&api("/agents"), json!({"name": "vault"})).await;
    let set = async |key: &str, value: &str| {
        ada.post(&api("/agents/vault/secrets"), json!({"key": key, "value": value})).await
    };
    assert_json_snapshot!(set("1A", "x").await.redacted(), @r#"
    {
      "status": 422,
      "body": {
        "detail": [
          {
            "loc": [
              "body",
              "key"
            ],
            "msg": "string does not match regex \"^[A-Za-z_][A-Za-z0-9_]{0,127}$\"",
            "type": "value_error.str.regex",
            "ctx": {
              "pattern": "^[A-Za-z_][A-Za-z0-9_]{0,127}$"
            }
          }
        ],
        "code": "validation_error"
      }
    }
    "#);
    assert_json_snapshot!(set("LD_PRELOAD", "x").await.redacted(), @r#"
    {
      "status": 422,
      "body": {
        "detail": [
          {
            "loc": [
              "body",
              "key"
            ],
            "msg": "`LD_PRELOAD` is reserved",
            "type": "value_error"
          }
        ],
        "code": "validation_error"
      }
    }
    "#);
    assert_json_snapshot!(set("A", &"x".repeat(65_537)).await.redacted(), @r#"
    {
      "status": 422,
      "body": {
        "detail": [
          {
            "loc": [
              "body",
              "value"
            ],
            "msg": "ensure this value has at most 65536 characters",
            "type": "value_error.any_str.max_length",
            "ctx": {
              "limit_value": 65536
            }
          }
        ],
        "code": "validation_error"
      }
    }
    "#);
    assert_eq!(set("A", "a\u{0}b").await.status, 422);
    let missing = ada.post(&api("/agents/vault/secrets"), json!({"value": 5})).await;
    assert_json_snapshot!(missing.redacted(), @r#"
    {
      "status": 422,
      "body": {
        "detail": [
          {
            "loc": [
              "body",
              "key"
            ],
            "msg": "field required",
            "type": "value_error.missing"
          },
          {
            "loc": [
              "body",
              "value"
            ],
            "msg": "str type expected",
            "type": "type_error.str"
          }
        ],
        "code": "validation_error"
      }
    }
    "#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_keeps_its_files_until_it_is_removed() {
    let (_server, ada, _) = TestServer::start().await;
    let program = "import fs from 'node:fs';
        fs.appendFileSync('notes.txt', fs.readFileSync(0, 'utf8'));
        console.log(fs.readFileSync('notes.txt', 'utf8'));";
    ada.deploy("notes", &Project::node(program)).await;
    let turn = async |prompt: &str| {
        ada.post(&api("/agents/notes/invoke"), json!({"prompt": prompt, "session_id": "desk:42"})).await
    };
    let first = turn("a").await;
    assert_eq!((first.status, &first.body["session_id"]), (200, &json!("desk:42")), "{first:?}");
    assert_eq!(turn("b").await.body["response_content"], "ab");
    assert_eq!(ada.invoke("notes", "c").await.body["response_content"], "c");
    let listed = ada.get(&api("/agents/notes/sessions")).await;
    assert_json_snapshot!(listed.redacted(), @r#"
    {
      "status": 200,
      "body": {
        "sessions": [
          {
            "id": "desk:42",
            "agent_id": "[agt]",
            "sandbox_id": "[sbx]",
            "created_at": "[time]",
            "last_invocation_at": "[time]"
          }
        ],
        "meta": {
          "total": 1,
          "limit": 20,
          "offset": 0,
          "has_more": false
        }
      }
    }
    "#);
    assert_json_snapshot!(ada.delete(&api("/agents/notes/sessions/desk:42")).await.redacted(), @r#"
    {
      "status": 204,
      "body": null
    }
    "#);
    assert_json_snapshot!(ada.delete(&api("/agents/notes/sessions/desk%3A42")).await.redacted(), @r#"
    {
      "status": 404,
      "body": {
        "detail": "Session not found",
        "code": "session_not_found"
      }
    }
    "#);
    let anew = turn("d").await;
    assert_eq!((anew.status, &anew.body["response_content"]), (200, &json!("d")), "{anew:?}");
}
