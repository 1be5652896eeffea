//! What only the process driver promises: nothing outlives its server, and the host is left as it was.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    process::{Command as HostCommand, Stdio},
    time::Duration,
};

use backlot_sandbox::{
    Driver,
    process::{Options, ProcessDriver},
};

use crate::conformance::stage::{Stage, await_nobody_runs, await_output, run, sh, somebody_runs};

/// Set in the process that plays the server and is killed.
const PLAYS_SERVER: &str = "BACKLOT_TEST_PLAYS_SERVER";

fn options(state: &std::path::Path) -> Options {
    Options::new(env!("CARGO_BIN_EXE_backlot-sandbox-launcher").into(), Vec::new(), state.to_owned())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn state() -> tempfile::TempDir {
    let state = tempfile::tempdir().unwrap();
    fs::set_permissions(state.path(), fs::Permissions::from_mode(0o755)).unwrap();
    state
}

/// Not a test by itself: the server that [`nothing_outlives_a_killed_server`] kills.
#[test]
fn server_to_be_killed() {
    let Ok(mark) = std::env::var(PLAYS_SERVER) else {
        return;
    };
    let state = state();
    runtime().block_on(async {
        let driver = std::sync::Arc::new(ProcessDriver::start(options(state.path())).unwrap());
        let stage = Stage::new(driver);
        let mut alive = Vec::new();
        for number in 0..3 {
            let sandbox = stage.sandbox(&format!("orphan-{number}")).await;
            let script = format!("trap '' TERM HUP; setsid sleep {mark} & echo up; sleep {mark}; sleep {mark}");
            let mut execution = sandbox.exec(sh(&script)).await.unwrap();
            await_output(&mut execution, "up").await;
            alive.push((sandbox, execution));
        }
        std::io::stdout().write_all(b"all are up\n").unwrap();
        std::io::stdout().flush().unwrap();
        tokio::time::sleep(Duration::from_secs(600)).await;
    });
}

#[test]
fn nothing_outlives_a_killed_server() {
    let mark = format!("4000000.{}", std::process::id());
    let mut server = HostCommand::new(std::env::current_exe().unwrap())
        .args(["--exact", "process::server_to_be_killed", "--nocapture"])
        .env(PLAYS_SERVER, &mark)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("all are up")), "the server must get to run its sandboxes");
    assert!(somebody_runs(&mark));
    let server_id = server.id();
    server.kill().unwrap();
    server.wait().unwrap();
    runtime().block_on(await_nobody_runs(&mark));
    // The launcher was its child and is now nobody's; it goes too.
    let prefix = format!("backlot-{server_id}-");
    let groups = || {
        ["memory", "pids", "cpu", "."]
            .iter()
            .flat_map(|controller| groups_below(&format!("/sys/fs/cgroup/{controller}"), &prefix))
            .collect::<Vec<_>>()
    };
    // The next server removes the groups of the dead one.
    let state = state();
    let runtime = runtime();
    runtime.block_on(async {
        for _ in 0..100 {
            drop(ProcessDriver::start(options(state.path())).unwrap());
            if groups().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("groups of a dead server stay: {:?}", groups());
    });
}

fn groups_below(directory: &str, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![std::path::PathBuf::from(directory)];
    while let Some(path) = left.pop() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().starts_with(prefix) {
                    found.push(entry.path().display().to_string());
                }
                left.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn a_dead_launcher_is_replaced_and_its_sandboxes_live_on() {
    let state = state();
    runtime().block_on(async {
        let driver = std::sync::Arc::new(ProcessDriver::start(options(state.path())).unwrap());
        let stage = Stage::new(driver);
        let before = stage.sandbox("before").await;
        let launcher = child_launcher();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(launcher), nix::sys::signal::Signal::SIGKILL).unwrap();
        let after = stage.sandbox("after").await;
        assert_eq!(run(&*after, sh("echo new")).await.stdout, "new\n");
        assert_eq!(run(&*before, sh("echo old")).await.stdout, "old\n");
        before.destroy().await;
        after.destroy().await;
    });
}

/// The launcher of the only driver in this process: its child with the smallest id that is one.
fn child_launcher() -> i32 {
    let own = std::process::id().to_string();
    let mut found: Vec<i32> = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1).map(str::to_owned));
            parent.as_deref() == Some(&own) && stat.contains("(backlot-sandbox")
        })
        .collect();
    found.sort_unstable();
    *found.first().expect("a driver has a launcher")
}

#[test]
fn a_dropped_driver_leaves_nothing_on_the_host() {
    let state = state();
    let prefix = format!("backlot-{}-", std::process::id());
    runtime().block_on(async {
        let driver = std::sync::Arc::new(ProcessDriver::start(options(state.path())).unwrap());
        let stage = Stage::new(driver);
        for number in 0..4 {
            let sandbox = stage.sandbox(&format!("short-{number}")).await;
            run(&*sandbox, sh("true")).await;
            if number % 2 == 0 {
                sandbox.destroy().await;
            }
        }
        drop(stage);
        for _ in 0..200 {
            let left = groups_below("/sys/fs/cgroup", &prefix);
            if left.is_empty() && fs::read_dir(state.path()).unwrap().count() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!(
            "left behind: {:?} {:?}",
            groups_below("/sys/fs/cgroup", &prefix),
            fs::read_dir(state.path()).unwrap().flatten().collect::<Vec<_>>()
        );
    });
}

#[test]
fn preflight_tells_what_is_there() {
    let state = state();
    runtime().block_on(async {
        let driver = ProcessDriver::start(options(state.path())).unwrap();
        let preflight = driver.preflight();
        for name in [
            "user ids",
            "user namespaces",
            "other namespaces",
            "overlayfs",
            "own /proc",
            "seccomp",
            "network interface",
            "control groups",
        ] {
            let check = preflight.checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("{name}"));
            assert!(!check.found.is_empty());
            assert_eq!(check.ok, check.advice.is_none(), "{check:?}");
        }
        let confining = preflight.checks.iter().filter(|check| check.name != "network interface" && check.required);
        assert!(confining.clone().count() >= 6);
        assert!(confining.clone().all(|check| check.ok), "{preflight:?}");
    });
}
