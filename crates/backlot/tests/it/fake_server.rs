//! A small HTTP server that answers as a test says and remembers what it was asked, and a way to run the client against it.
#![expect(clippy::disallowed_methods, reason = "programs get the environment they need")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Response, StatusCode};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

/// One request as the server got it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// `POST /castari/api/v1/agents`, without the query.
    pub(crate) line: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
    }
}

/// What a test answers with.
#[derive(Debug)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Body,
}

impl Answer {
    pub(crate) fn json(status: u16, value: &Value) -> Self {
        Self { status, headers: vec![("content-type", "application/json".into())], body: Body::from(value.to_string()) }
    }

    /// An event stream that ends after this text.
    pub(crate) fn events(text: &str) -> Self {
        Self {
            status: 200,
            headers: vec![("content-type", "text/event-stream".into())],
            body: Body::from(text.to_owned()),
        }
    }

    /// An event stream that says this much and then stays open without a word.
    pub(crate) fn events_then_silence(text: &str) -> Self {
        use futures::StreamExt as _;
        let first = futures::stream::iter([Ok::<_, std::io::Error>(text.to_owned())]);
        let body = Body::from_stream(first.chain(futures::stream::pending()));
        Self { status: 200, headers: vec![("content-type", "text/event-stream".into())], body }
    }

    pub(crate) fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::empty() }
    }

    pub(crate) fn text(status: u16, text: &str) -> Self {
        Self { status, headers: Vec::new(), body: Body::from(text.to_owned()) }
    }

    /// An answer whose connection breaks in the middle.
    pub(crate) fn broken() -> Self {
        let pieces: [Result<&str, std::io::Error>; 2] =
            [Ok("{\"invoc"), Err(std::io::ErrorKind::ConnectionReset.into())];
        Self { status: 200, headers: Vec::new(), body: Body::from_stream(futures::stream::iter(pieces)) }
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// The running server; it ends with the test's runtime.
#[derive(Debug)]
pub(crate) struct FakeServer {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl FakeServer {
    /// Starts it on a free port. `answer` returning None means 404.
    pub(crate) async fn start(answer: impl Fn(&Seen) -> Option<Answer> + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("address");
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (record, answer) = (Arc::clone(&seen), Arc::new(answer));
        let app = axum::Router::new().fallback(move |request: Request| {
            let (record, answer) = (Arc::clone(&record), Arc::clone(&answer));
            async move {
                let (parts, body) = request.into_parts();
                let one = Seen {
                    line: format!("{} {}", parts.method, parts.uri.path()),
                    query: parts.uri.query().unwrap_or("").to_owned(),
                    headers: parts.headers,
                    body: axum::body::to_bytes(body, 256 << 20).await.unwrap_or_default(),
                };
                record.lock().expect("lock").push(one.clone());
                let missing = || Answer::json(404, &serde_json::json!({"detail": "Not Found", "code": "not_found"}));
                let answer = answer(&one).unwrap_or_else(missing);
                let mut response = Response::new(answer.body);
                *response.status_mut() = StatusCode::from_u16(answer.status).expect("status");
                for (name, value) in answer.headers {
                    response.headers_mut().insert(name, value.parse().expect("header"));
                }
                response
            }
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, seen }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything asked so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("lock").clone()
    }

    /// The first request with this method and path.
    pub(crate) fn asked(&self, line: &str) -> Seen {
        let seen = self.seen();
        let lines: Vec<&str> = seen.iter().map(|s| s.line.as_str()).collect();
        seen.iter().find(|s| s.line == line).unwrap_or_else(|| panic!("no {line} among {lines:?}")).clone()
    }
}

/// A person at a machine: a home folder of their own, and the environment variables they set.
#[derive(Debug)]
pub(crate) struct Person {
    home: tempfile::TempDir,
    vars: Vec<(&'static str, String)>,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// Standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("no JSON ({e}): {self:?}"))
    }
}

impl Person {
    /// Somebody who never signed in.
    pub(crate) fn new() -> Self {
        Self { home: tempfile::tempdir().expect("temp dir"), vars: Vec::new() }
    }

    /// Somebody with a key for this server in their environment.
    pub(crate) fn with_key(server: &FakeServer) -> Self {
        Self::new().set("BACKLOT_URL", &server.url()).set("BACKLOT_API_KEY", "cast_testtest_secret")
    }

    pub(crate) fn set(mut self, name: &'static str, value: &str) -> Self {
        self.vars.push((name, value.to_owned()));
        self
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn credentials(&self) -> PathBuf {
        self.home().join(".config/backlot/credentials.json")
    }

    /// The command with this person's environment and nothing of ours.
    pub(crate) fn command(&self, args: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_backlot"));
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home())
            .env("TZ", "UTC")
            .current_dir(self.home())
            .kill_on_drop(true);
        for (name, value) in &self.vars {
            command.env(name, value);
        }
        command
    }

    pub(crate) async fn run(&self, args: &[&str]) -> Ended {
        self.run_with(args, "").await
    }

    /// Runs with this text on standard input, which is a pipe and no terminal.
    pub(crate) async fn run_with(&self, args: &[&str], stdin: &str) -> Ended {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut input = child.stdin.take().expect("stdin");
        // A command that does not read its input may be gone already.
        let _ = input.write_all(stdin.as_bytes()).await;
        drop(input);
        let output = child.wait_with_output().await.expect("the binary ends");
        Ended {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
