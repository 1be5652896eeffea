//! The scripted model, asked by our own providers: each turn arrives as it was scripted, in every format.

use std::time::Duration;

use backlot_models::http::http_client;
use backlot_models::providers::{Anthropic, Compatible, OpenAiChat, OpenAiResponses, Timeouts};
use backlot_models::{Answer, Block, Error, ErrorKind, Message, Model, Request, Role, StopReason, Tool, Usage};
use backlot_testkit::scripted_model::{ScriptedModel, Turn};
use futures::StreamExt as _;
use serde_json::json;

const TIMEOUTS: Timeouts = Timeouts { first_event: Duration::from_millis(500), idle: Duration::from_millis(500) };

fn providers(server: &ScriptedModel) -> Vec<Box<dyn Model>> {
    let client = http_client(None).expect("a client");
    let (anthropic, openai) = (server.anthropic_url(), server.openai_url());
    vec![
        Box::new(Anthropic::new(&anthropic, "key", client.clone()).with_timeouts(TIMEOUTS)),
        Box::new(OpenAiChat::new(&openai, "key", client.clone()).with_timeouts(TIMEOUTS)),
        Box::new(OpenAiResponses::new(&openai, "key", client.clone()).with_timeouts(TIMEOUTS)),
        Box::new(Compatible::new(&openai, "key", client).with_timeouts(TIMEOUTS)),
    ]
}

fn ask(text: &str) -> Request {
    let content = vec![Block::Text { text: text.to_owned() }];
    let tool =
        Tool { name: "look".into(), description: None, input_schema: json!({"type": "object", "properties": {}}) };
    let messages = vec![Message { role: Role::User, content }];
    Request { model: "scripted-1".into(), messages, tools: vec![tool], ..Request::default() }
}

async fn call(model: &dyn Model, request: Request) -> Result<Answer, Error> {
    Answer::collect(model.call(request).await?).await
}

#[tokio::test]
async fn a_conversation_with_tools() {
    let server = ScriptedModel::start().await;
    let usage = Usage { input: 12, output: 7, cache_read: 100, cache_write_5m: 5, cache_write_1h: 3, reasoning: 2 };
    for (number, model) in providers(&server).iter().enumerate() {
        let calls =
            Turn::new().think("Which?").say_pieces(["Let me ", "look."]).tool_call("call_a", "look", r#"{"at":"é"}"#);
        server.script([calls.tool_call("call_b", "look", "{}").usage(usage), Turn::text("Seen.")]);
        let mut request = ask("What is there?");
        let answer = call(&**model, request.clone()).await.expect("an answer");
        assert_eq!((answer.text().as_str(), &answer.stop, answer.usage), ("Let me look.", &StopReason::ToolUse, usage));
        assert_eq!(answer.content.len(), 4);
        request.messages.push(Message { role: Role::Assistant, content: answer.content });
        let result = |id: &str| Block::ToolResult {
            id: id.into(),
            content: vec![Block::Text { text: "a set".into() }],
            is_error: false,
        };
        request.messages.push(Message { role: Role::User, content: vec![result("call_a"), result("call_b")] });
        let answer = call(&**model, request).await.expect("an answer");
        assert_eq!((answer.text().as_str(), answer.stop), ("Seen.", StopReason::EndTurn));
        assert_eq!(server.violations(), [""; 0]);
        let requests = server.requests();
        assert_eq!(requests.len(), 2 * (number + 1));
        let last = requests.last().and_then(|recorded| recorded.request.as_ref()).expect("understood");
        assert!(
            last.messages
                .iter()
                .any(|message| matches!(&message.content[..], [Block::ToolResult { .. }, Block::ToolResult { .. }]))
        );
        assert_eq!(requests[0].key(), Some("key"));
    }
    // Reasoning came back with its proof where the format has a place for it.
    assert!(server.requests()[1].json().to_string().contains("c2lnbmVkIGJ5IHRoZSBzY3JpcHQ="));
}

#[tokio::test]
async fn requests_that_no_provider_takes_are_refused() {
    let server = ScriptedModel::start().await;
    for model in providers(&server) {
        let mut request = ask("x");
        let result = Block::ToolResult { id: "call_never".into(), content: vec![], is_error: false };
        request.messages.push(Message { role: Role::User, content: vec![result] });
        let error = call(&*model, request).await.expect_err("an error");
        assert_eq!((error.kind, error.status), (ErrorKind::Invalid, Some(400)));
        assert!(error.message.contains("call_never"), "{error}");

        let mut request = ask("x");
        let unanswered = Block::ToolCall { id: "call_lost".into(), name: "look".into(), arguments: "{}".into() };
        request.messages.push(Message { role: Role::Assistant, content: vec![unanswered] });
        let error = call(&*model, request).await.expect_err("an error");
        assert!(error.message.contains("call_lost"), "{error}");
    }
    assert_eq!(server.violations().len(), 8);
    server.require_key("another");
    for model in providers(&server) {
        assert_eq!(call(&*model, ask("x")).await.expect_err("an error").kind, ErrorKind::Authentication);
    }
}

#[tokio::test]
async fn faults_as_scripted() {
    let server = ScriptedModel::start().await;
    for model in providers(&server) {
        server.push(Turn::fail(429, "slow down").retry_after("3"));
        let error = call(&*model, ask("x")).await.expect_err("an error");
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::RateLimited, "slow down"));
        assert_eq!(error.retry_after, Some(Duration::from_secs(3)));

        for (turn, kind) in [
            (Turn::text("Half").cut(), ErrorKind::Unavailable),
            (Turn::text("Half").stall(), ErrorKind::TimedOut),
            (Turn::text("Half").then_fail(503, "gone"), ErrorKind::Unavailable),
        ] {
            server.push(turn);
            let mut stream = model.call(ask("x")).await.expect("a stream");
            let mut events = Vec::new();
            while let Some(event) = stream.next().await {
                events.push(event);
            }
            assert_eq!(events.pop().expect("an end").expect_err("an error").kind, kind);
            assert_eq!(events.len(), 2, "{events:?}");
        }
        server.push(Turn::raw(200, "text/event-stream", [bytes::Bytes::from_static(b"data: {\"oops\"\n\n")]));
        assert_eq!(call(&*model, ask("x")).await.expect_err("an error").kind, ErrorKind::Protocol);
        assert_eq!(server.turns_left(), 0);
    }
}

#[tokio::test]
async fn without_a_script_it_echoes() {
    let server = ScriptedModel::start().await;
    for model in providers(&server) {
        let answer = call(&*model, ask("good evening")).await.expect("an answer");
        assert_eq!(answer.text(), "echo: good evening");
        assert_eq!((answer.usage.input, answer.usage.output), (2, 3));
        let answer = call(&*model, ask("/tool look {\"at\":1}")).await.expect("an answer");
        assert_eq!(answer.stop, StopReason::ToolUse);
    }
}
