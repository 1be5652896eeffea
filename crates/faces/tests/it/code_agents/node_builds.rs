//! Projects for node: lock files, fallbacks, TypeScript, build scripts, and what is not done twice (spec/castari.md 9.4).

use backlot_testkit::{ECHO, Project, RawArchive, TestServer};
use serde_json::json;

use super::{api, ask, build_log, create, deploy, manifest, names_in};

const PRINT_VERSION: &str = "import fs from 'node:fs';
    await import('is-number');
    console.log(JSON.parse(fs.readFileSync('node_modules/is-number/package.json')).version);";
const REUSED: &str = "dependencies: unchanged, reusing what was installed before";
/// `is-number` of this version, as npm locks it.
const INTEGRITY_7: &str =
    "sha512-41Cifkg6e8TylSpdtTpeLVMqvSBEVzTttHvERD741+pnZ8ANv0004MRL43QKPDlK9cGvNp6NZWZUBlbGXYxxng==";

fn package(version: &str) -> String {
    json!({"name": "agent", "version": "1.0.0", "dependencies": {"is-number": version}}).to_string()
}

fn lock(version: &str, integrity: &str) -> String {
    json!({
        "name": "agent", "version": "1.0.0", "lockfileVersion": 3, "requires": true,
        "packages": {
            "": {"name": "agent", "version": "1.0.0", "dependencies": {"is-number": version}},
            "node_modules/is-number": {"version": version, "integrity": integrity, "license": "MIT"},
        },
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_file_is_obeyed_and_installed_once() {
    let (server, ada, _) = TestServer::start().await;
    create(&ada, "locked").await;
    let project = Project::node(PRINT_VERSION)
        .with("package.json", package("7.0.0"))
        .with("package-lock.json", lock("7.0.0", INTEGRITY_7));
    let log = deploy(&ada, "locked", &project).await;
    assert!(log.contains("$ npm ci") && !log.contains("$ npm install"), "{log}");
    assert_eq!(ask(&ada, "locked", "").await, "7.0.0");

    // Other code over the same lock file, also of another agent.
    let other = project.clone().with("main.mjs", format!("console.log('again');\n{PRINT_VERSION}"));
    let log = deploy(&ada, "locked", &other).await;
    assert!(log.contains(REUSED) && !log.contains("$ npm"), "{log}");
    assert_eq!(ask(&ada, "locked", "").await, "again\n7.0.0");
    create(&ada, "second").await;
    let log = deploy(&ada, "second", &project).await;
    assert!(log.contains(REUSED), "{log}");
    assert_eq!(ask(&ada, "second", "").await, "7.0.0");

    // A forced deployment installs anew.
    let layers = names_in(&server.data().code_agents().join("layers"));
    let forced = ada.post_nothing(&api("/agents/locked/redeploy")).await;
    assert_eq!((forced.status, &forced.body["status"]), (200, &json!("active")), "{forced:?}");
    let log = build_log(&ada, "locked").await;
    assert!(log.contains("$ npm ci") && !log.contains(REUSED), "{log}");
    assert_eq!(names_in(&server.data().code_agents().join("layers")).len(), layers.len() + 1);
    assert_eq!(ask(&ada, "locked", "").await, "again\n7.0.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_file_that_does_not_fit_is_left_aside_with_a_warning() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "unlocked").await;
    // The manifest of the package has moved on, the lock file has not.
    let project = Project::node(PRINT_VERSION).with("package.json", package("7.0.0")).with(
        "package-lock.json",
        lock(
            "6.0.0",
            "sha512-Wu1VHeILBK8KAWJUAiSZQX94GmOE45Rg6/538fKwiloUu21KncEkYGPqob2oSZ5mUT73vLGrHQjKw3KMPwfDzg==",
        ),
    );
    let log = deploy(&ada, "unlocked", &project).await;
    let (ci, warning, install) =
        (log.find("$ npm ci"), log.find("warning: the lock file does not fit"), log.find("$ npm install"));
    assert!(ci.is_some() && ci < warning && warning < install, "{log}");
    assert_eq!(ask(&ada, "unlocked", "").await, "7.0.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_lock_file_npm_chooses_and_without_dependencies_nothing_is_installed() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "loose").await;
    let project = Project::node(PRINT_VERSION).with("package.json", package("^7.0.0"));
    let log = deploy(&ada, "loose", &project).await;
    assert!(log.contains("$ npm install --no-audit --no-fund") && !log.contains("npm ci"), "{log}");
    assert!(ask(&ada, "loose", "").await.starts_with("7."));
    for package in [json!({"name": "agent", "type": "module"}), json!({"name": "agent", "dependencies": {}})] {
        let project = Project::node(ECHO).with("package.json", package.to_string());
        let log = deploy(&ada, "loose", &project).await;
        assert!(!log.contains("$ npm") && !log.contains("dependencies"), "{log}");
        assert_eq!(ask(&ada, "loose", "hello").await, "hello");
    }
    let log = deploy(&ada, "loose", &Project::node(ECHO)).await;
    assert!(!log.contains("$ npm"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typescript_runs_as_it_is_and_its_loader_is_installed_once() {
    let (server, ada, _) = TestServer::start().await;
    let source = "import { readFileSync } from 'node:fs';
        import { shout } from './shout';
        enum Mood { Calm, Loud }
        const mood: Mood = Mood.Loud;
        console.log(shout(readFileSync(0, 'utf8') as string), Mood[mood]);";
    let shout = "export const shout = (text: string): string => text.toUpperCase();";
    let entry = json!({"name": "T", "version": "1.0.0", "runtime": "node", "entrypoint": "src/index.ts"});
    let project = Project::empty()
        .with("castari.json", entry.to_string())
        .with("src/index.ts", source)
        .with("src/shout.ts", shout);
    create(&ada, "typed").await;
    let log = deploy(&ada, "typed", &project).await;
    assert!(log.contains("── installing the TypeScript loader"), "{log}");
    assert_eq!(ask(&ada, "typed", "hello").await, "HELLO Loud");
    create(&ada, "typed-too").await;
    let log = deploy(&ada, "typed-too", &project.clone().with("README.md", "other")).await;
    assert!(!log.contains("TypeScript loader") && !log.contains("$ npm"), "{log}");
    assert_eq!(ask(&ada, "typed-too", "hello").await, "HELLO Loud");
    let loaders = names_in(&server.data().code_agents().join("layers"));
    assert_eq!(loaders.iter().filter(|name| name.starts_with("tsx-")).count(), 1, "{loaders:?}");
    // The loader does not show among the files that a program would list as its own.
    let listing =
        project.with("src/index.ts", "import { readdirSync } from 'node:fs'; console.log(readdirSync('.').join());");
    deploy(&ada, "typed", &listing).await;
    assert_eq!(ask(&ada, "typed", "").await, ".backlot,castari.json,src");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_point_that_is_missing_is_built() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "built").await;
    let build = "node -e \"fs.mkdirSync('dist'); fs.writeFileSync('dist/main.mjs', fs.readFileSync('main.txt'))\"";
    let package = json!({"name": "agent", "scripts": {"build": build}});
    let entry = json!({"name": "B", "version": "1.0.0", "runtime": "node", "entrypoint": "dist/main.mjs"});
    let project = Project::empty()
        .with("castari.json", entry.to_string())
        .with("package.json", package.to_string())
        .with("main.txt", "console.log('one')");
    let log = deploy(&ada, "built", &project).await;
    assert!(log.contains("── building") && log.contains("$ npm run build"), "{log}");
    assert_eq!(ask(&ada, "built", "").await, "one");
    // What is built depends on the source.
    deploy(&ada, "built", &project.clone().with("main.txt", "console.log('two')")).await;
    assert_eq!(ask(&ada, "built", "").await, "two");

    // An entry point that is there is not built again.
    let log = deploy(&ada, "built", &project.clone().with("dist/main.mjs", "console.log('as it came')")).await;
    assert!(!log.contains("npm run build"), "{log}");
    assert_eq!(ask(&ada, "built", "").await, "as it came");

    let useless = json!({"name": "agent", "scripts": {"build": "node -e 1"}});
    let refused = ada.upload("built", &project.clone().with("package.json", useless.to_string())).await;
    assert_eq!((refused.status, &refused.body["code"]), (400, &json!("entrypoint_missing")), "{refused:?}");
    let broken = json!({"name": "agent", "scripts": {"build": "node -e \"throw new Error('no moon today')\""}});
    let refused = ada.upload("built", &project.with("package.json", broken.to_string())).await;
    assert_eq!((refused.status, &refused.body["code"]), (400, &json!("build_failed")), "{refused:?}");
    assert!(refused.body["detail"].as_str().unwrap().contains("no moon today"), "{refused:?}");
    assert_eq!(ask(&ada, "built", "").await, "as it came");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependencies_that_are_part_of_the_project_change_with_it() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "local").await;
    let package = json!({"name": "agent", "version": "1.0.0", "dependencies": {"part": "file:./part.tgz"}});
    let part = json!({"name": "part", "version": "1.0.0", "type": "module", "exports": "./index.js"}).to_string();
    let project =
        Project::node("import { word } from 'part'; console.log(word)").with("package.json", package.to_string());
    for word in ["one", "two"] {
        let packed = RawArchive::default()
            .file("package/package.json", part.as_bytes())
            .file("package/index.js", format!("export const word = '{word}';").as_bytes());
        deploy(&ada, "local", &project.clone().with("part.tgz", packed.gzip())).await;
        assert_eq!(ask(&ada, "local", "").await, word);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_manifest_may_name_its_own_commands() {
    let (_server, ada, _) = TestServer::start().await;
    create(&ada, "own").await;
    let own = json!({
        "name": "Own", "version": "1.0.0", "runtime": "node", "entrypoint": "main.mjs", "colour": "red",
        "install": ["sh", "-c", "echo installed > made.txt"], "start": ["sh", "main.mjs", "argument"],
    });
    let project = Project::node("cat made.txt; echo \"$1\"; cat").with("castari.json", own.to_string());
    let log = deploy(&ada, "own", &project).await;
    assert!(log.contains("$ sh -c echo installed > made.txt"), "{log}");
    assert!(log.contains("warning: castari.json: unknown key `colour` is ignored"), "{log}");
    assert_eq!(ask(&ada, "own", "prompt").await, "installed\nargument\nprompt");
    // An install step is no way to change the source of other releases: a later one without it starts clean.
    let plain = Project::node("import fs from 'node:fs'; console.log(fs.readdirSync('.').join())");
    deploy(&ada, "own", &plain.with("castari.json", manifest("node", "main.mjs", "slug", &json!("own")))).await;
    assert_eq!(ask(&ada, "own", "").await, "castari.json,main.mjs");
}
