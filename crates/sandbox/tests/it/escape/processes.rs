//! Other processes, and processes that do not want to end.

use std::{fs, time::Duration};

use backlot_sandbox::{Cause, Limits};

use super::scene::{ATTACKERS_MARK, Host, NEIGHBOURS_SECRET, Scene, command};

const SIGKILL: i32 = 9;

/// Processes of the host with `text` in their command line.
fn on_the_host(text: &str) -> Vec<String> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
        .filter(|line| line.contains(text))
        .collect()
}

/// Waits until no process of the host has `text` in its command line.
pub(super) async fn assert_gone(text: &str) {
    for _ in 0..200 {
        if on_the_host(text).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("left on the host: {:?}", on_the_host(text));
}

/// A program sees its own processes only: neither environment nor command line of anybody else's.
pub(crate) async fn others_are_invisible(host: Host) {
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits::default()).await;
    let found = attacker.run(&["search-processes", NEIGHBOURS_SECRET]).await;
    // The probe's own command line has the word.
    let own: Vec<&str> = found.stdout.lines().collect();
    assert!(matches!(own[..], [one, "searched"] if one.ends_with("/cmdline")), "{found:?}");
    let found = attacker.run(&["search-processes", ATTACKERS_MARK]).await;
    assert!(found.stdout.contains("/environ"), "control: the search finds the probe's own environment: {found:?}");

    let processes = attacker.run(&["list", "/proc"]).await;
    let count = processes.stdout.lines().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).count();
    assert!((1..=3).contains(&count), "the init and the probe: {processes:?}");
    attacker.sandbox.destroy().await;
    scene.close().await;
}

/// Signals to the init, to everybody and to a host's process id reach nobody but the attacker's own processes.
pub(crate) async fn signals_reach_nobody_else(host: Host) {
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits::default()).await;
    let outcome = attacker.run(&["signals", &std::process::id().to_string()]).await;
    outcome.assert_results(&[
        ("signal to a host process", "ESRCH"),
        ("signal to its group", "ESRCH"),
        ("signal to pid 1, allowed at all", "ok|EPERM"),
    ]);
    assert!(outcome.stdout.contains("still here\nand after everybody was killed\n"), "{outcome:?}");
    attacker.assert_usable().await;
    attacker.sandbox.destroy().await;
    scene.close().await;
}

/// Processes that a program leaves behind, in sessions of their own and deaf to signals, end with it.
pub(crate) async fn daemonised_children_end_with_the_program(host: Host) {
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits::default()).await;
    let mark = format!("/workspace/left-{}", std::process::id());
    let outcome = attacker.run(&["daemonise", &mark]).await;
    assert_eq!((outcome.exit.cause, outcome.exit.code), (Cause::Exited, Some(0)), "{outcome:?}");
    assert_eq!(outcome.stdout, "left\n");
    assert_gone(&mark).await;
    let processes = attacker.run(&["list", "/proc"]).await;
    let count = processes.stdout.lines().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).count();
    assert!((1..=3).contains(&count), "somebody is left inside: {processes:?}");
    attacker.sandbox.destroy().await;
    scene.close().await;
}

/// A program that ignores every signal is killed after the grace time, and on request.
pub(crate) async fn a_deaf_program_is_killed(host: Host) {
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits::default()).await;
    let mut deaf = command(&["deaf"]);
    deaf.timeout = Duration::from_secs(1);
    let outcome = attacker.run_command(deaf).await;
    assert_eq!((outcome.exit.cause, outcome.exit.signal), (Cause::Timeout, Some(SIGKILL)), "{outcome:?}");

    let mut execution = attacker.sandbox.exec(command(&["deaf"])).await.unwrap();
    let first = execution.output.recv().await;
    assert!(first.is_some(), "the program runs");
    execution.kill.now();
    while execution.output.recv().await.is_some() {}
    let exit = execution.exit.await.unwrap();
    assert_eq!((exit.cause, exit.signal), (Cause::Killed, Some(SIGKILL)), "{exit:?}");
    attacker.assert_usable().await;
    attacker.sandbox.destroy().await;
    scene.close().await;
}

/// A fork bomb whose processes ignore signals ends at its time limit, all of it, and the sandbox stays usable.
pub(crate) async fn a_fork_bomb_ends(host: Host) {
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits { processes: 128, ..Limits::default() }).await;
    let mark = format!("bomb-{}", std::process::id());
    let mut bomb = command(&["fork-bomb", &mark]);
    bomb.timeout = Duration::from_secs(2);
    let outcome = attacker.run_command(bomb).await;
    assert_eq!(outcome.exit.cause, Cause::Timeout, "{outcome:?}");
    assert_gone(&mark).await;
    attacker.assert_usable().await;

    // And one that is destroyed in full blaze.
    let mark = format!("blaze-{}", std::process::id());
    let _execution = attacker.sandbox.exec(command(&["fork-bomb", &mark])).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    attacker.sandbox.destroy().await;
    assert_gone(&mark).await;
    scene.close().await;
}

/// A dropped execution and a dropped sandbox take their processes with them.
pub(crate) async fn dropping_ends_everything(host: Host) {
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits::default()).await;
    let mark = format!("dropped-execution-{}", std::process::id());
    let mut execution = attacker.sandbox.exec(command(&["deaf", &mark])).await.unwrap();
    assert!(execution.output.recv().await.is_some());
    drop(execution);
    assert_gone(&mark).await;
    drop(attacker);

    let attacker = scene.attacker_with(scene.spec("attacker-again", Limits::default())).await;
    let mark = format!("dropped-sandbox-{}", std::process::id());
    let mut execution = attacker.sandbox.exec(command(&["deaf", &mark])).await.unwrap();
    assert!(execution.output.recv().await.is_some());
    drop(attacker);
    assert_gone(&mark).await;
    drop(execution);
    scene.close().await;
}
