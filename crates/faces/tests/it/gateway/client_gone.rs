//! Clients that leave in the middle: what they asked for is booked all the same.

use std::time::Duration;

use backlot_domain::models::{Limits, Usage, Wire};
use backlot_testkit::scripted_model::Turn;
use futures::StreamExt as _;

use super::world::{Setup, World, is_over, question};

const USAGE: Usage = Usage { input: 30, output: 40, cache_read: 0, cache_write_5m: 0, cache_write_1h: 0, reasoning: 0 };

#[tokio::test]
async fn a_stream_that_nobody_reads_on_is_metered_to_its_end() {
    let world = World::start().await;
    let mut run = world.run().await;
    for (wire, model) in [
        (Wire::AnthropicMessages, "claude-test-1"),
        (Wire::OpenAiChat, "gpt-test-1"),
        (Wire::OpenAiResponses, "gpt-test-1"),
        // Translated.
        (Wire::AnthropicMessages, "gpt-test-1"),
    ] {
        world.provider.push(Turn::text("one").delay(Duration::from_millis(300)).say("two").usage(USAGE));
        let answer = world.post(wire, &run.secret, &question(wire, model, "hi", true)).send().await.unwrap();
        let mut pieces = answer.bytes_stream();
        let _first = pieces.next().await.unwrap().unwrap();
        drop(pieces);
    }
    // Settling waits for all of them.
    let run = world.end(&mut run).await;
    assert!(is_over(&run));
    assert_eq!((run.usage.input_tokens, run.usage.output_tokens), (4 * 30, 4 * 40));
    assert_eq!(world.model_events(&run.id).await.len(), 4);
    assert!(world.calls(4).await.iter().all(|call| !call.estimated && call.status == Some(200)));
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_begins_pays_too() {
    let world = World::start().await;
    let mut run = world.run().await;
    for (wire, model, stream) in [
        (Wire::AnthropicMessages, "claude-test-1", false),
        (Wire::AnthropicMessages, "gpt-test-1", false),
        (Wire::OpenAiChat, "claude-test-1", true),
    ] {
        let before = world.provider.requests().len();
        world.provider.push(Turn::new().delay(Duration::from_millis(400)).say("late").usage(USAGE));
        let asked = world.post(wire, &run.secret, &question(wire, model, "hi", stream)).send();
        let asked = tokio::spawn(asked);
        while world.provider.requests().len() == before {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        asked.abort();
        let _aborted = asked.await;
    }
    let run = world.end(&mut run).await;
    assert_eq!((run.usage.input_tokens, run.usage.output_tokens, run.usage.model_calls), (90, 120, 3));
    assert!(world.calls(3).await.iter().all(|call| !call.estimated));
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off_and_estimated_when_its_run_ends() {
    let mut setup = Setup::default();
    setup.limits = Limits { settle: Duration::from_millis(200), ..setup.limits };
    let world = World::with(setup).await;
    let mut run = world.run().await;
    world.provider.push(Turn::text("a text of some forty bytes before silence.").stall());
    let wire = Wire::AnthropicMessages;
    let answer = world.post(wire, &run.secret, &question(wire, "claude-test-1", "hi", true)).send().await.unwrap();
    let mut pieces = answer.bytes_stream();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("silence") {
        seen.extend_from_slice(&pieces.next().await.unwrap().unwrap());
    }
    drop(pieces);
    let run = world.end(&mut run).await;
    assert_eq!(run.usage.model_calls, 1);
    assert!(run.usage.output_tokens >= 10, "{:?}", run.usage);
    let call = &world.calls(1).await[0];
    assert!(call.estimated);
    assert!(call.cost_nano_usd.is_some_and(|cost| cost > 0));
}

#[tokio::test]
async fn a_provider_that_cuts_the_connection_is_booked_with_what_was_seen() {
    let world = World::start().await;
    let mut run = world.run().await;
    world.provider.push(Turn::text("half of an answer").cut());
    let wire = Wire::AnthropicMessages;
    let answer = world.post(wire, &run.secret, &question(wire, "claude-test-1", "hi", true)).send().await.unwrap();
    let text = answer.text().await.unwrap();
    assert!(text.contains("half of an answer"));
    assert!(text.contains("event: error"), "the client is told in its own shape: {text}");
    let run = world.end(&mut run).await;
    assert_eq!(run.usage.model_calls, 1);
    assert!(run.usage.output_tokens > 0);
    assert!(world.calls(1).await[0].estimated);
}
