//! Running programs as process 1: start, pass on signals, reap, report.

use std::{
    ffi::CString,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        resource::{UsageWho, getrusage},
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork},
};

use super::signals;
use crate::process::{
    packet,
    wire::{FromInit, ToInit},
};

/// Everything in this namespace but process 1.
const EVERYBODY: Pid = Pid::from_raw(-1);

/// Serves the server until it closes its end.
pub(super) fn serve(control: &OwnedFd) -> io::Result<()> {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block()?;
    let ended = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut running: Option<Running> = None;
    loop {
        let mut fds = [PollFd::new(control.as_fd(), PollFlags::POLLIN), PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let (asked, child_ended) = (fds[0].any().unwrap_or(true), fds[1].any().unwrap_or(true));
        if child_ended {
            while let Ok(Some(_)) = ended.read_signal() {}
            if let Some(report) = reap(&mut running) {
                packet::send(control.as_fd(), &report, &[])?;
            }
        }
        if !asked {
            continue;
        }
        let Some((request, fds)) = packet::receive::<ToInit>(control.as_fd())? else {
            return Ok(());
        };
        match request {
            ToInit::Exec { argv, env, cwd } => match start(&argv, &env, &cwd, fds) {
                Ok(started) => {
                    running = Some(started);
                    packet::send(control.as_fd(), &FromInit::Started, &[])?;
                }
                Err(reason) => packet::send(control.as_fd(), &FromInit::NotStarted { reason }, &[])?,
            },
            // ESRCH: nothing runs.
            ToInit::Terminate => drop(kill(EVERYBODY, Signal::SIGTERM)),
            ToInit::Kill => drop(kill(EVERYBODY, Signal::SIGKILL)),
        }
    }
}

struct Running {
    main: Pid,
    since: Instant,
    cpu_before: Duration,
}

/// Processor time of every process that was waited for.
fn cpu_of_children() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else {
        return Duration::ZERO;
    };
    let micros = |time: nix::sys::time::TimeVal| {
        u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000 + u64::try_from(time.tv_usec()).unwrap_or(0)
    };
    Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
}

/// Collects ended children. When the main process is among them, ends all others and reports.
fn reap(running: &mut Option<Running>) -> Option<FromInit> {
    loop {
        let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return None,
            Ok(status) => status,
            Err(_) => continue,
        };
        let (code, signal) = match status {
            WaitStatus::Exited(_, code) => (Some(code), None),
            WaitStatus::Signaled(_, signal, _) => (None, Some(signal as i32)),
            _ => continue,
        };
        let Some(program) = running.take_if(|program| status.pid() == Some(program.main)) else {
            continue;
        };
        let micros = u64::try_from(program.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        end_everybody();
        let cpu = cpu_of_children().saturating_sub(program.cpu_before);
        let cpu_micros = u64::try_from(cpu.as_micros()).unwrap_or(u64::MAX);
        return Some(FromInit::Exited { code, signal, micros, cpu_micros });
    }
}

/// Kills what is left and waits until nothing is.
fn end_everybody() {
    loop {
        // Every descendant whose parent has gone is a child of process 1, so "no child" means "nobody".
        let _nobody_left = kill(EVERYBODY, Signal::SIGKILL);
        if waitpid(None, None) == Err(Errno::ECHILD) {
            return;
        }
    }
}

/// Forks and executes; returns once the program runs or cannot.
fn start(argv: &[String], env: &[(String, String)], cwd: &Path, fds: Vec<OwnedFd>) -> Result<Running, String> {
    let [stdin, stdout, stderr] = <[OwnedFd; 3]>::try_from(fds).map_err(|_| "three descriptors are needed")?;
    let program = argv.first().filter(|program| !program.is_empty()).ok_or("the command is empty")?;
    let c_string =
        |text: &[u8]| CString::new(text).map_err(|_| "an argument or variable contains a zero byte".to_owned());
    let arguments = argv.iter().map(|argument| c_string(argument.as_bytes())).collect::<Result<Vec<_>, _>>()?;
    let environment = env
        .iter()
        .map(|(name, value)| c_string(format!("{name}={value}").as_bytes()))
        .collect::<Result<Vec<_>, _>>()?;
    let candidates =
        candidates(program, env).iter().map(|path| c_string(path.as_bytes())).collect::<Result<Vec<_>, _>>()?;
    let directory = c_string(cwd.as_os_str().as_bytes())?;
    let (mut failed, fail) = io::pipe().map_err(|error| format!("making a pipe: {error}"))?;
    let cpu_before = cpu_of_children();
    let since = Instant::now();
    // SAFETY: this process has one thread, so the child may run any code before it executes the program.
    #[expect(unsafe_code, reason = "fork of a single-threaded process")]
    let forked = unsafe { fork() };
    match forked.map_err(|error| format!("forking: {error}"))? {
        ForkResult::Child => {
            drop(failed);
            let (step, errno) = execute([stdin, stdout, stderr], &directory, &candidates, &arguments, &environment);
            let mut fail = fail;
            let _parent_gone = fail.write_all(format!("{step}: {}", errno.desc()).as_bytes());
            // SAFETY: always sound; skips exit handlers, which belong to the parent.
            #[expect(unsafe_code, reason = "leaves without running the parent's exit handlers")]
            unsafe {
                libc::_exit(127)
            }
        }
        ForkResult::Parent { child } => {
            drop((fail, stdin, stdout, stderr));
            let mut reason = String::new();
            let _read = failed.read_to_string(&mut reason);
            if reason.is_empty() {
                return Ok(Running { main: child, since, cpu_before });
            }
            let _reaped = waitpid(child, None);
            Err(reason)
        }
    }
}

/// The paths to try, as `execvp` does.
fn candidates(program: &str, env: &[(String, String)]) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let path =
        env.iter().rev().find(|(name, _)| name == "PATH").map_or("/usr/local/bin:/usr/bin:/bin", |(_, path)| path);
    path.split(':')
        .map(|folder| if folder.is_empty() { format!("./{program}") } else { format!("{folder}/{program}") })
        .collect()
}

/// In the child: becomes the program, or says which step failed.
fn execute(
    standard: [OwnedFd; 3],
    directory: &CString,
    candidates: &[CString],
    arguments: &[CString],
    environment: &[CString],
) -> (&'static str, Errno) {
    if let Err(error) = signals::reset() {
        return ("resetting signals", Errno::from_raw(error.raw_os_error().unwrap_or(libc::EINVAL)));
    }
    let _own_session = nix::unistd::setsid();
    // The init's own 0 to 2 are /dev/null, so none of `standard` can be among them.
    debug_assert!(standard.iter().all(|fd| fd.as_raw_fd() > 2), "received descriptors lie above the standard ones");
    let duplicated = nix::unistd::dup2_stdin(&standard[0])
        .and_then(|()| nix::unistd::dup2_stdout(&standard[1]))
        .and_then(|()| nix::unistd::dup2_stderr(&standard[2]));
    if let Err(errno) = duplicated {
        return ("attaching the standard streams", errno);
    }
    if let Err(errno) = nix::unistd::chdir(directory.as_c_str()) {
        return ("entering the working directory", errno);
    }
    // Everything else is close-on-exec.
    let mut worst = Errno::ENOENT;
    for candidate in candidates {
        let Err(errno) = nix::unistd::execve(candidate, arguments, environment);
        match errno {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => worst = errno,
            _ => return ("executing", errno),
        }
    }
    ("executing", worst)
}
