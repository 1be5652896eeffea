//! Invocations: results, failures, sessions, history.

use backlot_testkit::{ECHO, Project, TestServer};
use insta::assert_json_snapshot;
use reqwest::Method;
use serde_json::json;

use super::api;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_is_what_the_program_wrote() {
    let (_server, ada, _) = TestServer::start().await;
    ada.deploy("echo", &Project::node(ECHO)).await;
    let answer = ada.invoke("echo", "Grüße,\u{0} 世界\n").await;
    assert_json_snapshot!(answer.redacted(), @r#"
    {
      "status": 200,
      "body": {
        "invocation_id": "[inv]",
        "session_id": "[sess]",
        "sandbox_id": "[sbx]",
        "response_content": "Grüße,\u0000 世界",
        "input_tokens": 0,
        "output_tokens": 0,
        "total_cost_usd": "0.000000",
        "unpriced_calls": 0,
        "duration_ms": "[milliseconds]",
        "status": "completed",
        "error": null
      }
    }
    "#);
    let empty = ada.invoke("echo", "").await;
    assert_eq!((empty.status, &empty.body["response_content"]), (200, &json!("")));
    assert_eq!(empty.body["status"], "completed");

    // The history has it, by agent, across agents and by id.
    let history = ada.get(&api("/agents/echo/invocations?limit=1&offset=1")).await;
    assert_json_snapshot!(history.redacted(), @r#"
    {
      "status": 200,
      "body": {
        "invocations": [
          {
            "id": "[inv]",
            "agent_id": "[agt]",
            "session_id": "[sess]",
            "sandbox_id": "[sbx]",
            "deployment_id": "[dep]",
            "prompt": "Grüße,\u0000 世界\n",
            "response_content": "Grüße,\u0000 世界",
            "input_tokens": 0,
            "output_tokens": 0,
            "total_cost_usd": "0.000000",
            "unpriced_calls": 0,
            "model_calls": 0,
            "duration_ms": "[milliseconds]",
            "status": "completed",
            "error": null,
            "created_at": "[time]"
          }
        ],
        "meta": {
          "total": 2,
          "limit": 1,
          "offset": 1,
          "has_more": false
        }
      }
    }
    "#);
    let id = answer.body["invocation_id"].as_str().unwrap();
    let read = ada.get(&api(&format!("/invocations/{id}"))).await;
    assert_eq!(read.body, history.body["invocations"][0]);
    let session = answer.body["session_id"].as_str().unwrap();
    let across = ada.get(&api(&format!("/invocations?agent=echo&session_id={session}&since=2020-01-01"))).await;
    assert_eq!(across.body["invocations"], history.body["invocations"]);
    assert_eq!(ada.get(&api("/invocations?until=2020-01-01")).await.body["meta"]["total"], 0);
    assert_eq!(ada.get(&api("/invocations?status=failed")).await.body["meta"]["total"], 0);
    assert_eq!(ada.get(&api("/invocations?status=running")).await.body["meta"]["total"], 0);
    assert_eq!(ada.get(&api("/invocations?status=completed")).await.body["meta"]["total"], 2);
    // Stopping what has ended changes nothing.
    let cancelled = ada.post_nothing(&api(&format!("/invocations/{id}/cancel"))).await;
    assert_eq!(cancelled.body, answer.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_program_caused_is_a_failed_result_and_no_error() {
    let (_server, ada, _) = TestServer::start().await;
    let program = "console.log('half'); console.error('why: the moon'); process.exitCode = 3;";
    ada.deploy("failing", &Project::node(program)).await;
    let failed = ada.invoke("failing", "").await;
    assert_json_snapshot!(failed.redacted(), @r#"
    {
      "status": 200,
      "body": {
        "invocation_id": "[inv]",
        "session_id": "[sess]",
        "sandbox_id": "[sbx]",
        "response_content": "half",
        "input_tokens": 0,
        "output_tokens": 0,
        "total_cost_usd": "0.000000",
        "unpriced_calls": 0,
        "duration_ms": "[milliseconds]",
        "status": "failed",
        "error": {
          "code": "nonzero_exit",
          "message": "The program exited with status 3",
          "exit_code": 3
        }
      }
    }
    "#);
    let id = failed.body["invocation_id"].as_str().unwrap();
    let log = ada.get(&api(&format!("/invocations/{id}/logs"))).await;
    assert_json_snapshot!(log.redacted(), @r#"
    {
      "status": 200,
      "body": {
        "logs": [
          {
            "ts": "[time]",
            "stream": "stderr",
            "text": "why: the moon\n"
          },
          {
            "ts": "[time]",
            "stream": "system",
            "text": "The program exited with status 3"
          }
        ]
      }
    }
    "#);
    let of_agent = ada.get(&api("/agents/failing/logs?limit=1")).await;
    assert_json_snapshot!(of_agent.redacted(), @r#"
    {
      "status": 200,
      "body": {
        "logs": [
          {
            "ts": "[time]",
            "stream": "system",
            "text": "The program exited with status 3",
            "invocation_id": "[inv]"
          }
        ]
      }
    }
    "#);
    assert_eq!(ada.get(&api("/agents/failing/logs?limit=0")).await.body, json!({"logs": []}));
    assert_eq!(ada.get(&api("/agents/failing/invocations?status=failed")).await.body["meta"]["total"], 1);

    ada.patch(&api("/agents/failing"), json!({"timeout_seconds": 1})).await;
    ada.upload("failing", &Project::node("setTimeout(() => {}, 60_000)")).await;
    let timed_out = ada.invoke("failing", "").await;
    assert_eq!(timed_out.status, 200);
    assert_eq!(timed_out.body["status"], "failed");
    assert_eq!(timed_out.body["error"]["code"], "timeout", "{timed_out:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotency_key_gives_the_first_result_again() {
    let (_server, ada, _) = TestServer::start().await;
    ada.deploy("once", &Project::node("console.log(process.env.CASTARI_INVOCATION_ID)")).await;
    let invoke = async |key: &str| {
        let request = ada.request(Method::POST, &api("/agents/once/invoke"));
        backlot_testkit::Answer::to(request.header("Idempotency-Key", key).json(&json!({"prompt": ""}))).await
    };
    let (first, again, other) = (invoke("a").await, invoke("a").await, invoke("b").await);
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(first.body["response_content"], first.body["invocation_id"]);
    assert_eq!(again.body, first.body);
    assert_ne!(other.body["invocation_id"], first.body["invocation_id"]);
    assert_json_snapshot!(invoke(&"x".repeat(256)).await.redacted(), @r#"
    {
      "status": 422,
      "body": {
        "detail": [
          {
            "loc": [
              "header",
              "Idempotency-Key"
            ],
            "msg": "must have 1 to 255 visible ASCII characters",
            "type": "value_error"
          }
        ],
        "code": "validation_error"
      }
    }
    "#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_invocation_is_listed_and_cancelled() {
    let (_server, ada, _) = TestServer::start().await;
    ada.deploy("slow", &Project::node("console.log('begun'); setTimeout(() => {}, 60_000)")).await;
    let request = ada.request(Method::POST, &api("/agents/slow/stream")).json(&json!({"prompt": ""}));
    let mut stream = request.send().await.unwrap();
    let id = stream.headers()["x-invocation-id"].to_str().unwrap().to_owned();
    // Wait for the program to write: then it surely runs.
    let mut seen = String::new();
    while !seen.contains("begun") {
        seen.push_str(std::str::from_utf8(&stream.chunk().await.unwrap().unwrap()).unwrap());
    }
    let running = ada.get(&api("/agents/slow/invocations?status=running")).await;
    assert_eq!(running.body["invocations"][0]["id"], json!(id));
    assert_eq!(running.body["invocations"][0]["status"], "running");
    assert_eq!(ada.get(&api("/agents/slow/invocations")).await.body["meta"]["total"], 0);
    let cancelled = ada.post_nothing(&api(&format!("/invocations/{id}/cancel"))).await;
    assert_json_snapshot!(cancelled.redacted(), @r#"
    {
      "status": 200,
      "body": {
        "invocation_id": "[inv]",
        "session_id": "[sess]",
        "sandbox_id": "[sbx]",
        "response_content": "begun",
        "input_tokens": 0,
        "output_tokens": 0,
        "total_cost_usd": "0.000000",
        "unpriced_calls": 0,
        "duration_ms": "[milliseconds]",
        "status": "failed",
        "error": {
          "code": "stopped",
          "message": "The invocation was stopped"
        }
      }
    }
    "#);
}
