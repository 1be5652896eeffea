//! Tries, in a throw-away child of the launcher, each thing that an init will need.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Failure, link, privileges, tree};
use crate::process::{
    idmap::Maps,
    launcher::{Cloned, clone_into_new_user_and_pid_namespace, wait_gone, write_maps},
    scratch::{Scratch, remove_scratch},
    seccomp::Filters,
    wire::{Identity, Link},
};

/// Names of the findings, in order. The server turns them into lines for people.
pub(in crate::process) const USER_NAMESPACE: &str = "user namespaces";
pub(in crate::process) const NAMESPACES: &str = "other namespaces";
pub(in crate::process) const OVERLAY: &str = "overlayfs";
pub(in crate::process) const PROC: &str = "own /proc";
pub(in crate::process) const LINK: &str = "network interface";
pub(in crate::process) const SECCOMP: &str = "seccomp";

type Finding = (String, Result<String, String>);

/// Tries everything. A step that could not be tried because an earlier one failed is reported as failed.
pub(in crate::process) fn all(
    identity: Identity,
    state_dir: &Path,
    filters: &Filters,
    maps: &mut Maps,
) -> Vec<Finding> {
    let folder = state_dir.join(format!("probe-{}", std::process::id()));
    let scratch = Scratch::at(&folder);
    let empty = folder.join("empty");
    let findings = fs::create_dir(&folder)
        .and_then(|()| scratch.prepare(identity))
        .and_then(|_| scratch.prepare_overlay(identity))
        .and_then(|()| fs::create_dir(&empty))
        .and_then(|()| match identity {
            Identity::Range { .. } => Ok(vec![maps.mount(&empty, identity.agent_uid()).map_err(|error| {
                io::Error::new(error.kind(), format!("making an id-mapped mount of {}: {error}", empty.display()))
            })?]),
            Identity::Own { .. } => Ok(Vec::new()),
        })
        .and_then(|mapped| try_in_child(identity, &scratch, &empty, filters, mapped));
    let _nothing_left = remove_scratch(&folder);
    findings.unwrap_or_else(|error| vec![(USER_NAMESPACE.into(), Err(error.to_string()))])
}

fn try_in_child(
    identity: Identity,
    scratch: &Scratch,
    empty: &PathBuf,
    filters: &Filters,
    mapped: Vec<OwnedFd>,
) -> io::Result<Vec<Finding>> {
    let (wait, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (mut answer, mut tell) = io::pipe()?;
    match clone_into_new_user_and_pid_namespace(None)? {
        Cloned::Child => {
            drop((go, answer));
            let findings = steps(identity, scratch, empty, filters, mapped, wait);
            let told = serde_json::to_vec(&findings).is_ok_and(|json| tell.write_all(&json).is_ok());
            std::process::exit(i32::from(!told))
        }
        Cloned::Parent { pid, pidfd } => {
            drop((wait, tell));
            write_maps(pid, identity)?;
            rustix::io::write(&go, &[1])?;
            if !wait_gone(pidfd.as_fd(), Duration::from_secs(5))? {
                rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL)?;
            }
            let mut json = Vec::new();
            answer.read_to_end(&mut json)?;
            serde_json::from_slice(&json).map_err(|_| io::Error::other("the probing process ended without an answer"))
        }
    }
}

fn steps(
    identity: Identity,
    scratch: &Scratch,
    empty: &PathBuf,
    filters: &Filters,
    mapped: Vec<OwnedFd>,
    wait: OwnedFd,
) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    let text = |failure: Failure| failure.reason;
    let mut byte = [0_u8; 1];
    if File::from(wait).read(&mut byte).unwrap_or(0) == 0 {
        return vec![(USER_NAMESPACE.into(), Err("the ids could not be mapped".into()))];
    }
    findings.push((USER_NAMESPACE.into(), Ok("usable".into())));
    let namespaces = tree::unshare_namespaces().map_err(|error| error.to_string());
    let go_on = namespaces.is_ok();
    findings.push((NAMESPACES.into(), namespaces.map(|()| "mount, network, ipc, uts, cgroup".into())));
    if !go_on {
        return findings;
    }
    let device = link::make();
    let sources = tree::OverlaySources::open(std::slice::from_ref(empty), mapped, &scratch.upper, &scratch.work);
    let ids = privileges::become_namespace_root(identity).map_err(Failure::at("taking the ids"));
    let overlay = sources.and_then(|sources| {
        ids?;
        tree::stage()?;
        fs::create_dir("workspace").map_err(Failure::at("making a directory"))?;
        tree::overlay(&sources)
    });
    findings.push((OVERLAY.into(), overlay.map(|()| "usable in a user namespace".into()).map_err(text)));
    let proc =
        fs::create_dir("proc").map_err(Failure::at("making a directory")).and_then(|()| tree::proc_file_system());
    findings.push((PROC.into(), proc.map(|()| "usable".into()).map_err(text)));
    let link = device.and_then(|_device| link::route(&Link { allow: Vec::new(), gateway: None, public: true }));
    findings.push((LINK.into(), link.map(|()| "TUN devices can be made".into()).map_err(text)));
    let dropped = privileges::drop_all(identity, false, filters);
    findings.push((SECCOMP.into(), dropped.map(|()| "filter installed".into()).map_err(text)));
    findings
}
