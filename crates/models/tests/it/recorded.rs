//! Recorded answers of the providers, whole and cut at every byte.

use backlot_models::metering::{Metered, UsageReader};
use backlot_models::wire::Wire;
use backlot_models::{ErrorKind, Event, Request, ResponseFormat, StopReason, Usage};
use serde_json::json;

use crate::{decode, request_for};

macro_rules! recorded {
    ($name:literal) => {
        include_bytes!(concat!("recorded/", $name)).as_slice()
    };
}

const STREAMS: [(Wire, &[u8]); 13] = [
    (Wire::AnthropicMessages, recorded!("anthropic_text.sse")),
    (Wire::AnthropicMessages, recorded!("anthropic_thinking_tools.sse")),
    (Wire::AnthropicMessages, recorded!("anthropic_unknown.sse")),
    (Wire::AnthropicMessages, recorded!("anthropic_overloaded.sse")),
    (Wire::OpenAiChat, recorded!("chat_text.sse")),
    (Wire::OpenAiChat, recorded!("chat_tools.sse")),
    (Wire::OpenAiChat, recorded!("chat_reasoning.sse")),
    (Wire::OpenAiChat, recorded!("chat_sloppy.sse")),
    (Wire::OpenAiChat, recorded!("chat_error.sse")),
    (Wire::OpenAiResponses, recorded!("responses_text.sse")),
    (Wire::OpenAiResponses, recorded!("responses_reasoning_tools.sse")),
    (Wire::OpenAiResponses, recorded!("responses_incomplete.sse")),
    (Wire::OpenAiResponses, recorded!("responses_failed.sse")),
];

fn events(wire: Wire, bytes: &[u8]) -> Vec<Event> {
    let (events, outcome) = decode(wire, [bytes], &request_for("m"));
    outcome.expect("a complete answer");
    events
}

fn started(id: &str, model: &str, usage: Usage) -> Event {
    Event::Started { id: id.into(), model: model.into(), usage }
}

fn text(delta: &str) -> Event {
    Event::Text { delta: delta.into() }
}

fn thinking(delta: &str) -> Event {
    Event::Thinking { delta: delta.into() }
}

fn call(id: &str, name: &str, deltas: &[&str]) -> Vec<Event> {
    let mut events = vec![Event::ToolCall { id: id.into(), name: name.into() }];
    events.extend(deltas.iter().map(|delta| Event::ToolArguments { id: id.into(), delta: (*delta).into() }));
    events.push(Event::ToolCallDone { id: id.into() });
    events
}

fn done(stop: StopReason, usage: Usage) -> Event {
    Event::Done { stop, usage }
}

#[test]
fn anthropic_text() {
    let usage = Usage { input: 25, cache_read: 1200, cache_write_5m: 300, cache_write_1h: 10, ..Usage::default() };
    assert_eq!(
        events(Wire::AnthropicMessages, recorded!("anthropic_text.sse")),
        [
            started("msg_01XFDUDYJgAACzvnptvVoYEL", "claude-sonnet-4-5-20250929", usage),
            text("Grüße"),
            text(" from the \"set\" 🎬"),
            done(StopReason::EndTurn, Usage { output: 15, ..usage }),
        ]
    );
}

#[test]
fn anthropic_thinking_and_parallel_tools() {
    let usage = Usage { input: 472, ..Usage::default() };
    let signature = "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl";
    let raw = json!({"type": "thinking", "thinking": "Two cities, two calls.", "signature": signature});
    let redacted = json!({"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix/LafPsn4a"});
    let mut expected = vec![
        started("msg_01XFDUDYJgAACzvnptvVoYEL", "claude-opus-4-5-20251101", usage),
        thinking("Two cities, "),
        thinking("two calls."),
        Event::ThinkingDone { signature: Some(signature.into()), raw: Some(raw) },
        Event::ThinkingDone { signature: None, raw: Some(redacted) },
        text("I'll look."),
    ];
    expected.extend(call("toolu_01T1x1fJ34qAmk2tNTrN7Up6", "get_weather", &["{\"location\":", " \"Paris\"}"]));
    expected.extend(call("toolu_02", "now", &["{}"]));
    expected.push(done(StopReason::ToolUse, Usage { output: 89, reasoning: 40, ..usage }));
    assert_eq!(events(Wire::AnthropicMessages, recorded!("anthropic_thinking_tools.sse")), expected);
}

#[test]
fn anthropic_events_nobody_knows_are_read_over() {
    let usage = Usage { input: 9, ..Usage::default() };
    assert_eq!(
        events(Wire::AnthropicMessages, recorded!("anthropic_unknown.sse")),
        [
            started("msg_01XFDUDYJgAACzvnptvVoYEL", "claude-sonnet-5-5", usage),
            text("Found"),
            text(" it."),
            done(StopReason::Other("pause_turn".into()), Usage { output: 7, ..usage }),
        ]
    );
}

#[test]
fn errors_inside_streams_come_after_what_was_said() {
    for (wire, bytes, said, kind, message) in [
        (
            Wire::AnthropicMessages,
            recorded!("anthropic_overloaded.sse"),
            "Half an ans",
            ErrorKind::Unavailable,
            "Overloaded",
        ),
        (
            Wire::OpenAiChat,
            recorded!("chat_error.sse"),
            "Half",
            ErrorKind::Unavailable,
            "The server had an error while processing your request",
        ),
    ] {
        let (events, outcome) = decode(wire, [bytes], &request_for("m"));
        assert_eq!(events.last(), Some(&text(said)));
        let error = outcome.expect_err("an error");
        assert_eq!((error.kind, error.message.as_str()), (kind, message));
    }
    let (_, outcome) = decode(Wire::OpenAiResponses, [recorded!("responses_failed.sse")], &request_for("m"));
    let error = outcome.expect_err("an error");
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::RateLimited, "Rate limit reached for gpt-5"));
}

#[test]
fn chat_text() {
    assert_eq!(
        events(Wire::OpenAiChat, recorded!("chat_text.sse")),
        [
            started("chatcmpl-BwQ7", "gpt-4o-2024-08-06", Usage::default()),
            text("Hello"),
            text(" \"there\" \\ 🎭"),
            done(
                StopReason::EndTurn,
                Usage { input: 93, cache_read: 1024, output: 46, reasoning: 12, ..Usage::default() }
            ),
        ]
    );
}

#[test]
fn chat_parallel_tools() {
    let mut expected = vec![started("chatcmpl-BwQ7", "gpt-4o-2024-08-06", Usage::default())];
    expected.extend(call("call_DdmO9pD3xa9XTPNJ32zg2hcA", "get_weather", &["{\"location\":", "\"Paris\"}"]));
    expected.extend(call("call_2", "now", &["{}"]));
    let usage = Usage { input: 93, cache_read: 1024, output: 46, reasoning: 12, ..Usage::default() };
    expected.push(done(StopReason::ToolUse, usage));
    assert_eq!(events(Wire::OpenAiChat, recorded!("chat_tools.sse")), expected);
}

#[test]
fn chat_reasoning_of_a_compatible_server() {
    assert_eq!(
        events(Wire::OpenAiChat, recorded!("chat_reasoning.sse")),
        [
            started("930c60df", "deepseek-reasoner", Usage::default()),
            thinking("Count: "),
            thinking("three."),
            Event::ThinkingDone { signature: None, raw: None },
            text("Three"),
            text("."),
            done(StopReason::EndTurn, Usage { input: 4, cache_read: 16, output: 9, reasoning: 5, ..Usage::default() }),
        ]
    );
}

/// Calls all numbered 0, without identifier, arguments as an object, `stop` as the reason, no usage, no `[DONE]`, no
/// last blank line.
#[test]
fn chat_of_a_sloppy_server() {
    let mut expected = vec![started("x", "local", Usage::default())];
    expected.extend(call("call_x_0", "a", &["{\"n\":1}"]));
    expected.extend(call("second", "b", &["{\"n\":2}"]));
    expected.push(done(StopReason::ToolUse, Usage::default()));
    assert_eq!(events(Wire::OpenAiChat, recorded!("chat_sloppy.sse")), expected);
}

const RESPONSE_ID: &str = "resp_67c9fdcecf488190bdd9a0409de3a1ec07b8b0ad4e5eb654";

fn responses_usage() -> Usage {
    Usage { input: 2, output: 11, cache_read: 30, cache_write_5m: 3, cache_write_1h: 2, reasoning: 4 }
}

#[test]
fn responses_text() {
    assert_eq!(
        events(Wire::OpenAiResponses, recorded!("responses_text.sse")),
        [
            started(RESPONSE_ID, "gpt-5-2025-08-07", Usage::default()),
            text("Hi"),
            text(" there!"),
            done(StopReason::EndTurn, responses_usage()),
        ]
    );
}

#[test]
fn responses_reasoning_and_parallel_tools() {
    let raw = json!({
        "id": "rs_68", "type": "reasoning", "encrypted_content": "gAAAAABoISQ24OyVRYbkYfukdJoqdzWT",
        "summary": [{"type": "summary_text", "text": "**Plan**"}, {"type": "summary_text", "text": "Call both."}],
    });
    let mut expected = vec![
        started(RESPONSE_ID, "gpt-5-2025-08-07", Usage::default()),
        thinking("**Plan**"),
        thinking("\n\nCall "),
        thinking("both."),
        Event::ThinkingDone { signature: None, raw: Some(raw) },
    ];
    expected.extend(call("call_a", "get_weather", &["{\"location\":\"Paris\"", "}"]));
    expected.extend(call("call_b", "now", &["{}"]));
    expected.push(done(StopReason::ToolUse, responses_usage()));
    assert_eq!(events(Wire::OpenAiResponses, recorded!("responses_reasoning_tools.sse")), expected);
}

#[test]
fn responses_cut_by_the_token_limit() {
    let events = events(Wire::OpenAiResponses, recorded!("responses_incomplete.sse"));
    assert_eq!(events[1..], [text("Once upon"), done(StopReason::MaxTokens, responses_usage())]);
}

#[test]
fn unstreamed_answers() {
    let decode = |wire: Wire, body| wire.decode_answer(body, &request_for("m")).expect("an answer");
    let anthropic = decode(Wire::AnthropicMessages, recorded!("anthropic_answer.json"));
    let usage = Usage { input: 2095, cache_read: 7, cache_write_1h: 12, ..Usage::default() };
    let raw = json!({"type": "thinking", "thinking": "Hm.", "signature": "c2ln"});
    let mut expected = vec![
        started("msg_013Zva2CMHLNnXjNJJKqJ2EF", "claude-haiku-4-5-20251001", usage),
        thinking("Hm."),
        Event::ThinkingDone { signature: Some("c2ln".into()), raw: Some(raw) },
        text("Hello!"),
    ];
    expected.extend(call("toolu_9", "now", &["{\"zone\":\"UTC\"}"]));
    expected.push(done(StopReason::ToolUse, Usage { output: 503, ..usage }));
    assert_eq!(anthropic, expected);

    let chat = decode(Wire::OpenAiChat, recorded!("chat_answer.json"));
    let usage = Usage { input: 11, cache_read: 8, ..Usage::default() };
    let mut expected = vec![started("chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT", "gpt-4.1-2025-04-14", usage)];
    expected.extend(call("call_1", "now", &["{\"zone\":\"UTC\"}"]));
    expected.extend(call("call_2", "now", &["{}"]));
    expected.push(done(StopReason::ToolUse, Usage { output: 10, ..usage }));
    assert_eq!(chat, expected);

    let responses = decode(Wire::OpenAiResponses, recorded!("responses_answer.json"));
    assert_eq!(responses[1..4], [thinking("**Plan**"), thinking("\n\nCall both."), responses[3].clone()]);
    assert_eq!(responses[4..], [text("Hi there!"), done(StopReason::EndTurn, responses_usage())]);
}

#[test]
fn cuts_change_nothing_and_lost_ends_are_noticed() {
    for (wire, bytes) in STREAMS {
        let (whole, whole_outcome) = decode(wire, [bytes], &request_for("m"));
        let metered = meter(wire, true, [bytes]);
        for cut in 0..=bytes.len() {
            let (left, right) = bytes.split_at(cut);
            let (events, outcome) = decode(wire, [left, right], &request_for("m"));
            assert_eq!(events, whole, "{wire:?} cut at {cut}");
            assert_eq!(outcome.is_ok(), whole_outcome.is_ok());
            assert_eq!(meter(wire, true, [left, right]), metered, "{wire:?} cut at {cut}");

            // What is lost may be told, but never as a complete answer.
            let (events, outcome) = decode(wire, [left], &request_for("m"));
            let told = events.iter().zip(&whole).take_while(|(told, whole)| told == whole).count();
            let has_end = events.iter().any(|event| matches!(event, Event::Done { .. }));
            assert_eq!(has_end, outcome.is_ok(), "{wire:?} ends at {cut}");
            assert!(told + 2 >= events.len(), "{wire:?} ends at {cut}");
        }
        let single = bytes.chunks(1);
        assert_eq!(decode(wire, single.clone(), &request_for("m")).0, whole);
        assert_eq!(meter(wire, true, single), metered);
    }
}

fn meter<'a>(wire: Wire, streaming: bool, pieces: impl IntoIterator<Item = &'a [u8]>) -> Metered {
    let mut reader = UsageReader::for_wire(wire, streaming);
    for piece in pieces {
        reader.feed(piece);
    }
    reader.finish()
}

#[test]
fn metering_reads_what_the_decoder_reads() {
    let bodies = [
        (Wire::AnthropicMessages, recorded!("anthropic_answer.json")),
        (Wire::OpenAiChat, recorded!("chat_answer.json")),
        (Wire::OpenAiResponses, recorded!("responses_answer.json")),
    ];
    let mut checked = 0;
    for (streaming, (wire, bytes)) in
        STREAMS.iter().map(|stream| (true, *stream)).chain(bodies.iter().map(|body| (false, *body)))
    {
        let metered = meter(wire, streaming, [bytes]);
        let events = match streaming {
            true => decode(wire, [bytes], &request_for("m")).0,
            false => wire.decode_answer(bytes, &request_for("m")).expect("an answer"),
        };
        let Some(Event::Started { id, model, .. }) = events.first() else { panic!("no start") };
        assert_eq!((metered.response_id.as_ref(), metered.model.as_ref()), (Some(id), Some(model)));
        if let Some(Event::Done { usage, .. }) = events.last() {
            assert!(metered.complete, "{wire:?}");
            let told = *usage != Usage::default();
            assert_eq!(metered.estimated, !told);
            if told {
                assert_eq!(metered.usage, *usage);
                checked += 1;
            }
        } else {
            assert!(metered.estimated, "{wire:?}");
        }
    }
    assert_eq!(checked, 12);
}

#[test]
fn broken_off_answers_are_estimated_by_what_was_said() {
    let overloaded = meter(Wire::AnthropicMessages, true, [recorded!("anthropic_overloaded.sse")]);
    // "Half an ans" has eleven bytes.
    assert_eq!(overloaded.usage, Usage { input: 25, output: 3, ..Usage::default() });
    assert!(!overloaded.complete && overloaded.estimated);

    let mut reader = UsageReader::for_wire(Wire::OpenAiChat, true).with_request_bytes(400);
    reader.feed(recorded!("chat_error.sse"));
    let broken = reader.finish();
    assert_eq!(broken.usage, Usage { input: 100, output: 1, ..Usage::default() });
    assert!(!broken.complete && broken.estimated);
    assert_eq!(broken.response_id.as_deref(), Some("chatcmpl-BwQ7"));
}

/// An older Claude is made to answer by a schema with a forced tool; the caller sees text.
#[test]
fn a_forced_tool_is_told_as_the_answer() {
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
    let request = Request {
        response_format: ResponseFormat::JsonSchema { name: "now".into(), schema, strict: true },
        ..request_for("claude-3-5-sonnet-20241022")
    };
    let (events, outcome) = decode(Wire::AnthropicMessages, [recorded!("anthropic_thinking_tools.sse")], &request);
    outcome.expect("a complete answer");
    assert_eq!(events[events.len() - 2], text("{}"));
    assert!(matches!(events.last(), Some(Event::Done { stop: StopReason::EndTurn, .. })));
}

/// Models may write what looks like usage; it stands elsewhere and in quotes.
#[test]
fn usage_cannot_be_forged_by_what_the_model_says() {
    let forged = r#"{"usage":{"input_tokens":0,"output_tokens":0,"prompt_tokens":0,"completion_tokens":0},"model":"free","id":"x"}"#;
    let input: serde_json::Value = serde_json::from_str(forged).expect("JSON");
    let body = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-4-6",
        "content": [
            {"type": "tool_use", "id": "t", "name": "f", "input": input},
            {"type": "text", "text": forged},
            {"type": "server_tool_use", "id": "s", "name": "g", "input": {"deep": [[{"usage": {"output_tokens": 0}}]]}},
        ],
        "stop_reason": "end_turn", "usage": {"input_tokens": 10, "output_tokens": 20},
    });
    for body in [body.to_string(), serde_json::to_string_pretty(&body).expect("JSON")] {
        let metered = meter(Wire::AnthropicMessages, false, body.as_bytes().chunks(7));
        assert_eq!(metered.usage, Usage { input: 10, output: 20, ..Usage::default() });
        assert_eq!(
            (metered.model.as_deref(), metered.response_id.as_deref()),
            (Some("claude-opus-4-6"), Some("msg_1"))
        );
        assert!(metered.complete && !metered.estimated);
    }
    for wire in crate::WIRES {
        let mut encoder = wire.encoder(backlot_models::wire::Head { created: 1, include_usage: true });
        let mut bytes = Vec::new();
        for event in [
            started("id_1", "dear", Usage { input: 10, ..Usage::default() }),
            text(forged),
            Event::ToolCall { id: "t".into(), name: "f".into() },
            Event::ToolArguments { id: "t".into(), delta: forged.into() },
            Event::ToolCallDone { id: "t".into() },
            done(StopReason::ToolUse, Usage { input: 10, output: 20, ..Usage::default() }),
        ] {
            encoder.event(&event, &mut bytes);
        }
        let metered = meter(wire, true, [bytes.as_slice()]);
        assert_eq!(metered.usage, Usage { input: 10, output: 20, ..Usage::default() }, "{wire:?}");
        assert_eq!((metered.model.as_deref(), metered.response_id.as_deref()), (Some("dear"), Some("id_1")));
    }
}
