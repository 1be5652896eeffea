//! Giving up: user, capabilities, new privileges, system calls, resources.

use std::io;

use nix::sys::resource::{Resource, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::Failure;
use crate::process::{
    seccomp::Filters,
    wire::{AGENT_ID, Identity, Rlimits},
};

/// Takes id 0 of the namespace, without which the kernel refuses mounts with EOVERFLOW. An ordinary user's
/// namespace has no 0; its capabilities are enough.
pub(super) fn become_namespace_root(identity: Identity) -> io::Result<()> {
    if matches!(identity, Identity::Range { .. }) {
        nix::unistd::setgroups(&[])?;
        nix::unistd::setresgid(0.into(), 0.into(), 0.into())?;
        nix::unistd::setresuid(0.into(), 0.into(), 0.into())?;
    }
    Ok(())
}

/// Sets the limits that hold for each process. Never above what this process was given.
pub(super) fn limit(limits: Rlimits) -> io::Result<()> {
    let set = |resource, wanted: u64| -> io::Result<()> {
        let (_soft, hard) = nix::sys::resource::getrlimit(resource)?;
        let value = wanted.min(hard);
        setrlimit(resource, value, value)?;
        Ok(())
    };
    set(Resource::RLIMIT_CORE, 0)?;
    set(Resource::RLIMIT_NOFILE, limits.open_files)?;
    set(Resource::RLIMIT_NPROC, limits.processes)?;
    set(Resource::RLIMIT_FSIZE, limits.file_bytes)?;
    if let Some(data) = limits.data_bytes {
        set(Resource::RLIMIT_DATA, data)?;
    }
    Ok(())
}

/// Becomes the sandbox user with no capability left in any set, then closes the door. `memory_grouped`: whether a control
/// group limits memory.
pub(super) fn drop_all(identity: Identity, memory_grouped: bool, filters: &Filters) -> Result<(), Failure> {
    let errno = |step: &'static str| move |error: rustix::io::Errno| Failure::at(step)(error.into());
    let _none_set = rustix::thread::clear_ambient_capability_set();
    for number in 0..64_u32 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Past the last capability this kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(errno("emptying the capability bounding set")(error)),
        }
    }
    if matches!(identity, Identity::Range { .. }) {
        let id = AGENT_ID;
        nix::unistd::setresgid(id.into(), id.into(), id.into())
            .map_err(|error| Failure::at("taking the sandbox group")(error.into()))?;
        nix::unistd::setresuid(id.into(), id.into(), id.into())
            .map_err(|error| Failure::at("taking the sandbox user")(error.into()))?;
    }
    let empty = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: empty, permitted: empty, inheritable: empty })
        .map_err(errno("emptying the capability sets"))?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(errno("making the init untraceable"))?;
    rustix::thread::set_no_new_privs(true).map_err(errno("setting no_new_privs"))?;
    filters
        .install(memory_grouped)
        .map_err(|error| Failure::lacking("installing the seccomp filter")(io::Error::other(error)))
}
