//! Who may call, and what nobody may see.

use std::{
    collections::BTreeSet,
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use backlot_domain::{
    accounts::Scope,
    models::{ProviderKeys, Wire},
};
use backlot_testkit::scripted_model::Turn;
use serde_json::{Value, json};

use super::world::{PROVIDER_KEY, Setup, WIRES, World, question};

fn error_of(wire: Wire, body: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if wire == Wire::AnthropicMessages {
        assert_eq!(body["type"], "error", "{body}");
    }
    (text(&body["error"]["type"]), text(&body["error"]["message"]))
}

#[tokio::test]
async fn nobody_unknown_gets_an_answer() {
    let world = World::start().await;
    let invented = format!("sk-backlot-{}", "x".repeat(43));
    let wrong_key = format!("{}x", world.key);
    for wire in WIRES {
        for credential in ["", "nonsense", "sk-ant-api03-mine", "cast_12345678_0123456789", &wrong_key, &invented, "é"]
        {
            let answer =
                world.post(wire, credential, &question(wire, "claude-test-1", "hi", false)).send().await.unwrap();
            assert_eq!(answer.status(), 401, "{credential}");
            let (kind, message) = error_of(wire, &answer.json().await.unwrap());
            let expected =
                if wire == Wire::AnthropicMessages { "authentication_error" } else { "invalid_request_error" };
            assert_eq!(kind, expected, "{message}");
            assert!(credential.len() < 8 || !message.contains(credential), "credentials are not repeated");
        }
        let answer = world.client.post(world.address(wire)).json(&json!({})).send().await.unwrap();
        assert_eq!(answer.status(), 401, "no header at all");
    }
    assert!(world.provider.requests().is_empty());
    assert!(world.calls(0).await.is_empty());
}

#[tokio::test]
async fn a_runs_token_dies_with_the_run_and_books_on_no_other() {
    let world = World::start().await;
    let (mut first, mut second) = (world.run().await, world.run().await);
    assert_ne!(first.secret, second.secret);
    assert!(first.secret.starts_with("sk-backlot-") && first.secret.len() == 54);
    let wire = Wire::AnthropicMessages;
    let body = question(wire, "claude-test-1", "hi", false);
    assert_eq!(world.post(wire, &first.secret, &body).send().await.unwrap().status(), 200);
    let run = world.end(&mut first).await;
    assert_eq!(run.usage.model_calls, 1);
    let answer = world.post(wire, &first.secret, &body).send().await.unwrap();
    assert_eq!(answer.status(), 401);
    assert!(answer.text().await.unwrap().contains("run has ended"));
    assert_eq!(world.end(&mut second).await.usage.model_calls, 0);
}

#[tokio::test]
async fn an_api_key_works_without_a_run_where_its_scopes_allow() {
    let world = World::start().await;
    let wire = Wire::OpenAiChat;
    let body = question(wire, "gpt-test-1", "hi", false);
    assert_eq!(world.post(wire, &world.key, &body).send().await.unwrap().status(), 200);
    let call = &world.calls(1).await[0];
    assert_eq!((call.run_id.as_deref(), call.model.as_str()), (None, "gpt-test-1"));

    let owner = world.domain.accounts.authenticate(&world.key).await.unwrap();
    let narrow = world.domain.accounts.create_key(&owner, "narrow", BTreeSet::from([Scope::Sessions])).await.unwrap();
    let answer = world.post(wire, narrow.secret.expose(), &body).send().await.unwrap();
    assert_eq!(answer.status(), 403);
    assert_eq!(world.provider.requests().len(), 1);
}

#[tokio::test]
async fn either_header_of_either_vendor_will_do() {
    let world = World::start().await;
    let run = world.run().await;
    for wire in WIRES {
        let body = question(wire, "claude-test-1", "hi", false);
        let request = world.client.post(world.address(wire)).header("x-api-key", &run.secret).json(&body);
        assert_eq!(request.send().await.unwrap().status(), 200);
        let request = world.client.post(world.address(wire)).header("authorization", format!("bearer {}", run.secret));
        assert_eq!(request.json(&body).send().await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn an_agents_own_key_is_used_instead_of_the_operators() {
    let world = World::with(Setup::default()).await;
    let keys = ProviderKeys { anthropic: Some("sk-ant-of-the-agent".into()), openai: None };
    let run = world.run_with(keys).await;
    let wire = Wire::AnthropicMessages;
    let answer = world.post(wire, &run.secret, &question(wire, "claude-test-1", "hi", false)).send().await.unwrap();
    // The scripted provider takes the operator's key only.
    assert_eq!(answer.status(), 401);
    assert_eq!(world.provider.requests()[0].key(), Some("sk-ant-of-the-agent"));
    let wire = Wire::OpenAiChat;
    let answer = world.post(wire, &run.secret, &question(wire, "gpt-test-1", "hi", false)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

/// Everything that is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_key_token_or_prompt_is_ever_told() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false).with_writer({
        let log = log.clone();
        move || log.clone()
    });
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let world = World::start().await;
    let mut run = world.run().await;
    let mut told = String::new();
    let quoting =
        |status| Turn::fail(status, &format!("Incorrect API key provided: {PROVIDER_KEY}. See your account."));
    for wire in WIRES {
        for model in ["claude-test-1", "gpt-test-1"] {
            for turn in [
                quoting(401),
                quoting(403),
                quoting(400),
                quoting(500),
                Turn::text("half").then_fail(500, &format!("bad key {PROVIDER_KEY}")),
                Turn::text("half").cut(),
                Turn::raw(502, "text/html", [format!("<p>{PROVIDER_KEY}</p>").into()]),
                Turn::raw(200, "application/json", ["nonsense".into()]),
            ] {
                let stream = !format!("{turn:?}").contains("nonsense");
                world.provider.push(turn);
                let body = question(wire, model, "my-private-prompt", stream);
                match world.post(wire, &run.secret, &body).send().await {
                    Ok(answer) => {
                        told += &format!("{:?}", answer.headers());
                        told += &answer.text().await.unwrap_or_default();
                    }
                    Err(error) => told += &error.to_string(),
                }
            }
        }
    }
    let ended = world.end(&mut run).await;
    told += &format!("{ended:?} {:?}", world.domain.runs.events(&world.account_id, &run.id, 0, 1000).await.unwrap());
    told += &format!("{:?} {:?}", world.calls(48).await, world.domain.models.list_models().await);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(!logged.is_empty() && told.contains("half"));
    // Somebody who looks at the wire of the client library with TRACE on sees what the test itself sent.
    let ours: String = logged.lines().filter(|line| line.contains("backlot")).collect();
    for (place, text) in [("an answer", &told), ("the log", &ours)] {
        for secret in [PROVIDER_KEY, &PROVIDER_KEY[3..], run.secret.as_str(), "my-private-prompt"] {
            assert!(!text.contains(secret), "{secret} in {place}");
        }
    }
}
