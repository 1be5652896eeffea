//! The process driver: sandboxes out of Linux namespaces, overlayfs, seccomp and control groups, with and without root.
//!
//! Three kinds of processes take part. The *server* (this crate's asynchronous part) decides and watches. The
//! *launcher* ([`launcher_main`]), one per driver, is a small single-threaded process that clones an *init* per
//! sandbox. The init is process 1 inside: it sets up files and network, gives up all privileges, and then starts
//! programs that the server sends it over a socket of its own. When the server dies, however it dies, launcher
//! and inits see their sockets close and exit, and the kernel kills what is left in each process namespace.
//!
//! As root, every sandbox has host user ids of its own from a high range, so that no program inside is ever root or
//! the server's user for the kernel. As an ordinary user, programs run as that user in a user namespace.
//!
//! | file | what it does |
//! |---|---|
//! | `packet`, `wire`, `control` | what the three say to each other |
//! | `launcher`, `zygote` | the launcher, from inside and from the server |
//! | `init/` | process 1 |
//! | `idmap` | layers as each sandbox's own, as root |
//! | `seccomp` | the system calls that are refused |
//! | `view`, `scratch`, `slots`, `cgroup/`, `instance` | what a sandbox needs on the host |
//! | `sandbox`, `execution`, `watch`, `reaper` | a living sandbox, its program, its limits, its end |
//! | `preflight` | what this host offers |
//!
//! # What a sandbox costs
//!
//! Method: `examples/spawn_true` in a release build, as root with control groups and without a network, a hundred
//! `/bin/true` one after another without pause, each in a new sandbox from [`Driver::create`] to the end of
//! [`Sandbox::destroy`]; then the same with `bwrap` and `crun run`; medians of five such rounds. The machine had two processors
//! and other work to do, so only ratios mean something. `bwrap` sets no limits and no filter.
//!
//! | scratch on | at a time | time to that of `bwrap`, p50 and p99 | to `crun`, p50 and p99 |
//! |---|---|---|---|
//! | tmpfs, or ext4 with few files removed of late | 1 | 0.6 to 0.8, and 0.7 to 0.9 | 0.3 to 0.5, and 0.4 to 0.6 |
//! | | 8 | 0.7 to 0.9, and 0.6 to 0.9 | 0.3 to 0.5, and 0.4 to 0.6 |
//! | such an ext4, one layer | 1 | 0.8, and 0.9 | 0.4, and 0.5 |
//! | | 8 | 0.7, and 0.7 | 0.3, and 0.5 |
//! | ext4 with thousands of files removed in the last minute | 1 | 1.1 to 1.6, and 1.0 to 1.1 | 0.4 to 0.9, and 0.4 to 0.7 |
//! | | 8 | 1.4 to 1.5, and 1.4 | 0.7 to 0.8, and 0.9 |
//! | the same, one layer | 1 | 1.4, and 1.4 | 0.4, and 0.5 |
//! | | 8 | 2.8, and 2.4 | 1.5, and 1.6 |
//!
//! The lower figures of a range are those of a machine with more other work. Two things make the difference, so keep
//! them away:
//!
//! - *Entering a control group through `cgroup.procs`* took longer than all other steps together; see
//!   `cgroup::Group::entrance`.
//! - *New directories on the host's disk.* ext4 does not use the number of an inode again for a minute, and looks past every
//!   one so withheld: the more sandboxes were removed in the last minute, the longer it takes. Overlayfs makes some when it is
//!   mounted, so a workspace without layers is no overlay. Three are left: workspace, home and `/tmp`.

mod cgroup;
mod control;
mod execution;
mod idmap;
mod init;
mod instance;
mod launcher;
mod packet;
mod preflight;
mod reaper;
mod sandbox;
mod scratch;
mod seccomp;
mod slots;
mod view;
mod watch;
mod wire;
mod zygote;

use std::{
    ffi::OsString,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

pub use launcher::launcher_main;
pub use scratch::{SANDBOX_USER, remove_scratch, seal_layer, workspace_of};

use self::{
    cgroup::{Entrance, Hierarchy},
    control::Control,
    reaper::{Reaper, Remains},
    scratch::Scratch,
    slots::Slots,
    wire::{FromInit, Identity, Link, Plan, Rlimits},
    zygote::{Program, Zygote},
};
use crate::{Driver, Egress, Error, GATEWAY, Preflight, Sandbox, Spec, network};

/// How long an init may take to set up. It normally takes two milliseconds.
const SETUP_PATIENCE: Duration = Duration::from_secs(20);
/// Size of `/dev/shm`, at most; a quarter of the memory limit if that is less.
const SHM_BYTES: u64 = 64 << 20;
/// Most layers of one sandbox; the kernel takes 500 but their names must fit one page.
const MAX_LAYERS: usize = 64;
/// Most extra read-only paths of one sandbox.
const MAX_READ_ONLY: usize = 64;

/// How a [`ProcessDriver`] is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// The executable that runs [`launcher_main`] when it is started with `launcher_args`.
    pub launcher: PathBuf,
    /// Arguments for the launcher, such as the name of a hidden subcommand.
    pub launcher_args: Vec<String>,
    /// A directory of the server for small files of the driver. Made if absent. Several servers may share it.
    pub state_dir: PathBuf,
    /// First host user id for sandboxes where the server is root. Each living sandbox takes 65536 ids from there on;
    /// ranges in `/etc/subuid` are left out.
    pub first_uid: u32,
}

impl Options {
    /// Options with the usual range of user ids.
    #[must_use]
    pub fn new(launcher: PathBuf, launcher_args: Vec<String>, state_dir: PathBuf) -> Self {
        Self { launcher, launcher_args, state_dir, first_uid: 200_000 }
    }
}

/// Makes sandboxes on this host. Dropping it leaves living sandboxes alone; they end with their own handles.
#[derive(Debug)]
pub struct ProcessDriver {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    program: Program,
    zygote: Zygote,
    state_dir: PathBuf,
    etc: PathBuf,
    /// The lowest layer of a workspace that has no other.
    empty: PathBuf,
    links: Vec<(String, String)>,
    system: Vec<PathBuf>,
    ids: Result<Ids, String>,
    cgroups: Result<Arc<Hierarchy>, String>,
    resolvers: Vec<SocketAddr>,
    reaper: Reaper,
    created: AtomicU64,
}

#[derive(Debug)]
enum Ids {
    Ranges(Arc<Slots>),
    Own { uid: u32, gid: u32 },
}

impl ProcessDriver {
    /// Starts the launcher and prepares what all sandboxes share. Must be called inside a tokio runtime.
    ///
    /// Blocks for some milliseconds. What the host lacks is not an error here: [`Driver::preflight`] tells it, and
    /// [`Driver::create`] refuses.
    ///
    /// # Errors
    /// [`Error::Setup`] if the state directory cannot be written or the launcher not started.
    pub fn start(options: Options) -> Result<Self, Error> {
        let Options { launcher, launcher_args, state_dir, first_uid } = options;
        let setup = |what: &str, path: &Path, error: std::io::Error| {
            Error::Setup(format!("{what} {}: {error}", path.display()))
        };
        fs::create_dir_all(&state_dir).map_err(|error| setup("making", &state_dir, error))?;
        let state_dir = state_dir.canonicalize().map_err(|error| setup("finding", &state_dir, error))?;
        sweep(&state_dir);
        let instance = instance::name();
        let own_dir = state_dir.join(format!("{VIEW}{instance}"));
        let etc = own_dir.join("etc");
        view::write_etc(&etc).map_err(|error| setup("writing", &etc, error))?;
        let empty = own_dir.join("empty");
        fs::create_dir(&empty).map_err(|error| setup("making", &empty, error))?;
        let (links, system) = view::system();
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let ids = if uid == 0 {
            Slots::new(first_uid).map(|slots| Ids::Ranges(Arc::new(slots)))
        } else {
            Ok(Ids::Own { uid, gid })
        };
        let cgroups = Hierarchy::find(&instance).map(Arc::new);
        if let Err(reason) = &cgroups {
            tracing::warn!(%reason, "no usable control groups: sandboxes are limited by measuring and by resource limits");
        }
        let slots = match &ids {
            Ok(Ids::Ranges(slots)) => Some(slots.clone()),
            _ => None,
        };
        let parent = cgroups.as_ref().ok().cloned();
        let reaper = Reaper::start(slots, move || {
            if let Some(parent) = parent {
                parent.remove();
            }
            let _swept_later = fs::remove_dir_all(&own_dir);
        })
        .map_err(|error| Error::Setup(format!("starting a thread: {error}")))?;
        let program = Program { path: launcher, arguments: launcher_args.into_iter().map(OsString::from).collect() };
        let zygote = Zygote::start(program.clone())?;
        let resolvers = network::host_resolvers();
        let created = AtomicU64::new(0);
        let inner =
            Inner { program, zygote, state_dir, etc, empty, links, system, ids, cgroups, resolvers, reaper, created };
        Ok(Self { inner: Arc::new(inner) })
    }
}

/// Prefix of the directories with what the sandboxes of one driver share.
const VIEW: &str = "view-";

/// Removes what dead drivers left in the state directory.
fn sweep(state_dir: &Path) {
    let Ok(entries) = fs::read_dir(state_dir) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if let Some(instance) = name.to_str().and_then(|name| name.strip_prefix(VIEW))
            && !instance::is_alive(instance)
        {
            let _not_ours = fs::remove_dir_all(entry.path());
        }
    }
}

#[async_trait::async_trait]
impl Driver for ProcessDriver {
    async fn create(&self, spec: Spec) -> Result<Box<dyn Sandbox>, Error> {
        let inner = self.inner.clone();
        // A task of its own, so that it runs to its end even if the caller loses patience; what it then made is
        // dropped, and so destroyed.
        let created = tokio::spawn(async move { inner.create(spec).await });
        match created.await {
            Ok(result) => result.map(|sandbox| Box::new(sandbox) as Box<dyn Sandbox>),
            Err(error) => Err(Error::Setup(format!("the task that made it ended: {error}"))),
        }
    }

    fn preflight(&self) -> Preflight {
        let inner = &self.inner;
        let taken = match &inner.ids {
            Ok(ids) => ids.take(None).map_err(|error| error.to_string()),
            Err(reason) => Err(reason.clone()),
        };
        let identity = taken.as_ref().map(|(identity, _)| *identity).map_err(String::as_str);
        let cgroups = inner.cgroups.as_deref().map_err(String::as_str);
        let preflight = preflight::run(&inner.program, identity, &inner.state_dir, cgroups);
        if let (Ok(Ids::Ranges(slots)), Ok((_, Some(first)))) = (&inner.ids, &taken) {
            slots.release(*first);
        }
        preflight
    }
}

impl Ids {
    /// The ids of a new sandbox, and the range to give back after it.
    fn take(&self, wanted: Option<u32>) -> Result<(Identity, Option<u32>), Error> {
        match self {
            Self::Own { uid, gid } => Ok((Identity::Own { uid: *uid, gid: *gid }, None)),
            Self::Ranges(slots) => {
                let base = slots
                    .take(wanted)
                    .ok_or_else(|| Error::Setup("all ranges of user ids are taken by living sandboxes".into()))?;
                Ok((Identity::Range { base }, Some(base)))
            }
        }
    }
}

/// What a sandbox holds while it is being made; whatever goes wrong, it is given back.
struct Holding {
    remains: Option<Remains>,
    reaper: Reaper,
}

impl Drop for Holding {
    fn drop(&mut self) {
        if let Some(remains) = self.remains.take() {
            if let Some(init) = &remains.init {
                let _gone = rustix::process::pidfd_send_signal(init, rustix::process::Signal::KILL);
            }
            self.reaper.take(remains);
        }
    }
}

/// What the blocking part of making a sandbox has made.
struct Prepared {
    holding: Holding,
    identity: Identity,
    scratch: Scratch,
    untouched: bool,
    layers: Vec<PathBuf>,
    entrance: Option<Entrance>,
}

impl Inner {
    async fn create(self: &Arc<Self>, spec: Spec) -> Result<sandbox::ProcessSandbox, Error> {
        let blocking = self.clone();
        let prepared = tokio::task::spawn_blocking(move || blocking.prepare(&spec).map(|prepared| (prepared, spec)))
            .await
            .map_err(|error| Error::Setup(format!("preparing: {error}")))?;
        let (Prepared { mut holding, identity, scratch, untouched, layers, entrance }, spec) = prepared?;
        let plan = self.plan(&spec, &scratch, layers);
        let linked = plan.link.is_some();
        let setup = |error: std::io::Error| Error::Setup(format!("the control socket of `{}`: {error}", spec.id));
        let (ours, theirs) = packet::pair().map_err(setup)?;
        let control = Control::new(ours).map_err(setup)?;
        let created = self.zygote.create(identity, plan, &theirs, entrance.as_ref()).await?;
        drop((theirs, entrance));
        if let Some(remains) = &mut holding.remains {
            remains.init = Some(created.pidfd.try_clone().map_err(setup)?);
        }
        let answer = tokio::time::timeout(SETUP_PATIENCE, control.receive::<FromInit>()).await;
        let mut fds = match answer {
            Ok(Ok(Some((FromInit::Ready, fds)))) => fds,
            Ok(Ok(Some((FromInit::Failed { reason, unsupported: true }, _)))) => {
                return Err(Error::Unsupported(reason));
            }
            Ok(Ok(Some((FromInit::Failed { reason, .. }, _)))) => return Err(Error::Setup(reason)),
            Ok(Ok(_)) => return Err(Error::Setup("the init died while it set up".into())),
            Ok(Err(error)) => return Err(setup(error)),
            Err(_late) => {
                return Err(Error::Setup(format!(
                    "the init did not set up within {SETUP_PATIENCE:?}; is the host overloaded?"
                )));
            }
        };
        let network = match (linked, fds.pop()) {
            (true, Some(tun)) => {
                if let Some(remains) = &mut holding.remains {
                    remains.interface = Some(tun.try_clone().map_err(setup)?);
                }
                Some(network::serve(tun, self.policy(&spec.network))?)
            }
            (true, None) => return Err(Error::Setup("the init made no network interface".into())),
            (false, _) => None,
        };
        let remains = holding.remains.take();
        let (group, ids, interface) =
            remains.map_or((None, None, None), |remains| (remains.group, remains.ids, remains.interface));
        Ok(sandbox::ProcessSandbox(Arc::new(sandbox::Shared {
            id: spec.id,
            limits: spec.limits,
            scratch,
            init: created.pid,
            pidfd: created.pidfd,
            group,
            control: Arc::new(tokio::sync::Mutex::new(control)),
            untouched: AtomicBool::new(untouched),
            ids,
            owner: ids.is_some().then(|| (identity.agent_uid(), identity.agent_gid())),
            network: std::sync::Mutex::new(network),
            interface,
            reaper: self.reaper.clone(),
        })))
    }

    /// Checks the policy, takes ids, prepares the scratch directory, makes the control groups.
    fn prepare(&self, spec: &Spec) -> Result<Prepared, Error> {
        validate(spec)?;
        let scratch = Scratch::at(&spec.scratch);
        let ids = self.ids.as_ref().map_err(|reason| Error::Unsupported(reason.clone()))?;
        let (identity, range) = ids.take(scratch.owner())?;
        let remains = Remains { init: None, group: None, ids: range, interface: None };
        let mut holding = Holding { remains: Some(remains), reaper: self.reaper.clone() };
        for layer in &spec.layers {
            check_layer(layer)?;
        }
        let untouched = scratch
            .prepare(identity)
            .map_err(|error| Error::Setup(format!("preparing {}: {error}", spec.scratch.display())))?;
        let layers = if !spec.layers.is_empty() {
            spec.layers.clone()
        } else if untouched {
            Vec::new()
        } else {
            // An earlier sandbox may have had layers and left marks of what it deleted, which overlayfs hides.
            vec![self.empty.clone()]
        };
        if !layers.is_empty() {
            scratch
                .prepare_overlay(identity)
                .map_err(|error| Error::Setup(format!("preparing {}: {error}", spec.scratch.display())))?;
        }
        let mut entrance = None;
        if let Ok(cgroups) = &self.cgroups {
            let number = self.created.fetch_add(1, Ordering::Relaxed);
            let group = cgroups
                .create(&format!("{number}-{}", spec.id), &spec.limits)
                .map_err(|error| Error::Setup(format!("making a control group: {error}")))?;
            let opened = group.entrance();
            if let Some(remains) = &mut holding.remains {
                remains.group = Some(group);
            }
            entrance = Some(opened.map_err(|error| Error::Setup(format!("opening a control group: {error}")))?);
        }
        Ok(Prepared { holding, identity, scratch, untouched, layers, entrance })
    }

    fn plan(&self, spec: &Spec, scratch: &Scratch, layers: Vec<PathBuf>) -> Plan {
        let limits = &spec.limits;
        let public = spec.network.egress == Egress::Public;
        let gateway = spec.network.gateway.and(GATEWAY.parse::<SocketAddr>().ok()).map(|address| address.ip());
        let link = (public || gateway.is_some()).then(|| Link {
            // Nothing but the gateway can be opened to a sandbox without egress.
            allow: if public { spec.network.allow.clone() } else { Vec::new() },
            gateway: gateway.filter(IpAddr::is_ipv4),
            public,
        });
        Plan {
            hostname: spec.id.clone(),
            layers,
            upper: scratch.upper.clone(),
            work: scratch.work.clone(),
            home: scratch.home.clone(),
            tmp: scratch.tmp.clone(),
            etc: self.etc.clone(),
            links: self.links.clone(),
            system: self.system.clone(),
            read_only: spec.read_only.iter().map(|shown| (shown.host.clone(), shown.inside.clone())).collect(),
            shm_bytes: SHM_BYTES.min(limits.memory_bytes / 4),
            link,
            rlimits: Rlimits {
                open_files: limits.open_files,
                processes: u64::from(limits.processes) + 1,
                file_bytes: limits.disk_bytes,
                // Far above the limit, because it counts what is reserved and not what is used; it stops the one
                // process that takes all memory between two measurements.
                data_bytes: self
                    .cgroups
                    .is_err()
                    .then(|| limits.memory_bytes.saturating_mul(2).saturating_add(512 << 20)),
            },
        }
    }

    fn policy(&self, network: &crate::Network) -> network::Policy {
        network::Policy {
            egress: network.egress,
            gateway: network.gateway,
            allow: network.allow.clone(),
            resolvers: self.resolvers.clone(),
        }
    }
}

/// Refuses a policy that cannot be meant.
fn validate(spec: &Spec) -> Result<(), Error> {
    let refuse = |reason: String| Err(Error::Setup(reason));
    let id_fits = !spec.id.is_empty()
        && spec.id.len() <= 64
        && spec.id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if !id_fits {
        return refuse(String::from("an id is 1 to 64 letters, digits, `_` or `-`"));
    }
    if spec.layers.len() > MAX_LAYERS || spec.read_only.len() > MAX_READ_ONLY {
        return refuse(format!("at most {MAX_LAYERS} layers and {MAX_READ_ONLY} read-only paths"));
    }
    let host_paths = spec.layers.iter().chain([&spec.scratch]).chain(spec.read_only.iter().map(|shown| &shown.host));
    for path in host_paths {
        if !path.is_absolute() {
            return refuse(format!("{} is not an absolute path", path.display()));
        }
    }
    for shown in &spec.read_only {
        let mut parts = shown.inside.components();
        let rooted = parts.next() == Some(Component::RootDir);
        let mut parts = parts.peekable();
        let reserved = parts
            .peek()
            .is_none_or(|first| ["proc", "dev", "sys", "etc"].iter().any(|reserved| first.as_os_str() == *reserved));
        if !rooted || reserved || parts.any(|part| !matches!(part, Component::Normal(_))) {
            return refuse(format!("nothing can be shown at {} inside a sandbox", shown.inside.display()));
        }
    }
    let limits = &spec.limits;
    if limits.memory_bytes < 8 << 20 || limits.processes == 0 || limits.cpu_millis == 0 || limits.open_files < 16 {
        return refuse(String::from(
            "limits too small to start anything: at least 8 MiB of memory, one process, some processor time, 16 open files",
        ));
    }
    Ok(())
}

/// A layer that is absent is a mistake of the caller, best told by its name.
fn check_layer(layer: &Path) -> Result<(), Error> {
    let metadata = fs::metadata(layer).map_err(|error| Error::Setup(format!("layer {}: {error}", layer.display())))?;
    if metadata.is_dir() {
        return Ok(());
    }
    Err(Error::Setup(format!("layer {} is not a directory", layer.display())))
}
