//! The writable directories of a sandbox on the host.
//!
//! ```text
//! <scratch>/workspace/   what changed under /workspace (overlayfs upper layer)
//! <scratch>/home/        /home/agent
//! <scratch>/tmp/         /tmp
//! <scratch>/overlay/     overlayfs's own, made anew for every sandbox that has layers
//! ```
//!
//! What programs leave here is hostile: trees deeper than any path, unreadable directories, links to anywhere.
//! Nothing here follows a link, and everything is done relative to open directories.

use std::{
    ffi::{CString, OsStr},
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
        },
    },
    path::{Path, PathBuf},
};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, chmodat, chownat, open, openat2, statat, unlinkat,
};

use super::wire::{AGENT_ID, Identity};

/// The changed files of `/workspace` in a scratch directory: what a build step leaves for the next layer.
#[must_use]
pub fn workspace_of(scratch: &Path) -> PathBuf {
    scratch.join("workspace")
}

/// Paths of the parts of one scratch directory.
#[derive(Debug, Clone)]
pub(super) struct Scratch {
    pub(super) root: PathBuf,
    pub(super) upper: PathBuf,
    pub(super) home: PathBuf,
    pub(super) tmp: PathBuf,
    pub(super) work: PathBuf,
}

impl Scratch {
    pub(super) fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            upper: workspace_of(root),
            home: root.join("home"),
            tmp: root.join("tmp"),
            work: root.join("overlay"),
        }
    }

    /// The user that owns what an earlier sandbox left here.
    pub(super) fn owner(&self) -> Option<u32> {
        fs::symlink_metadata(&self.home).ok().map(|metadata| metadata.uid())
    }

    /// Makes what is missing and gives everything to the sandbox user. Returns whether it was empty before.
    pub(super) fn prepare(&self, identity: Identity) -> io::Result<bool> {
        let earlier = self.owner();
        if earlier.is_some() {
            // Left by a volatile mount, which the kernel refuses to mount again.
            remove_tree(&self.work)?;
        }
        for (path, mode) in [(&self.upper, 0o755), (&self.home, 0o755), (&self.tmp, 0o1777)] {
            make(path, mode, identity)?;
        }
        let (uid, gid) = (identity.agent_uid(), identity.agent_gid());
        if let Some(earlier) = earlier
            && matches!(identity, Identity::Range { .. })
            && earlier != uid
        {
            for part in [&self.upper, &self.home, &self.tmp] {
                give_to(part, uid, gid)?;
            }
        }
        Ok(earlier.is_none())
    }

    /// Makes the directory that overlayfs works in, after [`Self::prepare`].
    pub(super) fn prepare_overlay(&self, identity: Identity) -> io::Result<()> {
        make(&self.work, 0o700, identity)
    }
}

/// Makes a directory of the sandbox user. One that is there stays as it is.
fn make(path: &Path, mode: u32, identity: Identity) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other?,
    }
    if matches!(identity, Identity::Range { .. }) {
        chown(path, Some(identity.agent_uid()), Some(identity.agent_gid()))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Makes a tree usable as a layer: owned by the server, readable by every sandbox, free of set-user-id bits.
///
/// A server that runs as root gives each sandbox its own user id, so a layer that came out of a sandbox, or was
/// unpacked with a strict mode, would otherwise be unreadable to the next.
///
/// # Errors
/// The system's reason, for example a tree too deep to walk.
pub fn seal_layer(layer: &Path) -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let seal = |at: &OwnedFd, name: &OsStr, stat: &Stat| -> io::Result<()> {
        if rustix::fs::Uid::from_raw(stat.st_uid) != uid || rustix::fs::Gid::from_raw(stat.st_gid) != gid {
            chownat(at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        let readable = match kind {
            FileType::Directory => 0o755,
            FileType::RegularFile if stat.st_mode & 0o111 != 0 => 0o755,
            FileType::RegularFile => 0o644,
            _ => return Ok(()),
        };
        if stat.st_mode & 0o7777 != readable {
            chmodat(at, name, Mode::from_raw_mode(readable), AtFlags::empty())?;
        }
        Ok(())
    };
    chown(layer, Some(uid.as_raw()), Some(gid.as_raw()))?;
    fs::set_permissions(layer, fs::Permissions::from_mode(0o755))?;
    walk(layer, seal)
}

fn give_to(root: &Path, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    chown(root, Some(uid.as_raw()), Some(gid.as_raw()))?;
    walk(root, |at, name, _stat| Ok(chownat(at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?))
}

/// The longest path below a root that is walked; about what the kernel takes in one call.
const MAX_PATH: usize = 4000;

/// Visits everything below a directory, parents first: open directory, name in it, and its state.
fn walk(root: &Path, mut visit: impl FnMut(&OwnedFd, &OsStr, &Stat) -> io::Result<()>) -> io::Result<()> {
    let root = open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let mut left = vec![PathBuf::from(".")];
    while let Some(path) = left.pop() {
        if path.as_os_str().len() > MAX_PATH {
            return Err(io::Error::new(io::ErrorKind::InvalidFilename, "the tree is deeper than any path"));
        }
        let Some(at) = open_below(&root, &path)? else {
            continue;
        };
        for entry in Dir::read_from(&at)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            // A living sandbox may delete it in between.
            let Ok(stat) = statat(&at, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            visit(&at, name, &stat)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                left.push(path.join(name));
            }
        }
    }
    Ok(())
}

/// Opens a directory below another without following links; `None` if it is gone.
fn open_below(root: &OwnedFd, path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match openat2(root, path, flags, Mode::empty(), beneath) {
        Ok(fd) => Ok(Some(fd)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => Ok(None),
        Err(rustix::io::Errno::ACCESS) => {
            // Ours, but made unreadable by a program in a rootless sandbox.
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                return Ok(None);
            };
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let Ok(parent) = openat2(root, parent, flags, Mode::empty(), beneath) else {
                return Ok(None);
            };
            let _foreign = chmodat(&parent, name, Mode::RWXU, AtFlags::empty());
            Ok(openat2(root, path, flags, Mode::empty(), beneath).ok())
        }
        Err(error) => Err(error.into()),
    }
}

/// What one entry costs at least: a hostile program fills the inode table with empty files.
const ENTRY_COST: u64 = 4096;

/// Bytes that the parts of a scratch directory take on disk.
///
/// # Errors
/// If the tree cannot be measured, which for the tree of a program means that it was made so.
pub(super) fn usage(scratch: &Scratch) -> io::Result<u64> {
    let mut total = 0_u64;
    let mut linked = std::collections::HashSet::new();
    for part in [&scratch.upper, &scratch.home, &scratch.tmp] {
        walk(part, |_at, _name, stat| {
            let several_names = stat.st_nlink > 1 && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            if !several_names || linked.insert((stat.st_dev, stat.st_ino)) {
                total += (u64::try_from(stat.st_blocks).unwrap_or(0) * 512).max(ENTRY_COST);
            }
            Ok(())
        })?;
    }
    Ok(total)
}

/// Removes a scratch directory, or another tree that a sandbox has written, whatever it contains.
///
/// The ordinary removal fails for an unprivileged server on directories that a program made unreadable, and
/// recurses once per level. No sandbox may use the directory any more. A directory that is absent is fine.
///
/// # Errors
/// The system's reason.
pub fn remove_scratch(scratch: &Path) -> io::Result<()> {
    // Something that somebody else removes at the same time is gone at the next attempt.
    for _ in 0..8 {
        match remove_tree(scratch) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
    }
    remove_tree(scratch)
}

fn remove_tree(root: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match fs::set_permissions(root, fs::Permissions::from_mode(0o700)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    let top = open(root, flags, Mode::empty())?;
    // Directories are pulled up to the top before they are emptied, so that no depth is too deep.
    let mut pulled = 0_u64;
    let mut left: Vec<Option<CString>> = vec![None];
    while let Some(name) = left.pop() {
        let opened;
        let at = match &name {
            None => &top,
            Some(name) => {
                opened = rustix::fs::openat(&top, name.as_c_str(), flags, Mode::empty())?;
                &opened
            }
        };
        if let Some(name) = &name {
            // Emptied directories come back here a second time.
            if unlinkat(&top, name.as_c_str(), AtFlags::REMOVEDIR).is_ok() {
                continue;
            }
            left.push(Some(name.clone()));
        }
        let entries = Dir::read_from(at)?.collect::<Result<Vec<_>, _>>()?;
        for entry in entries {
            let entry_name = entry.file_name();
            if matches!(entry_name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = statat(at, entry_name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                unlinkat(at, entry_name, AtFlags::empty())?;
                continue;
            }
            if stat.st_mode & 0o700 != 0o700 {
                chmodat(at, entry_name, Mode::RWXU, AtFlags::empty())?;
            }
            if unlinkat(at, entry_name, AtFlags::REMOVEDIR).is_ok() {
                continue;
            }
            if name.is_none() {
                left.push(Some(entry_name.to_owned()));
                continue;
            }
            loop {
                pulled += 1;
                let to = CString::new(format!(".removed-{pulled}"))?;
                match rustix::fs::renameat_with(at, entry_name, &top, to.as_c_str(), rustix::fs::RenameFlags::NOREPLACE)
                {
                    Ok(()) => break left.push(Some(to)),
                    Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    fs::remove_dir(root)
}

/// The id of the sandbox user inside; files of a scratch directory belong to a host id that stands for it.
pub const SANDBOX_USER: u32 = AGENT_ID;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed setup is a failed test")]
    use std::os::unix::fs::symlink;

    use super::*;

    fn fresh() -> (tempfile::TempDir, Scratch) {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::at(&folder.path().join("scratch"));
        fs::create_dir(&scratch.root).unwrap();
        let identity =
            Identity::Own { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
        assert!(scratch.prepare(identity).unwrap());
        assert!(!scratch.prepare(identity).unwrap());
        (folder, scratch)
    }

    #[test]
    fn usage_counts_blocks_entries_and_each_hard_link_once() {
        let (_folder, scratch) = fresh();
        assert_eq!(usage(&scratch).unwrap(), 0);
        fs::write(scratch.home.join("a"), vec![1; 100_000]).unwrap();
        let one = usage(&scratch).unwrap();
        assert!((100_000..150_000).contains(&one), "{one}");
        fs::hard_link(scratch.home.join("a"), scratch.home.join("b")).unwrap();
        symlink("/usr", scratch.tmp.join("away")).unwrap();
        assert_eq!(usage(&scratch).unwrap(), one + ENTRY_COST);
    }

    #[test]
    fn a_hostile_tree_is_removed_and_what_it_links_to_is_not() {
        let (folder, scratch) = fresh();
        let outside = folder.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), "x").unwrap();
        symlink(&outside, scratch.upper.join("link")).unwrap();
        let closed = scratch.upper.join("closed/inner");
        fs::create_dir_all(&closed).unwrap();
        fs::write(closed.join("file"), "x").unwrap();
        fs::set_permissions(scratch.upper.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        // Deeper than any path: 3000 levels of ten characters.
        let mut at = open(&scratch.home, OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "0123456789", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "0123456789", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        }
        drop(at);
        assert!(usage(&scratch).is_err());
        remove_scratch(&scratch.root).unwrap();
        assert!(!scratch.root.exists());
        assert!(outside.join("precious").exists());
        remove_scratch(&scratch.root).unwrap();
    }

    #[test]
    fn a_sealed_layer_is_readable_by_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let layer = folder.path().join("layer");
        fs::create_dir_all(layer.join("private")).unwrap();
        for (name, mode) in [("private/tool", 0o4700), ("private/text", 0o600)] {
            fs::write(layer.join(name), "x").unwrap();
            fs::set_permissions(layer.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(layer.join("private"), fs::Permissions::from_mode(0o700)).unwrap();
        seal_layer(&layer).unwrap();
        let mode = |name: &str| fs::metadata(layer.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(
            (mode("."), mode("private"), mode("private/tool"), mode("private/text")),
            (0o755, 0o755, 0o755, 0o644)
        );
    }
}
