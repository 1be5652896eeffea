//! What all faces stand on: health, metrics, request ids, browsers, hosts, limits of connections.

use std::time::Duration;

use backlot_faces::{FacesSettings, http::ConnectionLimits};
use backlot_testkit::{Answer, Setup, TestServer};
use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_told_without_a_credential() {
    let (server, ada, anonymous) = TestServer::start().await;
    assert_eq!(anonymous.get("/healthz").await.status, 200);
    assert_eq!(anonymous.get("/readyz").await.body, json!({"status": "ready"}));
    assert_eq!(anonymous.get("/castari/health").await.body, json!({"status": "ok"}));
    ada.get("/castari/api/v1/agents/moon-base").await;
    ada.get("/castari/api/v1/nowhere/at/all").await;
    let metrics = anonymous.get("/metrics").await;
    assert!(metrics.header("content-type").starts_with("text/plain"));
    let text = metrics.body.as_str().unwrap();
    let line = r#"backlot_http_requests_total{face="castari",route="/castari/api/v1/agents/{slug}",method="GET",status="404"}"#;
    assert!(text.contains(line), "{text}");
    assert!(text.contains("backlot_http_request_duration_seconds_bucket"), "{text}");
    assert!(!text.contains("moon-base") && !text.contains("nowhere"), "addresses are no labels");
    server.readiness.drain();
    assert_eq!(anonymous.get("/readyz").await.status, 503);
    assert_eq!(anonymous.get("/healthz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_ids_are_repeated_or_made() {
    let (_server, ada, _) = TestServer::start().await;
    let with = async |id: &str| {
        let answer = Answer::to(ada.request(Method::GET, "/castari/api/v1/auth/me").header("X-Request-Id", id)).await;
        answer.header("x-request-id").to_owned()
    };
    assert_eq!(with("trace-1.a:b").await, "trace-1.a:b");
    for harmful in ["a b", "a\"b", &"x".repeat(200)] {
        let made = with(harmful).await;
        assert!(made.starts_with("req_") && made.len() == 30, "{made}");
    }
    for path in ["/healthz", "/castari/moon", "/caster/moon", "/moon", "/gateway/moon"] {
        assert!(!ada.get(path).await.header("x-request-id").is_empty(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browsers_are_let_in_from_the_origins_that_the_operator_names() {
    let faces = FacesSettings { cors_origins: vec!["https://app.example.org".into()], ..FacesSettings::default() };
    let (_server, ada, anonymous) = TestServer::with(Setup { faces, ..Setup::default() }).await;
    let preflight = async |origin: &str| {
        let request = anonymous
            .request(Method::OPTIONS, "/castari/api/v1/agents")
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "authorization,content-type");
        Answer::to(request).await
    };
    let allowed = preflight("https://app.example.org").await;
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example.org");
    assert!(allowed.header("access-control-allow-headers").contains("authorization"));
    assert_eq!(preflight("https://evil.example.org").await.header("access-control-allow-origin"), "");
    let request = ada.request(Method::GET, "/castari/api/v1/agents").header("Origin", "https://app.example.org");
    let exposed = Answer::to(request).await.header("access-control-expose-headers").to_owned();
    for name in ["x-ratelimit-remaining", "retry-after", "x-request-id"] {
        assert!(exposed.contains(name), "{exposed}");
    }
    let (_server, _, anonymous) = TestServer::start().await;
    let request = anonymous.request(Method::GET, "/healthz").header("Origin", "https://app.example.org");
    assert_eq!(Answer::to(request).await.header("access-control-allow-origin"), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_face_with_a_host_of_its_own_begins_at_the_root() {
    let faces = FacesSettings { castari_host: Some("api.example.com".into()), ..FacesSettings::default() };
    let (_server, ada, anonymous) = TestServer::with(Setup { faces, ..Setup::default() }).await;
    let at =
        async |host: &str, path: &str| Answer::to(ada.request(Method::GET, path).header("Host", host)).await.status;
    assert_eq!(at("api.example.com", "/api/v1/agents").await, 200);
    assert_eq!(at("API.example.com:8080", "/castari/api/v1/agents").await, 200);
    assert_eq!(at("other.example.com", "/api/v1/agents").await, 404);
    assert_eq!(anonymous.get("/healthz").await.status, 200);
}

/// A listener with tight limits before a router that answers everything.
async fn tight(limits: ConnectionLimits) -> (TcpStream, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().fallback(|| async { "ok" });
    let server = tokio::spawn(backlot_faces::http::serve(listener, router, limits, std::future::pending()));
    (TcpStream::connect(address).await.unwrap(), server)
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let limits = ConnectionLimits { head_timeout: Duration::from_millis(200), ..ConnectionLimits::default() };
    let (mut stream, server) = tight(limits).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer))
        .await
        .expect("it is closed")
        .unwrap();
    assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
    server.abort();
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let (mut stream, server) = tight(ConnectionLimits { head_bytes: 8192, ..ConnectionLimits::default() }).await;
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Large: {}\r\n\r\n", "x".repeat(20_000));
    let _may_be_reset = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _may_be_reset = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    server.abort();
}
