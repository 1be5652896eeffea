//! Server-sent events of invocations and logs (spec/castari.md 12.2, 16).

use backlot_testkit::{Person, Project, TestServer};
use insta::assert_json_snapshot;
use reqwest::Method;
use serde_json::{Value, json};

use super::api;

#[derive(Debug, Clone, PartialEq)]
struct Event {
    id: String,
    name: String,
    data: Value,
}

/// Reads a stream until `enough` or its end.
async fn read(request: reqwest::RequestBuilder, enough: impl Fn(&[Event]) -> bool) -> Vec<Event> {
    let mut response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let (mut text, mut events) = (String::new(), Vec::new());
    while !enough(&events) {
        let Some(chunk) = response.chunk().await.unwrap() else { break };
        text.push_str(std::str::from_utf8(&chunk).unwrap());
        while let Some((event, rest)) = text.split_once("\n\n") {
            let field = |name: &str| {
                event
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                    .unwrap_or_default()
                    .to_owned()
            };
            if !event.starts_with(':') {
                let data = serde_json::from_str(&field("data")).unwrap();
                events.push(Event { id: field("id"), name: field("event"), data });
            }
            text = rest.to_owned();
        }
    }
    events
}

async fn whole(request: reqwest::RequestBuilder) -> Vec<Event> {
    read(request, |_| false).await
}

fn stream(who: &Person, slug: &str, query: &str) -> reqwest::RequestBuilder {
    who.request(Method::POST, &api(&format!("/agents/{slug}/stream{query}"))).json(&json!({"prompt": "hello"}))
}

fn text_of(events: &[Event], name: &str) -> String {
    events.iter().filter(|event| event.name == name).map(|event| event.data["text"].as_str().unwrap()).collect()
}

const TALKER: &str = "
    console.error('thinking');
    for (const word of ['one ', 'zwei ', '三']) {
        process.stdout.write(word);
        await new Promise(resolve => setTimeout(resolve, 150));
    }
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_tells_begin_text_and_end_and_can_be_taken_up_anywhere() {
    let (_server, ada, _) = TestServer::start().await;
    ada.deploy("talker", &Project::node(TALKER)).await;
    let events = whole(stream(&ada, "talker", "?include=stderr")).await;
    assert_eq!(events.first().unwrap().name, "started");
    assert_eq!(text_of(&events, "stdout"), "one zwei 三");
    assert_eq!(text_of(&events, "stderr"), "thinking\n");
    let end = events.last().unwrap();
    assert_eq!((end.name.as_str(), &end.data["status"]), ("completed", &json!("completed")));
    assert_eq!(end.data["response_content"], "one zwei 三");
    let started = &events[0].data;
    assert_eq!(started["invocation_id"], end.data["invocation_id"]);
    assert_eq!(started["sandbox_id"], end.data["sandbox_id"]);
    assert_eq!(started["session_id"], end.data["session_id"]);

    // From every event on, the rest comes, nothing twice and nothing missing.
    let id = end.data["invocation_id"].as_str().unwrap();
    let path = api(&format!("/invocations/{id}/events?include=stderr"));
    for (index, event) in events.iter().enumerate() {
        let rest = whole(ada.request(Method::GET, &path).header("Last-Event-ID", &event.id)).await;
        let expected = &events[index + 1..];
        assert_eq!(text_of(&rest, "stdout"), text_of(expected, "stdout"), "after {}", event.id);
        assert_eq!(text_of(&rest, "stderr"), text_of(expected, "stderr"), "after {}", event.id);
        assert_eq!(rest.last(), expected.last());
    }
    let all = whole(ada.request(Method::GET, &path)).await;
    assert_eq!(text_of(&all, "stdout"), "one zwei 三");
    let without = whole(ada.request(Method::GET, &api(&format!("/invocations/{id}/events")))).await;
    assert_eq!(text_of(&without, "stderr"), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_program_ends_the_stream_as_failed() {
    let (_server, ada, _) = TestServer::start().await;
    ada.deploy("failing", &Project::node("process.exit(7)")).await;
    let events = whole(stream(&ada, "failing", "")).await;
    let end = events.last().unwrap();
    assert_eq!(end.name, "failed");
    assert_eq!(end.data["error"]["exit_code"], 7);
    // What is known before the program runs is an ordinary error.
    let absent = ada.post(&api("/agents/absent/stream"), json!({"prompt": ""})).await;
    assert_json_snapshot!(absent.redacted(), @r#"
    {
      "status": 404,
      "body": {
        "detail": "Agent not found",
        "code": "agent_not_found"
      }
    }
    "#);
    let id = end.data["invocation_id"].as_str().unwrap();
    let request = ada.request(Method::GET, &api(&format!("/invocations/{id}/events"))).header("Last-Event-ID", "x");
    assert_json_snapshot!(backlot_testkit::Answer::to(request).await.redacted(), @r#"
    {
      "status": 422,
      "body": {
        "detail": [
          {
            "loc": [
              "header",
              "Last-Event-ID"
            ],
            "msg": "is not a place in a run, such as `12` or `12.345`",
            "type": "value_error"
          }
        ],
        "code": "validation_error"
      }
    }
    "#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_leaves_the_invocation_running_unless_it_asked_otherwise() {
    let (_server, ada, _) = TestServer::start().await;
    let program = "console.log('begun'); setTimeout(() => console.log('done'), 1000)";
    ada.deploy("patient", &Project::node(program)).await;
    let begun = |events: &[Event]| text_of(events, "stdout").contains("begun");
    let mut ended = Vec::new();
    for query in ["", "?cancel_on_disconnect=true"] {
        // The connection is dropped as soon as the program has written.
        let events = read(stream(&ada, "patient", query), begun).await;
        let id = events[0].data["invocation_id"].as_str().unwrap().to_owned();
        let rest = whole(ada.request(Method::GET, &api(&format!("/invocations/{id}/events")))).await;
        ended.push(rest.last().unwrap().data.clone());
    }
    assert_eq!((&ended[0]["status"], &ended[0]["response_content"]), (&json!("completed"), &json!("begun\ndone")));
    assert_eq!((&ended[1]["status"], &ended[1]["error"]["code"]), (&json!("failed"), &json!("stopped")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agents_log_is_followed_across_invocations() {
    let (_server, ada, _) = TestServer::start().await;
    ada.deploy("chatty", &Project::node("process.stdin.on('data', line => console.error('saw ' + line))")).await;
    ada.invoke("chatty", "one").await;
    let follow = ada.request(Method::GET, &api("/agents/chatty/logs?follow=true"));
    let reader = tokio::spawn(read(follow, |events| events.len() >= 2));
    // Only after the first line was read is the second invocation sure to be a new one for the reader; the order of
    // the lines is the same either way.
    ada.invoke("chatty", "two").await;
    let events = reader.await.unwrap();
    let lines: Vec<_> = events.iter().map(|event| event.data["text"].as_str().unwrap().trim_end()).collect();
    assert_eq!(lines, ["saw one", "saw two"]);
    assert!(events.iter().all(|event| event.name == "log" && !event.id.is_empty()));
    let resumed =
        ada.request(Method::GET, &api("/agents/chatty/logs?follow=true")).header("Last-Event-ID", &events[0].id);
    let resumed = read(resumed, |events| !events.is_empty()).await;
    assert_eq!(resumed[0].data, events[1].data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_streams_do_not_keep_a_server_from_stopping() {
    let (mut server, ada, _) = TestServer::start().await;
    ada.deploy("slow", &Project::node("console.log('begun'); setTimeout(() => {}, 60_000)")).await;
    let mut response = stream(&ada, "slow", "").send().await.unwrap();
    let _first = response.chunk().await.unwrap().unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(20), server.close_listeners()).await.expect("it closes");
    while response.chunk().await.unwrap().is_some() {}
}
