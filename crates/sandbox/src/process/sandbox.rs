//! One sandbox as the server holds it.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, oneshot},
};

use super::{
    cgroup,
    control::Control,
    execution,
    reaper::{Reaper, Remains},
    scratch::Scratch,
};
use crate::{Command, Error, Execution, Kill, Limits, Sandbox, network};

/// What the sandbox and its running program share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: String,
    pub(super) limits: Limits,
    pub(super) scratch: Scratch,
    /// Process id of the init, valid while `pidfd` is open and it has not ended.
    pub(super) init: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) group: Option<cgroup::Group>,
    /// The socket to the init; held while a program runs, so that only one can.
    pub(super) control: Arc<tokio::sync::Mutex<Control>>,
    /// Whether nothing was in the scratch directory and no program has run.
    pub(super) untouched: AtomicBool,
    /// First id of the sandbox's range, to be given back.
    pub(super) ids: Option<u32>,
    /// The host's user and group of programs, where they are not the server's own.
    pub(super) owner: Option<(u32, u32)>,
    pub(super) network: Mutex<Option<network::Handle>>,
    /// A second descriptor of the network interface, so that the runtime's threads never close the last one.
    pub(super) interface: Option<OwnedFd>,
    pub(super) reaper: Reaper,
}

impl Shared {
    /// Kills the init and with it, by the kernel, everything in the sandbox.
    pub(super) fn kill(&self) {
        // ESRCH: it has already ended.
        let _gone = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
        drop(self.network.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.kill();
        let remains = Remains {
            init: self.pidfd.try_clone().ok(),
            group: self.group.take(),
            ids: self.ids.take(),
            interface: self.interface.take(),
        };
        self.reaper.take(remains);
    }
}

/// The sandbox of the process driver.
#[derive(Debug)]
pub(super) struct ProcessSandbox(pub(super) Arc<Shared>);

impl Drop for ProcessSandbox {
    fn drop(&mut self) {
        self.0.kill();
    }
}

#[async_trait::async_trait]
impl Sandbox for ProcessSandbox {
    fn id(&self) -> &str {
        &self.0.id
    }

    async fn exec(&self, command: Command) -> Result<Execution, Error> {
        let control = self.0.control.clone().try_lock_owned().map_err(|_running| Error::Busy)?;
        let (output, output_receiver) = mpsc::channel(execution::PIECES_IN_FLIGHT);
        let (exit, exit_receiver) = oneshot::channel();
        let (kill, kill_receiver) = mpsc::channel(1);
        let (started, start_result) = oneshot::channel();
        let ends = execution::Ends { started, output, exit, kill: kill_receiver };
        // A task of its own: a caller who loses patience must not leave a program without a supervisor.
        tokio::spawn(execution::run(self.0.clone(), control, command, ends));
        match start_result.await {
            Ok(Ok(())) => Ok(Execution { output: output_receiver, exit: exit_receiver, kill: Kill(kill) }),
            Ok(Err(error)) => Err(error),
            Err(_dropped) => Err(Error::Gone("the runtime is shutting down".into())),
        }
    }

    async fn destroy(self: Box<Self>) {
        self.0.kill();
        // Readable once the init has ended, which it does after everything else in its process namespace.
        // SAFETY: a borrowed descriptor that `self` keeps open for longer than this registration lives.
        #[expect(unsafe_code, reason = "the safe constructor was deprecated for types that could swap descriptors")]
        let init = unsafe { AsyncFd::register_with_interest(self.0.pidfd.as_fd(), Interest::READABLE) };
        if let Ok(init) = init {
            let _ended = init.readable().await;
        }
        self.0.untouched.store(false, Ordering::Relaxed);
    }
}
