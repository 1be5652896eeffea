//! The server's side of the launcher process: starts it, asks it for inits, and starts it again if it died.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use tokio::sync::Mutex;

use super::{
    cgroup::Entrance,
    control::Control,
    packet,
    wire::{FromLauncher, Identity, Plan, ToLauncher},
};
use crate::Error;

/// How the launcher is started.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) arguments: Vec<OsString>,
}

impl Program {
    /// Starts a launcher; returns it with the server's end of its socket.
    pub(super) fn start(&self) -> io::Result<(Child, OwnedFd)> {
        let (ours, theirs) = packet::pair()?;
        let child = Command::new(&self.path)
            .args(&self.arguments)
            // The server's environment may hold keys; copies of the launcher become inits.
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()?;
        Ok((child, ours))
    }
}

/// The running launcher of one driver.
#[derive(Debug)]
pub(super) struct Zygote {
    program: Program,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    control: Option<Control>,
    child: Option<Child>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its end of the conversation: the launcher exits. Waiting for it must not block the runtime.
        self.control = None;
        if let Some(mut child) = self.child.take() {
            let _no_thread = std::thread::Builder::new().name("launcher-wait".into()).spawn(move || child.wait());
        }
    }
}

/// An init that was made.
#[derive(Debug)]
pub(super) struct Created {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
}

impl Zygote {
    pub(super) fn start(program: Program) -> Result<Self, Error> {
        let running = Self::launch(&program)?;
        Ok(Self { program, running: Mutex::new(Some(running)) })
    }

    fn launch(program: &Program) -> Result<Running, Error> {
        let failed = |error: io::Error| {
            Error::Setup(format!("starting the sandbox launcher {}: {error}", program.path.display()))
        };
        let (child, socket) = program.start().map_err(failed)?;
        let control = Control::new(socket).map_err(failed)?;
        Ok(Running { control: Some(control), child: Some(child) })
    }

    /// Asks for an init. `control` is its end of the socket to the server. The future must run to its end: an
    /// answer that nobody takes would be taken for the next one's.
    pub(super) async fn create(
        &self,
        identity: Identity,
        plan: Plan,
        control: &OwnedFd,
        entrance: Option<&Entrance>,
    ) -> Result<Created, Error> {
        let (born_in_group, groups) = match entrance {
            Some(Entrance::Birth(group)) => (true, std::slice::from_ref(group)),
            Some(Entrance::Tasks(tasks)) => (false, tasks.as_slice()),
            None => (false, [].as_slice()),
        };
        let request = ToLauncher::Create { born_in_group, identity, plan: Box::new(plan) };
        let mut fds = vec![control.as_fd()];
        fds.extend(groups.iter().map(AsFd::as_fd));
        let mut running = self.running.lock().await;
        for attempt in 0..2 {
            let launcher = match running.as_mut() {
                Some(launcher) => launcher,
                None => running.insert(Self::launch(&self.program)?),
            };
            let Some(socket) = &launcher.control else {
                break;
            };
            let answer = match socket.send(&request, &fds).await {
                Ok(()) => socket.receive::<FromLauncher>().await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(Some((FromLauncher::Created { pid }, mut fds))) if fds.len() == 1 => {
                    let pidfd = fds.remove(0);
                    return Ok(Created { pid, pidfd });
                }
                Ok(Some((FromLauncher::Refused { reason, unsupported: true }, _))) => {
                    return Err(Error::Unsupported(reason));
                }
                Ok(Some((FromLauncher::Refused { reason, .. }, _))) => return Err(Error::Setup(reason)),
                Ok(Some(_)) => return Err(Error::Setup("the launcher gave an answer out of place".into())),
                Ok(None) | Err(_) => {
                    tracing::warn!(attempt, "the sandbox launcher has died and is started again");
                    *running = None;
                }
            }
        }
        Err(Error::Setup("the sandbox launcher dies as soon as it is started; see the log above".into()))
    }
}
