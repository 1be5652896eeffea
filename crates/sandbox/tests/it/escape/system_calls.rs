//! The kernel's own interfaces.

use backlot_sandbox::Limits;

use super::scene::{Host, Scene};

/// Attempts of the probe whose right answer is not EPERM.
const OTHERWISE: &[(&str, &str)] = &[
    // Libraries fall back to the calls that can be judged.
    ("clone3 user", "ENOSYS"),
    ("clone3 into time", "ENOSYS"),
    ("io_uring_setup", "ENOSYS"),
    // The limit of a capability that no one inside has, or an id that does not exist inside.
    ("setuid 0", "EPERM|EINVAL"),
    ("setgid 0", "EPERM|EINVAL"),
    ("setresuid 0", "EPERM|EINVAL"),
    ("setgroups", "EPERM|EINVAL"),
    ("chown to root", "EPERM|EINVAL"),
    ("drop no_new_privs", "EINVAL"),
    ("higher priority", "EACCES|EPERM"),
    // Answers of kernels that lack the thing altogether.
    ("fanotify_init", "EPERM|ENOSYS"),
    ("socket alg", "EPERM|EAFNOSUPPORT"),
    ("socket xdp", "EPERM|EAFNOSUPPORT"),
    ("socket vsock", "EPERM|EAFNOSUPPORT"),
    ("socket bluetooth", "EPERM|EAFNOSUPPORT"),
    ("control: getpid", "ok"),
    ("control: fork", "ok"),
    ("control: socket", "ok"),
    ("control: socketpair", "ok"),
    ("control: mmap", "ok"),
    ("control: personality", "ok"),
];

/// Tracing, mounts, namespaces, keys, kernel programs, raw sockets, devices, identities, modules, the clock, the
/// terminal: all refused with an error, while ordinary calls work.
pub(crate) async fn the_kernels_interfaces_are_refused(host: Host) {
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits::default()).await;
    let outcome = attacker.run(&["system-calls"]).await;
    assert_eq!(outcome.exit.code, Some(0), "{outcome:?}");
    let results = outcome.results();
    assert!(results.len() > 90, "the probe stopped early: {outcome:?}");
    let expected: Vec<(&str, &str)> = results
        .keys()
        .map(|attempt| {
            (*attempt, OTHERWISE.iter().find(|(name, _)| name == attempt).map_or("EPERM", |(_, result)| result))
        })
        .collect();
    outcome.assert_results(&expected);
    for (attempt, _) in OTHERWISE {
        assert!(results.contains_key(attempt), "`{attempt}` was not tried");
    }
    attacker.assert_usable().await;
    attacker.sandbox.destroy().await;
    scene.close().await;
}

/// Calls under another architecture's numbers, for which no rule would fit, end the program.
pub(crate) async fn other_architectures_calls_are_fatal(host: Host) {
    const SIGSYS: i32 = 31;
    const SIGSEGV: i32 = 11;
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits::default()).await;
    for architecture in ["i386", "x32"] {
        let outcome = attacker.run(&["architecture", architecture]).await;
        // SIGSEGV where the kernel has no 32-bit calls at all; an error where it has no x32.
        let died = matches!(outcome.exit.signal, Some(SIGSYS | SIGSEGV));
        let absent = outcome.stdout == format!("{architecture}: ENOSYS\n");
        assert!(died || absent, "{architecture}: {outcome:?}");
    }
    attacker.sandbox.destroy().await;
    scene.close().await;
}
