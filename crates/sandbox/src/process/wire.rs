//! What server, launcher and init say to each other. The three are always the same build, so the form is free
//! to change.

use std::{net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Server to launcher.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToLauncher {
    /// Make an init. Descriptors: its end of the control socket, then those of
    /// [`Entrance`](super::cgroup::Entrance), if any.
    Create {
        /// Whether the other descriptor is a control group to be born in, rather than files to write to.
        born_in_group: bool,
        /// Lines for `uid_map` and `gid_map`.
        identity: Identity,
        /// What the init sets up.
        plan: Box<Plan>,
    },
    /// Find out what the host offers.
    Probe {
        /// The identity that sandboxes would get.
        identity: Identity,
        /// A directory on the file system that holds scratch directories.
        state_dir: PathBuf,
    },
}

/// Launcher to server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromLauncher {
    /// Descriptor: the pidfd of the new init.
    Created {
        /// Process id of the init as the server sees it.
        pid: i32,
    },
    /// No init was made.
    Refused {
        /// The step and the system's reason.
        reason: String,
        /// Whether the host lacks something, rather than a step having failed by chance.
        unsupported: bool,
    },
    /// Answer to a probe: findings by name, `Err` with the reason.
    Probed(Vec<(String, Result<String, String>)>),
}

/// Which host ids the ids inside stand for.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Identity {
    /// The server is root: 0 and 1000 inside are `base` and `base + 1000` on the host.
    Range {
        /// First id of the sandbox's range.
        base: u32,
    },
    /// The server is an ordinary user, who is 1000 inside.
    Own {
        /// The server's user id.
        uid: u32,
        /// The server's group id.
        gid: u32,
    },
}

/// User and group id of programs inside.
pub(crate) const AGENT_ID: u32 = 1000;

impl Identity {
    /// The host's user id of programs inside.
    pub(crate) fn agent_uid(self) -> u32 {
        match self {
            Self::Range { base } => base + AGENT_ID,
            Self::Own { uid, .. } => uid,
        }
    }

    /// The host's group id of programs inside.
    pub(crate) fn agent_gid(self) -> u32 {
        match self {
            Self::Range { base } => base + AGENT_ID,
            Self::Own { gid, .. } => gid,
        }
    }
}

/// Everything an init needs to know before it takes programs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Host name inside.
    pub(crate) hostname: String,
    /// Host directories under the workspace, uppermost first. Empty: the workspace is `upper` itself.
    pub(crate) layers: Vec<PathBuf>,
    /// Host directory that receives changes of the workspace.
    pub(crate) upper: PathBuf,
    /// Overlayfs's work directory, made if there are layers.
    pub(crate) work: PathBuf,
    /// Host directory shown as the home.
    pub(crate) home: PathBuf,
    /// Host directory shown as `/tmp`.
    pub(crate) tmp: PathBuf,
    /// Host directory shown as `/etc`.
    pub(crate) etc: PathBuf,
    /// Top-level links of the host such as `bin -> usr/bin`.
    pub(crate) links: Vec<(String, String)>,
    /// Top-level directories of the host shown read-only.
    pub(crate) system: Vec<PathBuf>,
    /// Host path, path inside.
    pub(crate) read_only: Vec<(PathBuf, PathBuf)>,
    /// Size of `/dev/shm` in bytes.
    pub(crate) shm_bytes: u64,
    /// Whether a network interface is made, and its descriptor sent with [`FromInit::Ready`].
    pub(crate) link: Option<Link>,
    /// Limits of one process.
    pub(crate) rlimits: Rlimits,
}

/// The network interface of a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Link {
    /// Destinations that are routed although they lie in refused ranges.
    pub(crate) allow: Vec<IpNet>,
    /// The gateway's address inside.
    pub(crate) gateway: Option<IpAddr>,
    /// Whether anything but `gateway` and `allow` is routed.
    pub(crate) public: bool,
}

/// Limits of one process, each both soft and hard.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Rlimits {
    /// Open files.
    pub(crate) open_files: u64,
    /// Processes and threads of the sandbox user, the init included.
    pub(crate) processes: u64,
    /// Bytes of one file.
    pub(crate) file_bytes: u64,
    /// Private writable memory, only where no cgroup limits memory.
    pub(crate) data_bytes: Option<u64>,
}

/// Server to init.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToInit {
    /// Run a program. Descriptors: standard input, output and error.
    Exec {
        /// Program and arguments.
        argv: Vec<String>,
        /// The whole environment.
        env: Vec<(String, String)>,
        /// Working directory.
        cwd: PathBuf,
    },
    /// SIGTERM to everything but the init.
    Terminate,
    /// SIGKILL to everything but the init.
    Kill,
}

/// Init to server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromInit {
    /// Set up. Descriptor: the network interface, if one was planned.
    Ready,
    /// A step of the set-up failed; the init is gone.
    Failed {
        /// The step and the system's reason.
        reason: String,
        /// Whether the host lacks something, rather than a step having failed by chance.
        unsupported: bool,
    },
    /// The program runs.
    Started,
    /// The program does not run.
    NotStarted {
        /// The system's reason.
        reason: String,
    },
    /// The program has ended and so have all processes it left.
    Exited {
        /// Exit status.
        code: Option<i32>,
        /// Signal.
        signal: Option<i32>,
        /// Wall-clock microseconds of the main process.
        micros: u64,
        /// Processor microseconds of all processes.
        cpu_micros: u64,
    },
}
