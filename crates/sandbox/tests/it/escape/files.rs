//! Files of the host, of the server and of neighbours.

use std::{fs, os::unix::fs::PermissionsExt};

use backlot_sandbox::Limits;

use super::scene::{CANARY, Host, LAYER_FILE, Scene, command};

/// No file of the host, of the server's data or of another sandbox can be found or read.
pub(crate) async fn host_files_are_out_of_reach(host: Host) {
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits::default()).await;

    let found = attacker.run(&["search-tree", CANARY]).await;
    assert_eq!(found.stdout, "searched\n", "the host's file must not be found");
    // `kept` is what the neighbour writes into its workspace all the time.
    let found = attacker.run(&["search-tree", "kept"]).await;
    assert_eq!(found.stdout, "searched\n", "the neighbour's file must not be found");
    let found = attacker.run(&["search-tree", LAYER_FILE.0]).await;
    assert_eq!(found.stdout, format!("found: /workspace/{}\nsearched\n", LAYER_FILE.0), "control: the search works");

    let canary = scene.server_data().join(CANARY);
    let canary = canary.to_str().unwrap();
    let other = scene.elsewhere().join(CANARY);
    let through_init = format!("/proc/1/root{canary}");
    let through_self = format!("/proc/self/root{canary}");
    let paths = [
        canary,
        other.to_str().unwrap(),
        &through_init,
        &through_self,
        "/etc/shadow",
        "/etc/gshadow",
        "/etc/sudoers",
        "/etc/machine-id",
        "/etc/ssh/ssh_host_ed25519_key",
        "/root/.bashrc",
        "/root/.ssh",
        "/var/log",
        "/var/lib/dpkg/status",
        "/run/docker.sock",
        "/var/run/docker.sock",
        "/proc/1/environ",
        "/proc/1/mem",
        "/proc/1/maps",
        "/proc/1/fd",
        "/proc/1/cwd/etc",
        "/proc/kcore",
        "/proc/kmsg",
        "/proc/keys",
        "/proc/sched_debug",
        "/proc/timer_list",
        "/proc/sysrq-trigger",
        "/dev/mem",
        "/dev/kmem",
        "/dev/port",
        "/dev/kmsg",
        "/dev/vda",
        "/dev/sda",
        "/dev/nvme0n1",
        "/dev/kvm",
        "/dev/fuse",
        "/dev/net/tun",
        "/dev/loop-control",
        "/sys/kernel/debug/tracing/trace",
        "/sys/firmware/dmi/tables/DMI",
        "/sys/fs/cgroup/memory/tasks",
    ];
    let mut arguments = vec!["read"];
    arguments.extend(paths);
    // A masked file reads as empty, which is refused as well.
    attacker.run(&arguments).await.assert_all_refused(&paths);
    attacker
        .run(&["read", "/opt/shown", "/workspace/layer-file"])
        .await
        .assert_results(&[("/opt/shown", "ok"), ("/workspace/layer-file", "ok")]);

    let homes = attacker.run(&["list", "/home"]).await;
    assert_eq!(homes.stdout, "agent\n", "only the sandbox's own home");
    attacker.sandbox.destroy().await;
    scene.close().await;
}

/// Nothing outside the workspace, home, and temporary directories can be written, least of all the kernel's settings.
pub(crate) async fn nothing_of_the_host_can_be_written(host: Host) {
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits::default()).await;
    let setting = || fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let before = setting();

    let files = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/randomize_va_space",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/fs/file-max",
        "/proc/sysrq-trigger",
        "/proc/1/oom_score_adj",
        "/proc/1/mem",
        "/proc/1/comm",
        "/proc/acpi/wakeup",
        "/proc/bus/pci",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/uevent_helper",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/power/state",
        "/sys/fs/cgroup/release_agent",
        "/sys/fs/cgroup/memory/release_agent",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/cgroup.procs",
        "/etc/passwd",
        "/etc/resolv.conf",
        "/etc/hosts",
        "/etc/ld.so.cache",
        "/usr/bin/env",
        "/bin/sh",
        "/opt/shown",
        "/dev/kmsg",
    ];
    let mut arguments = vec!["write"];
    arguments.extend(files);
    attacker.run(&arguments).await.assert_all_refused(&files);

    let directories = [
        "/",
        "/usr",
        "/usr/bin",
        "/usr/local/bin",
        "/bin",
        "/lib",
        "/etc",
        "/opt",
        "/root",
        "/var",
        "/proc",
        "/sys",
        "/sys/fs/cgroup",
        "/dev",
        "/home",
    ];
    let mut arguments = vec!["create"];
    arguments.extend(directories);
    attacker.run(&arguments).await.assert_all_refused(&directories);

    attacker.run(&["create", "/workspace", "/home/agent", "/tmp", "/dev/shm"]).await.assert_results(&[
        ("/workspace", "ok"),
        ("/home/agent", "ok"),
        ("/tmp", "ok"),
        ("/dev/shm", "ok"),
    ]);
    assert_eq!(setting(), before, "the host's core_pattern changed");
    attacker.sandbox.destroy().await;
    scene.close().await;
}

/// Symbolic links, hard links and `..` stay inside, through mounts too, and layers stay as they are.
pub(crate) async fn links_do_not_lead_out(host: Host) {
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits::default()).await;
    let canary = scene.server_data().join(CANARY);
    let outcome = attacker.run(&["links", LAYER_FILE.0, canary.to_str().unwrap()]).await;
    outcome.assert_results(&[
        ("symlink to a host file", "ok"),
        ("read through it", "ENOENT"),
        ("hard link to a system file", "EXDEV|EPERM|EACCES"),
        ("hard link to the init", "EXDEV|EPERM|EACCES"),
        ("hard link through a descriptor", "EXDEV|EPERM|ENOENT|EACCES"),
        ("climb with ..", "ENOENT"),
        ("climb from a descriptor", "ENOENT"),
        ("climb through /proc", "ENOENT"),
        ("move a directory away", "EXDEV"),
        ("climb from the moved one", "ENOENT"),
        ("hard link to a layer's file", "ok|EPERM"),
        ("change it", "ok|ENOENT"),
        // Without effect where it is allowed: overlayfs escapes it.
        ("overlay attribute of users", "ok|EPERM|EOPNOTSUPP"),
        ("overlay attribute of root", "EPERM|EOPNOTSUPP"),
        ("capability on a file", "EPERM|EOPNOTSUPP"),
    ]);
    // `close` checks that the layer's file is as it was.
    attacker.sandbox.destroy().await;
    scene.close().await;
}

/// A program inherits its three streams and nothing else.
pub(crate) async fn no_descriptor_leaks(host: Host) {
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits::default()).await;
    let outcome = attacker.run(&["descriptors"]).await;
    assert_eq!(outcome.stdout, "0\n1\n2\n");
    attacker.sandbox.destroy().await;
    scene.close().await;
}

/// A setuid program of the host gives nothing.
pub(crate) async fn setuid_programs_give_nothing(host: Host) {
    let scene = Scene::open(host).await;
    let mut spec = scene.spec("attacker", Limits::default());
    let program = scene.layer().join("privileged");
    fs::copy(scene.layer().join("probe"), &program).unwrap();
    // As root this is setuid root; otherwise of the user that runs the tests, which the sandbox must not become either.
    fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).unwrap();
    spec.id.push_str("-setuid");
    let attacker = scene.attacker_with(spec).await;
    let plain = attacker.run(&["identity"]).await;
    let mut privileged = command(&["identity"]);
    privileged.argv[0] = "/workspace/privileged".into();
    let outcome = attacker.run_command(privileged).await;
    assert_eq!(outcome.stdout, plain.stdout, "a setuid program runs like any other");
    for line in ["uid: 1000 1000", "gid: 1000 1000", "NoNewPrivs:1", "Seccomp:2"] {
        assert!(plain.stdout.lines().any(|other| other == line), "no `{line}` in {}", plain.stdout);
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let line = format!("{set}:0000000000000000");
        assert!(plain.stdout.contains(&line), "no `{line}` in {}", plain.stdout);
    }
    attacker.sandbox.destroy().await;
    scene.close().await;
}
