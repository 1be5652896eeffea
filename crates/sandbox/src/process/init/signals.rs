//! Signal dispositions of launcher and init.

use std::io;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};

fn dispose(signal: Signal, handler: SigHandler) -> io::Result<()> {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler function is installed, only the kernel's default or ignoring.
    #[expect(unsafe_code, reason = "sigaction can install handlers; none is")]
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

/// The launcher's children are reaped by the kernel, and only the closing socket ends it.
pub(in crate::process) fn ignore_for_launcher() -> io::Result<()> {
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE] {
        dispose(signal, SigHandler::SigIgn)?;
    }
    Ok(())
}

/// Every disposition the default, nothing blocked: what a program may expect to start with.
pub(in crate::process) fn reset() -> io::Result<()> {
    for signal in Signal::iterator() {
        if !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            dispose(signal, SigHandler::SigDfl)?;
        }
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}
