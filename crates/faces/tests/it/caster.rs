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
    assert_json_snapshot!(registered.redacted(), @"");
    let login = anonymous.post(LOGIN, body).await;
    assert_eq!(login.status, 200);
    assert_eq!(login.body["user"], registered.body["user"]);
    assert!(login.body.get("api_key").is_none(), "login makes no key");
    for token in [&login.body["access_token"], &registered.body["api_key"]] {
        let grace = anonymous.with_credential(token.as_str().unwrap());
        assert_eq!(grace.get(ME).await.body, json!({"user": registered.body["user"]}));
    }
    assert_json_snapshot!(ada.get(ME).await.redacted(), @"");
    assert_eq!(login.header("cache-control"), "no-store");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_have_the_envelope_of_this_face() {
    let (_server, _ada, anonymous) = TestServer::start().await;
    let register = async |email: &str, password: &str| {
        anonymous.post(REGISTER, json!({"email": email, "password": password})).await
    };
    assert_json_snapshot!(register("nonsense", "long enough").await.redacted(), @"");
    assert_json_snapshot!(register("eve@example.com", "short").await.redacted(), @"");
    assert_json_snapshot!(register("ADA@example.com", "long enough").await.redacted(), @"");
    assert_json_snapshot!(anonymous.post(REGISTER, json!({"email": 5})).await.redacted(), @"");
    assert_json_snapshot!(anonymous.post(REGISTER, json!([])).await.redacted(), @"");
    let malformed = Answer::to(anonymous.request(Method::POST, LOGIN).body("{")).await;
    assert_json_snapshot!(malformed.redacted(), @"");
    let form = anonymous.request(Method::POST, LOGIN).header("content-type", "text/plain").body("{}");
    assert_json_snapshot!(Answer::to(form).await.redacted(), @"");
    let wrong = anonymous.post(LOGIN, json!({"email": "ada@example.com", "password": "wrong horse"})).await;
    assert_json_snapshot!(wrong.redacted(), @"");
    let nobody = anonymous.post(LOGIN, json!({"email": "nobody@example.com", "password": "wrong horse"})).await;
    assert_eq!((nobody.status, nobody.body), (wrong.status, wrong.body));
    assert_json_snapshot!(anonymous.get(ME).await.redacted(), @"");
    assert_json_snapshot!(anonymous.with_credential("cast_x").get(ME).await.redacted(), @"");
    assert_json_snapshot!(anonymous.get("/caster/api/v1/moon").await.redacted(), @"");
    assert_json_snapshot!(anonymous.get(LOGIN).await.redacted(), @"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_decides_who_may_register() {
    let setup = Setup { signup: Signup::First, ..Setup::default() };
    let (_server, _first, anonymous) = TestServer::with(setup).await;
    let second = anonymous.post(REGISTER, json!({"email": "eve@example.com", "password": "long enough"})).await;
    assert_json_snapshot!(second.redacted(), @"");
}
