//! The calls of the released `@castari/sdk` 0.4.1, sent as it sends them (spec/castari.md 3, 21): its paths, headers and
//! bodies, and the fields that it takes out of the answers. The package itself is not to be had from the public
//! registry, so these are its requests and not its code.

use backlot_testkit::{Answer, ECHO, Person, Project, Setup, TestDatabase, TestServer};
use reqwest::{Method, RequestBuilder, header};
use serde_json::{Value, json};

/// The transport of the SDK: base address without its trailing slash, `/api/v1`, path.
struct Sdk(Person);

impl Sdk {
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.0.request(method, &format!("/castari/api/v1{path}")).header(header::ACCEPT, "application/json")
    }

    /// Unpacks an answer as the SDK does: 204 is nothing, an error is its `detail`.
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, (u16, Value)> {
        let request = self.request(method, path);
        let answer = Answer::to(match body {
            Some(body) => request.header(header::CONTENT_TYPE, "application/json").body(body.to_string()),
            None => request,
        })
        .await;
        match answer.status {
            204 => Ok(Value::Null),
            200..300 => Ok(answer.body),
            status => Err((status, answer.body["detail"].clone())),
        }
    }

    async fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path, None).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_calls_of_the_released_sdk_work() {
    let (_server, ada, _) = TestServer::start().await;
    walk(Sdk(ada)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_calls_of_the_released_sdk_work_on_postgres() {
    let Some(database) = TestDatabase::postgres().await else { return };
    let (server, ada, _) = TestServer::with(Setup { database: Some(database), ..Setup::default() }).await;
    // What only PostgreSQL cannot store is refused or kept, and never a fault of ours.
    for (path, body, status) in [
        ("/agents", json!({"name": "a\u{0}b"}), 422),
        ("/agents", json!({"name": "nul", "description": "\u{0}"}), 422),
        ("/agents/absent/invoke", json!({"prompt": "\u{0}"}), 404),
    ] {
        assert_eq!(ada.post(&format!("/castari/api/v1{path}"), body).await.status, status, "{path}");
    }
    assert_eq!(ada.get("/castari/api/v1/agents/%00").await.status, 404);
    assert_eq!(ada.get("/castari/api/v1/invocations?session_id=%00").await.status, 422);
    walk(Sdk(ada)).await;
    server.stop().await;
}

async fn walk(sdk: Sdk) {
    // agents.create always sends source_type; agents.update only what is defined.
    let new = json!({"name": "Echo Agent", "slug": "echo", "source_type": "git"});
    let agent = sdk.call(Method::POST, "/agents", Some(new)).await.unwrap();
    for field in [
        "id",
        "user_id",
        "name",
        "slug",
        "source_type",
        "git_branch",
        "default_model",
        "status",
        "created_at",
        "updated_at",
    ] {
        assert!(agent[field].is_string(), "{field}: {agent}");
    }
    assert!(agent["max_turns"].is_u64() && agent["timeout_seconds"].is_u64());
    let changed =
        sdk.call(Method::PATCH, "/agents/echo", Some(json!({"description": "says it again", "max_turns": 7}))).await;
    assert_eq!(changed.unwrap()["max_turns"], 7);
    assert_eq!(sdk.get("/agents").await["agents"][0]["slug"], "echo");
    assert_eq!(sdk.get("/agents/echo").await["id"], agent["id"]);
    let absent = sdk.call(Method::GET, "/agents/nonexistent", None).await;
    assert_eq!(absent, Err((404, json!("Agent not found"))), "the seed's own example");

    // agents.uploadCode: the content type is left to the HTTP library.
    let part = reqwest::multipart::Part::bytes(Project::node(ECHO).pack())
        .file_name("code.tar.gz")
        .mime_str("application/gzip")
        .unwrap();
    let form = reqwest::multipart::Form::new().part("file", part);
    let upload = sdk.request(Method::POST, "/agents/echo/upload-code?auto_deploy=true").multipart(form);
    let uploaded = Answer::to(upload).await.body;
    for field in ["agent_id", "source_hash", "status", "sandbox_id", "message"] {
        assert!(uploaded[field].is_string(), "{field}: {uploaded}");
    }
    assert_eq!(uploaded["status"], "active");

    // agents.invoke, with and without a session.
    let result = sdk.call(Method::POST, "/agents/echo/invoke", Some(json!({"prompt": "hello"}))).await.unwrap();
    assert_eq!((&result["response_content"], &result["status"]), (&json!("hello"), &json!("completed")));
    for field in ["input_tokens", "output_tokens", "duration_ms"] {
        assert!(result[field].is_u64(), "{field}: {result}");
    }
    assert!(result["total_cost_usd"].is_string());
    let turn = json!({"prompt": "again", "session_id": "talk 1".replace(' ', "-")});
    assert_eq!(sdk.call(Method::POST, "/agents/echo/invoke", Some(turn)).await.unwrap()["session_id"], "talk-1");

    // Secrets, sessions, history.
    let secret = json!({"key": "OPENAI_ORG", "value": "x"});
    sdk.call(Method::POST, "/agents/echo/secrets", Some(secret)).await.unwrap();
    assert_eq!(sdk.get("/agents/echo/secrets").await["secrets"][0]["key"], "OPENAI_ORG");
    assert_eq!(sdk.call(Method::DELETE, "/agents/echo/secrets/OPENAI_ORG", None).await, Ok(Value::Null));
    assert_eq!(sdk.get("/agents/echo/sessions").await["sessions"][0]["id"], "talk-1");
    assert_eq!(sdk.call(Method::DELETE, "/agents/echo/sessions/talk-1", None).await, Ok(Value::Null));
    let history = sdk.get("/agents/echo/invocations?status=completed&limit=5&offset=0").await;
    assert_eq!(history["invocations"].as_array().unwrap().len(), 2);

    // Deploying again, stopping at the SDK's own address.
    let deployed = sdk.call(Method::POST, "/agents/echo/deploy", None).await.unwrap();
    assert_eq!(deployed["status"], "active");
    assert_eq!(sdk.call(Method::POST, "/agents/echo/redeploy", None).await.unwrap()["status"], "active");
    sdk.call(Method::DELETE, "/echo/sandbox", None).await.unwrap();
    let refused = sdk.call(Method::POST, "/agents/echo/invoke", Some(json!({"prompt": ""}))).await;
    assert_eq!(refused, Err((400, json!("Agent not active"))));

    // auth and usage; costs are turned into numbers by the SDK.
    let me = sdk.get("/auth/me").await;
    assert!(me["email"].is_string() && me["api_key_prefix"].is_string() && me["created_at"].is_string(), "{me}");
    let key = sdk.call(Method::POST, "/api-keys", Some(json!({"name": "Default"}))).await.unwrap();
    assert!(key["key"].as_str().unwrap().starts_with(key["api_key"]["prefix"].as_str().unwrap()));
    assert_eq!(sdk.get("/api-keys").await["api_keys"].as_array().unwrap().len(), 2);
    let revoke = format!("/api-keys/{}", key["api_key"]["id"].as_str().unwrap());
    assert_eq!(sdk.call(Method::DELETE, &revoke, None).await, Ok(Value::Null));
    let usage = sdk.get("/usage?days=30").await;
    assert_eq!(usage["total_invocations"], 2);
    assert!(usage["total_cost_usd"].as_str().unwrap().parse::<f64>().is_ok());
    assert_eq!(sdk.get("/usage/daily?days=30").await["daily_usage"][0]["invocation_count"], 2);
    assert_eq!(sdk.call(Method::DELETE, "/agents/echo", None).await, Ok(Value::Null));

    // Without an id the SDK revokes at the older address: the key that it uses itself.
    assert_eq!(sdk.call(Method::DELETE, "/auth/api-key", None).await, Ok(Value::Null));
    assert_eq!(sdk.call(Method::GET, "/auth/me", None).await.unwrap_err().0, 401);
}
