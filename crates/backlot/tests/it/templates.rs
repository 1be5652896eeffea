//! The templates of `backlot init`, run as the platform runs them: prompt on standard input, answer on standard
//! output, the model behind the usual variables. The model is scripted and speaks the real wire formats.
#![expect(clippy::disallowed_methods, reason = "programs get the environment they need, files a time of their own")]

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::fake_server::{Answer, FakeServer, Person, Seen};

const ANTHROPIC: &str = "POST /anthropic/v1/messages";
const OPENAI: &str = "POST /openai/v1/chat/completions";

/// Makes an agent of a template and gives its folder.
async fn init(person: &Person, template: &str) -> PathBuf {
    let ended = person.run(&["init", "my-agent", "--template", template, "--no-install"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    person.home().join("my-agent")
}

struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs a program of the template with the variables that a sandbox has.
async fn run(folder: &Path, program: &[&str], server: &FakeServer, session: Option<&str>, prompt: &str) -> Run {
    let more: Vec<(&str, String)> = session.map(|s| ("CASTARI_SESSION_ID", s.to_owned())).into_iter().collect();
    run_with(folder, program, server, &more, prompt).await
}

async fn run_with(folder: &Path, program: &[&str], server: &FakeServer, more: &[(&str, String)], prompt: &str) -> Run {
    let mut command = tokio::process::Command::new(program[0]);
    command
        .args(&program[1..])
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder)
        .env("ANTHROPIC_BASE_URL", format!("{}/anthropic", server.url()))
        .env("ANTHROPIC_API_KEY", "run-token")
        .env("ANTHROPIC_MODEL", "test-model")
        .env("OPENAI_BASE_URL", format!("{}/openai/v1", server.url()))
        .env("OPENAI_API_KEY", "run-token")
        .env("CASTARI_DEFAULT_MODEL", "test-model")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for (name, value) in more {
        command.env(name, value);
    }
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{} does not start: {e}", program[0]));
    let mut input = child.stdin.take().expect("stdin");
    let _ = input.write_all(prompt.as_bytes()).await;
    drop(input);
    let output = child.wait_with_output().await.expect("end");
    Run {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A model that stops in the middle of its answer and says nothing more.
async fn stalling() -> FakeServer {
    FakeServer::start(|_| {
        let whole = anthropic_events(&Turn::Text("Half an answer."));
        let cut = whole.find("event: content_block_stop").unwrap_or(whole.len());
        Some(Answer::events_then_silence(&whole[..cut]))
    })
    .await
}

/// The variable that tells a program that its run ends so soon.
fn deadline_in(after: std::time::Duration) -> [(&'static str, String); 1] {
    let at = std::time::SystemTime::now() + after;
    let at = at.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis();
    [("CASTARI_DEADLINE_UNIX_MS", at.to_string())]
}

/// What the scripted model says in one turn.
enum Turn {
    Text(&'static str),
    /// Tool calls by name and arguments, said with a word before.
    Calls(Vec<(&'static str, Value)>),
}

/// A model with one turn per call, in order of the messages so far, in the wire format that was asked for.
async fn scripted(turns: Vec<Turn>) -> FakeServer {
    FakeServer::start(move |seen| {
        let body = seen.json();
        assert_eq!(body["model"], "test-model");
        let done = body["messages"].as_array()?.iter().filter(|m| m["role"] == "assistant").count();
        let turn = turns.get(done)?;
        Some(match seen.line.as_str() {
            ANTHROPIC if !is_authorized(seen) || seen.header("anthropic-version").is_empty() => {
                Answer::json(401, &json!({"type": "error", "error": {"type": "authentication_error", "message": "no"}}))
            }
            ANTHROPIC if body["stream"] == true => Answer::events(&anthropic_events(turn)),
            ANTHROPIC => Answer::json(200, &anthropic_message(turn)),
            OPENAI if is_authorized(seen) => Answer::json(200, &openai_message(turn)),
            _ => return None,
        })
    })
    .await
}

/// Plain HTTP clients send the key as `x-api-key`, newer SDKs as a bearer token; the platform takes both.
fn is_authorized(seen: &Seen) -> bool {
    seen.header("x-api-key") == "run-token" || seen.header("authorization") == "Bearer run-token"
}

/// A model that answers in words and refuses every request with tools, as the built-in one may.
async fn without_tools() -> FakeServer {
    FakeServer::start(|seen| {
        let body = seen.json();
        if body.get("tools").is_some() {
            let error =
                json!({"type": "invalid_request_error", "message": "the model local/small does not support tools"});
            return Some(Answer::json(400, &json!({"type": "error", "error": error})));
        }
        let turn = Turn::Text("A plain answer.");
        Some(match seen.line.as_str() {
            ANTHROPIC if body["stream"] == true => Answer::events(&anthropic_events(&turn)),
            ANTHROPIC => Answer::json(200, &anthropic_message(&turn)),
            OPENAI => Answer::json(200, &openai_message(&turn)),
            _ => return None,
        })
    })
    .await
}

fn anthropic_message(turn: &Turn) -> Value {
    let (content, stop) = match turn {
        Turn::Text(text) => (json!([{"type": "text", "text": text}]), "end_turn"),
        Turn::Calls(calls) => {
            let mut blocks = vec![json!({"type": "text", "text": "Let me see."})];
            blocks.extend(calls.iter().enumerate().map(|(n, (name, input))| {
                json!({"type": "tool_use", "id": format!("toolu_{n}"), "name": name, "input": input})
            }));
            (json!(blocks), "tool_use")
        }
    };
    json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "test-model", "content": content,
        "stop_reason": stop, "stop_sequence": null, "usage": {"input_tokens": 10, "output_tokens": 5}})
}

/// The same message as a stream, with text and arguments cut into pieces.
fn anthropic_events(turn: &Turn) -> String {
    let mut message = anthropic_message(turn);
    let content = message["content"].take();
    let stop = message["stop_reason"].take();
    message["content"] = json!([]);
    let mut events = vec![json!({"type": "message_start", "message": message}), json!({"type": "ping"})];
    for (index, block) in content.as_array().into_iter().flatten().enumerate() {
        let (start, field, whole) = if block["type"] == "text" {
            (
                json!({"type": "text", "text": ""}),
                ("text_delta", "text"),
                block["text"].as_str().unwrap_or("").to_owned(),
            )
        } else {
            let mut start = block.clone();
            start["input"] = json!({});
            (start, ("input_json_delta", "partial_json"), block["input"].to_string())
        };
        events.push(json!({"type": "content_block_start", "index": index, "content_block": start}));
        let characters: Vec<char> = whole.chars().collect();
        for piece in characters.chunks(4) {
            let piece: String = piece.iter().collect();
            events.push(
                json!({"type": "content_block_delta", "index": index, "delta": {"type": field.0, field.1: piece}}),
            );
        }
        events.push(json!({"type": "content_block_stop", "index": index}));
    }
    events.push(json!({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 5}}));
    events.push(json!({"type": "message_stop"}));
    events.iter().map(|e| format!("event: {}\ndata: {e}\n\n", e["type"].as_str().unwrap_or(""))).collect()
}

fn openai_message(turn: &Turn) -> Value {
    let (message, finish) = match turn {
        Turn::Text(text) => (json!({"role": "assistant", "content": text}), "stop"),
        Turn::Calls(calls) => {
            let calls: Vec<Value> = calls
                .iter()
                .enumerate()
                .map(|(n, (name, input))| {
                    json!({"id": format!("call_{n}"), "type": "function",
                        "function": {"name": name, "arguments": input.to_string()}})
                })
                .collect();
            (json!({"role": "assistant", "content": null, "tool_calls": calls}), "tool_calls")
        }
    };
    json!({"id": "chatcmpl_1", "object": "chat.completion", "model": "test-model",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}})
}

/// The tool results that the program sent with its latest request, in either wire format.
fn results(seen: &[Seen]) -> Vec<String> {
    let body = seen.last().expect("a request").json();
    let messages = body["messages"].as_array().cloned().unwrap_or_default();
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    messages
        .iter()
        .flat_map(|m| match (&m["role"], &m["content"]) {
            (role, content) if role == "tool" => vec![text(content)],
            (_, Value::Array(blocks)) => {
                blocks.iter().filter(|b| b["type"] == "tool_result").map(|b| text(&b["content"])).collect()
            }
            _ => Vec::new(),
        })
        .collect()
}

// ── default ──────────────────────────────────────────────────────────────

#[tokio::test]
async fn default_works_on_files_and_in_the_shell() {
    let ada = Person::new();
    let folder = init(&ada, "default").await;
    let server = scripted(vec![
        Turn::Calls(vec![
            ("write_file", json!({"path": "out/hello.txt", "content": "grüße\n"})),
            ("write_file", json!({"path": "../escape.txt", "content": "x"})),
        ]),
        Turn::Calls(vec![
            ("bash", json!({"command": "cat out/hello.txt; exit 3"})),
            ("list_files", json!({"path": "out"})),
            ("read_file", json!({"path": "/etc/hostname"})),
            ("fly", json!({})),
        ]),
        Turn::Text("Done: wrote the greeting."),
    ])
    .await;
    let run = run(&folder, &["node", "src/index.mjs"], &server, None, "Write a greeting").await;
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert_eq!(run.out, "Let me see.\nLet me see.\nDone: wrote the greeting.\n");
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[0].json()["messages"], json!([{"role": "user", "content": "Write a greeting"}]));
    assert!(seen[0].json()["system"].as_str().is_some_and(|s| s.contains("coding agent")));
    let results = results(&seen);
    assert!(results[0].contains("out/hello.txt"), "{results:?}");
    assert!(results[1].contains("outside of the project"), "{results:?}");
    assert_eq!(results[2], "grüße\n(exit 3)");
    assert_eq!(results[3], "hello.txt");
    assert!(results[4].contains("outside of the project"), "{results:?}");
    assert!(results[5].contains("no tool fly"), "{results:?}");
    assert!(!folder.join("../escape.txt").exists());
}

#[tokio::test]
async fn default_remembers_a_session_and_only_a_session() {
    let ada = Person::new();
    let folder = init(&ada, "default").await;
    let program = ["node", "src/index.mjs"];
    let server = scripted(vec![Turn::Text("One."), Turn::Text("Two.")]).await;
    assert_eq!(run(&folder, &program, &server, None, "alone").await.out, "One.\n");
    assert_eq!(run(&folder, &program, &server, Some("desk"), "first").await.out, "One.\n");
    assert_eq!(run(&folder, &program, &server, Some("desk"), "second").await.out, "Two.\n");
    let messages = server.seen().pop().expect("request").json()["messages"].clone();
    assert_eq!(
        messages,
        json!([{"role": "user", "content": "first"}, {"role": "assistant", "content": "One."}, {"role": "user", "content": "second"}])
    );
}

#[tokio::test]
async fn default_reports_what_the_model_says_against_it() {
    let ada = Person::new();
    let folder = init(&ada, "default").await;
    let server = FakeServer::start(|_| {
        let error = json!({"type": "invalid_request_error", "message": "budget exceeded"});
        Some(Answer::json(400, &json!({"type": "error", "error": error})))
    })
    .await;
    let run = run(&folder, &["node", "src/index.mjs"], &server, None, "x").await;
    assert_eq!((run.code, run.out.as_str()), (Some(1), ""));
    assert!(run.err.contains("budget exceeded"), "{}", run.err);
    assert_eq!(server.seen().len(), 1, "a refusal is not repeated");
}

// ── mcp-tools ────────────────────────────────────────────────────────────

#[tokio::test]
async fn mcp_tools_calls_the_server_that_it_brings() {
    let ada = Person::new();
    let folder = init(&ada, "mcp-tools").await;
    let calculate = |e: &'static str| ("desk__calculate", json!({"expression": e}));
    let server = scripted(vec![
        Turn::Calls(vec![
            calculate("12.5 / 100 * 1840"),
            calculate("-2^2 + (3 - 1) * 2^3^2"),
            calculate("process.exit(1)"),
            calculate("1/0"),
            ("desk__get_weather", json!({"city": "Lisbon"})),
            ("desk__find_customers", json!({"query": "ada"})),
            ("desk__notify", json!({"to": "grace", "message": "hello"})),
        ]),
        Turn::Text("230, and no rain."),
    ])
    .await;
    let run = run(&folder, &["node", "src/index.mjs"], &server, None, "What is 12.5 % of 1840?").await;
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert_eq!(run.out, "230, and no rain.\n");
    let results = results(&server.seen());
    assert_eq!(results[0], "230");
    assert_eq!(results[1], "1020");
    assert!(results[2].contains("not an expression"), "{results:?}");
    assert!(results[3].contains("finite"), "{results:?}");
    assert!(
        results[4].contains("sunny") && results[5].contains("Lovelace") && results[6].contains("grace"),
        "{results:?}"
    );
    let tools = server.seen()[0].json()["tools"].clone();
    assert_eq!(tools[0]["input_schema"]["required"], json!(["expression"]));
}

#[tokio::test]
async fn mcp_tools_leaves_out_a_server_that_does_not_start() {
    let ada = Person::new();
    let folder = init(&ada, "mcp-tools").await;
    let config = json!({"mcpServers": {"desk": {"command": "node", "args": ["servers/desk.mjs"]},
        "gone": {"command": "./no-such-program"}, "quits": {"command": "node", "args": ["-e", "0"]}}});
    std::fs::write(folder.join("mcp.json"), config.to_string()).expect("write");
    let server = scripted(vec![Turn::Text("Fine.")]).await;
    let run = run(&folder, &["node", "src/index.mjs"], &server, None, "x").await;
    assert_eq!((run.code, run.out.as_str()), (Some(0), "Fine.\n"), "{}", run.err);
    assert!(run.err.contains("left out: gone") && run.err.contains("left out: quits"), "{}", run.err);
}

// ── support-agent ────────────────────────────────────────────────────────

#[tokio::test]
async fn support_agent_looks_up_and_acts() {
    let ada = Person::new();
    let folder = init(&ada, "support-agent").await;
    let server = scripted(vec![
        Turn::Calls(vec![
            ("find_user", json!({"email": "ADA@example.com"})),
            ("find_orders", json!({"order_id": "#1001"})),
            ("find_orders", json!({"user_id": 1})),
            ("find_user", json!({"nonsense": 1})),
        ]),
        Turn::Calls(vec![
            ("open_ticket", json!({"subject": "Late", "description": "Order 1001", "urgent": true})),
            ("send_reply", json!({"email": "ada@example.com", "text": "Soon!"})),
        ]),
        Turn::Text("It arrives in 2 days (ticket T-1)."),
    ])
    .await;
    let run = run(&folder, &["python3", "main.py"], &server, None, "I am ada@example.com. Where is order 1001?").await;
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert_eq!(run.out, "It arrives in 2 days (ticket T-1).\n");
    let results = results(&server.seen());
    assert!(results[0].contains("Ada Lovelace") && results[1].contains("shipped"), "{results:?}");
    assert!(results[2].contains("1002") && !results[2].contains("1003"), "{results:?}");
    assert!(results[3].contains("error"), "{results:?}");
    let tickets = std::fs::read_to_string(folder.join("data/tickets.json")).expect("tickets");
    assert!(tickets.contains("T-1") && std::fs::read_to_string(folder.join("data/outbox.json")).is_ok());
}

// ── research-agent ───────────────────────────────────────────────────────

/// Installs the template's packages with the machine's npm.
async fn npm_install(folder: &Path) {
    let output = tokio::process::Command::new("npm")
        .args(["install", "--no-audit", "--no-fund", "--prefer-offline", "--loglevel=error"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("npm starts");
    assert!(output.status.success(), "npm install: {}", String::from_utf8_lossy(&output.stderr));
}

/// One test for all of it: its packages are installed once.
#[tokio::test]
async fn research_agent_reads_reports_and_manages_without_tools() {
    let ada = Person::new();
    let folder = init(&ada, "research-agent").await;
    npm_install(&folder).await;
    let program = ["node_modules/.bin/tsx", "src/index.ts"];
    let server = scripted(vec![
        Turn::Calls(vec![("search", json!({"query": "microVM isolation"})), ("search", json!({"query": "zzzz"}))]),
        Turn::Calls(vec![
            ("read_url", json!({"url": "notes://isolation/microvm"})),
            ("read_url", json!({"url": "file:///etc/passwd"})),
        ]),
        Turn::Calls(vec![("write_report", json!({"markdown": "# Report\n\nMicroVMs have their own kernel."}))]),
        Turn::Text("I saved the report."),
    ])
    .await;
    let done = run(&folder, &program, &server, None, "Compare").await;
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert_eq!(done.out, "# Report\n\nMicroVMs have their own kernel.\n");
    let results = results(&server.seen());
    assert!(results[0].contains("notes://isolation/microvm") && results[1].contains("nothing found"), "{results:?}");
    assert!(results[2].contains("/dev/kvm") && results[3].contains("neither in the library"), "{results:?}");
    assert!(std::fs::read_to_string(folder.join("report.md")).expect("report").starts_with("# Report"));

    let soon = deadline_in(std::time::Duration::from_secs(10));
    let cut = run_with(&folder, &program, &stalling().await, &soon, "Compare").await;
    assert_eq!((cut.code, cut.out.as_str()), (Some(0), "Half an answer.\n"), "{}", cut.err);

    let server = without_tools().await;
    let plain = run(&folder, &program, &server, None, "What is a microVM?").await;
    assert_eq!((plain.code, plain.out.as_str()), (Some(0), "A plain answer.\n"), "{}", plain.err);
    let last = server.seen().pop().expect("request").json();
    assert!(last["messages"][0]["content"].as_str().is_some_and(|c| c.contains("hardware virtualisation")), "{last}");
}

// ── all ──────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_model_without_tools_gives_a_plain_answer() {
    for (template, program) in [
        ("default", ["node", "src/index.mjs"]),
        ("mcp-tools", ["node", "src/index.mjs"]),
        ("support-agent", ["python3", "main.py"]),
    ] {
        let ada = Person::new();
        let folder = init(&ada, template).await;
        let server = without_tools().await;
        let run = run(&folder, &program, &server, None, "Where is order 1001? I am ada@example.com.").await;
        assert_eq!((run.code, run.out.as_str()), (Some(0), "A plain answer.\n"), "{template}: {}", run.err);
        let seen = server.seen();
        assert_eq!(seen.len(), 2, "{template}");
        if template == "support-agent" {
            let asked = seen[1].json()["messages"][0]["content"].as_str().unwrap_or("").to_owned();
            assert!(asked.contains("shipped") && asked.contains("Ada Lovelace"), "{asked}");
        }
    }
}

#[tokio::test]
async fn shortly_before_the_deadline_half_an_answer_is_given() {
    for template in ["default", "mcp-tools"] {
        let ada = Person::new();
        let folder = init(&ada, template).await;
        let soon = deadline_in(std::time::Duration::from_secs(8));
        let run = run_with(&folder, &["node", "src/index.mjs"], &stalling().await, &soon, "x").await;
        assert_eq!((run.code, run.out.as_str()), (Some(0), "Half an answer.\n"), "{template}: {}", run.err);
        assert!(run.err.contains("time was up"), "{template}: {}", run.err);
    }
    // Nothing to give: the reason.
    for (template, program) in [("default", ["node", "src/index.mjs"]), ("support-agent", ["python3", "main.py"])] {
        let ada = Person::new();
        let folder = init(&ada, template).await;
        let silent = FakeServer::start(|_| Some(Answer::events_then_silence(""))).await;
        let soon = deadline_in(std::time::Duration::from_secs(6));
        let run = run_with(&folder, &program, &silent, &soon, "x").await;
        assert_eq!((run.code, run.out.as_str()), (Some(1), ""), "{template}: {}", run.err);
        assert!(!run.err.is_empty() && !run.err.contains("Traceback"), "{template}: {}", run.err);
    }
}

#[tokio::test]
async fn an_empty_prompt_is_answered_without_the_model() {
    for (template, program) in [
        ("default", ["node", "src/index.mjs"]),
        ("mcp-tools", ["node", "src/index.mjs"]),
        ("support-agent", ["python3", "main.py"]),
    ] {
        let ada = Person::new();
        let folder = init(&ada, template).await;
        let server = scripted(Vec::new()).await;
        let run = run(&folder, &program, &server, None, " \n").await;
        assert_eq!(run.code, Some(0), "{template}: {}", run.err);
        assert!(run.out.contains("for example"), "{template}: {}", run.out);
        assert!(server.seen().is_empty());
    }
}

#[tokio::test]
async fn init_does_not_touch_what_is_there() {
    let ada = Person::new();
    let folder = init(&ada, "default").await;
    std::fs::write(folder.join("README.md"), "mine").expect("write");
    let ended = ada.run(&["init", "my-agent", "-t", "default"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("not empty"), "{ended:?}");
    assert_eq!(std::fs::read_to_string(folder.join("README.md")).expect("file"), "mine");
    let ended = ada.run(&["init", "Über Agent", "-t", "support-agent", "--json"]).await;
    assert_eq!(ended.json()["slug"], "ber-agent", "{ended:?}");
    let manifest = std::fs::read_to_string(ada.home().join("Über Agent/castari.json")).expect("manifest");
    assert!(manifest.contains("\"name\": \"Über Agent\"") && !manifest.contains("__AGENT"), "{manifest}");
}
