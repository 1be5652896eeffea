//! Control groups, version 1 and 2: memory, processes and processor time of one sandbox, and what it used.
//!
//! [`Hierarchy::find`] looks for a place where this process may make groups. Each driver makes one parent group
//! there, named after its process, and each sandbox a child of that. Parents of servers that died are removed
//! when the next one starts.

mod v1;
mod v2;

use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::Limits;

/// Prefix of the groups of every server.
const PREFIX: &str = "backlot-";

/// Where groups of sandboxes are made.
#[derive(Debug)]
pub(super) struct Hierarchy {
    parents: Parents,
}

#[derive(Debug)]
enum Parents {
    V1(v1::Parents),
    V2(v2::Parent),
}

/// Open descriptors through which a process gets into its groups.
#[derive(Debug)]
pub(super) enum Entrance {
    /// Files to which a process with one thread writes `0`: a thread that moves itself needs no lock.
    Tasks(Vec<OwnedFd>),
    /// The directory of a group that a process is born in (`CLONE_INTO_CGROUP`).
    Birth(OwnedFd),
}

/// The groups of one sandbox.
#[derive(Debug)]
pub(super) struct Group {
    paths: Paths,
}

#[derive(Debug)]
enum Paths {
    V1(v1::Group),
    V2(v2::Group),
}

impl Hierarchy {
    /// Finds a hierarchy that can limit memory, processes and processor time, and makes this driver's parent
    /// group in it. `Err` says for each version why it cannot be used.
    pub(super) fn find(instance: &str) -> Result<Self, String> {
        let mounts =
            fs::read_to_string("/proc/self/mountinfo").map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("/proc/self/cgroup: {error}"))?;
        let name = format!("{PREFIX}{instance}");
        let v2 = match v2::Parent::make(&mounts, &own, &name) {
            Ok(parent) => return Ok(Self { parents: Parents::V2(parent) }),
            Err(reason) => reason,
        };
        match v1::Parents::make(&mounts, &own, &name) {
            Ok(parents) => Ok(Self { parents: Parents::V1(parents) }),
            Err(v1) => Err(format!("version 2: {v2}; version 1: {v1}")),
        }
    }

    /// What was found, for people.
    pub(super) fn describe(&self) -> String {
        match &self.parents {
            Parents::V1(_) => String::from("version 1: memory, pids, cpu"),
            Parents::V2(parent) => format!("version 2 at {}", parent.path().display()),
        }
    }

    /// Makes the groups of one sandbox and sets its limits.
    pub(super) fn create(&self, name: &str, limits: &Limits) -> io::Result<Group> {
        let paths = match &self.parents {
            Parents::V1(parents) => Paths::V1(parents.create(name, limits)?),
            Parents::V2(parent) => Paths::V2(parent.create(name, limits)?),
        };
        Ok(Group { paths })
    }

    /// Removes this driver's parent group; sandboxes must be gone.
    pub(super) fn remove(&self) {
        match &self.parents {
            Parents::V1(parents) => parents.remove(),
            Parents::V2(parent) => drop(fs::remove_dir(parent.path())),
        }
    }
}

impl Group {
    /// How an init gets in.
    ///
    /// Not through `cgroup.procs`: there the kernel first holds up every fork and exit on the host, for which it waits
    /// out an RCU grace period. That was the longest step of all, by far.
    pub(super) fn entrance(&self) -> io::Result<Entrance> {
        match &self.paths {
            Paths::V1(group) => {
                let tasks =
                    |directory: &Path| File::options().write(true).open(directory.join("tasks")).map(OwnedFd::from);
                group.directories().map(tasks).collect::<io::Result<_>>().map(Entrance::Tasks)
            }
            Paths::V2(group) => Ok(Entrance::Birth(File::open(group.path())?.into())),
        }
    }

    /// How often the kernel has killed here for lack of memory.
    pub(super) fn out_of_memory_kills(&self) -> u64 {
        match &self.paths {
            Paths::V1(group) => group.out_of_memory_kills(),
            Paths::V2(group) => group.out_of_memory_kills(),
        }
        .unwrap_or(0)
    }

    /// Starts a new measurement of the peak, where the kernel can.
    pub(super) fn reset_peak(&self) {
        match &self.paths {
            Paths::V1(group) => group.reset_peak(),
            Paths::V2(_) => {}
        }
    }

    /// Peak memory in bytes since the last [`Self::reset_peak`], or of the whole life.
    pub(super) fn peak_memory(&self) -> Option<u64> {
        match &self.paths {
            Paths::V1(group) => group.peak_memory(),
            Paths::V2(group) => group.peak_memory(),
        }
    }

    /// Removes the groups; every process must be gone. The kernel may need a moment to agree.
    pub(super) fn remove(&self) {
        let remove = |path: &Path| {
            for attempt in 0..50_u32 {
                match fs::remove_dir(path) {
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                        std::thread::sleep(Duration::from_millis(u64::from(attempt.min(20))));
                    }
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return tracing::warn!(path = %path.display(), %error, "cannot remove a control group");
                    }
                    _ => return,
                }
            }
            tracing::warn!(path = %path.display(), "a control group stays busy and is left behind");
        };
        match &self.paths {
            Paths::V1(group) => group.directories().for_each(remove),
            Paths::V2(group) => remove(group.path()),
        }
    }
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Value of `key` in a file of `key value` lines.
fn read_field(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Writes a control file and names it when that fails.
fn write(directory: &Path, file: &str, value: impl std::fmt::Display) -> io::Result<()> {
    let path = directory.join(file);
    fs::write(&path, value.to_string())
        .map_err(|error| io::Error::new(error.kind(), format!("writing {value} to {}: {error}", path.display())))
}

/// Where a controller's hierarchy is mounted and which part of it that shows.
fn mount_of(mounts: &str, kind: &str, controller: Option<&str>) -> Option<(PathBuf, PathBuf)> {
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let fits = right.next()? == kind
            && controller.is_none_or(|wanted| {
                right.nth(1).is_some_and(|options| options.split(',').any(|option| option == wanted))
            });
        fits.then(|| (PathBuf::from(root), PathBuf::from(point)))
    })
}

/// The directory of this process's own group in a mounted hierarchy.
fn own_directory(own: &str, controller: Option<&str>, root: &Path, point: &Path) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let fits = match controller {
            Some(wanted) => controllers.split(',').any(|controller| controller == wanted),
            None => controllers.is_empty(),
        };
        fits.then_some(path)
    })?;
    Some(match Path::new(path).strip_prefix(root) {
        Ok(below) => point.join(below),
        // In a container without a cgroup namespace the path is the host's and the mount shows only our part.
        Err(_) => point.to_owned(),
    })
}

/// Removes the groups of servers that are dead, in one directory. Groups that still hold processes stay.
fn sweep(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(instance) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        if super::instance::is_alive(instance) {
            continue;
        }
        if let Ok(children) = fs::read_dir(entry.path()) {
            for child in children.flatten().filter(|child| child.path().is_dir()) {
                let _busy = fs::remove_dir(child.path());
            }
        }
        let _busy = fs::remove_dir(entry.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
31 23 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 /docker/abc /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
34 31 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate";
    const OWN: &str = "5:memory:/docker/abc/inner\n4:cpu,cpuacct:/\n0::/system.slice/backlot.service\n";

    #[test]
    fn own_groups_are_found_in_every_layout() {
        let find = |kind, controller| {
            let (root, point) = mount_of(MOUNTS, kind, controller)?;
            own_directory(OWN, controller, &root, &point)
        };
        assert_eq!(find("cgroup", Some("cpu")), Some(PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/")));
        assert_eq!(find("cgroup", Some("memory")), Some(PathBuf::from("/sys/fs/cgroup/memory/inner")));
        assert_eq!(find("cgroup", Some("pids")), None);
        assert_eq!(find("cgroup2", None), Some(PathBuf::from("/sys/fs/cgroup/unified/system.slice/backlot.service")));
    }
}
