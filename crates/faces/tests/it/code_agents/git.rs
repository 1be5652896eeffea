//! Code from git repositories, fetched in a sandbox from a real git server (spec/castari.md 9.1).

use backlot_testkit::{Answer, Person, TestServer};
use serde_json::{Value, json};

use super::{api, ask, build_log, git_server::GitServer, names_in, until};

const TOKEN: &str = "ghp_0123456789-moonlight";

async fn create(who: &Person, slug: &str, url: &str) {
    let agent = json!({"name": slug, "slug": slug, "git_repo_url": url});
    let created = who.post(&api("/agents"), agent).await;
    assert_eq!(created.status, 201, "{created:?}");
}

async fn deploy(who: &Person, slug: &str, body: Value) -> Answer {
    who.post(&api(&format!("/agents/{slug}/deploy")), body).await
}

fn assert_active(answer: &Answer, commit: &str, log: &str) {
    assert_eq!((answer.status, &answer.body["status"]), (200, &json!("active")), "{answer:?}\n{log}");
    assert_eq!(answer.body["source_hash"], commit, "{log}");
}

/// Asserts that fetching failed, and returns the reason.
fn refusal(answer: &Answer) -> &str {
    assert_eq!((answer.status, &answer.body["code"]), (400, &json!("clone_failed")), "{answer:?}");
    answer.body["detail"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn branches_and_commits_are_fetched() {
    let Some(git) = GitServer::start().await else { return };
    let (server, ada) = git.agents().await;
    let repository = git.repository("hello");
    let first = repository.project("console.log('first')").commit();
    repository.git(&["checkout", "--quiet", "-b", "feature/moon"]);
    let feature = repository.project("console.log('feature')").commit();
    repository.git(&["checkout", "--quiet", "main"]);
    create(&ada, "hello", &git.url("hello")).await;

    let deployed = deploy(&ada, "hello", json!({})).await;
    assert_active(&deployed, &first, &build_log(&ada, "hello").await);
    assert_eq!(ask(&ada, "hello", "").await, "first");
    let deployed = deploy(&ada, "hello", json!({"git_branch": "feature/moon"})).await;
    assert_active(&deployed, &feature, &build_log(&ada, "hello").await);
    assert_eq!(ask(&ada, "hello", "").await, "feature");
    // Without a branch, the agent's own one and its newest commit.
    let second = repository.project("import fs from 'node:fs'; console.log(fs.readdirSync('.').join())").commit();
    let deployed = deploy(&ada, "hello", json!({})).await;
    assert_active(&deployed, &second, &build_log(&ada, "hello").await);
    assert_eq!(ask(&ada, "hello", "").await, "castari.json,main.mjs", "git's own folder is left out");
    let deployed = deploy(&ada, "hello", json!({"git_commit": first})).await;
    assert_active(&deployed, &first, &build_log(&ada, "hello").await);
    assert_eq!(ask(&ada, "hello", "").await, "first");
    ada.patch(&api("/agents/hello"), json!({"git_branch": "feature/moon"})).await;
    let redeployed = ada.post_nothing(&api("/agents/hello/redeploy")).await;
    assert_active(&redeployed, &feature, &build_log(&ada, "hello").await);

    // What is not there.
    for (body, reason) in [
        (json!({"git_branch": "absent"}), "couldn't find remote ref absent"),
        (json!({"git_commit": "0123456789012345678901234567890123456789"}), "0123456789012345678901234567890123456789"),
    ] {
        let refused = deploy(&ada, "hello", body).await;
        let detail = refusal(&refused);
        assert!(detail.starts_with("Cannot fetch `") && detail.contains(reason), "{detail}");
        let agent = ada.get(&api("/agents/hello")).await.body;
        assert_eq!((&agent["status"], &agent["status_message"]), (&json!("active"), &refused.body["detail"]));
    }
    assert_eq!(ask(&ada, "hello", "").await, "feature");
    for reference in ["--upload-pack=id", "a b", "a..b", "refs/../x", "a:b"] {
        let refused = deploy(&ada, "hello", json!({"git_branch": reference})).await;
        assert_eq!(refused.status, 422, "{reference}: {refused:?}");
    }
    create(&ada, "absent", &git.url("absent")).await;
    let refused = deploy(&ada, "absent", json!({})).await;
    assert!(refusal(&refused).contains("not found"), "{refused:?}");
    assert_eq!(ada.get(&api("/agents/absent")).await.body["status"], "error");
    let staging = server.data().code_agents().join("staging");
    until("only the prepared sandbox is left", async || names_in(&staging).len() <= 1).await;
}

/// Everything that people and operators may read about an agent.
async fn readable(server: &TestServer, who: &Person, slug: &str) -> String {
    let mut all = build_log(who, slug).await;
    for path in [format!("/agents/{slug}"), format!("/agents/{slug}/deployments"), format!("/agents/{slug}/secrets")] {
        all.push_str(&who.get(&api(&path)).await.body.to_string());
    }
    let database = server.data().database();
    for file in [database.clone(), database.with_extension("db-wal")] {
        all.push_str(&String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_repository_is_opened_by_the_token_that_nobody_sees() {
    let Some(git) = GitServer::start().await else { return };
    let (server, ada) = git.agents().await;
    let commit = git.repository("private").project("console.log(process.env.CASTARI_GIT_TOKEN ?? 'hidden')").commit();
    git.require_password(TOKEN);
    create(&ada, "private", &git.url("private")).await;
    let refused = deploy(&ada, "private", json!({})).await;
    assert!(!refusal(&refused).is_empty());
    let set = async |value: &str| {
        let secret = json!({"key": "CASTARI_GIT_TOKEN", "value": value});
        assert!(ada.post(&api("/agents/private/secrets"), secret).await.status < 300);
    };
    set("ghp_of-somebody-else").await;
    refusal(&deploy(&ada, "private", json!({})).await);
    set(TOKEN).await;
    let deployed = deploy(&ada, "private", json!({})).await;
    assert_active(&deployed, &commit, &build_log(&ada, "private").await);
    assert_eq!(ask(&ada, "private", "").await, "hidden");

    // A server that shouts what it was told.
    git.refuse_with("You said {authorization}, and I say no");
    let refused = deploy(&ada, "private", json!({})).await;
    refusal(&refused);
    let log = build_log(&ada, "private").await;
    assert!(log.contains("and I say no"), "the reason of the server is in the log: {log}");
    let sent = git.seen().pop().unwrap();
    let encoded = sent.strip_prefix("Basic ").unwrap();
    // The first characters are those of the user's name, which is no secret.
    let readable = format!("{} {refused:?}", readable(&server, &ada, "private").await);
    for hidden in [TOKEN, encoded, &encoded[24..], "moonlight"] {
        assert!(!readable.contains(hidden), "`{hidden}` can be read");
    }
    // Layers and packed source hold no token either.
    let kept = std::process::Command::new("grep")
        .args(["--recursive", "--files-with-matches", "--text", "-e", TOKEN, "-e", encoded])
        .arg(server.data().0.as_path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&kept.stdout), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_does_not_follow_a_redirect_to_another_server() {
    let (Some(git), Some(elsewhere)) = (GitServer::start().await, GitServer::start().await) else { return };
    // Both are reachable: whoever is sent there would arrive.
    let (_server, ada) = git.agents_beside(&elsewhere).await;
    elsewhere.repository("moved").project("console.log('moved')").commit();
    git.redirect_to(&elsewhere);
    create(&ada, "moved", &git.url("moved")).await;
    let deployed = deploy(&ada, "moved", json!({})).await;
    assert_eq!(deployed.body["status"], "active", "without a token there is nothing to lose: {deployed:?}");
    let secret = json!({"key": "CASTARI_GIT_TOKEN", "value": TOKEN});
    assert_eq!(ada.post(&api("/agents/moved/secrets"), secret).await.status, 201);
    let refused = deploy(&ada, "moved", json!({})).await;
    assert!(refusal(&refused).ends_with("set git_repo_url to where it leads"), "{refused:?}");
    assert!(git.seen().iter().any(|sent| !sent.is_empty()), "the token was sent where it belongs");
    assert_eq!(elsewhere.seen().concat(), "", "and nowhere else");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_that_means_harm_is_refused_or_harmless() {
    let Some(git) = GitServer::start().await else { return };
    let (server, ada) = git.agents().await;
    // A link out of the project.
    git.repository("link").project("").link("way-out", "/etc").commit();
    create(&ada, "link", &git.url("link")).await;
    let refused = deploy(&ada, "link", json!({})).await;
    assert_eq!((refused.status, &refused.body["code"]), (400, &json!("archive_refused")), "{refused:?}");
    assert!(refused.body["detail"].as_str().unwrap().contains("`way-out` leads outside"), "{refused:?}");
    // Submodules are not fetched, and settings and filters in the repository start nothing.
    let repository = git.repository("tricks");
    repository
        .project("import fs from 'node:fs'; console.log(fs.readdirSync('.').join(), fs.readdirSync('sub').length)")
        .write(".gitattributes", "* filter=evil\n*.bin filter=lfs diff=lfs merge=lfs\n")
        .write(".gitmodules", &format!("[submodule \"sub\"]\n\tpath = sub\n\turl = {}\n", git.url("other")))
        .write("data.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n");
    let other = git.repository("other").write("inside", "").commit();
    repository.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{other},sub")]);
    repository.git(&["add", "castari.json", "main.mjs", ".gitattributes", ".gitmodules", "data.bin"]);
    repository.git(&["commit", "--quiet", "--message", "Tricks"]);
    create(&ada, "tricks", &git.url("tricks")).await;
    let deployed = deploy(&ada, "tricks", json!({})).await;
    assert_eq!(deployed.body["status"], "active", "{deployed:?}\n{}", build_log(&ada, "tricks").await);
    assert_eq!(ask(&ada, "tricks", "").await, ".gitattributes,.gitmodules,castari.json,data.bin,main.mjs,sub 0");
    let staging = server.data().code_agents().join("staging");
    until("only the prepared sandbox is left", async || names_in(&staging).len() <= 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repositories_on_this_machine_and_in_private_networks_are_out_of_reach() {
    let Some(git) = GitServer::start().await else { return };
    git.repository("near").project("").commit();
    // This server was not told to let sandboxes reach the git server, which is on an address of this machine.
    let (server, ada, _) = TestServer::start().await;
    let own_api = server.url.clone();
    for (slug, url) in [
        ("near", git.url("near").as_str()),
        ("loopback", own_api.as_str()),
        ("private", "http://10.0.0.1/x"),
        ("metadata", "http://169.254.169.254/latest"),
        ("mapped", "http://[::ffff:10.0.0.1]/x"),
    ] {
        create(&ada, slug, url).await;
        let refused = deploy(&ada, slug, json!({})).await;
        assert!(refusal(&refused).contains("Cannot fetch `main`"), "{url}: {refused:?}");
        assert_eq!(ada.get(&api(&format!("/agents/{slug}"))).await.body["status"], "error");
    }
    assert_eq!(git.seen(), Vec::<String>::new(), "nobody arrived");
    for url in
        ["file:///etc", "ssh://git@example.com/x", "git@example.com:x", "ext::sh -c id", "https://u:p@example.com/x"]
    {
        let refused = ada.post(&api("/agents"), json!({"name": "x", "git_repo_url": url})).await;
        assert_eq!(refused.status, 422, "{url}: {refused:?}");
    }
}
