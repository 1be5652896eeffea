//! What this host offers, in words for whoever runs the server.

use std::{fs, io, os::fd::AsFd, path::Path, time::Duration};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    cgroup::Hierarchy,
    init::probe::{LINK, NAMESPACES, OVERLAY, PROC, SECCOMP, USER_NAMESPACE},
    packet,
    wire::{FromLauncher, Identity, ToLauncher},
    zygote::Program,
};
use crate::{Check, Preflight};

/// How long probing may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Every isolation the launcher probes, with what to do where it is missing.
const PROBED: [(&str, &str); 6] = [
    (USER_NAMESPACE, "the kernel or a security module forbids user namespaces"),
    (NAMESPACES, "the kernel lacks namespaces, or the container this server runs in forbids them"),
    (
        OVERLAY,
        "use Linux 5.11 or newer, and a data folder on a file system that can carry overlayfs (ext4, xfs, btrfs, tmpfs)",
    ),
    (
        PROC,
        "this server runs in a container whose /proc is partly covered: run the container with `--security-opt systempaths=unconfined`",
    ),
    (
        LINK,
        "load the module `tun`, and let the server's user open /dev/net/tun (`chmod 0666 /dev/net/tun`, or `--device /dev/net/tun` for a container)",
    ),
    (SECCOMP, "use a kernel with CONFIG_SECCOMP_FILTER"),
];

/// Probes by doing: a launcher of its own makes a child in which each step is tried.
pub(super) fn run(
    program: &Program,
    identity: Result<Identity, &str>,
    state_dir: &Path,
    cgroups: Result<&Hierarchy, &str>,
) -> Preflight {
    let mut checks = vec![ids(identity), control_groups(cgroups)];
    let findings = match identity {
        Ok(identity) => probe(program, identity, state_dir).unwrap_or_else(|error| {
            vec![(USER_NAMESPACE.into(), Err(format!("asking the sandbox launcher: {error}")))]
        }),
        Err(_) => Vec::new(),
    };
    for (name, advice) in PROBED {
        let finding = findings.iter().find(|(found, _)| found == name).map(|(_, finding)| finding);
        let (ok, found) = match finding {
            Some(Ok(found)) => (true, found.clone()),
            Some(Err(reason)) => (false, reason.clone()),
            None => (false, String::from("not tried, because an earlier step failed")),
        };
        let advice = (!ok).then(|| if name == USER_NAMESPACE { userns_advice() } else { advice.to_owned() });
        checks.push(Check { name, ok, required: true, found, advice });
    }
    Preflight { checks }
}

fn probe(program: &Program, identity: Identity, state_dir: &Path) -> io::Result<Vec<(String, Result<String, String>)>> {
    let (mut child, socket) = program.start()?;
    let request = ToLauncher::Probe { identity, state_dir: state_dir.to_owned() };
    let answer = packet::send(socket.as_fd(), &request, &[]).and_then(|()| {
        let timeout = Timespec::try_from(PATIENCE).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&socket, PollFlags::IN)];
        if poll(&mut fds, Some(&timeout))? == 0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"));
        }
        packet::receive::<FromLauncher>(socket.as_fd())
    });
    drop(socket);
    if answer.is_err() {
        let _ended = child.kill();
    }
    child.wait()?;
    match answer? {
        Some((FromLauncher::Probed(findings), _)) => Ok(findings),
        _ => Err(io::Error::other("it ended without an answer")),
    }
}

fn ids(identity: Result<Identity, &str>) -> Check {
    let (ok, found, advice) = match identity {
        Ok(Identity::Range { base }) => {
            (true, format!("the server is root; sandboxes get user ids of their own from {base} on"), None)
        }
        Ok(Identity::Own { uid, .. }) => {
            (true, format!("the server is user {uid}; sandboxes run as the same user in a user namespace"), None)
        }
        Err(reason) => (
            false,
            reason.to_owned(),
            Some(String::from("run the server as an ordinary user, or outside of the container's user namespace")),
        ),
    };
    Check { name: "user ids", ok, required: true, found, advice }
}

fn control_groups(cgroups: Result<&Hierarchy, &str>) -> Check {
    let (ok, found, advice) = match cgroups {
        Ok(hierarchy) => (true, hierarchy.describe(), None),
        Err(reason) => (
            false,
            format!(
                "none usable ({reason}); memory is limited by measuring the processes 50 times a second and by RLIMIT_DATA, processes \
                 by RLIMIT_NPROC, processor time is not limited, and memfd_create and shmget are refused"
            ),
            Some(String::from(
                "let systemd delegate a group to the server: `Delegate=yes` in its unit, or `systemd-run --user --scope -p Delegate=yes backlot serve`",
            )),
        ),
    };
    Check { name: "control groups", ok, required: false, found, advice }
}

/// The usual obstacles to user namespaces, as this host has them.
fn userns_advice() -> String {
    let value = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    if value("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        return String::from("allow them: `sysctl -w user.max_user_namespaces=15000`");
    }
    if value("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        return String::from("allow them: `sysctl -w kernel.unprivileged_userns_clone=1`");
    }
    if value("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        return String::from(
            "AppArmor (Ubuntu 23.10 and newer) restricts them: install an AppArmor profile with `userns,` for the backlot binary, or \
             `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`",
        );
    }
    String::from(
        "if this server runs in a container, its seccomp profile probably forbids them: \
         `--security-opt seccomp=unconfined`, or use `--sandbox docker`",
    )
}
