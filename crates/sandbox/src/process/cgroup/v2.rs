//! Control groups, version 2: one hierarchy for all controllers.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{mount_of, own_directory, read_field, read_number, sweep, write};
use crate::Limits;

const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
/// Where the server's own processes go: a group with children that have controllers may hold none itself.
const LEAF: &str = "backlot-server";

/// The driver's parent group.
#[derive(Debug)]
pub(super) struct Parent(PathBuf);

/// One sandbox's group.
#[derive(Debug)]
pub(super) struct Group(PathBuf);

impl Parent {
    pub(super) fn make(mounts: &str, own: &str, name: &str) -> Result<Self, String> {
        let (root, point) = mount_of(mounts, "cgroup2", None).ok_or("not mounted")?;
        let available = fs::read_to_string(point.join("cgroup.controllers")).map_err(|error| error.to_string())?;
        if let Some(missing) =
            CONTROLLERS.iter().find(|wanted| !available.split_whitespace().any(|one| one == **wanted))
        {
            return Err(format!("the controller `{missing}` is not available"));
        }
        let own = own_directory(own, None, &root, &point).ok_or("this process is in no group")?;
        // After an earlier start in the same service, this process sits in the leaf.
        let own = if own.ends_with(LEAF) { own.parent().map_or_else(|| own.clone(), Path::to_owned) } else { own };
        let mut reasons = Vec::new();
        for parent in [own, point] {
            match Self::make_in(&parent, name) {
                Ok(path) => return Ok(Self(path)),
                Err(reason) => reasons.push(format!("{}: {reason}", parent.display())),
            }
        }
        Err(reasons.join("; "))
    }

    fn make_in(parent: &Path, name: &str) -> Result<PathBuf, String> {
        sweep(parent);
        delegate(parent).map_err(|error| error.to_string())?;
        let path = parent.join(name);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.to_string()),
            _ => {}
        }
        delegate(&path).map_err(|error| {
            let _unused = fs::remove_dir(&path);
            error.to_string()
        })?;
        Ok(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn create(&self, name: &str, limits: &Limits) -> io::Result<Group> {
        let group = Group(self.0.join(name));
        group.set_up(limits).inspect_err(|_| drop(fs::remove_dir(&group.0)))?;
        Ok(group)
    }
}

/// Turns the controllers on for the children of a group. If its own processes are in the way, they move to a leaf.
fn delegate(group: &Path) -> io::Result<()> {
    let enabled = fs::read_to_string(group.join("cgroup.subtree_control"))?;
    if CONTROLLERS.iter().all(|wanted| enabled.split_whitespace().any(|one| one == *wanted)) {
        return Ok(());
    }
    let wanted = CONTROLLERS.map(|controller| format!("+{controller}")).join(" ");
    match write(group, "cgroup.subtree_control", &wanted) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() != io::ErrorKind::ResourceBusy => return Err(error),
        Err(_) => {}
    }
    let members = fs::read_to_string(group.join("cgroup.procs"))?;
    let ours = std::process::id().to_string();
    if members.lines().any(|member| member != ours) {
        return Err(io::Error::other(
            "other processes share this group; start the server in a group of its own (systemd: Delegate=yes)",
        ));
    }
    let leaf = group.join(LEAF);
    fs::create_dir_all(&leaf)?;
    write(&leaf, "cgroup.procs", &ours)?;
    write(group, "cgroup.subtree_control", &wanted)
}

impl Group {
    fn set_up(&self, limits: &Limits) -> io::Result<()> {
        match fs::create_dir(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        write(&self.0, "memory.max", limits.memory_bytes)?;
        if self.0.join("memory.swap.max").exists() {
            write(&self.0, "memory.swap.max", 0)?;
        }
        // The init is one of them.
        write(&self.0, "pids.max", u64::from(limits.processes) + 1)?;
        let quota = u64::from(limits.cpu_millis.max(10)) * 100;
        write(&self.0, "cpu.max", format_args!("{quota} 100000"))?;
        // What a sandbox did not use while it waited may speed up the start of a program (since Linux 5.14).
        let _older_kernel = write(&self.0, "cpu.max.burst", quota);
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn out_of_memory_kills(&self) -> Option<u64> {
        read_field(&self.0.join("memory.events"), "oom_kill")
    }

    pub(super) fn peak_memory(&self) -> Option<u64> {
        read_number(&self.0.join("memory.peak"))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed setup is a failed test")]
    use super::*;

    #[test]
    fn limits_and_events_have_the_kernels_form() {
        let root = tempfile::tempdir().unwrap();
        let group = Group(root.path().join("one"));
        fs::create_dir(&group.0).unwrap();
        fs::write(group.0.join("memory.swap.max"), "max").unwrap();
        let limits = Limits { memory_bytes: 1 << 20, cpu_millis: 1500, processes: 7, ..Limits::default() };
        group.set_up(&limits).unwrap();
        let read = |file: &str| fs::read_to_string(group.0.join(file)).unwrap();
        assert_eq!(read("memory.max"), "1048576");
        assert_eq!(read("memory.swap.max"), "0");
        assert_eq!(read("pids.max"), "8");
        assert_eq!(read("cpu.max"), "150000 100000");
        fs::write(group.0.join("memory.events"), "low 0\nhigh 0\nmax 9\noom 2\noom_kill 3\noom_group_kill 1\n")
            .unwrap();
        assert_eq!(group.out_of_memory_kills(), Some(3));
        fs::write(group.0.join("memory.peak"), "4096\n").unwrap();
        assert_eq!(group.peak_memory(), Some(4096));
    }
}
