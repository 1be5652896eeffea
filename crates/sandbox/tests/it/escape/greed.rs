//! Programs that take all they can get.

use std::time::Duration;

use backlot_sandbox::{Cause, Limits, process::remove_scratch};

use super::scene::{Host, Outcome, Scene, command};

const MEGABYTE: u64 = 1 << 20;

/// Processes and threads stop at the limit.
pub(crate) async fn processes_are_counted(host: Host) {
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits { processes: 64, ..Limits::default() }).await;
    let outcome = attacker.run(&["forks"]).await;
    assert!((32..=64).contains(&outcome.number("children")), "{outcome:?}");
    assert!(outcome.stdout.contains("EAGAIN"), "{outcome:?}");
    let outcome = attacker.run(&["threads"]).await;
    assert!((32..=64).contains(&outcome.number("threads")), "{outcome:?}");
    attacker.assert_usable().await;
    attacker.sandbox.destroy().await;
    scene.close().await;
}

/// How a program that takes too much memory may end: killed and reported as such, or refused before. All in MB; the
/// slack is for a driver that has to measure.
fn assert_memory_contained(outcome: &Outcome, limit: u64, slack: u64) {
    let killed = outcome.exit.cause == Cause::OutOfMemory;
    let refused =
        outcome.exit.cause == Cause::Exited && outcome.exit.code == Some(3) && outcome.stdout.contains("refused: ");
    assert!(killed || refused, "{:?} {}", outcome.exit, outcome.stderr);
    let most = megabytes_given(outcome);
    assert!((limit / 4..=limit + slack).contains(&most), "{most} MB were given of {limit} MB");
}

/// The largest number in the output, where the probe counts.
fn megabytes_given(outcome: &Outcome) -> u64 {
    outcome.stdout.lines().filter_map(|line| line.parse::<u64>().ok()).max().unwrap_or(0)
}

/// Memory ends at the limit, in one process.
pub(crate) async fn memory_is_counted(host: Host) {
    let slack = if host.whole_sandbox_limits { 0 } else { 1024 };
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits { memory_bytes: 128 * MEGABYTE, ..Limits::default() }).await;
    let outcome = attacker.run(&["memory", "0"]).await;
    assert_memory_contained(&outcome, 128, slack);
    attacker.assert_usable().await;
    attacker.sandbox.destroy().await;
    scene.close().await;
}

/// Memory of several processes counts together.
pub(crate) async fn memory_is_counted_together(host: Host) {
    let slack = if host.whole_sandbox_limits { 0 } else { 1024 };
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits { memory_bytes: 128 * MEGABYTE, ..Limits::default() }).await;
    let outcome = attacker.run(&["memory", "3"]).await;
    assert_eq!(outcome.exit.cause, Cause::OutOfMemory, "{:?}", outcome.exit);
    let peak = outcome.exit.peak_memory.unwrap_or(0);
    assert!(peak <= (128 + slack) * MEGABYTE, "{:?}", outcome.exit);
    attacker.sandbox.destroy().await;
    scene.close().await;
}

/// Memory that belongs to no process counts, or cannot be had.
pub(crate) async fn hidden_memory_is_counted(host: Host) {
    let scene = Scene::open(host).await;
    for place in ["memfd", "shm", "sysv", "pipes"] {
        // A sandbox each: with no process to blame the kernel may end the sandbox's own supervisor.
        let limits = Limits { memory_bytes: 128 * MEGABYTE, ..Limits::default() };
        let attacker = scene.attacker_with(scene.spec(&format!("attacker-{place}"), limits)).await;
        let outcome = attacker.run(&["hidden-memory", place]).await;
        let killed = outcome.exit.cause == Cause::OutOfMemory;
        let refused = outcome.exit.cause == Cause::Exited && outcome.exit.code == Some(3);
        assert!(killed || refused, "{place}: {:?} {}", outcome.exit, outcome.stderr);
        let most = megabytes_given(&outcome);
        assert!(most <= 128, "{place}: {most} MB were given of 128 MB");
        attacker.sandbox.destroy().await;
    }
    scene.close().await;
}

/// Disk ends at the limit: one big file, many small ones, one without a name, in every writable place.
pub(crate) async fn disk_is_counted(host: Host) {
    const LIMIT: u64 = 64 * MEGABYTE;
    // A driver may look at the disk now and then: what passes between two looks, on a fast disk.
    const BETWEEN_LOOKS: u64 = 1024 * MEGABYTE;
    let scene = Scene::open(host).await;
    for (number, attack) in [
        ["fill", "/workspace/big"],
        ["fill", "/tmp/big"],
        ["fill", "/home/agent/big"],
        ["litter", "/workspace"],
        ["nameless", "/workspace"],
    ]
    .into_iter()
    .enumerate()
    {
        let limits = Limits { disk_bytes: LIMIT, ..Limits::default() };
        let attacker = scene.attacker_with(scene.spec(&format!("attacker-{number}"), limits)).await;
        let outcome = attacker.run(&attack).await;
        let stopped = outcome.exit.cause == Cause::DiskLimit;
        let refused = outcome.exit.cause == Cause::Exited && outcome.exit.code == Some(3);
        assert!(stopped || refused, "{attack:?}: {outcome:?}");
        let held = attacker.bytes_on_disk();
        assert!(held <= LIMIT + BETWEEN_LOOKS, "{attack:?}: {held} bytes on the host");
        assert!(!refused || held <= LIMIT + MEGABYTE, "{attack:?}: refused, but after {held} bytes");
        attacker.sandbox.destroy().await;
        remove_scratch(&attacker.scratch).unwrap();
    }
    scene.close().await;
}

/// Standard output ends the program at its limit; standard error is passed on up to its limit, then dropped.
pub(crate) async fn output_is_capped(host: Host) {
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits::default()).await;
    let mut flood = command(&["flood", "1"]);
    flood.stdout_limit = MEGABYTE;
    let outcome = attacker.run_command(flood).await;
    assert_eq!(outcome.exit.cause, Cause::OutputLimit, "{:?}", outcome.exit);
    assert!(outcome.stdout.len() as u64 <= MEGABYTE, "{} bytes", outcome.stdout.len());

    let mut flood = command(&["flood", "2"]);
    flood.stderr_limit = 65_536;
    let outcome = attacker.run_command(flood).await;
    assert_eq!((outcome.exit.cause, outcome.exit.code), (Cause::Exited, Some(0)), "{:?}", outcome.exit);
    assert!((1..=65_536).contains(&outcome.stderr.len()), "{} bytes", outcome.stderr.len());
    attacker.assert_usable().await;
    attacker.sandbox.destroy().await;
    scene.close().await;
}

/// A program whose output nobody reads waits; its limits go on.
pub(crate) async fn unread_output_holds_nobody_up(host: Host) {
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits::default()).await;
    let mut flood = command(&["flood", "1"]);
    flood.stdout_limit = u64::MAX;
    flood.timeout = Duration::from_secs(1);
    let mut execution = attacker.sandbox.exec(flood).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut bytes = 0;
    while let Some(piece) = execution.output.recv().await {
        bytes += match piece {
            backlot_sandbox::Output::Stdout(bytes) | backlot_sandbox::Output::Stderr(bytes) => bytes.len(),
        };
    }
    let exit = execution.exit.await.unwrap();
    assert_eq!(exit.cause, Cause::Timeout, "{exit:?}");
    assert!(bytes < 64 << 20, "{bytes} bytes were kept for a reader who did not come");
    attacker.sandbox.destroy().await;
    scene.close().await;
}

/// Open files end at the limit.
pub(crate) async fn open_files_are_counted(host: Host) {
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits { open_files: 256, ..Limits::default() }).await;
    let outcome = attacker.run(&["files"]).await;
    assert!(outcome.number("files") <= 256 && outcome.stdout.contains("EMFILE"), "{outcome:?}");
    attacker.assert_usable().await;
    attacker.sandbox.destroy().await;
    scene.close().await;
}

/// Endless computing ends at the time limit and gets no more than its share of the processors.
pub(crate) async fn busy_loops_end(host: Host) {
    let whole = host.whole_sandbox_limits;
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits { cpu_millis: 500, ..Limits::default() }).await;
    let mut busy = command(&["busy", "4"]);
    busy.timeout = Duration::from_secs(3);
    let outcome = attacker.run_command(busy).await;
    assert_eq!(outcome.exit.cause, Cause::Timeout, "{outcome:?}");
    if let (true, Some(used)) = (whole, outcome.exit.cpu_time) {
        // Half a core; the slack is for a burst at the start.
        let share = used.as_secs_f64() / outcome.exit.duration.as_secs_f64();
        assert!(share < 0.9, "{share:.2} cores were used of 0.5");
    }
    attacker.assert_usable().await;
    attacker.sandbox.destroy().await;
    scene.close().await;
}
