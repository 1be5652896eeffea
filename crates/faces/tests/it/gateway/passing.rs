//! Requests that go on as they are, to a provider of the client's own format.

use std::time::Duration;

use backlot_domain::{
    models::{Usage, Wire},
    runs::{Body, CallUsage},
};
use backlot_testkit::scripted_model::{ScriptedModel, Turn};
use futures::StreamExt as _;
use serde_json::{Value, json};

use super::world::{PROVIDER_KEY, WIRES, World, question, said};

fn model_of(wire: Wire) -> &'static str {
    if wire == Wire::AnthropicMessages { "claude-test-1" } else { "gpt-test-1" }
}

#[tokio::test]
async fn every_format_is_answered_and_booked_on_the_run() {
    let world = World::start().await;
    let mut run = world.run().await;
    for wire in WIRES {
        let usage = Usage { input: 7, output: 5, ..Usage::default() };
        world.provider.push(Turn::text("Hello there.").usage(usage));
        let answer = world.post(wire, &run.secret, &question(wire, model_of(wire), "hi", false)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let provider = if wire == Wire::AnthropicMessages { "anthropic" } else { "openai" };
        assert_eq!(answer.headers()["x-backlot-model"], format!("{provider}/{}", model_of(wire)));
        let body: Value = answer.json().await.unwrap();
        assert_eq!(said(wire, &body), "Hello there.");
        assert_eq!(body["model"], model_of(wire));
    }
    let run = world.end(&mut run).await;
    assert_eq!((run.usage.input_tokens, run.usage.output_tokens, run.usage.model_calls), (21, 15, 3));
    // 7 tokens at one cent and 5 at two, three times.
    assert_eq!(run.usage.cost_nano_usd, 3 * (7 * 10_000_000 + 5 * 20_000_000));
    let events = world.model_events(&run.id).await;
    assert_eq!(events.len(), 3);
    for event in events {
        let Body::ModelCalled { usage, status, .. } = event.body else { panic!("a model call") };
        let cost_nano_usd = Some(170_000_000);
        assert_eq!(usage, CallUsage { input_tokens: 7, output_tokens: 5, cost_nano_usd, estimated: false });
        assert_eq!(status, 200);
    }
    assert_eq!(world.provider.violations(), Vec::<String>::new());
    let daily = world.domain.runs.daily_usage(&world.account_id, "2000-01-01", None).await.unwrap();
    assert_eq!((daily[0].runs, daily[0].totals.input_tokens), (1, 21), "booked before the run ended");
}

#[tokio::test]
async fn the_provider_gets_the_clients_own_bytes_and_the_operators_key() {
    let world = World::start().await;
    let run = world.run().await;
    // Oddly written on purpose: nothing may be put in order on the way.
    let body = r#"{ "messages":[{"role":"user","content":"hi"}],"max_tokens": 10 , "model" : "claude-test-1", "metadata":{"user_id":"u"} }"#;
    let answer = world
        .client
        .post(format!("{}/v1/messages?beta=true", world.url))
        .header("x-api-key", &run.secret)
        .header("content-type", "application/json")
        .header("anthropic-version", "2023-06-01")
        .header("anthropic-beta", "some-beta-1")
        .header("x-stainless-lang", "js")
        .header("cookie", "a=b")
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let asked = world.provider.requests();
    let asked = &asked[0];
    assert_eq!(asked.body, body);
    assert_eq!(asked.path, "/v1/messages?beta=true");
    assert_eq!(asked.key(), Some(PROVIDER_KEY));
    assert_eq!(asked.headers["anthropic-beta"], "some-beta-1");
    assert_eq!(asked.headers["x-stainless-lang"], "js");
    for withheld in ["cookie", "authorization"] {
        assert!(!asked.headers.contains_key(withheld), "{withheld}");
    }
    let seen = format!("{:?}", asked.headers);
    assert!(!seen.contains(&run.secret), "the run's token stays here");
}

#[tokio::test]
async fn a_name_with_its_provider_loses_it_on_the_way() {
    let world = World::start().await;
    let run = world.run().await;
    let body = question(Wire::OpenAiChat, "openai/gpt-test-1", "hi", false);
    let answer = world.post(Wire::OpenAiChat, &run.secret, &body).send().await.unwrap();
    assert_eq!(answer.headers()["x-backlot-model"], "openai/gpt-test-1");
    assert_eq!(world.provider.requests()[0].json()["model"], "gpt-test-1");
}

#[tokio::test]
async fn streams_arrive_as_they_are_sent_and_byte_for_byte() {
    let world = World::start().await;
    let run = world.run().await;
    for wire in WIRES {
        let turn = || Turn::text("one ").say("two ").say("three");
        world.provider.push(turn());
        let mut body = question(wire, model_of(wire), "count", true);
        if wire == Wire::OpenAiChat {
            body["stream_options"] = json!({"include_usage": true});
        }
        let through = world.post(wire, &run.secret, &body).send().await.unwrap();
        assert!(through.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
        let through = through.text().await.unwrap();
        let bare = bare(&world.provider, wire, turn(), &body).await;
        assert_eq!(without_id(&through), without_id(&bare));
    }
}

/// What the provider sends to somebody who asks it directly.
async fn bare(provider: &ScriptedModel, wire: Wire, turn: Turn, body: &Value) -> String {
    provider.push(turn);
    let address = match wire {
        Wire::AnthropicMessages => format!("{}/v1/messages", provider.anthropic_url()),
        Wire::OpenAiChat => format!("{}/chat/completions", provider.openai_url()),
        Wire::OpenAiResponses => format!("{}/responses", provider.openai_url()),
    };
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.post(address).bearer_auth(PROVIDER_KEY).json(body).send().await.unwrap();
    answer.text().await.unwrap()
}

/// The provider numbers its answers.
fn without_id(stream: &str) -> String {
    let mut text = stream.to_owned();
    for prefix in ["msg_", "chatcmpl_", "resp_"] {
        for number in 0..10 {
            text = text.replace(&format!("{prefix}{number}"), prefix);
        }
    }
    text
}

#[tokio::test]
async fn the_first_piece_is_there_before_the_provider_has_finished() {
    let world = World::start().await;
    let run = world.run().await;
    for wire in WIRES {
        // The provider never finishes: whatever arrives was not held back for its end.
        world.provider.push(Turn::text("first").stall());
        let answer = world.post(wire, &run.secret, &question(wire, model_of(wire), "hi", true)).send().await.unwrap();
        let mut pieces = answer.bytes_stream();
        let mut seen = String::new();
        let first = async {
            while !seen.contains("first") {
                seen.push_str(std::str::from_utf8(&pieces.next().await.unwrap().unwrap()).unwrap());
            }
        };
        tokio::time::timeout(Duration::from_secs(20), first).await.expect("the first piece");
    }
}

#[tokio::test]
async fn the_usage_chunk_that_only_we_asked_for_is_taken_out() {
    let world = World::start().await;
    let mut run = world.run().await;
    world.provider.push(Turn::text("hello").usage(Usage { input: 3, output: 4, ..Usage::default() }));
    let body = question(Wire::OpenAiChat, "gpt-test-1", "hi", true);
    let answer = world.post(Wire::OpenAiChat, &run.secret, &body).send().await.unwrap();
    let text = answer.text().await.unwrap();
    assert!(text.contains("hello") && text.trim_end().ends_with("data: [DONE]"), "{text}");
    assert!(!text.contains("prompt_tokens"), "{text}");
    let run = world.end(&mut run).await;
    assert_eq!((run.usage.input_tokens, run.usage.output_tokens), (3, 4));
}

#[tokio::test]
async fn cached_tokens_are_priced_as_such() {
    let world = World::start().await;
    let mut run = world.run().await;
    let usage =
        Usage { input: 1, output: 1, cache_read: 100, cache_write_5m: 10, cache_write_1h: 5, ..Usage::default() };
    world.provider.push(Turn::text("x").usage(usage));
    let body = question(Wire::AnthropicMessages, "claude-test-1", "hi", false);
    world.post(Wire::AnthropicMessages, &run.secret, &body).send().await.unwrap();
    let run = world.end(&mut run).await;
    assert_eq!(run.usage.input_tokens, 116);
    let cents = 10_000_000;
    assert_eq!(run.usage.cost_nano_usd, cents + 2 * cents + 100 * cents / 10 + 10 * cents * 5 / 4 + 5 * cents * 2);
    assert_eq!(world.calls(1).await[0].usage, usage);
}
