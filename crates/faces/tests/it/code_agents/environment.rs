//! What a program finds in its environment, and what stays secret (spec/castari.md 9.4, 10.3, 14).

use std::collections::BTreeMap;

use backlot_testkit::{Project, TestServer};
use reqwest::Method;
use serde_json::json;

use super::{api, ask, build_log, create, deploy, manifest, turn};

/// Answers with its environment.
const ENVIRONMENT: &str = "console.log(JSON.stringify(process.env))";

async fn set_secret(who: &backlot_testkit::Person, slug: &str, key: &str, value: &str) {
    let set = who.post(&api(&format!("/agents/{slug}/secrets")), json!({"key": key, "value": value})).await;
    assert!(matches!(set.status, 200 | 201), "{set:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_finds_the_documented_variables_and_no_other() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "curious").await;
    let patch = json!({"timeout_seconds": 77, "default_model": "claude-test", "max_turns": 9});
    assert_eq!(ada.patch(&api("/agents/curious"), patch).await.status, 200);
    // What the project says is overruled by a secret, and both by the platform.
    let own =
        json!({"GREETING": "hello", "COLOUR": "red", "LANG": "tlh", "HOME": "/etc", "CASTARI_AGENT_ID": "agt_forged"});
    let project = Project::node(ENVIRONMENT).with("castari.json", manifest("node", "main.mjs", "env", &own));
    for (key, value) in [
        ("COLOUR", "blue"),
        ("ANTHROPIC_API_KEY", "sk-ant-of-the-user"),
        ("OPENAI_API_KEY", "sk-openai-of-the-user"),
        ("BUILD_TOKEN", "only-for-builds"),
        ("CASTARI_GIT_TOKEN", "only-for-fetching"),
        ("ANTHROPIC_BASE_URL", "http://elsewhere.example"),
    ] {
        set_secret(&ada, "curious", key, value).await;
    }
    deploy(&ada, "curious", &project).await;
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let answer = turn(&ada, "curious", "desk", "").await;
    let text = answer.body["response_content"].as_str().unwrap();
    for secret in ["sk-ant-of-the-user", "sk-openai-of-the-user", "only-for", backlot_testkit::PROVIDER_KEY] {
        assert!(!text.contains(secret), "{secret} is in the environment: {text}");
    }
    let mut env: BTreeMap<String, String> = serde_json::from_str(text).unwrap();
    let mut take = |name: &str| env.remove(name).unwrap_or_else(|| panic!("{name} is missing in {text}"));
    let agent = ada.get(&api("/agents/curious")).await.body;
    for (name, value) in [
        ("GREETING", "hello"),
        ("COLOUR", "blue"),
        ("LANG", "tlh"),
        ("HOME", "/home/agent"),
        ("TMPDIR", "/tmp"),
        ("TZ", "UTC"),
        ("CI", "1"),
        ("IS_SANDBOX", "1"),
        ("PYTHONUNBUFFERED", "1"),
        ("ANTHROPIC_MODEL", "claude-test"),
        ("CASTARI_DEFAULT_MODEL", "claude-test"),
        ("CASTARI_MAX_TURNS", "9"),
        ("CASTARI_TIMEOUT_SECONDS", "77"),
        ("CASTARI_AGENT_SLUG", "curious"),
        ("CASTARI_SESSION_ID", "desk"),
    ] {
        assert_eq!(take(name), value, "{name}");
    }
    assert_eq!(json!(take("CASTARI_AGENT_ID")), agent["id"]);
    assert_eq!(json!(take("CASTARI_INVOCATION_ID")), answer.body["invocation_id"]);
    assert_eq!(json!(take("CASTARI_SANDBOX_ID")), answer.body["sandbox_id"]);
    let deadline: u128 = take("CASTARI_DEADLINE_UNIX_MS").parse().unwrap();
    assert!(deadline >= before + 77_000, "{deadline} is 77 seconds after {before} at the earliest");
    assert!(take("PATH").contains("/workspace/node_modules/.bin"));
    let token = take("ANTHROPIC_API_KEY");
    assert!(token.starts_with("sk-backlot-"), "{token}");
    assert_eq!(take("OPENAI_API_KEY"), token);
    for (name, ending) in [
        ("ANTHROPIC_BASE_URL", "/gateway/anthropic"),
        ("OPENAI_BASE_URL", "/gateway/openai/v1"),
        ("OPENAI_API_BASE", "/gateway/openai/v1"),
    ] {
        let address = take(name);
        assert!(address.starts_with("http://") && address.ends_with(ending), "{name} is {address}");
    }
    // Nothing of the server's own environment has come along.
    assert_eq!(env, BTreeMap::new());

    // Each invocation has a token of its own.
    let other: BTreeMap<String, String> = serde_json::from_str(&ask(&ada, "curious", "").await).unwrap();
    assert_ne!(other["ANTHROPIC_API_KEY"], token);
    // A dead token opens nothing.
    let dead = ada.with_credential(&token).request(Method::GET, "/gateway/anthropic/v1/models").send().await.unwrap();
    assert_eq!(dead.status(), 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_masked_wherever_it_is_shown_except_in_the_answer() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "leaky").await;
    let leak = "const key = process.env.MOON_KEY ?? process.env.BUILD_KEY;
        const forms = { plain: key, base64: Buffer.from(key).toString('base64'), more: Buffer.from('a:' + key).toString('base64'),
            url: encodeURIComponent(key), json: JSON.stringify(key), parted: key };
        for (const [name, form] of Object.entries(forms)) {
            if (name !== 'parted') console.error(name + '=' + form + '.');
        }
        // In two writes, so that it has to be found across them.
        process.stderr.write('parted=' + key.slice(0, 7));
        setTimeout(() => process.stderr.write(key.slice(7) + '.\\n'), 300);";
    let (moon, build) = ("silver & \"gold\"/moon+light", "copper & \"zinc\"/sun+light?");
    set_secret(&ada, "leaky", "MOON_KEY", moon).await;
    set_secret(&ada, "leaky", "BUILD_KEY", build).await;
    // The build sees the one meant for builds, the program the other one, and both give it away.
    let script = format!("console.error('moon is ' + process.env.MOON_KEY); {leak}");
    let project = super::installed_by(
        &script,
        &format!("console.log(process.env.MOON_KEY); console.log(process.env.BUILD_KEY); {leak}"),
    );
    deploy(&ada, "leaky", &project).await;
    let build_log = build_log(&ada, "leaky").await;
    assert!(build_log.contains("moon is undefined"), "{build_log}");
    let answer = ada.invoke("leaky", "").await;
    // What the program answers is its own business.
    assert_eq!(answer.body["response_content"], format!("{moon}\nundefined"));
    let id = answer.body["invocation_id"].as_str().unwrap();
    let log = ada.get(&api(&format!("/invocations/{id}/logs"))).await;
    let log: String = log.body["logs"].as_array().unwrap().iter().map(|line| line["text"].as_str().unwrap()).collect();
    for (log, key, value) in [(&build_log, "BUILD_KEY", build), (&log, "MOON_KEY", moon)] {
        for form in ["plain", "base64", "url", "json", "parted"] {
            let line = log
                .lines()
                .find(|line| line.starts_with(&format!("{form}=")))
                .unwrap_or_else(|| panic!("{form}: {log}"));
            assert!(line.contains(&format!("***{key}***")), "{form} is masked: {line}");
        }
        for piece in [value, &value[..12], "c2lsdmVyICYg", "Y29wcGVyICYg", "silver%20", "copper%20"] {
            assert!(!log.contains(piece), "`{piece}` is in {log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_secret_is_seen_at_the_next_turn_of_a_session() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "fresh").await;
    deploy(&ada, "fresh", &Project::node("console.log(process.env.MOON_KEY ?? 'none')")).await;
    assert_eq!(turn(&ada, "fresh", "s", "").await.body["response_content"], "none");
    for value in ["silver", "gold"] {
        set_secret(&ada, "fresh", "MOON_KEY", value).await;
        assert_eq!(turn(&ada, "fresh", "s", "").await.body["response_content"], value);
    }
}
