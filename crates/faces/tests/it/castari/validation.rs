//! Bodies and queries that do not fit: status 422 in the vocabulary of the imitated service (spec/castari.md 5.1).

use backlot_testkit::{Answer, Person, TestServer};
use insta::assert_json_snapshot;
use reqwest::Method;
use serde_json::json;

use super::api;

async fn raw(who: &Person, body: &str) -> Answer {
    Answer::to(who.request(Method::POST, &api("/agents")).body(body.to_owned())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_wrong_is_told_at_once_in_the_order_of_the_schema() {
    let (_server, ada, _) = TestServer::start().await;
    let wrong = ada
        .post(
            &api("/agents"),
            json!({"timeout_seconds": 900, "max_turns": 1.5, "slug": "No Slug", "source_type": "svn",
                   "description": 7, "agent_config": [], "default_model": ""}),
        )
        .await;
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
            "msg": "field required",
            "type": "value_error.missing"
          },
          {
            "loc": [
              "body",
              "slug"
            ],
            "msg": "string does not match regex \"^[a-z0-9](?:[a-z0-9-]{0,98}[a-z0-9])?$\"",
            "type": "value_error.str.regex",
            "ctx": {
              "pattern": "^[a-z0-9](?:[a-z0-9-]{0,98}[a-z0-9])?$"
            }
          },
          {
            "loc": [
              "body",
              "description"
            ],
            "msg": "str type expected",
            "type": "type_error.str"
          },
          {
            "loc": [
              "body",
              "source_type"
            ],
            "msg": "value is not a valid enumeration member; permitted: 'git', 'local'",
            "type": "type_error.enum",
            "ctx": {
              "enum_values": [
                "git",
                "local"
              ]
            }
          },
          {
            "loc": [
              "body",
              "default_model"
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
              "max_turns"
            ],
            "msg": "value is not a valid integer",
            "type": "type_error.integer"
          },
          {
            "loc": [
              "body",
              "timeout_seconds"
            ],
            "msg": "ensure this value is less than or equal to 600",
            "type": "value_error.number.not_le",
            "ctx": {
              "limit_value": 600
            }
          },
          {
            "loc": [
              "body",
              "agent_config"
            ],
            "msg": "value is not a valid dict",
            "type": "type_error.dict"
          }
        ],
        "code": "validation_error"
      }
    }
    "#);
    let changes = json!({"name": null, "timeout_seconds": 0, "agent_config": {"max_turns": "many"}});
    ada.post(&api("/agents"), json!({"name": "x"})).await;
    assert_json_snapshot!(ada.patch(&api("/agents/x"), changes).await.redacted(), @r#"
    {
      "status": 422,
      "body": {
        "detail": [
          {
            "loc": [
              "body",
              "name"
            ],
            "msg": "none is not an allowed value",
            "type": "type_error.none.not_allowed"
          },
          {
            "loc": [
              "body",
              "timeout_seconds"
            ],
            "msg": "ensure this value is greater than or equal to 1",
            "type": "value_error.number.not_ge",
            "ctx": {
              "limit_value": 1
            }
          },
          {
            "loc": [
              "body",
              "agent_config",
              "max_turns"
            ],
            "msg": "value is not a valid integer",
            "type": "type_error.integer"
          }
        ],
        "code": "validation_error"
      }
    }
    "#);
    assert_eq!(ada.get(&api("/agents")).await.body["meta"]["total"], 1, "nothing was created");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_seeds_own_example_holds() {
    let (_server, ada, _) = TestServer::start().await;
    let missing = ada.post(&api("/agents/x/invoke"), json!({"session_id": "a b"})).await;
    assert_json_snapshot!(missing.redacted(), @r#"
    {
      "status": 422,
      "body": {
        "detail": [
          {
            "loc": [
              "body",
              "prompt"
            ],
            "msg": "field required",
            "type": "value_error.missing"
          },
          {
            "loc": [
              "body",
              "session_id"
            ],
            "msg": "string does not match regex \"^[A-Za-z0-9._:-]{1,128}$\"",
            "type": "value_error.str.regex",
            "ctx": {
              "pattern": "^[A-Za-z0-9._:-]{1,128}$"
            }
          }
        ],
        "code": "validation_error"
      }
    }
    "#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_are_no_json_objects_are_refused_with_their_place() {
    let (_server, ada, _) = TestServer::start().await;
    assert_json_snapshot!(raw(&ada, "").await.redacted(), @r#"
    {
      "status": 422,
      "body": {
        "detail": [
          {
            "loc": [
              "body"
            ],
            "msg": "field required",
            "type": "value_error.missing"
          }
        ],
        "code": "validation_error"
      }
    }
    "#);
    assert_json_snapshot!(raw(&ada, "[]").await.redacted(), @r#"
    {
      "status": 422,
      "body": {
        "detail": [
          {
            "loc": [
              "body"
            ],
            "msg": "value is not a valid dict",
            "type": "type_error.dict"
          }
        ],
        "code": "validation_error"
      }
    }
    "#);
    assert_json_snapshot!(raw(&ada, "{\"name\": \"a\",}").await.redacted(), @r#"
    {
      "status": 422,
      "body": {
        "detail": [
          {
            "loc": [
              "body",
              13
            ],
            "msg": "trailing comma",
            "type": "value_error.jsondecode"
          }
        ],
        "code": "validation_error"
      }
    }
    "#);
    assert_eq!(raw(&ada, &"[".repeat(100_000)).await.status, 422);
    assert_eq!(raw(&ada, "{\"name\":\"\\ud800\"}").await.status, 422);
    let too_large = raw(&ada, &format!("{{\"name\": \"{}\"}}", "x".repeat(2 << 20))).await;
    assert_json_snapshot!(too_large.redacted(), @r#"
    {
      "status": 413,
      "body": {
        "detail": "Request body too large",
        "code": "body_too_large"
      }
    }
    "#);
    // The declared type does not matter, as in the imitated service.
    assert_eq!(raw(&ada, "{\"name\": \"plain\"}").await.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_lists_have_bounds() {
    let (_server, ada, _) = TestServer::start().await;
    assert_json_snapshot!(ada.get(&api("/agents?limit=101&offset=-1")).await.redacted(), @r#"
    {
      "status": 422,
      "body": {
        "detail": [
          {
            "loc": [
              "query",
              "limit"
            ],
            "msg": "ensure this value is less than or equal to 100",
            "type": "value_error.number.not_le",
            "ctx": {
              "limit_value": 100
            }
          },
          {
            "loc": [
              "query",
              "offset"
            ],
            "msg": "ensure this value is greater than or equal to 0",
            "type": "value_error.number.not_ge",
            "ctx": {
              "limit_value": 0
            }
          }
        ],
        "code": "validation_error"
      }
    }
    "#);
    for (query, kind) in [
        ("limit=0", "value_error.number.not_ge"),
        ("limit=ten", "type_error.integer"),
        ("limit=", "type_error.integer"),
        ("limit=1.5", "type_error.integer"),
        ("offset=99999999999999999999999999", "value_error.number.not_le"),
        ("status=asleep", "type_error.enum"),
    ] {
        let answer = ada.get(&api(&format!("/agents?{query}"))).await;
        assert_eq!((answer.status, &answer.body["detail"][0]["type"]), (422, &json!(kind)), "{query}: {answer:?}");
    }
    assert_eq!(ada.get(&api("/invocations?since=yesterday")).await.body["detail"][0]["loc"], json!(["query", "since"]));
    assert_eq!(ada.get(&api("/agents?limit=100&unknown=1")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_addresses_and_methods_are_answered_in_the_envelope() {
    let (_server, ada, _) = TestServer::start().await;
    assert_json_snapshot!(ada.get(&api("/moon")).await.redacted(), @r#"
    {
      "status": 404,
      "body": {
        "detail": "Not Found",
        "code": "not_found"
      }
    }
    "#);
    let wrong_method = Answer::to(ada.request(Method::PUT, &api("/agents"))).await;
    assert_json_snapshot!(wrong_method.redacted(), @r#"
    {
      "status": 405,
      "body": {
        "detail": "Method Not Allowed",
        "code": "method_not_allowed"
      }
    }
    "#);
    assert!(wrong_method.header("allow").contains("POST"), "{:?}", wrong_method.headers);
    for path in ["/agents/%00", "/agents/%ff", "/agents/a%2Fb", "/agents/%F0%9F%8C%99"] {
        assert_eq!(ada.get(&api(path)).await.status, 404, "{path}");
    }
}
