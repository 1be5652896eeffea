//! Lists of models, counting tokens, names and prices.

use backlot_domain::models::Wire;
use backlot_testkit::scripted_model::Turn;
use serde_json::{Value, json};

use super::world::{Setup, World, question, said};

#[tokio::test]
async fn the_lists_have_the_vendors_shapes_and_their_names_work() {
    let world = World::with(Setup { compatible: true, ..Setup::default() }).await;
    let run = world.run().await;
    let list = async |address: String| -> Vec<String> {
        let answer = world.client.get(address).bearer_auth(&run.secret).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let body: Value = answer.json().await.unwrap();
        body["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
    };
    let names = list(format!("{}/v1/models", world.url)).await;
    assert_eq!(names, list(format!("{}/models", world.openai_url())).await);
    assert!(names.contains(&"lab/scripted-1".to_owned()), "{names:?}");
    for name in names {
        let address = format!("{}/v1/models/{name}", world.url);
        let answer: Value =
            world.client.get(address).bearer_auth(&run.secret).send().await.unwrap().json().await.unwrap();
        assert_eq!((&answer["type"], &answer["id"]), (&json!("model"), &json!(name)));
        let address = format!("{}/models/{name}", world.openai_url());
        let answer: Value =
            world.client.get(address).bearer_auth(&run.secret).send().await.unwrap().json().await.unwrap();
        assert_eq!((&answer["object"], &answer["id"]), (&json!("model"), &json!(name)));
        let body = question(Wire::OpenAiChat, &name, "hello", false);
        let answer: Value =
            world.post(Wire::OpenAiChat, &run.secret, &body).send().await.unwrap().json().await.unwrap();
        assert_eq!(said(Wire::OpenAiChat, &answer), "echo: hello", "{name}");
    }
    let unknown = world.client.get(format!("{}/v1/models", world.url)).send().await.unwrap();
    assert_eq!(unknown.status(), 401);
}

#[tokio::test]
async fn tokens_are_counted_where_somebody_can_and_guessed_elsewhere() {
    let world = World::start().await;
    let mut run = world.run().await;
    let count = async |model: &str| {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "one two three"}]});
        let address = format!("{}/v1/messages/count_tokens", world.url);
        let answer = world.client.post(address).bearer_auth(&run.secret).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let is_guess = answer.headers().contains_key("x-backlot-estimated");
        let body: Value = answer.json().await.unwrap();
        (body["input_tokens"].as_u64().unwrap(), is_guess)
    };
    assert_eq!(count("claude-test-1").await, (3, false));
    let (guess, is_guess) = count("gpt-test-1").await;
    assert!(is_guess && guess > 0);
    let run = world.end(&mut run).await;
    assert_eq!(run.usage.model_calls, 0, "counting is free");
}

#[tokio::test]
async fn an_unknown_price_stays_unknown() {
    let world = World::start().await;
    let mut run = world.run().await;
    world.provider.push(Turn::text("free? no."));
    let wire = Wire::AnthropicMessages;
    let body = question(wire, "claude-nobody-knows", "hi", false);
    assert_eq!(world.post(wire, &run.secret, &body).send().await.unwrap().status(), 200);
    let run = world.end(&mut run).await;
    assert_eq!((run.usage.model_calls, run.usage.unpriced_calls, run.usage.cost_nano_usd), (1, 1, 0));
    assert_eq!(world.calls(1).await[0].cost_nano_usd, None);
}

#[tokio::test]
async fn a_vendors_prices_do_not_hold_for_the_same_name_elsewhere() {
    let world = World::with(Setup { compatible: true, ..Setup::default() }).await;
    let run = world.run().await;
    let wire = Wire::OpenAiChat;
    let body = question(wire, "lab/gpt-test-1", "hi", false);
    assert_eq!(world.post(wire, &run.secret, &body).send().await.unwrap().status(), 200);
    assert_eq!(world.calls(1).await[0].cost_nano_usd, None);
}

#[tokio::test]
async fn the_configured_default_answers_for_families_without_a_provider() {
    let default_model = Some("lab/llama-test".to_owned());
    let setup = Setup { anthropic: false, openai: false, compatible: true, default_model, ..Setup::default() };
    let world = World::with(setup).await;
    let run = world.run().await;
    for (wire, model) in [
        (Wire::AnthropicMessages, "claude-sonnet-5-5"),
        (Wire::OpenAiResponses, "gpt-test-1"),
        (Wire::OpenAiChat, "o3-mini"),
    ] {
        let answer = world.post(wire, &run.secret, &question(wire, model, "hi", false)).send().await.unwrap();
        assert_eq!(answer.headers()["x-backlot-model"], "lab/llama-test");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["model"], "llama-test", "the answer does not pretend");
        assert_eq!(said(wire, &body), "echo: hi");
    }
    // A name of no family goes to the provider that may know it.
    let body = question(Wire::OpenAiChat, "qwen-next", "hi", false);
    let answer = world.post(Wire::OpenAiChat, &run.secret, &body).send().await.unwrap();
    assert_eq!(answer.headers()["x-backlot-model"], "lab/qwen-next");
}
