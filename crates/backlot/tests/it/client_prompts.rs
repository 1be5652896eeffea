//! Prompts at a terminal: a pseudo-terminal plays the person's screen and keyboard.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::pty::{OpenptyResult, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};
use serde_json::json;

use crate::fake_server::{Answer, FakeServer, Person};

/// A terminal of which we hold the far end.
struct Screen {
    keyboard: File,
    near: File,
    shown: Arc<Mutex<String>>,
}

impl Screen {
    fn new() -> Self {
        let size = nix::pty::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(Some(&size), None).expect("pseudo-terminal");
        let keyboard = File::from(master);
        let mut output = keyboard.try_clone().expect("clone");
        let shown: Arc<Mutex<String>> = Arc::default();
        let record = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = output.read(&mut buffer) {
                if count == 0 {
                    break;
                }
                record.lock().expect("lock").push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self { keyboard, near: File::from(slave), shown }
    }

    fn end(&self) -> Stdio {
        Stdio::from(self.near.try_clone().expect("clone"))
    }

    fn shown(&self) -> String {
        self.shown.lock().expect("lock").clone()
    }

    /// Waits until the screen shows a text.
    async fn wait_for(&self, text: &str) {
        let start = Instant::now();
        while !self.shown().contains(text) {
            assert!(start.elapsed() < Duration::from_secs(30), "{text} is not shown: {}", self.shown());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("type");
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.near).expect("attributes").local_flags.contains(LocalFlags::ECHO | LocalFlags::ICANON)
    }
}

async fn secret_server() -> FakeServer {
    FakeServer::start(|seen| {
        (seen.line == "POST /castari/api/v1/agents/a/secrets").then(|| Answer::json(201, &json!({"key": "K"})))
    })
    .await
}

#[tokio::test]
async fn a_secret_is_asked_for_without_echo() {
    let server = secret_server().await;
    let ada = Person::with_key(&server);
    let mut screen = Screen::new();
    let mut child = ada
        .command(&["secrets", "set", "a", "K"])
        .stdin(screen.end())
        .stdout(Stdio::null())
        .stderr(screen.end())
        .spawn()
        .expect("start");
    screen.wait_for("Value of K").await;
    screen.type_in("hunter2\r");
    let status = child.wait().await.expect("end");
    assert_eq!(status.code(), Some(0), "{}", screen.shown());
    assert_eq!(server.seen()[0].json(), json!({"key": "K", "value": "hunter2"}));
    assert!(!screen.shown().contains("hunter2"), "{}", screen.shown());
    assert!(screen.echoes(), "the terminal is as it was");
}

#[tokio::test]
async fn ctrl_c_at_a_prompt_is_130_and_restores_the_terminal() {
    let server = secret_server().await;
    let ada = Person::with_key(&server);
    let mut screen = Screen::new();
    let mut child = ada
        .command(&["secrets", "set", "a", "K"])
        .stdin(screen.end())
        .stdout(Stdio::null())
        .stderr(screen.end())
        .spawn()
        .expect("start");
    screen.wait_for("Value of K").await;
    screen.type_in("hun\u{3}");
    let status = child.wait().await.expect("end");
    assert_eq!(status.code(), Some(130), "{}", screen.shown());
    assert!(screen.echoes(), "the terminal is as it was");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn an_interrupt_while_waiting_is_130_and_shows_the_cursor() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("port");
    let url = format!("http://{}", silent.local_addr().expect("address"));
    let ada = Person::new().set("BACKLOT_URL", &url).set("BACKLOT_API_KEY", "cast_a_b").set("TERM", "xterm");
    let screen = Screen::new();
    let mut child = ada
        .command(&["invoke", "helper", "x"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(screen.end())
        .spawn()
        .expect("start");
    screen.wait_for("running helper").await;
    let id = i32::try_from(child.id().expect("id")).expect("id");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGINT).expect("signal");
    let status = child.wait().await.expect("end");
    assert_eq!(status.code(), Some(130), "{}", screen.shown());
    screen.wait_for("\u{1b}[?25h").await;
}

#[tokio::test]
async fn a_question_is_answered_with_no_by_default() {
    let server = FakeServer::start(|seen| {
        (seen.line == "GET /castari/api/v1/agents/a")
            .then(|| Answer::json(200, &json!({"slug": "a", "status": "active"})))
    })
    .await;
    let ada = Person::with_key(&server);
    let mut screen = Screen::new();
    let mut child = ada
        .command(&["agents", "delete", "a"])
        .stdin(screen.end())
        .stdout(Stdio::null())
        .stderr(screen.end())
        .spawn()
        .expect("start");
    screen.wait_for("Delete a with its secrets").await;
    screen.type_in("\r");
    assert_eq!(child.wait().await.expect("end").code(), Some(1), "{}", screen.shown());
    assert!(server.seen().iter().all(|s| s.line.starts_with("GET")), "nothing was deleted");
}
