//! Control groups, version 1: one hierarchy per controller.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{mount_of, own_directory, read_field, read_number, sweep, write};
use crate::Limits;

/// The driver's parent group in each hierarchy.
#[derive(Debug)]
pub(super) struct Parents {
    memory: PathBuf,
    pids: PathBuf,
    cpu: PathBuf,
}

/// One sandbox's group in each hierarchy. The three may be one directory where controllers are mounted together.
#[derive(Debug)]
pub(super) struct Group {
    memory: PathBuf,
    pids: PathBuf,
    cpu: PathBuf,
}

impl Parents {
    pub(super) fn make(mounts: &str, own: &str, name: &str) -> Result<Self, String> {
        let make = |controller: &str| -> Result<PathBuf, String> {
            let (root, point) = mount_of(mounts, "cgroup", Some(controller))
                .ok_or_else(|| format!("no hierarchy with the controller `{controller}` is mounted"))?;
            let parent = own_directory(own, Some(controller), &root, &point)
                .ok_or_else(|| format!("this process is in no group of the controller `{controller}`"))?;
            sweep(&parent);
            let path = parent.join(name);
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    Err(format!("{}: {error}", path.display()))
                }
                _ => Ok(path),
            }
        };
        Ok(Self { memory: make("memory")?, pids: make("pids")?, cpu: make("cpu")? })
    }

    pub(super) fn create(&self, name: &str, limits: &Limits) -> io::Result<Group> {
        let group = Group { memory: self.memory.join(name), pids: self.pids.join(name), cpu: self.cpu.join(name) };
        group.set_up(limits).inspect_err(|_| {
            for directory in group.directories() {
                let _never_made = fs::remove_dir(directory);
            }
        })?;
        Ok(group)
    }

    pub(super) fn remove(&self) {
        for path in [&self.memory, &self.pids, &self.cpu] {
            let _gone_or_busy = fs::remove_dir(path);
        }
    }
}

impl Group {
    fn set_up(&self, limits: &Limits) -> io::Result<()> {
        for directory in self.directories() {
            match fs::create_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
        }
        write(&self.memory, "memory.limit_in_bytes", limits.memory_bytes)?;
        // Memory and swap together; the file is absent where the kernel accounts no swap.
        if self.memory.join("memory.memsw.limit_in_bytes").exists() {
            write(&self.memory, "memory.memsw.limit_in_bytes", limits.memory_bytes)?;
        }
        // The init is one of them.
        write(&self.pids, "pids.max", u64::from(limits.processes) + 1)?;
        // The period is 100 ms by default.
        let quota = u64::from(limits.cpu_millis.max(10)) * 100;
        write(&self.cpu, "cpu.cfs_quota_us", quota)?;
        // What a sandbox did not use while it waited may speed up the start of a program (since Linux 5.14).
        let _older_kernel = write(&self.cpu, "cpu.cfs_burst_us", quota);
        Ok(())
    }

    pub(super) fn directories(&self) -> impl Iterator<Item = &Path> {
        let mut seen: Vec<&Path> = Vec::with_capacity(3);
        for path in [&self.memory, &self.pids, &self.cpu] {
            if !seen.contains(&path.as_path()) {
                seen.push(path);
            }
        }
        seen.into_iter()
    }

    pub(super) fn out_of_memory_kills(&self) -> Option<u64> {
        read_field(&self.memory.join("memory.oom_control"), "oom_kill")
    }

    pub(super) fn reset_peak(&self) {
        let _only_statistics = write(&self.memory, "memory.max_usage_in_bytes", 0);
    }

    pub(super) fn peak_memory(&self) -> Option<u64> {
        read_number(&self.memory.join("memory.max_usage_in_bytes"))
    }
}
