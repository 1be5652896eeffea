//! Requests: what clients send is understood, and what we send is what we were told.

use backlot_models::wire::Wire;
use backlot_models::{Block, Effort, Image, Message, Request, ResponseFormat, Role, Thinking, Tool, ToolChoice};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{WIRES, request_for};

fn text(text: &str) -> Block {
    Block::Text { text: text.into() }
}

fn user(content: Vec<Block>) -> Message {
    Message { role: Role::User, content }
}

fn assistant(content: Vec<Block>) -> Message {
    Message { role: Role::Assistant, content }
}

/// A turn of tool use: a question, calls, their results, an answer.
fn exchange() -> impl Strategy<Value = Vec<Message>> {
    ("[a-z]{1,8}", 0usize..3, any::<bool>(), any::<bool>()).prop_map(|(word, calls, with_image, with_text)| {
        let mut question = vec![text(&word)];
        if with_image {
            question
                .push(Block::Image { image: Image::Base64 { media_type: "image/png".into(), data: "aGk=".into() } });
            question.push(Block::Image { image: Image::Url { url: "https://example.com/a.png".into() } });
        }
        let mut messages = vec![user(question)];
        if calls > 0 {
            let id = |n: usize| format!("{word}_{n}");
            let call = |n| Block::ToolCall { id: id(n), name: "look".into(), arguments: "{\"at\":\"x\"}".into() };
            let result = |n| Block::ToolResult { id: id(n), content: vec![text("seen")], is_error: false };
            let mut said: Vec<Block> = with_text.then(|| text("Let me see.")).into_iter().collect();
            said.extend((0..calls).map(call));
            messages.push(assistant(said));
            messages.push(user((0..calls).map(result).collect()));
        }
        messages.push(assistant(vec![text("There.")]));
        messages
    })
}

fn request() -> impl Strategy<Value = Request> {
    let choice = prop_oneof![
        Just(ToolChoice::Auto),
        Just(ToolChoice::Any),
        Just(ToolChoice::None),
        Just(ToolChoice::Tool { name: "look".into() })
    ];
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": false});
    let format = prop_oneof![
        Just(ResponseFormat::Text),
        Just(ResponseFormat::JsonSchema { name: "answer".into(), schema, strict: true })
    ];
    let conversation = prop::collection::vec(exchange(), 0..3);
    let numbers = (prop::option::of(16u32..100_000), prop::option::of(0u8..=20), prop::option::of(1u8..=10));
    let tools = prop::option::of((choice, prop::option::of(any::<bool>())));
    (conversation, prop::option::of("[a-z]{1,9}"), numbers, tools, format, any::<bool>()).prop_map(
        |(conversation, system, (max_tokens, temperature, top_p), tools, response_format, stops)| {
            let mut request = request_for("claude-opus-4-6");
            request.messages = conversation.concat();
            request.messages.push(user(vec![text("And now?")]));
            request.system = system;
            request.max_tokens = max_tokens;
            request.temperature = temperature.map(|tenths| f64::from(tenths) / 10.0);
            request.top_p = top_p.map(|tenths| f64::from(tenths) / 10.0);
            request.response_format = response_format;
            request.stop = if stops { vec!["END".into(), "\n\n".into()] } else { Vec::new() };
            if let Some((choice, parallel)) = tools {
                request.tool_choice = choice;
                request.parallel_tool_calls = parallel;
                let input_schema = json!({"type": "object", "properties": {"at": {"type": "string"}}});
                request.tools.push(Tool { name: "look".into(), description: Some("Looks.".into()), input_schema });
            }
            request
        },
    )
}

proptest! {
    #[test]
    fn what_the_client_side_sends_the_server_side_understands(request in request()) {
        for wire in WIRES {
            let body = wire.encode_request(&request).to_string();
            let incoming = wire.decode_request(body.as_bytes()).expect("a good request");
            let mut expected = request.clone();
            match wire {
                Wire::AnthropicMessages => {
                    expected.max_tokens = Some(request.max_tokens.unwrap_or(16384)); // the format demands one
                    if request.tool_choice == ToolChoice::None {
                        expected.parallel_tool_calls = None;
                    }
                }
                Wire::OpenAiChat => {}
                Wire::OpenAiResponses => expected.stop.clear(), // it has none
            }
            prop_assert!(incoming.stream && incoming.include_usage);
            prop_assert_eq!(incoming.request, expected, "{:?}", wire);
        }
    }
}

/// Reasoning goes back to its own provider word for word, and to no other.
#[test]
fn reasoning_returns_to_its_provider_only() {
    let anthropic = json!({"type": "thinking", "thinking": "Hm.", "signature": "c2ln"});
    let redacted = json!({"type": "redacted_thinking", "data": "eA=="});
    let openai = json!({"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "gAAA"});
    let thinking =
        |text: &str, raw: &Value| Block::Thinking { text: text.into(), signature: None, raw: Some(raw.clone()) };
    let call = Block::ToolCall { id: "call.1".into(), name: "f".into(), arguments: String::new() };
    let said = vec![thinking("Hm.", &anthropic), thinking("", &redacted), thinking("", &openai), call];
    let result = Block::ToolResult { id: "call.1".into(), content: vec![], is_error: true };
    let request = Request { messages: vec![assistant(said), user(vec![text("x"), result])], ..request_for("m") };

    let body = Wire::AnthropicMessages.encode_request(&request);
    assert_eq!(
        body["messages"],
        json!([
            {"role": "assistant", "content": [
                anthropic, redacted, {"type": "tool_use", "id": "call_1", "name": "f", "input": {}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": [], "is_error": true},
                {"type": "text", "text": "x"},
            ]},
        ])
    );
    let body = Wire::OpenAiResponses.encode_request(&request);
    assert_eq!(body["input"][0], openai);
    assert_eq!(body["input"][1]["type"], "function_call");
    assert_eq!((&body["store"], &body["include"]), (&json!(false), &json!(["reasoning.encrypted_content"])));
    let body = Wire::OpenAiChat.encode_request(&request);
    assert!(!body.to_string().contains("Hm."));
    assert_eq!(body["messages"][1], json!({"role": "tool", "tool_call_id": "call.1", "content": ""}));
    assert_eq!(body["messages"][2], json!({"role": "user", "content": "x"}));
}

#[test]
fn thinking_is_asked_for_as_the_model_takes_it() {
    let ask = |wire: Wire, model: &str, thinking| {
        let base = Request { temperature: Some(0.3), max_tokens: Some(1000), ..request_for(model) };
        wire.encode_request(&Request { thinking: Some(thinking), ..base })
    };
    let low = Thinking::Effort { level: Effort::Low };
    let body = ask(Wire::AnthropicMessages, "claude-sonnet-4-5", Thinking::Budget { tokens: 5000 });
    assert_eq!(body["thinking"], json!({"type": "enabled", "budget_tokens": 5000}));
    assert_eq!((&body["max_tokens"], body.get("temperature")), (&json!(6000), None));
    let body = ask(Wire::AnthropicMessages, "claude-sonnet-5-5", low);
    assert_eq!(body["thinking"], json!({"type": "adaptive"}));
    assert_eq!((&body["output_config"]["effort"], &body["max_tokens"]), (&json!("low"), &json!(1000)));
    assert_eq!(ask(Wire::OpenAiChat, "o3", low)["reasoning_effort"], "low");
    assert_eq!(ask(Wire::OpenAiResponses, "o3", low)["reasoning"], json!({"effort": "low", "summary": "auto"}));
}

#[test]
fn what_the_vendors_sdks_may_send() {
    let decode = |wire: Wire, body: &Value| wire.decode_request(body.to_string().as_bytes()).expect("a good request");
    let incoming = decode(
        Wire::AnthropicMessages,
        &json!({
            "model": "m", "max_tokens": 5, "stream": null, "metadata": {"user_id": "u"}, "top_k": 3,
            "system": [{"type": "text", "text": "One.", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "Two."}],
            "messages": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"b": 1, "a": 2}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "done"}]},
            ],
            "tools": [{"type": "custom", "name": "f", "input_schema": {"type": "object"}}],
            "thinking": {"type": "adaptive"}, "output_config": {"effort": "medium"},
        }),
    );
    assert!(!incoming.stream);
    assert_eq!(incoming.request.system.as_deref(), Some("One.\n\nTwo."));
    assert_eq!(incoming.request.thinking, Some(Thinking::Effort { level: Effort::Medium }));
    let call = Block::ToolCall { id: "t".into(), name: "f".into(), arguments: "{\"b\":1,\"a\":2}".into() };
    assert_eq!(incoming.request.messages[1], assistant(vec![call]));

    let incoming = decode(
        Wire::OpenAiChat,
        &json!({
            "model": "m", "stream": true, "stop": "END", "n": 1, "max_tokens": 7, "reasoning_effort": "none",
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk=", "detail": "low"}}]},
                {"role": "assistant", "content": null, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "c", "content": "done"},
            ],
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
        }),
    );
    assert!(incoming.stream && !incoming.include_usage);
    let request = incoming.request;
    assert_eq!((request.system.as_deref(), request.max_tokens, request.thinking), (Some("Be brief."), Some(7), None));
    assert_eq!(request.stop, ["END"]);
    assert_eq!(request.tool_choice, ToolChoice::Tool { name: "f".into() });

    let incoming = decode(
        Wire::OpenAiResponses,
        &json!({
            "model": "m", "instructions": "Be brief.", "store": true, "previous_response_id": null,
            "input": [
                {"role": "user", "content": "hi"},
                {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
                {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
                 "content": [{"type": "output_text", "text": "Calling.", "annotations": []}]},
                {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "done"},
                {"type": "function_call_output", "call_id": "d", "output": [{"type": "input_text", "text": "too"}]},
            ],
            "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": true}],
            "tool_choice": "required", "text": {"format": {"type": "json_object"}},
        }),
    );
    let request = incoming.request;
    assert_eq!(request.messages.len(), 3);
    assert!(matches!(
        &request.messages[1].content[..],
        [Block::Thinking { raw: Some(_), .. }, Block::Text { .. }, Block::ToolCall { .. }]
    ));
    assert_eq!(request.messages[2].content.len(), 2);
    assert_eq!((request.response_format, request.tool_choice), (ResponseFormat::Json, ToolChoice::Any));
}

#[test]
fn complaints_name_the_field() {
    let message = json!([{"role": "user", "content": "hi"}]);
    for (wire, body, field) in [
        (Wire::AnthropicMessages, json!([]), ""),
        (Wire::AnthropicMessages, json!({"messages": message}), "model"),
        (Wire::AnthropicMessages, json!({"model": "m", "messages": []}), "messages"),
        (
            Wire::AnthropicMessages,
            json!({"model": "m", "messages": [{"role": "robot", "content": ""}]}),
            "messages.0.role",
        ),
        (
            Wire::AnthropicMessages,
            json!({"model": "m", "messages": [{"role": "user", "content": [{"type": "document"}]}]}),
            "messages.0.content.0.type",
        ),
        (Wire::AnthropicMessages, json!({"model": "m", "messages": message, "max_tokens": 0}), "max_tokens"),
        (
            Wire::AnthropicMessages,
            json!({"model": "m", "messages": message, "tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
            "tools.0.type",
        ),
        (Wire::OpenAiChat, json!({"model": "m", "messages": message, "n": 2}), "n"),
        (Wire::OpenAiChat, json!({"model": "m", "messages": message, "temperature": "hot"}), "temperature"),
        (
            Wire::OpenAiChat,
            json!({"model": "m", "messages": [{"role": "tool", "content": "x"}]}),
            "messages.0.tool_call_id",
        ),
        (
            Wire::OpenAiChat,
            json!({"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]}),
            "messages.0.content.0.image_url.url",
        ),
        (Wire::OpenAiResponses, json!({"model": "m"}), "input"),
        (
            Wire::OpenAiResponses,
            json!({"model": "m", "input": "x", "previous_response_id": "r"}),
            "previous_response_id",
        ),
        (Wire::OpenAiResponses, json!({"model": "m", "input": "x", "background": true}), "background"),
        (
            Wire::OpenAiResponses,
            json!({"model": "m", "input": [{"type": "item_reference", "id": "x"}]}),
            "input.0.type",
        ),
    ] {
        let bad = wire.decode_request(body.to_string().as_bytes()).expect_err("a bad request");
        assert_eq!(bad.field, field, "{wire:?} {body}: {bad}");
    }
}
