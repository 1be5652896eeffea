//! The client's commands against a scripted server: what they send, what they print, how they end.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::fake_server::{Answer, FakeServer, Person};

const V1: &str = "/castari/api/v1";

fn agent(slug: &str, status: &str) -> Value {
    json!({"id": "agt_1", "user_id": "usr_1", "name": "Invoice Helper", "slug": slug, "description": null,
        "source_type": "local", "git_repo_url": null, "git_branch": "main", "source_hash": "9fceb02d0ae598e95dc970b7",
        "default_model": "claude-sonnet-4-5-20250929", "max_turns": 50, "timeout_seconds": 120, "status": status,
        "status_message": null, "sandbox_id": "sbx_1", "agent_config": {},
        "created_at": "2026-03-02T09:14:05.120Z", "updated_at": "2026-03-02T09:14:05.120Z"})
}

fn invocation(status: &str, text: &str, error: &Value) -> Value {
    json!({"invocation_id": "inv_1", "session_id": "desk-42", "sandbox_id": "sbx_1", "response_content": text,
        "input_tokens": 1840, "output_tokens": 96, "total_cost_usd": "0.006960", "duration_ms": 5210,
        "status": status, "error": error})
}

fn page(plural: &str, items: &Value) -> Value {
    let total = items.as_array().map_or(0, Vec::len);
    json!({plural: items, "meta": {"total": total, "limit": 100, "offset": 0, "has_more": false}})
}

fn refuse(status: u16, detail: &str, code: &str) -> Answer {
    Answer::json(status, &json!({"detail": detail, "code": code}))
}

/// A server that answers one request and knows nothing else.
async fn only(line: String, answer: impl Fn() -> Answer + Send + Sync + 'static) -> FakeServer {
    FakeServer::start(move |seen| (seen.line == line).then(&answer)).await
}

// ── signing in ───────────────────────────────────────────────────────────

async fn login_server() -> FakeServer {
    FakeServer::start(|seen| {
        Some(match seen.line.as_str() {
            "POST /caster/api/v1/auth/login" if seen.json()["password"] == "pass word" => Answer::json(
                200,
                &json!({"user": {"id": 1, "email": "ada@example.com"}, "access_token": "token-of-login"}),
            ),
            "POST /caster/api/v1/auth/login" => Answer::json(401, &json!({"error": "wrong e-mail or password"})),
            "POST /caster/api/v1/auth/register" => Answer::json(
                201,
                &json!({"user": {"id": 1, "email": "ada@example.com"}, "api_key": "cast_REGISTER_secret"}),
            ),
            "POST /castari/api/v1/api-keys" if seen.header("authorization") == "Bearer token-of-login" => Answer::json(
                201,
                &json!({"api_key": {"id": "ak_1", "name": "n", "prefix": "cast_FROMLOGI"}, "key": "cast_FROMLOGI_secret"}),
            ),
            "GET /castari/api/v1/auth/me" if seen.header("authorization").starts_with("Bearer cast_") => {
                Answer::json(200, &json!({"id": "usr_1", "email": "ada@example.com", "api_key_prefix": "cast_FROMLOGI"}))
            }
            "GET /castari/api/v1/auth/me" => refuse(401, "Missing or invalid authentication", "unauthorized"),
            "GET /castari/api/v1/api-keys" => {
                Answer::json(200, &page("api_keys", &json!([{"id": "ak_1", "name": "n", "prefix": "cast_FROMLOGI"}])))
            }
            "DELETE /castari/api/v1/api-keys/ak_1" => Answer::empty(204),
            _ => return None,
        })
    })
    .await
}

#[tokio::test]
async fn login_with_a_password_stores_a_key_of_this_machine_and_logout_revokes_it() {
    let server = login_server().await;
    let ada = Person::new();
    let args = ["login", "--url", &server.url(), "--email", "ada@example.com", "--password-stdin"];
    let ended = ada.run_with(&args, "pass word\n").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.out, "");
    assert!(ended.err.contains("as ada@example.com"), "{ended:?}");
    let name = server.asked("POST /castari/api/v1/api-keys").json()["name"].as_str().expect("name").to_owned();
    assert!(name.starts_with("backlot login on ") && name.len() > 17, "{name}");
    let mode = std::fs::metadata(ada.credentials()).expect("file").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let stored = std::fs::read_to_string(ada.credentials()).expect("file");
    assert!(
        stored.contains("cast_FROMLOGI_secret") && !stored.contains("token-of-login") && !stored.contains("pass word")
    );

    let ended = ada.run(&["whoami", "--json"]).await;
    assert_eq!((ended.code, &ended.json()["email"]), (Some(0), &json!("ada@example.com")));
    let ended = ada.run(&["whoami"]).await;
    assert!(ended.out.contains("ada@example.com") && !ended.out.contains("secret"), "{ended:?}");

    let ended = ada.run(&["logout"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    server.asked("DELETE /castari/api/v1/api-keys/ak_1");
    assert!(!std::fs::read_to_string(ada.credentials()).expect("file").contains("secret"));
    let ended = ada.run(&["whoami", "--url", &server.url()]).await;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.err.contains("backlot login"));
}

#[tokio::test]
async fn login_by_registration_by_key_and_in_vain() {
    let server = login_server().await;
    let ada = Person::new().set("BACKLOT_URL", &server.url());
    let ended =
        ada.run_with(&["login", "--register", "--email", "ada@example.com", "--password-stdin"], "pass word").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(std::fs::read_to_string(ada.credentials()).expect("file").contains("cast_REGISTER_secret"));

    let ended = ada.run(&["login", "--api-key", "cast_GIVENKEY_secret", "--json"]).await;
    assert_eq!((ended.code, ended.json()["server"].as_str()), (Some(0), Some(server.url().as_str())));
    assert!(std::fs::read_to_string(ada.credentials()).expect("file").contains("cast_GIVENKEY_secret"));
    let ended = ada.run_with(&["login", "--api-key", "-"], "cast_STDINKEY_secret\n").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(std::fs::read_to_string(ada.credentials()).expect("file").contains("cast_STDINKEY_secret"));

    let ended = ada.run_with(&["login", "--email", "ada@example.com", "--password-stdin"], "wrong").await;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.err.contains("wrong e-mail or password") && ended.err.contains("--register"), "{ended:?}");
    let ended = ada.run(&["login", "--api-key", "nonsense"]).await;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(
        std::fs::read_to_string(ada.credentials()).expect("file").contains("cast_STDINKEY_secret"),
        "a failed login keeps the old key"
    );
}

#[tokio::test]
async fn without_a_terminal_a_prompt_names_its_flag() {
    let server = login_server().await;
    let ada = Person::new().set("BACKLOT_URL", &server.url());
    let ended = ada.run(&["login"]).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.err.contains("--email"), "{ended:?}");
    let ended = ada.run(&["login", "--email", "a@b"]).await;
    assert!(ended.code == Some(2) && ended.err.contains("--password-stdin"), "{ended:?}");
    let ended = ada.run(&["init", "x"]).await;
    assert!(ended.code == Some(2) && ended.err.contains("--template"), "{ended:?}");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_stored_key_stays_with_its_server() {
    let (home, other) = (login_server().await, login_server().await);
    let ada = Person::new();
    ada.run(&["login", "--url", &home.url(), "--api-key", "cast_GIVENKEY_secret"]).await;
    let ended = ada.run(&["agents", "list", "--url", &other.url()]).await;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(other.seen().is_empty(), "nothing is sent without a key");
}

// ── errors ───────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_server_that_is_not_running_is_named_with_the_way_to_start_it() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address");
    let ada = Person::new().set("BACKLOT_URL", &format!("http://{closed}")).set("BACKLOT_API_KEY", "cast_a_b");
    let ended = ada.run(&["agents", "list"]).await;
    assert_eq!(ended.code, Some(6), "{ended:?}");
    assert!(ended.err.contains(&closed.to_string()) && ended.err.contains("backlot serve"), "{ended:?}");
}

#[tokio::test]
async fn refusals_give_exit_code_and_hint() {
    let server = FakeServer::start(|seen| {
        Some(match seen.line.strip_prefix("GET /castari/api/v1/agents/")? {
            "401" => refuse(401, "Missing or invalid authentication", "unauthorized"),
            "404" => refuse(404, "Agent not found", "agent_not_found"),
            "429" => refuse(429, "Rate limit exceeded. Try again in 30 seconds.", "rate_limited").with("retry-after", "30"),
            "422" => Answer::json(
                422,
                &json!({"detail": [{"loc": ["path", "slug"], "msg": "too long", "type": "x"}], "code": "validation_error"}),
            ),
            "502" => Answer::text(502, "<html>\u{1b}[2J</html>"),
            "302" => Answer::empty(302).with("location", "https://elsewhere.example.com/"),
            "html" => Answer::text(200, "<html>hello</html>"),
            "odd" => Answer::json(200, &json!({"slug": 7})),
            _ => return None,
        })
    })
    .await;
    let ada = Person::with_key(&server);
    for (slug, code, words) in [
        ("401", 3, ["Missing or invalid", "backlot login"]),
        ("404", 4, ["Agent not found", "backlot agents list"]),
        ("429", 5, ["Rate limit exceeded", "wait 30 s"]),
        ("422", 1, ["slug: too long", "error:"]),
        ("502", 1, ["502 Bad Gateway", "error:"]),
        ("302", 1, ["elsewhere.example.com", "--url"]),
        ("html", 1, ["did not answer with JSON", "--url"]),
        ("odd", 1, ["not understood", "--version"]),
    ] {
        let ended = ada.run(&["agents", "get", slug]).await;
        assert_eq!(ended.code, Some(code), "{slug}: {ended:?}");
        assert_eq!(ended.out, "", "{slug}");
        for word in words {
            assert!(ended.err.contains(word), "{slug} lacks {word}: {ended:?}");
        }
        assert!(!ended.err.contains('\u{1b}'), "{slug}: no escapes without a terminal: {ended:?}");
    }
    let ended = ada.run(&["agents", "get", "404", "--json"]).await;
    let report: Value = serde_json::from_str(&ended.err).expect("one JSON line");
    assert_eq!((ended.code, &report["error"]["code"]), (Some(4), &json!("agent_not_found")));
}

#[tokio::test]
async fn wrong_usage_is_exit_code_two() {
    let ada = Person::new().set("BACKLOT_API_KEY", "cast_a_b");
    for args in [
        &["agents", "get", ".."][..],
        &["agents", "update", "x"],
        &["agents", "update", "x", "--timeout", "601"],
        &["usage", "--days", "0"],
        &["invoke"],
        &["nonsense"],
        &["agents", "list", "--url", "ftp://x"],
        &["init", "..", "-t", "default"],
        &["init", "x", "-t", "nonsense"],
    ] {
        let ended = ada.run(args).await;
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
        assert!(!ended.err.is_empty());
    }
    let ended = ada.run(&["--help"]).await;
    assert!(ended.code == Some(0) && ended.out.contains("Exit codes:"), "{ended:?}");
}

// ── lists ────────────────────────────────────────────────────────────────

#[tokio::test]
async fn lists_read_every_page() {
    let server = FakeServer::start(|seen| {
        let offset: usize = seen.query.split("offset=").nth(1)?.parse().ok()?;
        let items: Vec<Value> =
            (offset..250.min(offset + 100)).map(|n| agent(&format!("agent-{n}"), "active")).collect();
        let meta = json!({"total": 250, "limit": 100, "offset": offset, "has_more": offset + 100 < 250});
        Some(Answer::json(200, &json!({"agents": items, "meta": meta})))
    })
    .await;
    let ada = Person::with_key(&server);
    let ended = ada.run(&["agents", "list", "--json"]).await;
    let list = ended.json();
    assert_eq!(list.as_array().map(Vec::len), Some(250));
    assert_eq!(list[249], agent("agent-249", "active"), "objects are passed on whole");
    assert_eq!(server.seen().len(), 3);
    assert_eq!(server.seen()[0].header("authorization"), "Bearer cast_testtest_secret");
    let ended = ada.run(&["agents", "list"]).await;
    assert_eq!(ended.out.lines().count(), 251);
    assert!(ended.out.lines().all(|l| l.chars().count() <= 80), "{}", ended.out);
}

#[tokio::test]
async fn a_list_that_never_ends_is_cut() {
    let server =
        FakeServer::start(|_| Some(Answer::json(200, &json!({"agents": [], "meta": {"has_more": true}})))).await;
    let ended = Person::with_key(&server).run(&["agents", "list"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(server.seen().len(), 1);
    assert!(ended.err.contains("backlot init"));
}

#[tokio::test]
async fn every_list_prints_a_table_of_eighty_columns_and_its_json() {
    let time = "2026-03-02T09:14:05.120Z";
    let id = |prefix: &str| format!("{prefix}_{}", "0".repeat(26));
    let long = "x".repeat(100);
    let server = FakeServer::start(move |seen| {
        let path = seen.line.strip_prefix("GET ")?.to_owned();
        let value = match path.strip_prefix(V1).unwrap_or(&path) {
            "/agents/a/secrets" => page("secrets", &json!([{"key": long, "created_at": time, "updated_at": time}])),
            "/agents/a/sessions" => page(
                "sessions",
                &json!([{"id": long, "agent_id": id("agt"), "sandbox_id": id("sbx"),
                "created_at": time, "last_invocation_at": null}]),
            ),
            "/agents/a/invocations" => page(
                "invocations",
                &json!([{"id": id("inv"), "status": "completed", "input_tokens": 123_456,
                "output_tokens": 7, "total_cost_usd": "12.345678", "duration_ms": 600_000, "created_at": time}]),
            ),
            "/api-keys" => page(
                "api_keys",
                &json!([{"id": id("ak"), "name": long, "prefix": "cast_k3Xp09Qa",
                "created_at": time, "last_used_at": null}]),
            ),
            "/usage/daily" => json!({"daily_usage": [{"date": "2026-03-01", "invocation_count": 1_000_000,
                "input_tokens": 1_000_000_000_u64, "output_tokens": 5, "cost_usd": "0.1"}], "total_days": 30}),
            "/gateway/anthropic/v1/models" => {
                json!({"data": [{"id": long, "display_name": "A model", "type": "model"}]})
            }
            "/gateway/openai/v1/models" => {
                json!({"object": "list", "data": [{"id": long, "owned_by": "us"}, {"id": "b", "owned_by": "us"}]})
            }
            _ => return None,
        };
        Some(Answer::json(200, &value))
    })
    .await;
    let ada = Person::with_key(&server);
    for args in [
        &["secrets", "list", "a"][..],
        &["sessions", "list", "a"],
        &["invocations", "list", "a"],
        &["apikey", "list"],
        &["usage", "--daily"],
        &["models"],
    ] {
        let ended = ada.run(args).await;
        assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
        assert!(ended.out.lines().count() >= 2, "{args:?}: {ended:?}");
        let widest = ended.out.lines().map(|l| l.chars().count()).max().unwrap_or(0);
        assert!(widest <= 80, "{args:?} is {widest} wide:\n{}", ended.out);
        let ended = ada.run(&[args, &["--json"]].concat()).await;
        assert!(!ended.json().is_null(), "{args:?}");
    }
    let models = ada.run(&["models", "--json"]).await.json();
    assert_eq!(models[1]["apis"], json!(["anthropic", "openai"]), "one line per model: {models}");
    let shown = ada.run(&["invocations", "list", "a"]).await.out;
    assert!(shown.contains(&format!("inv_{}", "0".repeat(26))), "ids can be copied:\n{shown}");
}

// ── invoke ───────────────────────────────────────────────────────────────

#[tokio::test]
async fn invoke_prints_only_the_answer() {
    let server = only(format!("POST {V1}/agents/helper/invoke"), || {
        Answer::json(200, &invocation("completed", "Total: 1 204.50 EUR", &Value::Null))
    })
    .await;
    let ada = Person::with_key(&server);
    let ended = ada.run(&["invoke", "helper", "Total of March?", "-s", "desk-42"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "Total: 1 204.50 EUR\n"), "{ended:?}");
    assert_eq!(ended.err, "completed · 1,840 tokens in, 96 out · $0.0070 · 5.2 s · inv_1\n");
    assert_eq!(server.seen()[0].json(), json!({"prompt": "Total of March?", "session_id": "desk-42"}));
    let ended = ada.run(&["invoke", "helper", "x", "--quiet"]).await;
    assert_eq!(ended.err, "");
    let ended = ada.run(&["invoke", "helper", "x", "--json"]).await;
    assert_eq!(ended.json(), invocation("completed", "Total: 1 204.50 EUR", &Value::Null));
}

#[tokio::test]
async fn the_prompt_comes_from_argument_file_or_pipe() {
    let server = only(format!("POST {V1}/agents/helper/invoke"), || {
        Answer::json(200, &invocation("completed", "ok", &Value::Null))
    })
    .await;
    let ada = Person::with_key(&server);
    std::fs::write(ada.home().join("q.txt"), "from a file\n").expect("write");
    for (args, stdin, prompt) in [
        (&["invoke", "helper", "words"][..], "ignored", "words"),
        (&["invoke", "helper", "-i", "q.txt"], "", "from a file\n"),
        (&["invoke", "helper", "-"], "from dash\n", "from dash\n"),
        (&["invoke", "helper"], "piped ü\n", "piped ü\n"),
        (&["invoke", "helper", "-i", "-"], "dash file", "dash file"),
        (&["invoke", "helper"], "", ""),
    ] {
        let ended = ada.run_with(args, stdin).await;
        assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
        let last = server.seen().pop().expect("a request");
        assert_eq!(last.json()["prompt"], prompt, "{args:?}");
    }
    let count = server.seen().len();
    assert_eq!(ada.run(&["invoke", "helper", "x", "-i", "q.txt"]).await.code, Some(2));
    assert_eq!(ada.run(&["invoke", "helper", "-i", "none.txt"]).await.code, Some(1));
    assert_eq!(ada.run_with(&["invoke", "helper"], &"x".repeat((1 << 20) + 1)).await.code, Some(2));
    assert_eq!(server.seen().len(), count, "nothing was sent");
}

#[tokio::test]
async fn a_failed_run_is_exit_code_one_with_its_reason() {
    let server = FakeServer::start(|seen| {
        Some(match seen.line.rsplit('/').nth(1)? {
            "failing" => Answer::json(
                200,
                &invocation(
                    "failed",
                    "partial",
                    &json!({"code": "timeout", "message": "Timeout exceeded after 120 s"}),
                ),
            ),
            "draft" => refuse(400, "Agent not active", "agent_not_active"),
            "full" => refuse(503, "No capacity available", "capacity").with("retry-after", "5"),
            _ => return None,
        })
    })
    .await;
    let ada = Person::with_key(&server);
    let ended = ada.run(&["invoke", "failing", "x"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), "partial\n"), "{ended:?}");
    assert!(
        ended.err.contains("Timeout exceeded after 120 s") && ended.err.contains("--invocation inv_1"),
        "{ended:?}"
    );
    let ended = ada.run(&["invoke", "draft", "x"]).await;
    assert!(ended.code == Some(1) && ended.err.contains("backlot deploy draft"), "{ended:?}");
    let ended = ada.run(&["invoke", "full", "x"]).await;
    assert!(ended.code == Some(1) && ended.err.contains("try again in 5 s"), "{ended:?}");
}

#[tokio::test]
async fn a_wait_that_is_too_long_says_that_the_run_goes_on() {
    // Accepts connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("port");
    let url = format!("http://{}", silent.local_addr().expect("address"));
    let ada = Person::new().set("BACKLOT_URL", &url).set("BACKLOT_API_KEY", "cast_a_b");
    let ended = ada.run(&["invoke", "helper", "x", "--timeout", "1"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("within 1 s") && ended.err.contains("the run goes on"), "{ended:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_is_asked_again_with_the_same_key() {
    let calls = std::sync::atomic::AtomicU32::new(0);
    let server = only(format!("POST {V1}/agents/helper/invoke"), move || {
        match calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 | 1 => Answer::broken(),
            _ => Answer::json(200, &invocation("completed", "ok", &Value::Null)),
        }
    })
    .await;
    let ada = Person::with_key(&server);
    let ended = ada.run(&["invoke", "helper", "x"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "ok\n"), "{ended:?}");
    let seen = server.seen();
    let keys: Vec<&str> = seen.iter().map(|s| s.header("idempotency-key")).collect();
    assert!(keys.len() == 3 && !keys[0].is_empty() && keys.iter().all(|k| *k == keys[0]), "{keys:?}");
    ada.run(&["invoke", "helper", "x"]).await;
    let seen = server.seen();
    assert_ne!(seen[3].header("idempotency-key"), keys[0], "another call is another run");
}

fn started() -> String {
    format!(
        "id: 1\nevent: started\ndata: {}\n\n",
        json!({"invocation_id": "inv_1", "session_id": "s", "sandbox_id": "sbx_1"})
    )
}

fn stdout(id: u32, text: &str) -> String {
    format!("id: {id}\nevent: stdout\ndata: {}\n\n", json!({"text": text}))
}

fn ended(id: u32, status: &str, text: &str) -> String {
    format!("id: {id}\nevent: {status}\ndata: {}\n\n", invocation(status, text, &Value::Null))
}

#[tokio::test]
async fn a_broken_stream_is_taken_up_after_the_last_event() {
    let server = FakeServer::start(|seen| {
        Some(match (seen.line.as_str(), seen.header("last-event-id")) {
            ("POST /castari/api/v1/agents/helper/stream", _) => Answer::events(&format!(
                "{}{}{}id: 4\nevent: stdout\ndata: {{\"te",
                started(),
                stdout(2, "Hel"),
                stdout(3, "lo ")
            )),
            // Sends one event twice, and breaks off again.
            ("GET /castari/api/v1/invocations/inv_1/events", "3") => {
                Answer::events(&format!(": ping\n\n{}{}", stdout(3, "lo "), stdout(4, "wor")))
            }
            ("GET /castari/api/v1/invocations/inv_1/events", "4") => {
                Answer::events(&format!("{}{}", stdout(5, "ld"), ended(6, "completed", "Hello world")))
            }
            _ => return None,
        })
    })
    .await;
    let ada = Person::with_key(&server);
    let result = ada.run(&["invoke", "helper", "x", "--stream"]).await;
    assert_eq!((result.code, result.out.as_str()), (Some(0), "Hello world\n"), "{result:?}");
    let result = ada.run(&["invoke", "helper", "x", "--stream", "--json"]).await;
    let events: Vec<Value> = result.out.lines().map(|l| serde_json::from_str(l).expect("a JSON line")).collect();
    let ids: Vec<&str> = events.iter().filter_map(|e| e["id"].as_str()).collect();
    assert_eq!(ids, ["1", "2", "3", "4", "5", "6"]);
    assert_eq!(events[5]["data"]["status"], "completed");
}

#[tokio::test]
async fn a_stream_named_by_its_header_survives_errors_and_places_within_text() {
    let server = FakeServer::start(|seen| {
        let text = |id: &str, text: &str| format!("id: {id}\nevent: stdout\ndata: {}\n\n", json!({"text": text}));
        let error = "event: error\ndata: {\"detail\":\"the database is away\",\"code\":\"internal\"}\n\n";
        Some(match (seen.line.as_str(), seen.header("last-event-id")) {
            ("POST /castari/api/v1/agents/helper/stream", _) => Answer::events("").with("x-invocation-id", "inv_1"),
            ("GET /castari/api/v1/invocations/inv_1/events", "") => {
                Answer::events(&format!("{}{}{error}", started(), text("1.9", "Hello ")))
            }
            ("GET /castari/api/v1/invocations/inv_1/events", "1.9") => Answer::events(&format!(
                "{}{}{}",
                text("1.9", "Hello "),
                text("1.14", "world"),
                ended(3, "completed", "Hello world")
            )),
            _ => return None,
        })
    })
    .await;
    let result = Person::with_key(&server).run(&["invoke", "helper", "x", "--stream"]).await;
    assert_eq!((result.code, result.out.as_str()), (Some(0), "Hello world\n"), "{result:?}");
}

#[tokio::test]
async fn when_the_events_are_gone_the_record_gives_the_rest() {
    let server = FakeServer::start(|seen| {
        Some(match seen.line.as_str() {
            "POST /castari/api/v1/agents/helper/stream" => {
                Answer::events(&format!("{}{}", started(), stdout(2, "Hello")))
            }
            "GET /castari/api/v1/invocations/inv_1" => {
                Answer::json(200, &invocation("completed", "Hello world", &Value::Null))
            }
            _ => return None,
        })
    })
    .await;
    let result = Person::with_key(&server).run(&["invoke", "helper", "x", "--stream"]).await;
    assert_eq!((result.code, result.out.as_str()), (Some(0), "Hello world\n"), "{result:?}");
}

#[tokio::test]
async fn a_stream_that_breaks_before_it_names_the_run_is_not_repeated() {
    let server = only(format!("POST {V1}/agents/helper/stream"), || Answer::events(": ping\n\n")).await;
    let result = Person::with_key(&server).run(&["invoke", "helper", "x", "--stream"]).await;
    assert_eq!(result.code, Some(1), "{result:?}");
    assert!(result.err.contains("may have started"), "{result:?}");
    assert_eq!(server.seen().len(), 1, "a run is never started twice");
}

#[tokio::test]
async fn a_closed_pipe_ends_quietly() {
    let server = only(format!("GET {V1}/agents"), || {
        let items: Vec<Value> = (0..100).map(|n| agent(&format!("agent-{n}-{}", "x".repeat(2000)), "active")).collect();
        Answer::json(200, &page("agents", &json!(items)))
    })
    .await;
    let ada = Person::with_key(&server);
    let mut child = ada
        .command(&["agents", "list", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start");
    // Read one line and close, as `head -1` does.
    let mut line = String::new();
    let mut reader = BufReader::new(child.stdout.take().expect("stdout"));
    reader.read_line(&mut line).await.expect("line");
    drop(reader);
    let output = child.wait_with_output().await.expect("end");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

// ── deploy ───────────────────────────────────────────────────────────────

fn write_project(person: &Person, name: &str) {
    std::fs::write(person.home().join("main.js"), "console.log(1)").expect("write");
    let manifest = json!({"name": name, "version": "1.0.0", "entrypoint": "main.js", "runtime": "node"});
    std::fs::write(person.home().join("castari.json"), manifest.to_string()).expect("write");
    std::fs::write(person.home().join(".env"), "SECRET=1").expect("write");
}

/// The files of the archive in a multipart body.
fn uploaded(body: &[u8]) -> Vec<String> {
    let start = body.windows(2).position(|w| w == [0x1f, 0x8b]).expect("gzip");
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(&body[start..]));
    tar.entries().expect("entries").map(|e| e.expect("entry").path().expect("path").display().to_string()).collect()
}

#[tokio::test]
async fn deploying_a_folder_creates_the_agent_and_uploads_it() {
    let built = std::sync::atomic::AtomicBool::new(false);
    let server = FakeServer::start(move |seen| {
        use std::sync::atomic::Ordering::SeqCst;
        Some(match seen.line.as_str() {
            "GET /castari/api/v1/agents/my-agent" if built.load(SeqCst) => {
                Answer::json(200, &agent("my-agent", "active"))
            }
            "GET /castari/api/v1/agents/my-agent" => refuse(404, "Agent not found", "agent_not_found"),
            "POST /castari/api/v1/agents" => Answer::json(201, &agent("my-agent", "draft")),
            "POST /castari/api/v1/agents/my-agent/upload-code" => {
                built.store(true, SeqCst);
                Answer::json(
                    201,
                    &json!({"agent_id": "agt_1", "source_hash": "5c1f", "status": "active", "message": "ok"}),
                )
            }
            _ => return None,
        })
    })
    .await;
    let ada = Person::with_key(&server);
    write_project(&ada, "My Agent");
    let ended = ada.run(&["deploy"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.contains("active") && ended.err.contains("backlot invoke my-agent"), "{ended:?}");
    assert_eq!(
        server.asked(&format!("POST {V1}/agents")).json(),
        json!({"name": "My Agent", "slug": "my-agent", "source_type": "local"})
    );
    let upload = server.asked(&format!("POST {V1}/agents/my-agent/upload-code"));
    assert_eq!(upload.query, "auto_deploy=true");
    let head = String::from_utf8_lossy(&upload.body[..200]).into_owned();
    assert!(head.contains(r#"name="file"; filename="code.tar.gz""#) && head.contains("application/gzip"), "{head}");
    assert_eq!(uploaded(&upload.body), ["castari.json", "main.js"]);
    let ended = ada.run(&["deploy", "--json"]).await;
    assert_eq!(ended.json(), agent("my-agent", "active"));
    let ended = ada.run(&["deploy", "--dry-run"]).await;
    assert_eq!(ended.out, "castari.json\nmain.js\n");
}

#[tokio::test]
async fn a_failed_build_shows_its_log() {
    let server = FakeServer::start(|seen| {
        Some(match seen.line.as_str() {
            "GET /castari/api/v1/agents/my-agent" => Answer::json(200, &agent("my-agent", "error")),
            "POST /castari/api/v1/agents/my-agent/upload-code" => {
                refuse(400, "npm install failed: No matching version found for left-padd@^1", "install_failed")
            }
            "GET /castari/api/v1/agents/my-agent/deployments" => Answer::json(
                200,
                &page("deployments", &json!([{"id": "dep_1", "status": "failed", "message": "npm install failed"}])),
            ),
            "GET /castari/api/v1/agents/my-agent/deployments/dep_1/logs" => {
                let lines: Vec<Value> = (0..60)
                    .map(|n| json!({"ts": "t", "stream": "stderr", "text": format!("npm line {n}\u{1b}[31m")}))
                    .collect();
                Answer::json(200, &json!({"logs": lines}))
            }
            _ => return None,
        })
    })
    .await;
    let ada = Person::with_key(&server);
    write_project(&ada, "My Agent");
    let ended = ada.run(&["deploy"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.err.contains("npm line 59")
            && ended.err.contains("20 lines before")
            && !ended.err.contains("npm line 19\u{fffd}"),
        "{ended:?}"
    );
    assert!(ended.err.contains("error: npm install failed: No matching version"), "{ended:?}");
    assert!(!ended.err.contains('\u{1b}'));
}

#[tokio::test]
async fn a_build_that_outlasts_the_call_is_followed_to_its_end() {
    let looks = std::sync::atomic::AtomicU32::new(0);
    let server = FakeServer::start(move |seen| {
        Some(match seen.line.as_str() {
            "POST /castari/api/v1/agents/my-agent/deploy" => Answer::json(202, &agent("my-agent", "deploying")),
            "GET /castari/api/v1/agents/my-agent" => {
                let look = looks.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                // Back on its earlier release although this build failed: only the deployment tells.
                Answer::json(200, &agent("my-agent", if look < 1 { "deploying" } else { "active" }))
            }
            "GET /castari/api/v1/agents/my-agent/deployments" => Answer::json(
                200,
                &page("deployments", &json!([{"id": "dep_2", "status": "failed", "message": "clone failed"}])),
            ),
            "GET /castari/api/v1/agents/my-agent/deployments/dep_2/logs" => Answer::json(200, &json!({"logs": []})),
            _ => return None,
        })
    })
    .await;
    let ended = Person::with_key(&server).run(&["deploy", "my-agent"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("clone failed"), "{ended:?}");
}

#[tokio::test]
async fn a_git_agent_is_not_replaced_without_asking() {
    let server = FakeServer::start(|seen| {
        let mut git = agent("my-agent", "active");
        git["source_type"] = json!("git");
        git["git_repo_url"] = json!("https://git.example.org/a/b");
        Some(match seen.line.as_str() {
            "GET /castari/api/v1/agents/my-agent" => Answer::json(200, &git),
            "POST /castari/api/v1/agents/my-agent/upload-code" => Answer::json(201, &json!({"status": "active"})),
            _ => return None,
        })
    })
    .await;
    let ada = Person::with_key(&server);
    write_project(&ada, "My Agent");
    let ended = ada.run(&["deploy"]).await;
    assert!(ended.code == Some(2) && ended.err.contains("--yes"), "{ended:?}");
    assert_eq!(server.seen().len(), 1, "nothing was uploaded");
    assert_eq!(ada.run(&["deploy", "--yes"]).await.code, Some(0));
}

#[tokio::test]
async fn a_folder_without_a_manifest_is_explained() {
    let server = FakeServer::start(|_| None).await;
    let ended = Person::with_key(&server).run(&["deploy"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("castari.json") && ended.err.contains("backlot init"), "{ended:?}");
}

// ── the rest ─────────────────────────────────────────────────────────────

#[tokio::test]
async fn secrets_are_set_from_a_pipe_without_the_line_break() {
    let server = only(format!("POST {V1}/agents/a/secrets"), || Answer::json(201, &json!({"key": "K"}))).await;
    let ada = Person::with_key(&server);
    let ended = ada.run_with(&["secrets", "set", "a", "K"], "two\nlines\n").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(server.seen()[0].json(), json!({"key": "K", "value": "two\nlines"}));
    assert!(!ended.err.contains("lines\n") && !ended.out.contains("two"));
    assert_eq!(ada.run_with(&["secrets", "set", "a", "K"], "").await.code, Some(2));
}

#[tokio::test]
async fn agents_are_created_changed_stopped_and_deleted() {
    let server = FakeServer::start(|seen| {
        Some(match seen.line.as_str() {
            "POST /castari/api/v1/agents" => Answer::json(201, &agent("a", "draft")),
            "PATCH /castari/api/v1/agents/a"
            | "DELETE /castari/api/v1/agents/a/sandbox"
            | "GET /castari/api/v1/agents/a" => Answer::json(200, &agent("a", "stopped")),
            "DELETE /castari/api/v1/agents/a" => Answer::empty(204),
            _ => return None,
        })
    })
    .await;
    let ada = Person::with_key(&server);
    let ended =
        ada.run(&["agents", "create", "A", "https://git.example.org/a/b", "--slug", "a", "--max-turns", "9"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(
        server.asked(&format!("POST {V1}/agents")).json(),
        json!({"name": "A", "source_type": "git", "git_repo_url": "https://git.example.org/a/b", "slug": "a", "max_turns": 9})
    );
    ada.run(&["agents", "update", "a", "--timeout", "300", "--branch", "release"]).await;
    assert_eq!(
        server.asked(&format!("PATCH {V1}/agents/a")).json(),
        json!({"git_branch": "release", "timeout_seconds": 300})
    );
    assert_eq!(ada.run(&["stop", "a"]).await.code, Some(0));
    let ended = ada.run(&["agents", "delete", "a"]).await;
    assert!(ended.code == Some(2) && ended.err.contains("--force"), "{ended:?}");
    assert_eq!(ada.run(&["agents", "delete", "a", "--force"]).await.code, Some(0));
    server.asked(&format!("DELETE {V1}/agents/a"));
}

#[tokio::test]
async fn logs_of_a_run_and_of_an_agent() {
    let server = FakeServer::start(|seen| {
        let lines = json!({"logs": [{"ts": "2026-03-02T09:14:05.120Z", "stream": "stderr", "text": "one"},
            {"ts": "2026-03-02T09:14:06.120Z", "stream": "system", "text": "two"}]});
        Some(match seen.line.as_str() {
            "GET /castari/api/v1/invocations/inv_1/logs" | "GET /castari/api/v1/agents/a/logs" => {
                Answer::json(200, &lines)
            }
            "GET /castari/api/v1/invocations/inv_1" => Answer::json(200, &invocation("completed", "", &Value::Null)),
            _ => return None,
        })
    })
    .await;
    let ada = Person::with_key(&server);
    for args in
        [&["logs", "a"][..], &["logs", "a", "--invocation", "inv_1"], &["logs", "a", "--invocation", "inv_1", "-f"]]
    {
        let ended = ada.run(args).await;
        assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
        assert_eq!(ended.out, "03-02 09:14:05 one\n03-02 09:14:06 [system] two\n", "{args:?}");
        let ended = ada.run(&[args, &["-n", "1"]].concat()).await;
        assert_eq!(ended.out, "03-02 09:14:06 [system] two\n", "{args:?}");
    }
}

#[tokio::test]
async fn completions_cover_the_commands() {
    let ada = Person::new();
    for shell in ["bash", "zsh", "fish"] {
        let ended = ada.run(&["completions", shell]).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.out.contains("backlot") && ended.out.contains("invocations"), "{shell}");
    }
}
