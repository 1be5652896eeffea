//! No bytes whatever make the decoders panic.

use backlot_models::metering::{ChunkFilter, UsageReader, prepare_passthrough};
use backlot_models::prices::Prices;
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{WIRES, decode, request_for};

const SEEDS: [&[u8]; 7] = [
    include_bytes!("recorded/anthropic_thinking_tools.sse"),
    include_bytes!("recorded/chat_tools.sse"),
    include_bytes!("recorded/chat_sloppy.sse"),
    include_bytes!("recorded/responses_reasoning_tools.sse"),
    include_bytes!("recorded/anthropic_answer.json"),
    include_bytes!("recorded/chat_answer.json"),
    include_bytes!("recorded/responses_answer.json"),
];

/// Feeds these bytes to everything that reads what others wrote.
fn feed_everything(bytes: &[u8], size: usize) {
    for wire in WIRES {
        let pieces = || bytes.chunks(size.max(1));
        let _ = decode(wire, pieces(), &request_for("claude-3-opus"));
        let _ = wire.decode_answer(bytes, &request_for("m"));
        let _ = wire.decode_error(500, bytes);
        if let Ok(incoming) = wire.decode_request(bytes) {
            for wire in WIRES {
                let _ = wire.encode_request(&incoming.request);
            }
        }
        for streaming in [true, false] {
            let mut reader = UsageReader::for_wire(wire, streaming);
            pieces().for_each(|piece| reader.feed(piece));
            let metered = reader.finish();
            let _ = Prices::default().cost("m", &metered.usage);
            let _ = metered.usage.total_input();
        }
        if let Ok(mut prepared) = prepare_passthrough(wire, Bytes::copy_from_slice(bytes)) {
            prepared.rename_model("other");
            serde_json::from_slice::<serde::de::IgnoredAny>(&prepared.body).expect("still JSON");
        }
    }
    let mut filter = ChunkFilter::new();
    let mut passed = 0;
    for piece in bytes.chunks(size.max(1)) {
        passed += filter.push(Bytes::copy_from_slice(piece)).len();
    }
    assert!(passed + filter.finish().len() <= bytes.len());
}

/// Any JSON, of names and words that the formats use.
fn value() -> impl Strategy<Value = Value> {
    let word = || {
        prop::sample::select(vec![
            "type",
            "text",
            "message",
            "content",
            "delta",
            "index",
            "id",
            "model",
            "usage",
            "choices",
            "tool_calls",
            "function",
            "arguments",
            "name",
            "role",
            "user",
            "assistant",
            "tool",
            "input",
            "output",
            "item",
            "response",
            "reasoning",
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block",
            "thinking",
            "tool_use",
            "input_tokens",
            "response.output_item.added",
            "response.completed",
            "error",
            "code",
            "summary",
            "messages",
            "system",
            "source",
            "base64",
            "image",
            "tools",
            "input_schema",
            "stream",
            "stream_options",
            "function_call",
            "call_id",
            "finish_reason",
            "signature",
        ])
    };
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word().prop_map(Value::from),
        "\\PC{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((word(), inner), 0..6)
                .prop_map(|members| members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

/// Replaces the `at`th value of a tree.
fn replace(tree: &mut Value, at: &mut usize, with: &Value) {
    if *at == 0 {
        *tree = with.clone();
    }
    *at = at.wrapping_sub(1);
    match tree {
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, at, with)),
        Value::Object(members) => members.values_mut().for_each(|member| replace(member, at, with)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn bytes(bytes in prop::collection::vec(any::<u8>(), 0..300), size in 1usize..50) {
        feed_everything(&bytes, size);
    }

    #[test]
    fn damaged_answers(seed in prop::sample::select(SEEDS.to_vec()), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), size in 1usize..500) {
        let mut bytes = seed.to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        feed_everything(&bytes, size);
    }

    #[test]
    fn streams_of_any_json(values in prop::collection::vec(value(), 1..6)) {
        let frames: String = values.iter().map(|value| format!("data: {value}\n\n")).collect();
        feed_everything(frames.as_bytes(), 64);
        feed_everything(values[0].to_string().as_bytes(), 64);
    }

    #[test]
    fn answers_with_one_wrong_value(seed in prop::sample::select(SEEDS.to_vec()), frame in any::<prop::sample::Index>(), at in 0usize..40, with in value()) {
        let text = String::from_utf8_lossy(seed);
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let data: Vec<usize> = (0..lines.len()).filter(|&n| lines[n].starts_with("data: {")).collect();
        if data.is_empty() {
            let mut body: Value = serde_json::from_slice(seed).expect("a body");
            replace(&mut body, &mut at.clone(), &with);
            feed_everything(body.to_string().as_bytes(), 100);
        } else {
            let line = &mut lines[data[frame.index(data.len())]];
            let mut body: Value = serde_json::from_str(&line[6..]).expect("a frame");
            replace(&mut body, &mut at.clone(), &with);
            *line = format!("data: {body}");
            feed_everything(lines.join("\n").as_bytes(), 100);
        }
    }

    #[test]
    fn requests_with_one_wrong_value(at in 0usize..60, with in value()) {
        let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
        for mut body in [
            json!({"model": "m", "max_tokens": 5, "system": [{"type": "text", "text": "s"}], "stream": true,
                "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "media_type": "a", "data": "b"}}]},
                    {"role": "assistant", "content": [{"type": "thinking", "thinking": "t", "signature": "backlot1.W10"}, {"type": "tool_use", "id": "i", "name": "n", "input": {}}]},
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "i", "content": [{"type": "text", "text": "x"}]}]}],
                "tools": [{"name": "n", "input_schema": schema}], "tool_choice": {"type": "tool", "name": "n"},
                "output_config": {"format": {"type": "json_schema", "schema": schema}}}),
            json!({"model": "m", "stream": true, "stream_options": {"include_usage": false}, "stop": ["a"],
                "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:a;base64,b"}}]},
                    {"role": "assistant", "content": "c", "tool_calls": [{"id": "i", "type": "function", "function": {"name": "n", "arguments": "{}"}}]},
                    {"role": "tool", "tool_call_id": "i", "content": [{"type": "text", "text": "x"}]}],
                "tools": [{"type": "function", "function": {"name": "n", "parameters": schema}}],
                "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}),
            json!({"model": "m", "reasoning": {"effort": "low"}, "text": {"format": {"type": "text"}},
                "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:a;base64,b"}]},
                    {"type": "reasoning", "summary": [{"text": "t"}], "encrypted_content": "backlot1.W10"},
                    {"type": "function_call", "call_id": "i", "name": "n", "arguments": "{"},
                    {"type": "function_call_output", "call_id": "i", "output": [{"type": "input_text", "text": "x"}]}],
                "tools": [{"type": "function", "name": "n", "parameters": schema}]}),
        ] {
            replace(&mut body, &mut at.clone(), &with);
            feed_everything(body.to_string().as_bytes(), 100);
        }
    }
}
