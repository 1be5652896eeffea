//! Providers over real HTTP, good and bad.

use std::sync::Mutex;
use std::time::Duration;

use backlot_models::http::http_client;
use backlot_models::providers::{Anthropic, Compatible, OpenAiChat, OpenAiResponses, Timeouts};
use backlot_models::retry::{Attempt, Policy, call_with_retries};
use backlot_models::{Answer, Error, ErrorKind, Message, Model, Request, Role, StopReason};
use futures::StreamExt as _;

use crate::http_server::{Server, Step, answer, stream_head};
use crate::request_for;

const TEXT: &str = include_str!("recorded/anthropic_text.sse");

fn client() -> reqwest::Client {
    http_client(None).expect("a client")
}

fn hello() -> Request {
    let content = vec![backlot_models::Block::Text { text: "Hello".into() }];
    Request { messages: vec![Message { role: Role::User, content }], ..request_for("a-model") }
}

fn anthropic(server: &Server) -> Anthropic {
    let timeouts = Timeouts { first_event: Duration::from_millis(300), idle: Duration::from_millis(300) };
    Anthropic::new(&server.url(), "sk-ant-test-0123456789", client()).with_timeouts(timeouts)
}

async fn ask(model: &dyn Model) -> Result<Answer, Error> {
    Answer::collect(model.call(hello()).await?).await
}

fn whole(body: &str) -> Vec<Step> {
    vec![stream_head(), Step::Send(body.as_bytes().to_vec())]
}

#[tokio::test]
async fn each_provider_asks_in_its_way() {
    let chat = include_str!("recorded/chat_text.sse");
    let responses = include_str!("recorded/responses_text.sse");
    for (body, path, header, text, which) in [
        (TEXT, "POST /v1/messages ", "x-api-key: the-key", "Grüße from the \"set\" 🎬", 0),
        (chat, "POST /v1/chat/completions ", "authorization: Bearer the-key", "Hello \"there\" \\ 🎭", 1),
        (responses, "POST /v1/responses ", "authorization: Bearer the-key", "Hi there!", 2),
        (chat, "POST /v1/chat/completions ", "authorization: Bearer the-key", "Hello \"there\" \\ 🎭", 3),
    ] {
        let server = Server::start(vec![whole(body)]).await;
        let base = format!("{}/v1/", server.url());
        let model: Box<dyn Model> = match which {
            0 => Box::new(Anthropic::new(&server.url(), "the-key", client())),
            1 => Box::new(OpenAiChat::new(&base, "the-key", client())),
            2 => Box::new(OpenAiResponses::new(&base, "the-key", client())),
            _ => Box::new(Compatible::new(&base, "the-key", client())),
        };
        let answer = ask(&*model).await.expect("an answer");
        assert_eq!((answer.text().as_str(), answer.stop), (text, StopReason::EndTurn));
        let requests = server.requests();
        assert!(requests[0].starts_with(path) && requests[0].contains(header), "{}", requests[0]);
        assert!(requests[0].contains("\"stream\":true"));
    }
}

#[tokio::test]
async fn a_server_that_does_not_stream_is_understood() {
    let server = Server::start(vec![answer(
        "200 OK",
        "content-type: application/json\r\n",
        include_str!("recorded/chat_answer.json"),
    )])
    .await;
    let answer = ask(&Compatible::new(&server.url(), "", client())).await.expect("an answer");
    assert_eq!(answer.stop, StopReason::ToolUse);
    assert!(!server.requests()[0].contains("authorization"));
}

#[tokio::test]
async fn pieces_arrive_as_they_are_sent() {
    let (first, rest) = TEXT.split_at(TEXT.find("event: content_block_stop").expect("there"));
    // The rest never comes; what came before must not wait for it.
    let server = Server::start(vec![vec![stream_head(), Step::Send(first.into()), Step::Stall]]).await;
    let mut stream = anthropic(&server).call(hello()).await.expect("a stream");
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event);
    }
    assert!(!rest.is_empty());
    assert_eq!(events.iter().filter(|event| event.is_ok()).count(), 3);
    let error = events.pop().expect("a last one").expect_err("an error");
    assert_eq!(error.kind, ErrorKind::TimedOut);
    assert!(error.message.contains("stopped in the middle of its answer"), "{error}");
}

#[tokio::test]
async fn what_goes_wrong_before_the_first_event_fails_the_call() {
    let overloaded = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
    let limited = "{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"slow down, sk-ant-test-0123456789\"}}";
    let bad = "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"prompt is too long: 9 tokens > 8 maximum\"}}";
    for (script, kind, status, message) in [
        (vec![Step::Stall], ErrorKind::TimedOut, None, "did not begin to answer"),
        (vec![stream_head(), Step::Stall], ErrorKind::TimedOut, None, "did not begin to answer"),
        (vec![], ErrorKind::Unavailable, None, "failed"),
        (vec![stream_head()], ErrorKind::Protocol, None, "ended before the answer was complete"),
        (vec![Step::Send(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())], ErrorKind::Unavailable, None, "failed"),
        (vec![stream_head(), Step::Send(b"data: <html>\n\n".to_vec())], ErrorKind::Protocol, None, "not JSON"),
        (whole(overloaded), ErrorKind::Unavailable, None, "Overloaded"),
        (
            answer("429 Too Many Requests", "retry-after: 7\r\n", limited),
            ErrorKind::RateLimited,
            Some(429),
            "slow down, [key]",
        ),
        (answer("400 Bad Request", "", bad), ErrorKind::ContextOverflow, Some(400), "prompt is too long"),
        (answer("529 Site is overloaded", "", "<html>busy</html>"), ErrorKind::Unavailable, Some(529), "status 529"),
        (
            answer("307 Temporary Redirect", "location: http://example.com/\r\n", ""),
            ErrorKind::Protocol,
            Some(307),
            "status 307",
        ),
        (answer("401 Unauthorized", "", ""), ErrorKind::Authentication, Some(401), "status 401"),
    ] {
        let server = Server::start(vec![script]).await;
        let error = ask(&anthropic(&server)).await.expect_err("an error");
        assert_eq!((error.kind, error.status), (kind, status), "{error}");
        assert!(error.message.contains(message), "{error}");
        assert!(!error.message.contains("0123456789") && !error.message.contains("http://"), "{error}");
        assert_eq!(error.retry_after, (status == Some(429)).then(|| Duration::from_secs(7)));
    }
}

#[tokio::test]
async fn nobody_there() {
    let server = Server::start(vec![vec![]]).await;
    let model = anthropic(&server);
    drop(server);
    tokio::task::yield_now().await;
    let error = ask(&model).await.expect_err("an error");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    let error = ask(&Anthropic::new("not an address", "", client())).await.expect_err("an error");
    assert_eq!(error.kind, ErrorKind::Invalid);
}

#[tokio::test]
async fn a_cut_connection_is_an_error_after_what_came() {
    let half = &TEXT[..TEXT.find("event: content_block_stop").expect("there")];
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("{head}{:x}\r\n{half}\r\n", half.len());
    let server = Server::start(vec![vec![Step::Send(chunk.into_bytes())]]).await;
    let mut stream = anthropic(&server).call(hello()).await.expect("a stream");
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event);
    }
    let error = events.pop().expect("a last one").expect_err("an error");
    assert_eq!(events.len(), 3);
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn retries_wait_as_asked_are_told_and_end_with_success() {
    let busy = |wait: &str| answer("429 Too Many Requests", &format!("retry-after: {wait}\r\n"), "{}");
    let server = Server::start(vec![busy("20"), vec![], busy("0.25"), whole(TEXT)]).await;
    let attempts = Mutex::new(Vec::new());
    let sleep = |attempt: Attempt| {
        attempts.lock().expect("no panic").push(attempt);
        std::future::ready(())
    };
    let model = anthropic(&server);
    let stream = call_with_retries(&model, hello(), Policy::default(), sleep).await.expect("a stream");
    assert_eq!(Answer::collect(stream).await.expect("an answer").usage.output, 15);
    assert_eq!(server.requests().len(), 4);
    let attempts = attempts.into_inner().expect("no panic");
    let told: Vec<_> = attempts.iter().map(|attempt| (attempt.number, attempt.error.kind)).collect();
    assert_eq!(told, [(1, ErrorKind::RateLimited), (2, ErrorKind::Unavailable), (3, ErrorKind::RateLimited)]);
    assert!(attempts[0].wait >= Duration::from_secs(20) && attempts[2].wait >= Duration::from_millis(250));
}

#[tokio::test]
async fn retries_end() {
    let failing = answer("500 Internal Server Error", "", "{}");
    for (script, policy, calls) in [
        (failing.clone(), Policy { attempts: 3, ..Policy::default() }, 3),
        (failing, Policy { attempts: 0, ..Policy::default() }, 1),
        (answer("429 Too Many Requests", "retry-after: 3600\r\n", "{}"), Policy::default(), 1),
        (answer("400 Bad Request", "", "{}"), Policy::default(), 1),
    ] {
        let server = Server::start(vec![script]).await;
        let outcome = call_with_retries(&anthropic(&server), hello(), policy, |_| std::future::ready(())).await;
        assert!(outcome.is_err());
        assert_eq!(server.requests().len(), calls);
    }
}
