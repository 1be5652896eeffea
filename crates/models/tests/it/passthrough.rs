//! Requests passed on as they are.

use std::time::Duration;

use backlot_models::ErrorKind;
use backlot_models::http::http_client;
use backlot_models::passthrough::Upstream;
use backlot_models::wire::Wire;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use reqwest::Method;
use reqwest::header::HeaderMap;

use crate::http_server::{Server, Step, answer, stream_head};

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value"))).collect()
}

fn upstream(wire: Wire, server: &Server) -> Upstream {
    let client = http_client(None).expect("a client");
    let limit = Duration::from_millis(300);
    Upstream::new(wire, &format!("{}/base/", server.url()), "real-key", client).with_timeouts(limit, limit)
}

const SENT: &[(&str, &str)] = &[
    ("host", "gateway.internal"),
    ("x-api-key", "run-token"),
    ("authorization", "Bearer run-token"),
    ("cookie", "run-token"),
    ("accept-encoding", "gzip, br"),
    ("content-length", "999"),
    ("connection", "keep-alive, x-hop"),
    ("x-hop", "run-token"),
    ("x-forwarded-for", "10.1.2.3"),
    ("anthropic-version", "2023-06-01"),
    ("anthropic-beta", "tools-2024"),
    ("idempotency-key", "once"),
    ("x-stainless-lang", "python"),
    ("content-type", "application/json"),
];

#[tokio::test]
async fn credentials_are_swapped_and_the_rest_stays() {
    let reply = "content-type: application/json\r\nrequest-id: req_1\r\nset-cookie: a=b\r\nanthropic-organization-id: org\r\nretry-after: 3\r\n";
    for (wire, key) in [
        (Wire::AnthropicMessages, "x-api-key: real-key"),
        (Wire::OpenAiChat, "authorization: Bearer real-key"),
        (Wire::OpenAiResponses, "authorization: Bearer real-key"),
    ] {
        let server = Server::start(vec![answer("429 Too Many Requests", reply, "{\"a\": 1}")]).await;
        let body = Bytes::from_static(b"{\"model\": \"m\"}");
        let response = upstream(wire, &server)
            .forward(Method::POST, "/v1/messages?beta=true", &headers(SENT), body)
            .await
            .expect("an answer");
        assert_eq!(response.status, 429);
        let mut names: Vec<&str> = response.headers.keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "content-type", "request-id", "retry-after"]);
        let body: Vec<Bytes> = response.body.try_collect().await.expect("a body");
        assert_eq!(body.concat(), b"{\"a\": 1}");

        let request = &server.requests()[0];
        assert!(
            request.starts_with("POST /base/v1/messages?beta=true HTTP/1.1\r\n")
                && request.ends_with("\r\n\r\n{\"model\": \"m\"}")
        );
        for gone in ["run-token", "gateway.internal", "gzip", "999", "10.1.2.3", "x-hop"] {
            assert!(!request.contains(gone), "{gone}: {request}");
        }
        for kept in [
            key,
            "anthropic-beta: tools-2024",
            "idempotency-key: once",
            "x-stainless-lang: python",
            "accept-encoding: identity",
        ] {
            assert!(request.contains(kept), "{kept}: {request}");
        }
    }
}

#[tokio::test]
async fn streams_are_not_held_back_and_stalls_end() {
    let script = vec![stream_head(), Step::Send(b"data: 1\n\n".to_vec()), Step::Stall];
    let server = Server::start(vec![script]).await;
    let upstream = upstream(Wire::OpenAiChat, &server);
    let mut response = upstream.forward(Method::POST, "/x", &HeaderMap::new(), Bytes::new()).await.expect("an answer");
    assert!(response.is_event_stream());
    assert_eq!(response.body.next().await.expect("a piece").expect("bytes"), "data: 1\n\n");
    let error = response.body.next().await.expect("an end").expect_err("an error");
    assert_eq!(error.kind, ErrorKind::TimedOut);
    assert!(response.body.next().await.is_none());
}

#[tokio::test]
async fn no_answer_is_an_error_that_tells_no_address() {
    let server = Server::start(vec![vec![Step::Stall]]).await;
    let slow = upstream(Wire::OpenAiChat, &server);
    let error = slow.forward(Method::GET, "/models", &HeaderMap::new(), Bytes::new()).await.expect_err("an error");
    assert_eq!(error.kind, ErrorKind::TimedOut);
    drop(server);
    tokio::task::yield_now().await;
    let error = slow.forward(Method::GET, "/models", &HeaderMap::new(), Bytes::new()).await.expect_err("an error");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(!error.message.contains("127.0.0.1:") || !error.message.contains("http"), "{error}");
    assert!(!format!("{slow:?}").contains("real-key"));
}
