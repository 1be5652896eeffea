//! Requests in one provider's format, answered by a provider of another.

use std::time::Duration;

use backlot_domain::models::{Usage, Wire};
use backlot_testkit::scripted_model::Turn;
use futures::StreamExt as _;
use serde_json::{Value, json};

use super::world::{Setup, WIRES, World, question, said};

async fn only(vendor: &str) -> World {
    World::with(Setup { anthropic: vendor == "anthropic", openai: vendor == "openai", ..Setup::default() }).await
}

#[tokio::test]
async fn an_anthropic_client_is_answered_by_openai_and_told_so() {
    let world = only("openai").await;
    let mut run = world.run().await;
    world.provider.push(Turn::text("Bonjour.").usage(Usage { input: 4, output: 2, ..Usage::default() }));
    let wire = Wire::AnthropicMessages;
    let answer = world.post(wire, &run.secret, &question(wire, "claude-sonnet-5-5", "hi", false)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let named = answer.headers()["x-backlot-model"].to_str().unwrap().to_owned();
    let body: Value = answer.json().await.unwrap();
    assert_eq!(said(wire, &body), "Bonjour.");
    assert_eq!(format!("openai/{}", body["model"].as_str().unwrap()), named, "the answer names who answered");
    assert_ne!(body["model"], "claude-sonnet-5-5");
    assert_eq!((&body["usage"]["input_tokens"], &body["usage"]["output_tokens"]), (&json!(4), &json!(2)));
    assert_eq!(world.provider.requests()[0].wire, Wire::OpenAiChat);
    let run = world.end(&mut run).await;
    assert_eq!((run.usage.input_tokens, run.usage.output_tokens), (4, 2));
    assert_eq!(world.provider.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn openai_clients_are_answered_by_anthropic_in_both_formats() {
    let world = only("anthropic").await;
    let mut run = world.run().await;
    for wire in [Wire::OpenAiChat, Wire::OpenAiResponses] {
        world.provider.push(Turn::text("Hallo.").usage(Usage { input: 4, output: 2, ..Usage::default() }));
        let body = question(wire, "anthropic/claude-test-9", "hi", false);
        let answer = world.post(wire, &run.secret, &body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["x-backlot-model"], "anthropic/claude-test-9");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(said(wire, &body), "Hallo.");
        assert_eq!(body["model"], "claude-test-9");
    }
    assert!(world.provider.requests().iter().all(|asked| asked.wire == Wire::AnthropicMessages));
    let run = world.end(&mut run).await;
    assert_eq!((run.usage.input_tokens, run.usage.output_tokens), (8, 4));
    assert_eq!(run.usage.cost_nano_usd, 2 * (4 * 10_000_000 + 2 * 20_000_000));
}

#[tokio::test]
async fn tools_go_there_and_back_through_a_translation() {
    let world = only("anthropic").await;
    let run = world.run().await;
    let tools = json!([{"type": "function", "function": {
        "name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    }}]);
    world.provider.push(Turn::text("Let me look.").tool_call("call_7", "weather", r#"{"city":"Paris"}"#));
    let mut body = question(Wire::OpenAiChat, "claude-test-1", "weather?", false);
    body["tools"] = tools.clone();
    let answer: Value = world.post(Wire::OpenAiChat, &run.secret, &body).send().await.unwrap().json().await.unwrap();
    let message = &answer["choices"][0]["message"];
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(message["tool_calls"][0]["function"]["name"], "weather");
    let id = message["tool_calls"][0]["id"].clone();

    body["messages"]
        .as_array_mut()
        .unwrap()
        .extend([message.clone(), json!({"role": "tool", "tool_call_id": id, "content": "18 degrees"})]);
    world.provider.push(Turn::text("It is 18 degrees."));
    let answer: Value = world.post(Wire::OpenAiChat, &run.secret, &body).send().await.unwrap().json().await.unwrap();
    assert_eq!(said(Wire::OpenAiChat, &answer), "It is 18 degrees.");
    // The scripted provider refuses results that answer no call.
    assert_eq!(world.provider.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn translated_streams_keep_their_order_and_are_immediate() {
    let world = only("openai").await;
    let run = world.run().await;
    world.provider.push(Turn::text("one ").say("two ").say("three").delay(Duration::from_millis(20)).say("!"));
    let wire = Wire::AnthropicMessages;
    let answer = world.post(wire, &run.secret, &question(wire, "gpt-test-1", "count", true)).send().await.unwrap();
    let text = answer.text().await.unwrap();
    let deltas: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
        .filter(|event: &Value| event["type"] == "content_block_delta")
        .collect();
    let said: String = deltas.iter().map(|event| event["delta"]["text"].as_str().unwrap()).collect();
    assert_eq!(said, "one two three!");
    assert!(text.contains("message_stop"));

    world.provider.push(Turn::text("first").stall());
    let answer = world.post(wire, &run.secret, &question(wire, "gpt-test-1", "hi", true)).send().await.unwrap();
    let mut pieces = answer.bytes_stream();
    let mut seen = Vec::new();
    let first = async {
        while !String::from_utf8_lossy(&seen).contains("first") {
            seen.extend_from_slice(&pieces.next().await.unwrap().unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(20), first).await.expect("the first piece before the end");
}

#[tokio::test]
async fn responses_are_translated_for_a_provider_that_only_knows_chat() {
    let world = World::with(Setup { anthropic: false, openai: false, compatible: true, ..Setup::default() }).await;
    let run = world.run().await;
    for wire in WIRES {
        world.provider.push(Turn::text("Ola."));
        let answer = world.post(wire, &run.secret, &question(wire, "lab/llama-3", "hi", false)).send().await.unwrap();
        assert_eq!(answer.headers()["x-backlot-model"], "lab/llama-3");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(said(wire, &body), "Ola.");
    }
    assert!(world.provider.requests().iter().all(|asked| asked.wire == Wire::OpenAiChat));
}

#[tokio::test]
async fn a_failure_in_the_middle_becomes_the_clients_own_error_event() {
    let world = only("openai").await;
    let mut run = world.run().await;
    world.provider.push(Turn::text("half an ans").then_fail(503, "the model has left the building"));
    let wire = Wire::AnthropicMessages;
    let answer = world.post(wire, &run.secret, &question(wire, "gpt-test-1", "hi", true)).send().await.unwrap();
    let text = answer.text().await.unwrap();
    let last = text.trim_end().rsplit("\n\n").next().unwrap();
    assert!(last.starts_with("event: error"), "{text}");
    assert!(last.contains("the model has left the building"), "{text}");
    let run = world.end(&mut run).await;
    assert_eq!(run.usage.model_calls, 1);
    assert!(run.usage.output_tokens > 0, "what was said was paid for");
    assert!(world.calls(1).await[0].estimated);
}
