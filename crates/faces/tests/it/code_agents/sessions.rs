//! Sessions: one sandbox for several turns, one turn at a time (spec/castari.md 13).

use std::time::Duration;

use backlot_testkit::{Project, Setup, TestServer};
use serde_json::json;

use super::{Running, api, create, deploy, names_in, turn};

/// Adds its prompt to a file in three places and answers with what they hold.
const NOTES: &str = "import fs from 'node:fs'; import os from 'node:os';
    const prompt = fs.readFileSync(0, 'utf8');
    const places = ['/workspace/notes', '/tmp/notes', os.homedir() + '/notes'];
    for (const place of places) fs.appendFileSync(place, prompt);
    console.log(places.map(place => fs.readFileSync(place, 'utf8')).join());";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_one_turn_are_there_in_the_next_and_gone_with_a_new_release() {
    let (server, ada, _) = TestServer::start().await;
    create(&ada, "notes").await;
    deploy(&ada, "notes", &Project::node(NOTES)).await;
    let first = turn(&ada, "notes", "desk", "a").await;
    assert_eq!(first.body["response_content"], "a,a,a", "{first:?}");
    let second = turn(&ada, "notes", "desk", "b").await;
    assert_eq!(second.body["response_content"], "ab,ab,ab", "{second:?}");
    assert_eq!(first.body["sandbox_id"], second.body["sandbox_id"]);
    assert_eq!(turn(&ada, "notes", "other", "c").await.body["response_content"], "c,c,c");
    // The same code again is a new release all the same.
    assert_eq!(ada.post_nothing(&api("/agents/notes/redeploy")).await.status, 200);
    assert_eq!(turn(&ada, "notes", "desk", "d").await.body["response_content"], "d,d,d");
    let listed = ada.get(&api("/agents/notes/sessions")).await;
    assert_eq!(listed.body["meta"]["total"], 2, "a new release keeps the sessions: {listed:?}");

    // Stopping takes the files, too.
    let agent = ada.get(&api("/agents/notes")).await.body["id"].as_str().unwrap().to_owned();
    let files = server.data().code_agents().join("sessions").join(agent);
    assert!(!names_in(&files).is_empty());
    assert_eq!(ada.delete(&api("/agents/notes/sandbox")).await.status, 200);
    assert_eq!(names_in(&files), Vec::<String>::new());
    assert_eq!(ada.post_nothing(&api("/agents/notes/deploy")).await.status, 200);
    assert_eq!(turn(&ada, "notes", "desk", "e").await.body["response_content"], "e,e,e");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_past_its_time_keeps_the_sandbox() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "slow").await;
    ada.patch(&api("/agents/slow"), json!({"timeout_seconds": 1})).await;
    let program = "import fs from 'node:fs';
        if (fs.readFileSync(0, 'utf8') === 'read') console.log(fs.readFileSync('/tmp/kept', 'utf8'));
        else { fs.writeFileSync('/tmp/kept', 'here'); setTimeout(() => {}, 60_000); }";
    deploy(&ada, "slow", &Project::node(program)).await;
    let late = turn(&ada, "slow", "s", "write").await;
    assert_eq!(late.body["error"]["code"], "timeout", "{late:?}");
    let read = turn(&ada, "slow", "s", "read").await;
    assert_eq!(read.body["response_content"], "here", "{read:?}");
    assert_eq!(read.body["sandbox_id"], late.body["sandbox_id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_of_a_session_wait_for_each_other_in_order() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "serial").await;
    let program = "import fs from 'node:fs';
        const prompt = fs.readFileSync(0, 'utf8');
        fs.appendFileSync('log', `begin ${prompt},`);
        console.log('begun');
        setTimeout(() => { fs.appendFileSync('log', `end ${prompt},`); console.log(fs.readFileSync('log', 'utf8')); }, 2000);";
    deploy(&ada, "serial", &Project::node(program)).await;
    let first = Running::begin(&ada, "serial", json!({"prompt": "a", "session_id": "s"}), "begun").await;
    let mut later = Vec::new();
    for prompt in ["b", "c"] {
        let ada = ada.clone();
        later.push(tokio::spawn(async move { turn(&ada, "serial", "s", prompt).await }));
        // Long enough that they queue up in this order; the first one still runs.
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    assert_eq!(first.end().await["response_content"], "begun\nbegin a,end a,");
    let last = later.pop().unwrap().await.unwrap();
    assert_eq!(last.body["response_content"], "begun\nbegin a,end a,begin b,end b,begin c,end c,", "{last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_stays_busy_is_said_to_be_busy() {
    let setup = Setup { queue_patience: Duration::from_millis(500), ..Setup::default() };
    let (_server, ada, _) = TestServer::with(setup).await;
    create(&ada, "busy").await;
    let program = "import fs from 'node:fs'; console.log('begun');
        if (fs.readFileSync(0, 'utf8') === 'patient') setTimeout(() => {}, 60_000);";
    deploy(&ada, "busy", &Project::node(program)).await;
    let running = Running::begin(&ada, "busy", json!({"prompt": "patient", "session_id": "s"}), "begun").await;
    let refused = turn(&ada, "busy", "s", "").await;
    assert_eq!((refused.status, &refused.body["code"]), (409, &json!("session_busy")), "{refused:?}");
    assert_eq!(refused.body["detail"], "Session is busy");
    // Other sessions are no part of this.
    assert_eq!(turn(&ada, "busy", "t", "").await.body["response_content"], "begun");
    ada.post_nothing(&api(&format!("/invocations/{}/cancel", running.id))).await;
    running.end().await;
    let after = turn(&ada, "busy", "s", "").await;
    assert_eq!(after.body["response_content"], "begun", "{after:?}");
    let history = ada.get(&api("/agents/busy/invocations")).await;
    assert_eq!(history.body["meta"]["total"], 3, "the refused turn is no invocation: {history:?}");
}
