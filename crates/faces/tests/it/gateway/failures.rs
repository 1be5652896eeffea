//! Everything that goes wrong, in the shape of the vendor whose format the client speaks.

use backlot_domain::models::Wire;
use backlot_testkit::scripted_model::Turn;
use serde_json::{Value, json};

use super::world::{Setup, WIRES, World, question};

#[tokio::test]
async fn a_providers_own_errors_pass_with_their_status_and_retry_after() {
    let world = World::start().await;
    let mut run = world.run().await;
    for (wire, model) in [
        (Wire::AnthropicMessages, "claude-test-1"),
        (Wire::OpenAiChat, "gpt-test-1"),
        (Wire::OpenAiResponses, "gpt-test-1"),
    ] {
        world.provider.push(Turn::fail(429, "slow down, please").retry_after("7"));
        let answer = world.post(wire, &run.secret, &question(wire, model, "hi", true)).send().await.unwrap();
        assert_eq!(answer.status(), 429);
        assert_eq!(answer.headers()["retry-after"], "7");
        assert!(answer.text().await.unwrap().contains("slow down, please"));
    }
    let run = world.end(&mut run).await;
    assert_eq!((run.usage.model_calls, run.usage.cost_nano_usd, run.usage.unpriced_calls), (3, 0, 0));
    assert!(world.calls(3).await.iter().all(|call| call.status == Some(429) && call.usage.total_input() == 0));
}

#[tokio::test]
async fn translated_errors_have_the_clients_shape_and_keep_retry_after() {
    let world = World::start().await;
    let run = world.run().await;
    world.provider.push(Turn::fail(429, "slow down, please").retry_after("7"));
    let wire = Wire::AnthropicMessages;
    let answer = world.post(wire, &run.secret, &question(wire, "gpt-test-1", "hi", true)).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (429, &"7".parse().unwrap()));
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["type"], "error");
    assert_eq!(body["error"]["type"], "rate_limit_error");
    assert!(body["error"]["message"].as_str().unwrap().contains("slow down, please"));
}

#[tokio::test]
async fn request_ids_of_the_provider_pass() {
    // A bare server, since the scripted one has no ids of its own.
    let app = axum::Router::new().fallback(async || {
        let headers = [
            ("request-id", "req_abc"),
            ("x-request-id", "req_def"),
            ("set-cookie", "a=b"),
            ("anthropic-organization-id", "org"),
        ];
        (headers, axum::Json(json!({"content": [], "usage": {"input_tokens": 1, "output_tokens": 1}})))
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let world = World::behind(&format!("http://{address}")).await;
    let run = world.run().await;
    let wire = Wire::AnthropicMessages;
    let answer = world.post(wire, &run.secret, &question(wire, "claude-test-1", "hi", false)).send().await.unwrap();
    assert_eq!(answer.headers()["request-id"], "req_abc");
    assert_eq!(answer.headers()["x-request-id"], "req_def");
    for withheld in ["set-cookie", "anthropic-organization-id"] {
        assert!(!answer.headers().contains_key(withheld), "{withheld}");
    }
    server.abort();
}

#[tokio::test]
async fn a_provider_that_is_away_is_said_to_be() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let world = World::behind(&format!("http://{address}")).await;
    let mut run = world.run().await;
    for wire in WIRES {
        let answer = world.post(wire, &run.secret, &question(wire, "claude-test-1", "hi", false)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), if wire == Wire::AnthropicMessages { 529 } else { 503 });
        assert!(answer.text().await.unwrap().contains("cannot connect to the provider"));
    }
    let run = world.end(&mut run).await;
    assert_eq!((run.usage.model_calls, run.usage.cost_nano_usd), (3, 0), "attempts are booked, and cost nothing");
}

#[tokio::test]
async fn wrong_requests_are_refused_with_the_field_and_cost_nothing() {
    let world = World::start().await;
    let run = world.run().await;
    for wire in WIRES {
        for body in ["", "{", "[]", "{}", r#"{"model":7}"#, r#"{"model":""}"#, "\u{0}", r#"{"model":"a\u0000b"}"#] {
            let request = world.client.post(world.address(wire)).bearer_auth(&run.secret).body(body);
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 400, "{body}");
            let body: Value = answer.json().await.unwrap();
            assert_eq!(body["error"]["type"], "invalid_request_error", "{body}");
        }
    }
    // To be translated, and not translatable.
    let mut body = question(Wire::OpenAiChat, "claude-test-1", "hi", false);
    body["n"] = json!(3);
    let answer = world.post(Wire::OpenAiChat, &run.secret, &body).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["error"]["param"], "n");
    assert!(world.provider.requests().is_empty());
    assert!(world.calls(0).await.is_empty());
}

#[tokio::test]
async fn deep_and_huge_bodies_are_refused_politely() {
    let world = World::start().await;
    let run = world.run().await;
    let deep = format!(r#"{{"model":"gpt-test-1","messages":{}{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
    for wire in WIRES {
        let request = world.client.post(world.address(wire)).bearer_auth(&run.secret).body(deep.clone());
        let status = request.send().await.unwrap().status().as_u16();
        assert!((400..500).contains(&status), "{status}");

        let huge = vec![b' '; 33 * 1024 * 1024];
        let request = world.client.post(world.address(wire)).bearer_auth(&run.secret).body(huge);
        // The server may answer before it has read everything, and close.
        if let Ok(answer) = request.send().await {
            assert_eq!(answer.status(), 413);
            assert!(answer.text().await.unwrap().contains("32 MiB"));
        }
    }
}

#[tokio::test]
async fn addresses_that_are_none_answer_in_shape() {
    let world = World::start().await;
    let run = world.run().await;
    let openai = world.openai_url();
    for (method, address) in [
        ("GET", format!("{}/v1/messages", world.url)),
        ("POST", format!("{}/v1/complete", world.url)),
        ("POST", format!("{}/v1/messages/batches", world.url)),
        ("GET", format!("{}/v1/messages/batches/b_1/results", world.url)),
        ("POST", format!("{openai}/embeddings")),
        ("GET", format!("{openai}/files")),
        ("DELETE", format!("{openai}/models/x")),
        ("GET", format!("{openai}/models/%ff")),
        ("POST", world.url.replace("/anthropic", "/mistral/v1/chat")),
    ] {
        let request = world.client.request(method.parse().unwrap(), &address).bearer_auth(&run.secret);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 404, "{method} {address}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["type"] == "error", address.contains("/gateway/anthropic/"), "{address}: {body}");
        assert!(body["error"]["message"].as_str().is_some_and(|message| message.len() > 20), "{body}");
    }
}

#[tokio::test]
async fn without_any_provider_the_answer_says_what_to_do() {
    let world = World::with(Setup { anthropic: false, openai: false, ..Setup::default() }).await;
    let run = world.run().await;
    for wire in WIRES {
        for model in ["claude-sonnet-5-5", "gpt-test-1", "local/smollm2-135m-instruct", "who-knows", "openai/x"] {
            let answer = world.post(wire, &run.secret, &question(wire, model, "hi", false)).send().await.unwrap();
            assert_eq!(answer.status(), 404, "{model}");
            let text = answer.text().await.unwrap();
            assert!(text.contains("backlot models pull") && text.contains("ANTHROPIC_API_KEY"), "{text}");
        }
    }
}
