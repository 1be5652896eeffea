//! Confinement for code that nobody trusts: one trait, [`Driver`], and the drivers behind it.
//!
//! A *sandbox* is a private file tree over read-only layers, a private view of processes and network,
//! and hard limits on memory, processors, processes and disk. It is created empty of secrets
//! ([`Driver::create`]), so that it can be prepared before anyone asks for it; the prompt and the
//! credentials arrive with [`Sandbox::exec`]. Dropping or destroying a sandbox ends every process in it.
//!
//! This crate knows nothing of accounts, agents or runs. The policy of one sandbox is a value
//! ([`Spec`]); nothing is read from the environment or from global state. Where the host lacks an
//! isolation that the policy asks for, creation fails with [`Error::Unsupported`] and the reason:
//! nothing ever runs less confined than asked.
//!
//! To add another driver: implement [`Driver`] and [`Sandbox`] in a folder of its own, and run
//! `conformance` and the escape suite against it.

mod network;
pub mod process;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};

/// Makes sandboxes.
#[async_trait::async_trait]
pub trait Driver: Send + Sync {
    /// Creates a sandbox that is ready to take [`Sandbox::exec`]. It holds no secret and runs nothing yet.
    async fn create(&self, spec: Spec) -> Result<Box<dyn Sandbox>, Error>;

    /// What this host offers and what it lacks, for `backlot doctor` and the start-up check.
    fn preflight(&self) -> Preflight;
}

/// One created sandbox. Dropping it kills everything inside; [`Sandbox::destroy`] also waits for that.
#[async_trait::async_trait]
pub trait Sandbox: Send + Sync {
    /// The identifier given in [`Spec::id`].
    fn id(&self) -> &str;

    /// Starts one program. At most one runs at a time in a sandbox; a second call while one runs is
    /// [`Error::Busy`]. When the program's main process ends, its left-over children are killed.
    async fn exec(&self, command: Command) -> Result<Execution, Error>;

    /// Kills every process and waits until they are gone. The writable layer ([`Spec::scratch`]) is left
    /// to the caller.
    async fn destroy(self: Box<Self>);
}

/// The policy and the file tree of one sandbox.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Names the sandbox in logs, cgroups and its host name. Letters, digits, `_` and `-`, at most 64.
    pub id: String,
    /// Read-only directories, uppermost first, stacked under the writable layer at [`WORKSPACE`].
    pub layers: Vec<PathBuf>,
    /// Host directory that receives what the sandbox writes under [`WORKSPACE`] and its home. It must exist,
    /// be empty or come from an earlier sandbox, and is private to this sandbox while it lives.
    pub scratch: PathBuf,
    /// Further host files or directories shown read-only, in order.
    pub read_only: Vec<ReadOnly>,
    /// Hard limits of the whole sandbox.
    pub limits: Limits,
    /// What the sandbox may reach.
    pub network: Network,
}

/// A host path shown read-only inside the sandbox.
#[derive(Debug, Clone)]
pub struct ReadOnly {
    /// The path on the host.
    pub host: PathBuf,
    /// The absolute path inside.
    pub inside: PathBuf,
}

/// Where the layered, writable project tree appears inside every sandbox.
pub const WORKSPACE: &str = "/workspace";
/// The home directory of the sandbox user.
pub const HOME: &str = "/home/agent";

/// Hard limits of a sandbox.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Memory of all processes together, in bytes.
    pub memory_bytes: u64,
    /// Processor time, in thousandths of a core.
    pub cpu_millis: u32,
    /// Processes and threads together.
    pub processes: u32,
    /// Bytes that the writable layer and `/tmp` may hold together.
    pub disk_bytes: u64,
    /// Open files of one process.
    pub open_files: u64,
}

impl Default for Limits {
    /// The figures of the castari documentation: 2 GB, 2 cores, 10 GB of disk (spec/castari.md 10.2).
    fn default() -> Self {
        Self { memory_bytes: 2 << 30, cpu_millis: 2000, processes: 1024, disk_bytes: 10 << 30, open_files: 4096 }
    }
}

/// What a sandbox may reach. Nothing can ever connect *into* a sandbox.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// Reach of outbound connections.
    pub egress: Egress,
    /// Where connections to [`GATEWAY`] end on the host. `None`: there is no gateway to reach.
    pub gateway: Option<SocketAddr>,
    /// Otherwise refused networks that the operator has opened (`--allow-networks`).
    pub allow: Vec<IpNet>,
}

/// Reach of outbound connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Egress {
    /// The gateway only.
    None,
    /// Every address except loopback, private, link-local, carrier-grade, multicast and metadata ranges.
    #[default]
    Public,
}

/// The address of the model gateway as programs in a sandbox see it: link-local, plain HTTP; the hop never
/// leaves the host.
pub const GATEWAY: &str = "169.254.1.1:80";

/// One program to run.
#[derive(Debug, Clone)]
pub struct Command {
    /// Program and arguments; the program is looked up in `PATH` of [`Command::env`].
    pub argv: Vec<String>,
    /// The whole environment; nothing is inherited.
    pub env: Vec<(String, String)>,
    /// Working directory inside the sandbox.
    pub cwd: PathBuf,
    /// Fed to standard input, followed by end of file.
    pub stdin: Bytes,
    /// Wall-clock limit. Past it the program gets SIGTERM and, after [`Command::grace`], SIGKILL.
    pub timeout: Duration,
    /// Time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Bytes of standard output after which the program is killed with [`Cause::OutputLimit`].
    pub stdout_limit: u64,
    /// Bytes of standard error that are passed on; what follows is read and dropped.
    pub stderr_limit: u64,
}

/// A running program. Dropping it kills the program.
pub struct Execution {
    /// Pieces of output as they arrive; ends when both streams have ended.
    pub output: mpsc::Receiver<Output>,
    /// How the program ended. Sent after `output` has ended.
    pub exit: oneshot::Receiver<Exit>,
    /// Asks for the end of the program: SIGTERM, then SIGKILL after the grace time, [`Cause::Killed`].
    pub kill: Kill,
}

/// Asks for the end of a program.
#[derive(Debug, Clone)]
pub struct Kill(pub(crate) mpsc::Sender<()>);

impl Kill {
    /// Asks; returns at once. Asking twice, or after the end, does nothing.
    pub fn now(&self) {
        let _already_asked = self.0.try_send(());
    }
}

/// A piece of output, cut anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// From standard output.
    Stdout(Bytes),
    /// From standard error.
    Stderr(Bytes),
}

/// How a program ended and what it took.
#[derive(Debug, Clone)]
pub struct Exit {
    /// Why it ended.
    pub cause: Cause,
    /// Exit status, if it left by itself.
    pub code: Option<i32>,
    /// Signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Wall-clock time from start to end of the main process.
    pub duration: Duration,
    /// Processor time of the whole sandbox during this program, where the host can tell.
    pub cpu_time: Option<Duration>,
    /// Peak memory of the whole sandbox in bytes, where the host can tell.
    pub peak_memory: Option<u64>,
}

/// Why a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// By itself, with a code or by a signal nobody here sent.
    Exited,
    /// Past [`Command::timeout`].
    Timeout,
    /// Past [`Limits::memory_bytes`].
    OutOfMemory,
    /// Past [`Limits::disk_bytes`].
    DiskLimit,
    /// Past [`Command::stdout_limit`].
    OutputLimit,
    /// Through [`Kill`] or because the sandbox was destroyed.
    Killed,
}

/// Why a sandbox could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host lacks an isolation that the policy asks for. The text says which, and what to do.
    #[error("this host cannot confine programs as asked: {0}")]
    Unsupported(String),
    /// The sandbox is running another program.
    #[error("the sandbox is already running a program")]
    Busy,
    /// The sandbox is gone: destroyed, or its supervisor died.
    #[error("the sandbox is gone: {0}")]
    Gone(String),
    /// The program could not be started (not found, not executable).
    #[error("cannot start `{program}`: {reason}")]
    Start {
        /// First element of [`Command::argv`].
        program: String,
        /// The system's reason.
        reason: String,
    },
    /// Setting up failed in a step that normally works; the text names step and reason.
    #[error("setting up the sandbox failed: {0}")]
    Setup(String),
}

/// What a host offers to a driver.
#[derive(Debug, Clone)]
pub struct Preflight {
    /// One line per isolation.
    pub checks: Vec<Check>,
}

impl Preflight {
    /// Whether sandboxes with the default policy can be made.
    #[must_use]
    pub fn usable(&self) -> bool {
        self.checks.iter().all(|check| check.ok || !check.required)
    }
}

/// One thing a host offers or lacks.
#[derive(Debug, Clone)]
pub struct Check {
    /// What is looked at, for example `user namespaces`.
    pub name: &'static str,
    /// Whether it is there.
    pub ok: bool,
    /// Whether sandboxes are refused without it.
    pub required: bool,
    /// What was found.
    pub found: String,
    /// What to do when it is missing.
    pub advice: Option<String>,
}
