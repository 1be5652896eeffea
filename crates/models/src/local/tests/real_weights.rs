//! SmolLM2 itself, where its weights are: `BACKLOT_TEST_MODEL`, or `~/.cache/backlot/models`, where
//! `cargo run -p backlot-models --example local_chat` puts them.

use std::path::PathBuf;

use futures::StreamExt;

use crate::local::gguf::Gguf;
use crate::local::vocabulary::Vocabulary;
use crate::local::{LocalModel, Options, catalog, prompt};
use crate::{Block, Event, Message, Model, Request, Role, StopReason};

#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
#[expect(clippy::disallowed_methods, reason = "who runs the tests says where the weights are")]
fn weights() -> Option<PathBuf> {
    let path = match std::env::var_os("BACKLOT_TEST_MODEL") {
        Some(path) => PathBuf::from(path),
        None => catalog::entries()[0].path_in(&std::env::home_dir()?.join(".cache/backlot/models")),
    };
    if path.is_file() {
        return Some(path);
    }
    eprintln!(
        "SKIPPED: no weights at {}. Fetch them with `cargo run -p backlot-models --example local_chat`, or name \
         them in BACKLOT_TEST_MODEL",
        path.display()
    );
    None
}

fn question(text: &str) -> Request {
    let content = vec![Block::Text { text: text.into() }];
    Request { messages: vec![Message { role: Role::User, content }], ..Request::default() }
}

/// Tokens as llama.cpp makes them of the same prompts.
#[test]
fn tokens_are_those_of_the_reference() {
    let Some(path) = weights() else { return };
    let vocabulary = Vocabulary::load(&Gguf::open(&path).unwrap(), None).unwrap();
    let prompt = prompt::tokens(&question("What is the capital of France?"), &vocabulary).unwrap();
    assert_eq!(
        prompt,
        [
            1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182,
            2, 198, 1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198
        ]
    );
    let cases: [(&str, &[u32]); 3] = [
        (
            "Grüße aus Köln, 日本語 🎉 and 12345 tokens\n\n  indented\tcode();",
            &[
                27302, 7170, 34878, 85, 253, 376, 659, 7466, 34115, 28, 17097, 241, 115, 40993, 179, 120, 248, 15107,
                232, 227, 284, 216, 33, 34, 35, 36, 37, 17837, 8866, 641, 6574, 197, 4635, 35040,
            ],
        ),
        (
            "It's 3:45pm — don't  panic!\r\n1,000.50€",
            &[
                1589, 506, 216, 35, 42, 36, 37, 11043, 1841, 1326, 982, 216, 14455, 17, 2738, 33, 28, 32, 32, 32, 30,
                37, 32, 14195,
            ],
        ),
        ("<|im_start|>user\n", &[1, 4093, 198]),
    ];
    for (text, expected) in cases {
        assert_eq!(vocabulary.encode(text).unwrap(), expected, "{text}");
        if !text.contains("<|") {
            let bytes: Vec<u8> = expected.iter().flat_map(|token| vocabulary.bytes(*token)).collect();
            assert_eq!(String::from_utf8(bytes).unwrap(), text);
        }
    }
}

#[tokio::test]
async fn it_knows_the_capital_of_france_and_stops_by_itself() {
    let Some(path) = weights() else { return };
    let model = LocalModel::load(&path, "smollm2", Options { seed: Some(1), ..Options::default() }).unwrap();
    let request = Request {
        system: Some("Answer in one short sentence.".into()),
        temperature: Some(0.0),
        max_tokens: Some(60),
        ..question("Which city is the capital of France?")
    };
    let tokens = model.count_tokens(&request).await.unwrap();
    let mut events = model.call(request).await.unwrap();
    let mut text = String::new();
    while let Some(event) = events.next().await {
        match event.unwrap() {
            Event::Started { usage, .. } => assert_eq!(usage.input, tokens),
            Event::Text { delta } => text.push_str(&delta),
            Event::Done { stop, usage } => {
                assert_eq!(stop, StopReason::EndTurn, "{text}");
                assert!((2..60).contains(&usage.output));
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    assert!(text.contains("Paris"), "{text}");
}
