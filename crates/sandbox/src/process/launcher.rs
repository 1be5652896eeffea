//! The launcher: a small single-threaded process of the same executable that clones one init per sandbox.
//!
//! It exists because a multi-threaded server must not fork and go on running its own code in the child: any lock
//! of any other thread may be held for ever there. The launcher does nothing but clone and write the id maps;
//! mounting happens in the children, in parallel. It ends when the server's end of its socket closes.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::PathBuf,
    process::ExitCode,
};

use super::{
    idmap::Maps,
    init, packet,
    seccomp::Filters,
    wire::{AGENT_ID, FromLauncher, Identity, ToLauncher},
};

/// Entry of the launcher process, for the hidden subcommand of the `backlot` binary and for test binaries. Call it
/// before any thread is started. Standard input must be the socket that [`super::ProcessDriver::start`] makes.
#[must_use]
pub fn launcher_main() -> ExitCode {
    close_inherited();
    let stdin = io::stdin();
    let server = match stdin.as_fd().try_clone_to_owned() {
        Ok(server) => server,
        Err(_) => return ExitCode::from(2),
    };
    if !matches!(rustix::net::sockopt::socket_type(&server), Ok(rustix::net::SocketType::SEQPACKET)) {
        complain("this subcommand is started by the server, not by hand");
        return ExitCode::from(2);
    }
    match serve(server) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("the sandbox launcher ends: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Whoever started the server may have left descriptors open in it that survive `exec`. They would go on into every
/// init and every program.
fn close_inherited() {
    // SAFETY: nothing in this process has opened a descriptor above the standard three yet.
    #[expect(unsafe_code, reason = "no safe wrapper exists for close_range")]
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
    if result != 0 {
        complain(&format!("inherited descriptors stay open: {}", io::Error::last_os_error()));
    }
}

#[expect(clippy::print_stderr, reason = "the launcher has no logger; the server's standard error is its log")]
fn complain(text: &str) {
    eprintln!("backlot: {text}");
}

fn serve(server: OwnedFd) -> io::Result<()> {
    // Out of the terminal's process group and deaf to SIGTERM: during a drain the server still needs its
    // launcher, and the closing socket is what ends it.
    let _already_leader = nix::unistd::setsid();
    init::signals::ignore_for_launcher()?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    drop(null);
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let filters = Filters::compile().map_err(io::Error::other)?;
    let mut maps = Maps::default();
    while let Some((request, fds)) = packet::receive::<ToLauncher>(server.as_fd())? {
        match request {
            ToLauncher::Create { born_in_group, identity, plan } => {
                let mut fds = fds.into_iter();
                let Some(control) = fds.next() else {
                    continue;
                };
                let created = map_layers(&mut maps, identity, &plan.layers).and_then(|mapped| {
                    let group = if born_in_group { fds.next() } else { None };
                    let tasks = fds.collect();
                    let start = init::Start { control, tasks, identity, mapped, plan: *plan, filters: &filters };
                    create(start, group, &server)
                });
                match created {
                    Ok((pid, pidfd)) => packet::send(server.as_fd(), &FromLauncher::Created { pid }, &[pidfd.as_fd()])?,
                    Err(refusal) => packet::send(server.as_fd(), &refusal, &[])?,
                }
            }
            ToLauncher::Probe { identity, state_dir } => {
                let findings = init::probe::all(identity, &state_dir, &filters, &mut maps);
                packet::send(server.as_fd(), &FromLauncher::Probed(findings), &[])?;
            }
        }
    }
    Ok(())
}

/// Mounts of the layers in which the server's files are the sandbox user's, where these are not the same.
fn map_layers(maps: &mut Maps, identity: Identity, layers: &[PathBuf]) -> Result<Vec<OwnedFd>, FromLauncher> {
    if matches!(identity, Identity::Own { .. }) {
        return Ok(Vec::new());
    }
    let map = |layer: &PathBuf| {
        maps.mount(layer, identity.agent_uid()).map_err(|error| {
            let step = format!(
                "mapping the ids of {} (needs Linux 5.19 or newer and a file system such as ext4, xfs, btrfs, or tmpfs since 6.3)",
                layer.display()
            );
            refused(&step, error)
        })
    };
    layers.iter().map(map).collect()
}

/// Clones an init, into a control group if there is one, and gives it its ids.
fn create(start: init::Start<'_>, group: Option<OwnedFd>, server: &OwnedFd) -> Result<(i32, OwnedFd), FromLauncher> {
    let identity = start.identity;
    let (wait, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| refused("making a pipe", error.into()))?;
    match clone_into_new_user_and_pid_namespace(group.as_ref().map(AsFd::as_fd)) {
        Err(error) => Err(refused("creating a user and a process namespace", error)),
        Ok(Cloned::Child) => {
            drop((go, group));
            // The socket to the server must not stay open here, or the launcher's death would go unnoticed.
            // SAFETY: nothing in this process uses the descriptor any more; `init::run` never returns.
            #[expect(unsafe_code, reason = "the parent's owner of this descriptor lives on another copy of the stack")]
            drop(unsafe { OwnedFd::from_raw_fd(server.as_raw_fd()) });
            init::run(start, wait)
        }
        Ok(Cloned::Parent { pid, pidfd }) => {
            drop(wait);
            // Closing `go` without a byte makes the child exit.
            write_maps(pid, identity).map_err(|error| refused("mapping user ids", error))?;
            rustix::io::write(&go, &[1]).map_err(|error| refused("releasing the init", error.into()))?;
            Ok((pid, pidfd))
        }
    }
}

fn refused(step: &str, error: io::Error) -> FromLauncher {
    let unsupported = matches!(
        error.raw_os_error(),
        Some(libc::EPERM | libc::ENOSYS | libc::EACCES | libc::ENOSPC | libc::EINVAL | libc::EUSERS)
    );
    FromLauncher::Refused { reason: format!("{step}: {error}"), unsupported }
}

/// Writes the id maps of a process in a fresh user namespace.
pub(super) fn write_maps(pid: i32, identity: Identity) -> io::Result<()> {
    let (uids, gids) = match identity {
        Identity::Range { base } => {
            // Two ids are enough: 0 for the set-up and 1000 for programs. What is not mapped cannot be taken.
            let map = format!("0 {base} 1\n{AGENT_ID} {} 1\n", base + AGENT_ID);
            (map.clone(), map)
        }
        Identity::Own { uid, gid } => {
            std::fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
            (format!("{AGENT_ID} {uid} 1\n"), format!("{AGENT_ID} {gid} 1\n"))
        }
    };
    std::fs::write(format!("/proc/{pid}/uid_map"), uids)?;
    std::fs::write(format!("/proc/{pid}/gid_map"), gids)
}

/// `CLONE_INTO_CGROUP` of the kernel's `sched.h`; its type differs between versions of the C library.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Which side of a clone we are on.
pub(super) enum Cloned {
    /// The new process.
    Child,
    /// The old process.
    Parent {
        /// The child's id.
        pid: i32,
        /// The child's pidfd.
        pidfd: OwnedFd,
    },
}

/// `clone3` without a stack of its own: a fork into new namespaces. The other namespaces are made by the child
/// itself, so that this call stays short and children set up in parallel.
///
/// `group` is the open directory of a control group of version 2 that the child is born in.
pub(super) fn clone_into_new_user_and_pid_namespace(group: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: i32 = -1;
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_PIDFD;
    // SAFETY: all zero is the documented "not used" of every field.
    #[expect(unsafe_code, reason = "clone_args has no constructor")]
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from(flags.cast_unsigned());
    if let Some(group) = group {
        // Not in the 32-bit `flags` of the older clone calls.
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::try_from(group.as_raw_fd()).map_err(io::Error::other)?;
    }
    arguments.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    arguments.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    // SAFETY: without CLONE_VM this is a fork; this process has one thread (the launcher starts none), so the
    // child may go on running any code. `arguments` and `pidfd` outlive the call.
    #[expect(unsafe_code, reason = "no safe wrapper exists for clone3")]
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, std::mem::size_of::<libc::clone_args>()) };
    match result {
        0 => Ok(Cloned::Child),
        pid if pid > 0 => {
            let pid = i32::try_from(pid).map_err(io::Error::other)?;
            // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
            #[expect(unsafe_code, reason = "takes ownership of the descriptor that clone3 returned")]
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid, pidfd })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits until the process of a pidfd has ended.
pub(super) fn wait_gone(pidfd: BorrowedFd<'_>, timeout: std::time::Duration) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed setup is a failed test")]
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn a_child_is_born_in_the_group_it_was_given() {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let point = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            fields.next().filter(|_| fields.next() == Some("cgroup2"))
        });
        let name = format!("backlot-test-{}", std::process::id());
        // Without a hierarchy of version 2 that this user may change there is nothing to be born in.
        let Some(group) = point.map(|point| Path::new(point).join(&name)).filter(|path| fs::create_dir(path).is_ok())
        else {
            return;
        };
        let directory = fs::File::open(&group).unwrap();
        match clone_into_new_user_and_pid_namespace(Some(directory.as_fd())).unwrap() {
            // Other threads may hold any lock of the library, so nothing but system calls here.
            Cloned::Child => loop {
                // SAFETY: takes no arguments.
                #[expect(unsafe_code, reason = "no safe wrapper that surely does nothing else")]
                unsafe {
                    libc::pause()
                };
            },
            Cloned::Parent { pid, pidfd } => {
                let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
                let members = fs::read_to_string(group.join("cgroup.procs")).unwrap();
                rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
                nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).unwrap();
                fs::remove_dir(&group).unwrap();
                assert!(groups.lines().any(|line| line.starts_with("0::") && line.ends_with(&name)), "{groups}");
                assert_eq!(members.trim(), pid.to_string());
            }
        }
    }
}
