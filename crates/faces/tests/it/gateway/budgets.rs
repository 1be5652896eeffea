//! Limits of a run, also under many calls at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use backlot_domain::models::{Limits, Usage, Wire};
use backlot_testkit::scripted_model::Turn;
use futures::future::join_all;
use serde_json::Value;

use super::world::{Setup, WIRES, World, question};

/// A call takes 10 tokens in and 10 out: 30 cents. It reserves its 100 tokens of output, two dollars, and some input.
const TAKES: Usage = Usage { input: 10, output: 10, cache_read: 0, cache_write_5m: 0, cache_write_1h: 0, reasoning: 0 };
const COST: u64 = 300_000_000;

async fn world(limits: Limits) -> World {
    let world = World::with(Setup { limits, ..Setup::default() }).await;
    world.provider.respond_with(|_| Turn::new().delay(Duration::from_millis(10)).say("ok").usage(TAKES));
    world
}

async fn ask(world: &World, wire: Wire, credential: &str) -> (u16, Value) {
    let model = if wire == Wire::AnthropicMessages { "claude-test-1" } else { "gpt-test-1" };
    let answer = world.post(wire, credential, &question(wire, model, "hi", false)).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn fifty_calls_at_once_do_not_overspend() {
    let limit = 8_000_000_000;
    let world = world(Limits { run_cost_nano_usd: Some(limit), ..Limits::default() }).await;
    let mut run = world.run().await;
    let answers = join_all((0..50).map(|n| ask(&world, WIRES[n % 3], &run.secret))).await;
    let answered = answers.iter().filter(|(status, _)| *status == 200).count();
    let refused: Vec<_> = answers.iter().filter(|(status, _)| *status != 200).collect();
    for (status, body) in &refused {
        assert_eq!(*status, 400);
        assert_eq!(body["error"]["code"], "budget_exceeded", "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains("budget_exceeded"));
    }
    let run = world.end(&mut run).await;
    assert!(run.usage.cost_nano_usd <= limit, "{:?}", run.usage);
    assert_eq!(run.usage.cost_nano_usd, answered as u64 * COST);
    assert_eq!(world.provider.requests().len(), answered, "a refused call never reaches the provider");
    // What is left would not have covered another call's reservation, and refusing was right.
    assert!(!refused.is_empty() && answered >= 15, "{answered} answered");
    assert!(limit - run.usage.cost_nano_usd < 3_000_000_000, "{:?}", run.usage);
}

#[tokio::test]
async fn calls_and_tokens_are_limited_too() {
    let first = world(Limits { run_calls: Some(3), ..Limits::default() }).await;
    let run = first.run().await;
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(ask(&first, Wire::OpenAiChat, &run.secret).await.0);
    }
    assert_eq!(statuses, [200, 200, 200, 400, 400]);

    let second = world(Limits { run_tokens: Some(300), ..Limits::default() }).await;
    let run = second.run().await;
    let mut answered = 0;
    loop {
        let (status, body) = ask(&second, Wire::AnthropicMessages, &run.secret).await;
        if status != 200 {
            assert_eq!((status, &body["error"]["type"]), (400, &"invalid_request_error".into()));
            break;
        }
        answered += 1;
    }
    assert!((5..=10).contains(&answered), "{answered}");
}

#[tokio::test]
async fn calls_beyond_the_parallel_limit_wait_for_their_turn() {
    let limits = Limits { run_parallel: 4, run_cost_nano_usd: None, ..Limits::default() };
    let world = World::with(Setup { limits, ..Setup::default() }).await;
    let mut run = world.run().await;
    let most = Arc::new(AtomicUsize::new(0));
    let asked = Arc::new(AtomicUsize::new(0));
    let provider = Arc::clone(&world.provider);
    let watched = (Arc::clone(&most), Arc::clone(&asked));
    world.provider.respond_with(move |_| {
        watched.1.fetch_add(1, Ordering::SeqCst);
        Turn::new().delay(Duration::from_millis(50)).say("ok").usage(TAKES)
    });
    let watch = {
        let (domain, account) = (world.domain.clone(), world.account_id.clone());
        tokio::spawn(async move {
            loop {
                let calls = domain.models.calls(&account, 1000).await.unwrap();
                most.fetch_max(calls.iter().filter(|call| call.status.is_none()).count(), Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        })
    };
    let answers = join_all((0..50).map(|_| ask(&world, Wire::OpenAiChat, &run.secret))).await;
    watch.abort();
    assert!(answers.iter().all(|(status, _)| *status == 200));
    assert_eq!(asked.load(Ordering::SeqCst), 50);
    assert_eq!(provider.requests().len(), 50);
    assert_eq!(world.end(&mut run).await.usage.model_calls, 50);
}

#[tokio::test]
async fn one_run_that_has_spent_everything_does_not_hold_up_another() {
    let world = world(Limits { run_calls: Some(1), ..Limits::default() }).await;
    let (first, second) = (world.run().await, world.run().await);
    assert_eq!(ask(&world, Wire::OpenAiChat, &first.secret).await.0, 200);
    assert_eq!(ask(&world, Wire::OpenAiChat, &first.secret).await.0, 400);
    assert_eq!(ask(&world, Wire::OpenAiChat, &second.secret).await.0, 200);
    assert_eq!(ask(&world, Wire::OpenAiChat, &world.key).await.0, 200);
}
