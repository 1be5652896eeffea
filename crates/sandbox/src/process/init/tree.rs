//! The files a sandbox sees, built on a small tmpfs that becomes the root and is read-only in the end.
//!
//! | inside | what it is |
//! |---|---|
//! | `/usr`, `/bin`, `/lib…`, `/sbin` | the host's, read-only |
//! | `/etc` | our own copy of a few harmless files of the host ([`crate::process::view`]), read-only |
//! | `/workspace` | overlayfs: changes go to the scratch directory, below lie the layers; without layers that directory itself |
//! | `/home/agent`, `/tmp` | directories of scratch, so that [`crate::Limits::disk_bytes`] covers them |
//! | `/proc` | of this process namespace, read-only as a file system, with the leaky files covered |
//! | `/dev` | null, zero, full, random, urandom, `shm`, and links to the standard streams |
//! | `/sys`, `/run`, `/var` | empty, but for `/run/backlot` with host name and resolver |

use std::{
    ffi::CString,
    fs,
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt, symlink},
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, open, openat2},
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, mount, mount_bind_recursive, mount_change,
        move_mount, unmount,
    },
};

use super::Failure;
use crate::{HOME, WORKSPACE, network, process::wire::Plan};

/// Where the new root grows; any directory that every host has.
const STAGE: &str = "/tmp";

/// Device nodes bound from the host.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// Files of `/proc` that tell about the host or its kernel, covered with `/dev/null` where they exist.
const COVERED: [&str; 8] = [
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/kallsyms",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/latency_stats",
    "/proc/sysrq-trigger",
];

/// Enters new namespaces of every kind that the clone did not make.
pub(in crate::process) fn unshare_namespaces() -> io::Result<()> {
    use nix::sched::CloneFlags;
    nix::sched::unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP,
    )?;
    // Nothing mounted from here on may appear on the host.
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    Ok(())
}

/// The parts of an overlay.
pub(super) struct OverlaySources {
    layers: Vec<OwnedFd>,
    upper: OwnedFd,
    work: OwnedFd,
}

impl OverlaySources {
    /// Opens the parts. `mapped` are mounts of the layers that the launcher has made, or nothing.
    pub(super) fn open(layers: &[PathBuf], mapped: Vec<OwnedFd>, upper: &Path, work: &Path) -> Result<Self, Failure> {
        let mut opened = layers.iter().map(|layer| open_source(layer)).collect::<Result<Vec<_>, _>>()?;
        for (layer, mount) in opened.iter_mut().zip(mapped) {
            // Over the layer's own place, and only in this process's view of the host, which is given up soon:
            // overlayfs takes mounts of its own tree only.
            move_mount(
                &mount,
                c"",
                &*layer,
                c"",
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
            )
            .map_err(|error| Failure::lacking("placing an id-mapped mount of a layer")(error.into()))?;
            *layer = mount;
        }
        Ok(Self { layers: opened, upper: open_source(upper)?, work: open_source(work)? })
    }
}

/// What `/workspace` is made of.
enum Workspace {
    Overlay(OverlaySources),
    /// A directory of scratch itself: overlayfs makes directories of its own on the host's disk, which costs more than
    /// the rest of the tree together.
    Plain(OwnedFd),
}

/// Host paths, opened while this process may still walk to them.
pub(super) struct Sources {
    workspace: Workspace,
    home: OwnedFd,
    tmp: OwnedFd,
    etc: OwnedFd,
    system: Vec<(PathBuf, OwnedFd)>,
    read_only: Vec<(PathBuf, OwnedFd, bool)>,
}

fn open_source(path: &Path) -> Result<OwnedFd, Failure> {
    open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Failure::at(format_args!("opening {}", path.display()))(error.into()))
}

impl Sources {
    pub(super) fn open(plan: &Plan, mapped: Vec<OwnedFd>) -> Result<Self, Failure> {
        let pair = |path: &PathBuf| Ok((path.clone(), open_source(path)?));
        let shown = |(host, inside): &(PathBuf, PathBuf)| {
            let is_directory =
                fs::metadata(host).map_err(Failure::at(format_args!("looking at {}", host.display())))?.is_dir();
            Ok((inside.clone(), open_source(host)?, is_directory))
        };
        Ok(Self {
            workspace: if plan.layers.is_empty() {
                Workspace::Plain(open_source(&plan.upper)?)
            } else {
                Workspace::Overlay(OverlaySources::open(&plan.layers, mapped, &plan.upper, &plan.work)?)
            },
            home: open_source(&plan.home)?,
            tmp: open_source(&plan.tmp)?,
            etc: open_source(&plan.etc)?,
            system: plan.system.iter().map(pair).collect::<Result<_, Failure>>()?,
            read_only: plan.read_only.iter().map(shown).collect::<Result<_, Failure>>()?,
        })
    }
}

fn by_descriptor(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Mounts the empty root-to-be and goes there.
pub(super) fn stage() -> Result<(), Failure> {
    mount("tmpfs", STAGE, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"size=1m,nr_inodes=512,mode=755")
        .map_err(|error| Failure::lacking("mounting a tmpfs inside a user namespace")(error.into()))?;
    rustix::process::chdir(STAGE).map_err(|error| Failure::at("entering the stage")(error.into()))
}

/// Builds the tree and makes it the root.
pub(super) fn build(plan: &Plan, sources: Sources) -> Result<(), Failure> {
    stage()?;
    skeleton(plan).map_err(Failure::at("making the root directories"))?;
    for (path, fd) in &sources.system {
        let name = path.strip_prefix("/").unwrap_or(path);
        fs::create_dir(name).map_err(Failure::at(format_args!("making /{}", name.display())))?;
        show_read_only(fd, name, false)?;
    }
    show_read_only(&sources.etc, Path::new("etc"), true)?;
    devices(plan.shm_bytes)?;
    match &sources.workspace {
        Workspace::Overlay(parts) => overlay(parts)?,
        Workspace::Plain(upper) => show_writable(upper, &WORKSPACE[1..])?,
    }
    show_writable(&sources.home, &HOME[1..])?;
    show_writable(&sources.tmp, "tmp")?;
    proc_file_system()?;
    enter_root(sources.read_only)
}

/// Directories, links and small files of the root.
fn skeleton(plan: &Plan) -> io::Result<()> {
    let make = |path: &str, mode| fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    for path in ["etc", "dev/shm", "proc", "sys", "run/backlot", "var", "tmp", &HOME[1..], &WORKSPACE[1..]] {
        make(path, 0o755)?;
    }
    symlink("/tmp", "var/tmp")?;
    symlink("/run", "var/run")?;
    for (name, target) in &plan.links {
        symlink(target, name)?;
    }
    let write = |path: &str, text: &str| {
        fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?.write_all(text.as_bytes())
    };
    let name = &plan.hostname;
    write("run/backlot/hostname", &format!("{name}\n"))?;
    write("run/backlot/hosts", &format!("127.0.0.1\tlocalhost {name}\n::1\tlocalhost ip6-localhost ip6-loopback\n"))?;
    let resolver = match &plan.link {
        Some(link) if link.public || !link.allow.is_empty() => {
            format!("nameserver {}\noptions timeout:5 attempts:2\n", network::RESOLVER)
        }
        _ => String::from("# this sandbox has no name resolution\n"),
    };
    write("run/backlot/resolv.conf", &resolver)
}

/// Binds a host directory or file with everything mounted below it, and takes away writing, set-user-id and devices.
fn show_read_only(fd: &OwnedFd, inside: &Path, no_exec: bool) -> Result<(), Failure> {
    mount_bind_recursive(by_descriptor(fd), inside)
        .map_err(|error| Failure::at(format_args!("showing /{}", inside.display()))(error.into()))?;
    let flags = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | if no_exec { MOUNT_ATTR_NOEXEC } else { 0 };
    set_flags(inside, flags, true).map_err(Failure::lacking("making a mount read-only (needs Linux 5.12 or newer)"))
}

/// Binds a directory of scratch without set-user-id and devices.
fn show_writable(fd: &OwnedFd, inside: &str) -> Result<(), Failure> {
    mount_bind_recursive(by_descriptor(fd), inside)
        .map_err(|error| Failure::at(format_args!("showing /{inside}"))(error.into()))?;
    set_flags(Path::new(inside), MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, true)
        .map_err(Failure::lacking("restricting a mount"))
}

fn devices(shm_bytes: u64) -> Result<(), Failure> {
    let step = || Failure::at("making /dev");
    for name in DEVICES {
        let inside = format!("dev/{name}");
        fs::File::create(&inside).map_err(step())?;
        mount_bind_recursive(format!("/dev/{name}"), inside.as_str())
            .map_err(|error| Failure::at(format_args!("showing /dev/{name}"))(error.into()))?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, format!("dev/{name}")).map_err(step())?;
    }
    let options =
        CString::new(format!("size={shm_bytes},nr_inodes=16384,mode=1777")).map_err(|error| step()(error.into()))?;
    mount("tmpfs", "dev/shm", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, options.as_c_str())
        .map_err(|error| Failure::at("mounting /dev/shm")(error.into()))
}

pub(super) fn overlay(sources: &OverlaySources) -> Result<(), Failure> {
    let lower = sources.layers.iter().map(by_descriptor).collect::<Vec<_>>().join(":");
    // volatile: unmounting would otherwise flush the whole file system that scratch lies on. Scratch need not
    // survive a crash of the host. userxattr: what a user namespace may write.
    let options = format!(
        "lowerdir={lower},upperdir={},workdir={},userxattr,volatile",
        by_descriptor(&sources.upper),
        by_descriptor(&sources.work)
    );
    let options = CString::new(options).map_err(|error| Failure::at("naming the layers")(error.into()))?;
    mount("overlay", &WORKSPACE[1..], "overlay", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str()).map_err(
        |error| {
            Failure::lacking("mounting overlayfs inside a user namespace (needs Linux 5.11 or newer)")(error.into())
        },
    )
}

pub(super) fn proc_file_system() -> Result<(), Failure> {
    // Read-only as a whole: /proc/sys and every other switch in it. Opening /proc/self/fd/1 for writing still
    // works, because that leads to another file system.
    mount(
        "proc",
        "proc",
        "proc",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY,
        None,
    )
    .map_err(|error| {
        Failure::lacking("mounting /proc (inside a container, its own /proc must not be partly covered)")(error.into())
    })?;
    for path in COVERED {
        let inside = &path[1..];
        if fs::symlink_metadata(inside).is_ok() {
            mount_bind_recursive("/dev/null", inside)
                .map_err(|error| Failure::at(format_args!("covering {path}"))(error.into()))?;
        }
    }
    Ok(())
}

/// Swaps the roots, shows the extra paths, and lets go of the host's tree.
fn enter_root(read_only: Vec<(PathBuf, OwnedFd, bool)>) -> Result<(), Failure> {
    let errno = |step: &'static str| move |error: rustix::io::Errno| Failure::at(step)(error.into());
    // Both names the same: the old root ends up on top of the new one and is then taken off.
    rustix::process::pivot_root(".", ".").map_err(errno("changing the root"))?;
    let old_root = open(".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(errno("holding the old root"))?;
    rustix::process::chdir("/").map_err(errno("entering the new root"))?;
    for (inside, fd, is_directory) in &read_only {
        let target = mount_point(inside, *is_directory)
            .map_err(Failure::at(format_args!("making a place for {}", inside.display())))?;
        let target = by_descriptor(&target);
        mount_bind_recursive(by_descriptor(fd), target.as_str())
            .map_err(|error| Failure::at(format_args!("showing {}", inside.display()))(error.into()))?;
        let shown = resolve(inside).map_err(Failure::at(format_args!("finding {}", inside.display())))?;
        let flags = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
        set_flags_of(&shown, flags, true).map_err(Failure::lacking("making a mount read-only"))?;
    }
    rustix::process::fchdir(&old_root).map_err(errno("entering the old root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(errno("letting go of the old root"))?;
    rustix::process::chdir("/").map_err(errno("entering the new root"))?;
    set_flags(Path::new("/"), MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, false)
        .map_err(Failure::at("making the root read-only"))
}

/// Opens a path of the new root without following links: a reused workspace may hold hostile ones.
fn resolve(inside: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(openat2(rustix::fs::CWD, inside, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS)?)
}

/// Finds or makes the directory or empty file that a host path is shown on.
fn mount_point(inside: &Path, directory: bool) -> io::Result<OwnedFd> {
    let parts: Vec<_> = inside
        .components()
        .filter_map(|part| if let Component::Normal(name) = part { Some(name) } else { None })
        .collect();
    let mut at = resolve(Path::new("/"))?;
    for (index, name) in parts.iter().enumerate() {
        let is_last = index + 1 == parts.len();
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let next = match rustix::fs::openat(&at, *name, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => {
                if is_last && !directory {
                    let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                    drop(rustix::fs::openat(&at, *name, create, Mode::from_raw_mode(0o644))?);
                } else {
                    rustix::fs::mkdirat(&at, *name, Mode::from_raw_mode(0o755))?;
                }
                rustix::fs::openat(&at, *name, flags, Mode::empty())?
            }
            other => other?,
        };
        let found = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode);
        let wanted_directory = !is_last || directory;
        if found == rustix::fs::FileType::Symlink || (found == rustix::fs::FileType::Directory) != wanted_directory {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "something else is in its place"));
        }
        at = next;
    }
    Ok(at)
}

const MOUNT_ATTR_RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const MOUNT_ATTR_NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
const MOUNT_ATTR_NODEV: u64 = libc::MOUNT_ATTR_NODEV;
const MOUNT_ATTR_NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

fn set_flags(path: &Path, flags: u64, recursive: bool) -> io::Result<()> {
    let fd = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    set_flags_of(&fd, flags, recursive)
}

/// Adds restrictions to the mount whose root is open here, and with `recursive` to all below it.
fn set_flags_of(fd: &OwnedFd, flags: u64, recursive: bool) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: flags, attr_clr: 0, propagation: 0, userns_fd: 0 };
    set_attributes(fd.as_fd(), &attributes, recursive)
}

/// `mount_setattr` on the mount whose root is open here.
pub(in crate::process) fn set_attributes(
    fd: BorrowedFd<'_>,
    attributes: &libc::mount_attr,
    recursive: bool,
) -> io::Result<()> {
    let how = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a constant C string and `attributes` has the size that is passed; both outlive the call.
    #[expect(unsafe_code, reason = "no safe wrapper exists for mount_setattr")]
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            how,
            std::ptr::from_ref(attributes),
            std::mem::size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
