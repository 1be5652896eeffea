//! Layers as each sandbox's own: an id-mapped mount shows files of the server's user as files of the sandbox's.
//!
//! Where the server is root, every sandbox has host ids of its own, while the files of a layer belong to root. Through
//! such a mount a program finds the files of its project to be its own, whatever their modes, and changes of
//! them go to the writable layer as usual. Nothing on disk is touched.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use rustix::mount::{OpenTreeFlags, open_tree};

use super::launcher::{Cloned, clone_into_new_user_and_pid_namespace};

/// User namespaces that say which id stands for root, by that id; made once for each range of ids.
#[derive(Default)]
pub(super) struct Maps(BTreeMap<u32, OwnedFd>);

/// More would be more descriptors than a process may have.
const MAX_MAPS: usize = 256;

impl Maps {
    /// A mount of a directory, belonging to no tree yet, in which files of root belong to `owner`.
    pub(super) fn mount(&mut self, directory: &Path, owner: u32) -> io::Result<OwnedFd> {
        let map = self.of(owner)?;
        let mount =
            open_tree(rustix::fs::CWD, directory, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
        let attributes = libc::mount_attr {
            attr_set: libc::MOUNT_ATTR_IDMAP,
            attr_clr: 0,
            propagation: 0,
            userns_fd: u64::try_from(map.as_raw_fd()).map_err(io::Error::other)?,
        };
        super::init::tree::set_attributes(mount.as_fd(), &attributes, false)?;
        Ok(mount)
    }

    fn of(&mut self, owner: u32) -> io::Result<&OwnedFd> {
        if !self.0.contains_key(&owner) {
            if self.0.len() >= MAX_MAPS {
                self.0.pop_first();
            }
            self.0.insert(owner, make(owner)?);
        }
        self.0.get(&owner).ok_or_else(|| io::Error::other("the map was just made"))
    }
}

/// A user namespace that maps 0 to one id. A process has to be in it while it is made, and no longer.
fn make(owner: u32) -> io::Result<OwnedFd> {
    match clone_into_new_user_and_pid_namespace(None)? {
        Cloned::Child => loop {
            std::thread::park();
        },
        Cloned::Parent { pid, pidfd } => {
            let line = format!("0 {owner} 1\n");
            let made = fs::write(format!("/proc/{pid}/uid_map"), &line)
                .and_then(|()| fs::write(format!("/proc/{pid}/gid_map"), &line))
                .and_then(|()| fs::File::open(format!("/proc/{pid}/ns/user")));
            rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL)?;
            Ok(made?.into())
        }
    }
}
