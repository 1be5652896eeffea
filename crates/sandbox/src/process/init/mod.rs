//! Process 1 of a sandbox: sets up the view of files, devices and network, gives up every privilege, and then
//! runs one program after another as the server asks.
//!
//! It starts as a copy of the launcher with one thread, and never executes anything itself. By the time the first
//! program runs, this process has no capability, the sandbox's user id, a seccomp filter, and is not dumpable, so
//! that programs of the same user can neither trace it nor reach its descriptors through `/proc`.
//! When the server's end of the control socket closes, it exits, and the kernel kills all that is left.

mod link;
mod privileges;
pub(super) mod probe;
mod program;
pub(super) mod signals;
pub(super) mod tree;

use std::{
    fmt::Display,
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
};

use super::{
    packet,
    seccomp::Filters,
    wire::{FromInit, Identity, Plan},
};

/// What an init is born with.
pub(super) struct Start<'a> {
    /// Its end of the socket to the server.
    pub(super) control: OwnedFd,
    /// Open files through which it enters control groups, unless it was born in one.
    pub(super) tasks: Vec<OwnedFd>,
    /// Its ids.
    pub(super) identity: Identity,
    /// Mounts of the layers that show them as the sandbox user's, if its ids are not the server's.
    pub(super) mapped: Vec<OwnedFd>,
    /// What it sets up.
    pub(super) plan: Plan,
    /// Compiled by the launcher, once for all.
    pub(super) filters: &'a Filters,
}

/// A step of the set-up that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: String,
    pub(super) unsupported: bool,
}

impl Failure {
    /// A step that works on any suitable host.
    pub(super) fn at(step: impl Display) -> impl FnOnce(io::Error) -> Self {
        move |error| Self { reason: format!("{step}: {error}"), unsupported: false }
    }

    /// A step whose failure means that the host does not offer it.
    pub(super) fn lacking(step: impl Display) -> impl FnOnce(io::Error) -> Self {
        move |error| Self { reason: format!("{step}: {error}"), unsupported: true }
    }
}

/// Lives the life of an init. `released` yields a byte when the ids are mapped.
pub(super) fn run(start: Start<'_>, released: OwnedFd) -> ! {
    let Start { control, tasks, identity, mapped, plan, filters } = start;
    let outcome = set_up(tasks, identity, mapped, &plan, filters, released);
    let served = match outcome {
        Ok(interface) => {
            let fds: Vec<_> = interface.iter().map(AsFd::as_fd).collect();
            let sent = packet::send(control.as_fd(), &FromInit::Ready, &fds);
            drop(interface);
            sent.and_then(|()| program::serve(&control))
        }
        Err(Failure { reason, unsupported }) => {
            packet::send(control.as_fd(), &FromInit::Failed { reason, unsupported }, &[])
        }
    };
    std::process::exit(i32::from(served.is_err()))
}

fn set_up(
    tasks: Vec<OwnedFd>,
    identity: Identity,
    mapped: Vec<OwnedFd>,
    plan: &Plan,
    filters: &Filters,
    released: OwnedFd,
) -> Result<Option<OwnedFd>, Failure> {
    signals::reset().map_err(Failure::at("resetting signals"))?;
    for group in tasks {
        File::from(group).write_all(b"0").map_err(Failure::at("entering the cgroup"))?;
    }
    let mut byte = [0_u8; 1];
    let read = File::from(released).read(&mut byte).map_err(Failure::at("waiting for the ids"))?;
    if read == 0 {
        // The launcher has already reported why.
        std::process::exit(1);
    }
    tree::unshare_namespaces().map_err(Failure::lacking("creating mount, network, ipc, uts and cgroup namespaces"))?;
    // The last moment at which this process is the server's user for the kernel: open what only it may open.
    let sources = tree::Sources::open(plan, mapped)?;
    let device = match plan.link {
        Some(_) => Some(link::make()?),
        None => None,
    };
    privileges::become_namespace_root(identity).map_err(Failure::at("taking the ids"))?;
    rustix::system::sethostname(plan.hostname.as_bytes())
        .map_err(|error| Failure::at("setting the host name")(error.into()))?;
    match &plan.link {
        Some(link) => link::route(link)?,
        None => link::raise_loopback().map_err(Failure::at("raising the loopback interface"))?,
    }
    tree::build(plan, sources)?;
    privileges::limit(plan.rlimits).map_err(Failure::at("setting resource limits"))?;
    privileges::drop_all(identity, plan.rlimits.data_bytes.is_none(), filters)?;
    Ok(device)
}
