//! What the server side of a format writes, its client side reads back unchanged.

use backlot_models::answer::AnswerBuilder;
use backlot_models::wire::{Head, Wire};
use backlot_models::{Answer, Block, Error, ErrorKind, Event, StopReason, Usage};
use proptest::prelude::*;
use serde_json::json;

use crate::{WIRES, decode, request_for};

fn piece() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{1,20}", "\\PC{1,10}", Just("line\nbreak\r\n\"\\u0041\" data: [DONE]\n\n".to_owned())]
}

fn pieces() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(piece(), 1..4)
}

fn arguments() -> impl Strategy<Value = Vec<String>> {
    prop_oneof![
        Just(vec!["{}".to_owned()]),
        Just(vec!["{\"a".to_owned(), "\":[1,{\"b\":".to_owned(), "\"ü\\n\"}]}".to_owned()]),
    ]
}

/// Reasoning with the proofs that can come with it: none, Anthropic's, a redacted block, another format's item.
fn thinking() -> impl Strategy<Value = Vec<Event>> {
    (pieces(), 0..4).prop_map(|(pieces, proof)| {
        let text = pieces.concat();
        let (signature, raw, shown) = match proof {
            0 => (None, None, true),
            1 => {
                let raw = json!({"type": "thinking", "thinking": text, "signature": "sig+/="});
                (Some("sig+/=".to_owned()), Some(raw), true)
            }
            2 => (None, Some(json!({"type": "redacted_thinking", "data": "ZGF0YQ=="})), false),
            _ => {
                let summary = json!([{"type": "summary_text", "text": text}]);
                let raw = json!({"id": "rs_1", "type": "reasoning", "summary": summary, "encrypted_content": "gAAA"});
                (None, Some(raw), true)
            }
        };
        let mut events = Vec::new();
        if shown {
            events.extend(pieces.into_iter().map(|delta| Event::Thinking { delta }));
        }
        events.push(Event::ThinkingDone { signature, raw });
        events
    })
}

fn text() -> impl Strategy<Value = Vec<Event>> {
    pieces().prop_map(|pieces| pieces.into_iter().map(|delta| Event::Text { delta }).collect())
}

fn call() -> impl Strategy<Value = Vec<Event>> {
    ("[a-zA-Z_]{1,12}", arguments()).prop_map(|(name, deltas)| {
        let id = String::new(); // given later, so that it is unique
        let mut events = vec![Event::ToolCall { id: id.clone(), name }];
        events.extend(deltas.into_iter().map(|delta| Event::ToolArguments { id: id.clone(), delta }));
        events.push(Event::ToolCallDone { id });
        events
    })
}

prop_compose! {
    fn usage()(input in 0u64..1 << 30, output in 0u64..1 << 30, cache_read in 0u64..1 << 30, cache_write_5m in 0u64..1000,
               cache_write_1h in 0u64..1000, share in 0u64..=2) -> Usage {
        Usage { input, output, cache_read, cache_write_5m, cache_write_1h, reasoning: output * share / 2 }
    }
}

/// An answer in the order that all formats can say: reasoning, text, calls.
fn answer() -> impl Strategy<Value = Vec<Event>> {
    let thoughts = prop::option::of(thinking());
    let calls = prop::collection::vec(call(), 0..3);
    (thoughts, prop::option::of(text()), calls, usage(), any::<bool>()).prop_map(
        |(thoughts, text, calls, usage, cut)| {
            let called = !calls.is_empty();
            let mut events = vec![Event::Started {
                id: "msg_1".into(),
                model: "a-model".into(),
                usage: Usage { output: 0, reasoning: 0, ..usage },
            }];
            events.extend(thoughts.into_iter().flatten());
            events.extend(text.into_iter().flatten());
            for (number, mut call) in calls.into_iter().enumerate() {
                for event in &mut call {
                    if let Event::ToolCall { id, .. } | Event::ToolArguments { id, .. } | Event::ToolCallDone { id } =
                        event
                    {
                        *id = format!("call_{number}");
                    }
                }
                events.extend(call);
            }
            let stop = match (cut, called) {
                (true, _) => StopReason::MaxTokens,
                (false, true) => StopReason::ToolUse,
                (false, false) => StopReason::EndTurn,
            };
            events.push(Event::Done { stop, usage });
            events
        },
    )
}

fn encode(wire: Wire, events: &[Event]) -> Vec<u8> {
    let mut encoder = wire.encoder(Head { created: 1_700_000_000, include_usage: true });
    let mut bytes = Vec::new();
    for event in events {
        encoder.event(event, &mut bytes);
    }
    bytes
}

fn collect(events: &[Event]) -> Answer {
    let mut builder = AnswerBuilder::default();
    for event in events {
        builder.push(event).expect("a small answer");
    }
    builder.finish().expect("a complete answer")
}

/// Chat Completions has no place for proofs, nor for reasoning that is not shown, and tells no usage at the start.
fn as_far_as(wire: Wire, events: &[Event]) -> Vec<Event> {
    let mut events = events.to_vec();
    if wire == Wire::OpenAiChat {
        events.retain(
            |event| !matches!(event, Event::ThinkingDone { raw: Some(raw), .. } if raw["type"] == "redacted_thinking"),
        );
    }
    for event in &mut events {
        match (wire, event) {
            (Wire::OpenAiChat, Event::ThinkingDone { signature, raw }) => (*signature, *raw) = (None, None),
            (Wire::OpenAiChat | Wire::OpenAiResponses, Event::Started { usage, .. }) => *usage = Usage::default(),
            _ => {}
        }
    }
    events
}

proptest! {
    #[test]
    fn streams(events in answer(), cut in any::<prop::sample::Index>()) {
        for wire in WIRES {
            let bytes = encode(wire, &events);
            let (left, right) = bytes.split_at(cut.index(bytes.len()));
            let (decoded, outcome) = decode(wire, [left, right], &request_for("a-model"));
            prop_assert!(outcome.is_ok(), "{wire:?}: {outcome:?}");
            prop_assert_eq!(decoded, as_far_as(wire, &events), "{:?}", wire);
        }
    }

    #[test]
    fn whole_answers(events in answer()) {
        for wire in WIRES {
            let answer = collect(&as_far_as(wire, &events));
            let body = wire.encode_answer(&answer, &Head::default()).to_string();
            let decoded = wire.decode_answer(body.as_bytes(), &request_for("a-model")).expect("an answer");
            let mut decoded = collect(&decoded);
            for block in &mut decoded.content {
                if let Block::ToolCall { arguments, .. } = block {
                    // Anthropic's format carries them as values, so that their spelling may change.
                    let value: serde_json::Value = serde_json::from_str(arguments).expect("JSON");
                    *arguments = if wire == Wire::AnthropicMessages { value.to_string() } else { arguments.clone() };
                }
            }
            prop_assert_eq!(&decoded, &answer, "{:?}", wire);
        }
    }

    #[test]
    fn metering_agrees_with_what_was_encoded(events in answer()) {
        let Some(Event::Done { usage, .. }) = events.last() else { unreachable!("answers end") };
        for wire in WIRES {
            let mut reader = backlot_models::metering::UsageReader::for_wire(wire, true);
            reader.feed(&encode(wire, &events));
            let metered = reader.finish();
            prop_assert_eq!(metered.usage, *usage, "{:?}", wire);
            prop_assert!(metered.complete && !metered.estimated);
        }
    }
}

#[test]
fn errors_inside_streams() {
    for wire in WIRES {
        for kind in [ErrorKind::RateLimited, ErrorKind::Unavailable] {
            let mut bytes = encode(wire, &[Event::Text { delta: "half".into() }]);
            wire.encoder(Head::default()).error(&Error::new(kind, "no \"more\""), &mut bytes);
            let (events, outcome) = decode(wire, [bytes.as_slice()], &request_for("m"));
            assert_eq!(events.last(), Some(&Event::Text { delta: "half".into() }));
            let error = outcome.expect_err("an error");
            assert_eq!((error.kind, error.message.as_str()), (kind, "no \"more\""), "{wire:?}");
        }
    }
}

#[test]
fn error_bodies() {
    let kinds = [
        ErrorKind::Invalid,
        ErrorKind::Authentication,
        ErrorKind::NotFound,
        ErrorKind::RateLimited,
        ErrorKind::Unavailable,
        ErrorKind::TimedOut,
    ];
    for wire in WIRES {
        for kind in kinds {
            let (status, body) = wire.encode_error(&Error::new(kind, "because"), Some("model"));
            let error = wire.decode_error(status, body.to_string().as_bytes());
            assert_eq!((error.kind, error.message.as_str(), error.status), (kind, "because", Some(status)), "{wire:?}");
        }
    }
}
