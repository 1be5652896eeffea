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
    assert_json_snapshot!(ada.post(&path, json!({"key": "MOON_KEY", "value": "silver"})).await.redacted(), @"");
    assert_eq!(ada.invoke("vault", "").await.body["response_content"], "silver");
    assert_eq!(ada.post(&path, json!({"key": "MOON_KEY", "value": "gold"})).await.status, 200);
    assert_eq!(ada.invoke("vault", "").await.body["response_content"], "gold");
    let listed = ada.get(&path).await;
    assert_json_snapshot!(listed.redacted(), @"");
    assert_json_snapshot!(ada.delete(&format!("{path}/MOON_KEY")).await.redacted(), @"");
    assert_json_snapshot!(ada.delete(&format!("{path}/MOON_KEY")).await.redacted(), @"");
    assert_eq!(ada.invoke("vault", "").await.body["response_content"], "none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_values_of_secrets_have_rules() {
    let (_server, ada, _) = TestServer::start().await;
    ada.post(&api("/agents"), json!({"name": "vault"})).await;
    let set = async |key: &str, value: &str| {
        ada.post(&api("/agents/vault/secrets"), json!({"key": key, "value": value})).await
    };
    assert_json_snapshot!(set("1A", "x").await.redacted(), @"");
    assert_json_snapshot!(set("LD_PRELOAD", "x").await.redacted(), @"");
    assert_json_snapshot!(set("A", &"x".repeat(65_537)).await.redacted(), @"");
    assert_eq!(set("A", "a\u{0}b").await.status, 422);
    let missing = ada.post(&api("/agents/vault/secrets"), json!({"value": 5})).await;
    assert_json_snapshot!(missing.redacted(), @"");
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
    assert_json_snapshot!(listed.redacted(), @"");
    assert_json_snapshot!(ada.delete(&api("/agents/notes/sessions/desk:42")).await.redacted(), @"");
    assert_json_snapshot!(ada.delete(&api("/agents/notes/sessions/desk%3A42")).await.redacted(), @"");
    assert_eq!(turn("d").await.body["response_content"], "d");
}
