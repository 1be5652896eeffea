//! The vendors' published SDKs, unmodified, against the gateway (`tests/compat/gateway`).
//!
//! They are installed into a folder under the target directory, once per set of versions. Without Python or Node these
//! tests fail and say so: a gateway that was not tried with the real clients was not tried.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use backlot_domain::models::Usage;
use backlot_testkit::scripted_model::Turn;
use serde_json::Value;
use tokio::process::Command;

use crate::gateway::world::World;

/// What every answer takes; the scripts check the same figures.
const TAKES: Usage = Usage { input: 11, output: 7, cache_read: 0, cache_write_5m: 0, cache_write_1h: 0, reasoning: 0 };

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/compat/gateway")
}

/// A folder that stays between runs and is named by the content of `manifest`, with `install` run in it once.
async fn installed<F>(kind: &str, manifest: &str, install: impl FnOnce(PathBuf) -> F) -> PathBuf
where
    F: Future<Output = ()>,
{
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    fs::read(source().join(manifest)).unwrap().hash(&mut hasher);
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compat-gateway");
    let folder = cache.join(format!("{kind}-{:016x}", hasher.finish()));
    if !folder.exists() {
        // Made aside and renamed, so that an installation that broke off is not mistaken for one.
        fs::create_dir_all(&cache).unwrap();
        let aside = tempfile::Builder::new().prefix(kind).tempdir_in(&cache).unwrap();
        let work = aside.path().join("work");
        fs::create_dir(&work).unwrap();
        install(work.clone()).await;
        let _another_test_was_faster = fs::rename(&work, &folder);
    }
    folder
}

async fn run(program: impl AsRef<OsStr>, arguments: &[&OsStr], folder: &Path, world: Option<(&World, &str)>) -> String {
    let shown = program.as_ref().to_owned();
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    if let Some((world, token)) = world {
        command
            .env("GATEWAY_TOKEN", token)
            .env("ANTHROPIC_BASE_URL", &world.url)
            .env("OPENAI_BASE_URL", world.openai_url())
            .env_remove("ANTHROPIC_API_KEY")
            .env_remove("ANTHROPIC_AUTH_TOKEN")
            .env_remove("OPENAI_API_KEY")
            .env("NO_PROXY", "127.0.0.1");
    }
    let output = command.output().await.unwrap_or_else(|error| {
        panic!("{shown:?} cannot be run: {error}. These tests need Python 3 with venv, and Node 20 with npm")
    });
    let (told, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown:?} {arguments:?}: {}\n{told}\n{failed}", output.status);
    told.into_owned()
}

/// A server whose provider does what the scripts expect.
async fn world() -> World {
    let world = World::start().await;
    world.provider.respond_with(|request| {
        let last = request.messages.last().map(|message| message.content.as_slice()).unwrap_or_default();
        let said = last.iter().rev().find_map(text_of).unwrap_or_default();
        if let Some(status) = said.strip_prefix("/fail ") {
            return Turn::fail(status.parse().unwrap(), "as you wish").retry_after("3");
        }
        if let Some(city) = said.strip_prefix("/tool ") {
            let arguments = serde_json::json!({ "city": city }).to_string();
            return Turn::text("Calling.").tool_call("call_1", "weather", &arguments).usage(TAKES);
        }
        Turn::text("echo: ").say_pieces(said.split_inclusive(' ')).usage(TAKES)
    });
    world
}

fn text_of(block: &backlot_domain::models::Block) -> Option<String> {
    use backlot_domain::models::Block;
    match block {
        Block::Text { text } => Some(text.clone()),
        Block::ToolResult { content, .. } => content.iter().find_map(text_of),
        _ => None,
    }
}

/// What the script counted is what the books say.
async fn compare(world: &World, mut run: crate::gateway::world::OpenRun, told: &str) {
    let last: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    let answered = last["answered"].as_u64().unwrap();
    let ended = world.end(&mut run).await;
    assert!(answered > 20, "{told}");
    assert_eq!(ended.usage.input_tokens, 11 * answered);
    assert_eq!(ended.usage.output_tokens, 7 * answered);
    let calls = world.domain.models.calls(&world.account_id, 1000).await.unwrap();
    assert!(calls.iter().all(|call| !call.estimated), "every figure is the provider's own");
    assert_eq!(calls.len() as u64, ended.usage.model_calls);
    let intended = world.provider.violations().into_iter().filter(|violation| !violation.contains("expected an array"));
    assert_eq!(intended.collect::<Vec<_>>(), Vec::<String>::new());
}

#[tokio::test]
async fn the_python_packages_are_content() {
    let folder = installed("python", "requirements.txt", async |folder| {
        run("python3", &["-m", "venv", "--copies", "venv"].map(OsStr::new), &folder, None).await;
        let requirements = source().join("requirements.txt");
        let arguments = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"].map(OsStr::new);
        let arguments = [&arguments[..], &[requirements.as_os_str()]].concat();
        run(folder.join("venv/bin/python"), &arguments, &folder, None).await;
    });
    let folder = folder.await;
    let world = world().await;
    let open = world.run().await;
    let script = source().join("check.py");
    let secret = open.secret.clone();
    let told = run(folder.join("venv/bin/python"), &[script.as_os_str()], &folder, Some((&world, &secret))).await;
    compare(&world, open, &told).await;
}

#[tokio::test]
async fn the_npm_packages_are_content() {
    let folder = installed("npm", "package.json", async |folder| {
        fs::copy(source().join("package.json"), folder.join("package.json")).unwrap();
        let arguments = ["install", "--no-package-lock", "--ignore-scripts", "--no-fund", "--no-audit", "--silent"];
        run("npm", &arguments.map(OsStr::new), &folder, None).await;
    });
    let folder = folder.await;
    // Modules are looked for next to the script that imports them.
    let aside = tempfile::tempdir_in(&folder).unwrap();
    let script = aside.path().join("check.mjs");
    fs::copy(source().join("check.mjs"), &script).unwrap();
    let world = world().await;
    let open = world.run().await;
    let secret = open.secret.clone();
    let told = run("node", &[script.as_os_str()], &folder, Some((&world, &secret))).await;
    compare(&world, open, &told).await;
}
