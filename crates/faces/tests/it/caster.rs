//! The caster face: register, sign in, who am I.

use backlot_domain::accounts::Signup;
use backlot_testkit::{Answer, Setup, TestServer};
use insta::assert_json_snapshot;
use reqwest::Method;
use serde_json::json;

const REGISTER: &str = "/caster/api/v1/auth/register";
const LOGIN: &str = "/caster/api/v1/auth/login";
const ME: &str = "/caster/api/v1/me";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_is_made_signed_in_and_read() {
    let (_server, ada, anonymous) = TestServer::start().await;
    let body = json!({"email": "Grace@Example.com ", "password": "nanosecond"});
    let registered = anonymous.post(REGISTER, body.clone()).await;
    assert_json_snapshot!(registered.redacted(), @r#"
    {
      "status": 201,
      "body": {
        "user": {
          "id": 2,
          "email": "grace@example.com",
          "created_at": "[whole time]"
        },
        "api_key": "[key]"
      }
    }
    "#);
    let login = anonymous.post(LOGIN, body).await;
    assert_eq!(login.status, 200);
    assert_eq!(login.body["user"], registered.body["user"]);
    assert!(login.body.get("api_key").is_none(), "login makes no key");
    for token in [&login.body["access_token"], &registered.body["api_key"]] {
        let grace = anonymous.with_credential(token.as_str().unwrap());
        assert_eq!(grace.get(ME).await.body, json!({"user": registered.body["user"]}));
    }
    assert_json_snapshot!(ada.get(ME).await.redacted(), @r#"
    {
      "status": 200,
      "body": {
        "user": {
          "id": 1,
          "email": "ada@example.com",
          "created_at": "[whole time]"
        }
      }
    }
    "#);
    assert_eq!(login.header("cache-control"), "no-store");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_have_the_envelope_of_this_face() {
    let (_server, _ada, anonymous) = TestServer::start().await;
    let register = async |email: &str, password: &str| {
        anonymous.post(REGISTER, json!({"email": email, "password": password})).await
    };
    assert_json_snapshot!(register("nonsense", "long enough").await.redacted(), @r#"
    {
      "status": 400,
      "body": {
        "error": "invalid email",
        "code": "invalid_request",
        "field": "email"
      }
    }
    "#);
    assert_json_snapshot!(register("eve@example.com", "short").await.redacted(), @r#"
    {
      "status": 400,
      "body": {
        "error": "password must be at least 8 characters",
        "code": "invalid_request",
        "field": "password"
      }
    }
    "#);
    assert_json_snapshot!(register("ADA@example.com", "long enough").await.redacted(), @r#"
    {
      "status": 409,
      "body": {
        "error": "email already registered",
        "code": "conflict"
      }
    }
    "#);
    assert_json_snapshot!(anonymous.post(REGISTER, json!({"email": 5})).await.redacted(), @r#"
    {
      "status": 400,
      "body": {
        "error": "email must be a string",
        "code": "invalid_request",
        "field": "email"
      }
    }
    "#);
    assert_json_snapshot!(anonymous.post(REGISTER, json!([])).await.redacted(), @r#"
    {
      "status": 400,
      "body": {
        "error": "the body must be a JSON object",
        "code": "invalid_request"
      }
    }
    "#);
    let malformed = Answer::to(anonymous.request(Method::POST, LOGIN).body("{")).await;
    assert_json_snapshot!(malformed.redacted(), @r#"
    {
      "status": 400,
      "body": {
        "error": "the body is not JSON: EOF while parsing an object at byte 1",
        "code": "invalid_request"
      }
    }
    "#);
    let form = anonymous.request(Method::POST, LOGIN).header("content-type", "text/plain").body("{}");
    assert_json_snapshot!(Answer::to(form).await.redacted(), @r#"
    {
      "status": 415,
      "body": {
        "error": "the body must be application/json",
        "code": "unsupported_media_type"
      }
    }
    "#);
    let wrong = anonymous.post(LOGIN, json!({"email": "ada@example.com", "password": "wrong horse"})).await;
    assert_json_snapshot!(wrong.redacted(), @r#"
    {
      "status": 401,
      "body": {
        "error": "invalid email or password",
        "code": "unauthorized"
      }
    }
    "#);
    let nobody = anonymous.post(LOGIN, json!({"email": "nobody@example.com", "password": "wrong horse"})).await;
    assert_eq!((nobody.status, nobody.body), (wrong.status, wrong.body));
    assert_json_snapshot!(anonymous.get(ME).await.redacted(), @r#"
    {
      "status": 401,
      "body": {
        "error": "missing API key",
        "code": "unauthorized"
      }
    }
    "#);
    assert_json_snapshot!(anonymous.with_credential("cast_x").get(ME).await.redacted(), @r#"
    {
      "status": 401,
      "body": {
        "error": "invalid API key",
        "code": "unauthorized"
      }
    }
    "#);
    assert_json_snapshot!(anonymous.get("/caster/api/v1/moon").await.redacted(), @r#"
    {
      "status": 404,
      "body": {
        "error": "not found",
        "code": "not_found"
      }
    }
    "#);
    assert_json_snapshot!(anonymous.get(LOGIN).await.redacted(), @r#"
    {
      "status": 405,
      "body": {
        "error": "method not allowed",
        "code": "method_not_allowed"
      }
    }
    "#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_decides_who_may_register() {
    let setup = Setup { signup: Signup::First, ..Setup::default() };
    let (_server, _first, anonymous) = TestServer::with(setup).await;
    let second = anonymous.post(REGISTER, json!({"email": "eve@example.com", "password": "long enough"})).await;
    assert_json_snapshot!(second.redacted(), @r#"
    {
      "status": 403,
      "body": {
        "error": "registration is disabled",
        "code": "forbidden"
      }
    }
    "#);
}
