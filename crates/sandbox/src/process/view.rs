//! The harmless part of the host's `/etc`, copied once per driver and shown in every sandbox.
//!
//! A copy rather than mounts of the host's files: one mount instead of twenty, nothing private can slip in by a
//! link, and a file that the host replaces does not change under a running program.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

/// Files and directories of `/etc` that programs need: the linker's cache, certificate authorities, alternatives,
/// names of protocols, time zone.
const COPIED: &[&str] = &[
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "fonts",
    "gai.conf",
    "java-11-openjdk",
    "java-17-openjdk",
    "java-21-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "magic",
    "mime.types",
    "os-release",
    "debian_version",
    "pki/tls",
    "pki/ca-trust",
    "protocols",
    "python3",
    "python3.9",
    "python3.10",
    "python3.11",
    "python3.12",
    "python3.13",
    "python3.14",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
];

/// Written by us.
const OWN: &[(&str, &str)] = &[
    (
        "passwd",
        "root:x:0:0:root:/root:/usr/sbin/nologin\nagent:x:1000:1000:agent:/home/agent:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("group", "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n"),
    ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"),
    ("timezone", "Etc/UTC\n"),
    ("shells", "/bin/sh\n/bin/bash\n"),
];

/// Files that differ between sandboxes live on the sandbox's root.
const PER_SANDBOX: &[&str] = &["hostname", "hosts", "resolv.conf"];

/// A copied tree larger than this is not what it should be.
const MAX_ENTRIES: usize = 20_000;

/// Fills an empty directory with the `/etc` of sandboxes.
pub(super) fn write_etc(etc: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o755).recursive(true).create(etc)?;
    let mut left = MAX_ENTRIES;
    for name in COPIED {
        copy(&Path::new("/etc").join(name), &etc.join(name), &mut left)?;
    }
    for (name, text) in OWN {
        fs::write(etc.join(name), text)?;
    }
    for name in PER_SANDBOX {
        symlink(format!("/run/backlot/{name}"), etc.join(name))?;
    }
    symlink("/usr/share/zoneinfo/Etc/UTC", etc.join("localtime"))?;
    symlink("/proc/self/mounts", etc.join("mtab"))?;
    make_readable(etc)
}

/// Copies what exists and is readable by everybody; links are kept as links.
fn copy(from: &Path, to: &Path, left: &mut usize) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(from) else {
        return Ok(());
    };
    *left = left.checked_sub(1).ok_or_else(|| io::Error::other(format!("{} holds too many files", from.display())))?;
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    if metadata.is_symlink() {
        symlink(fs::read_link(from)?, to)
    } else if metadata.permissions().mode() & 0o004 == 0 {
        // Not meant for everybody, so not for sandboxes.
        Ok(())
    } else if metadata.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()), left)?;
        }
        Ok(())
    } else if metadata.is_file() {
        fs::copy(from, to).map(drop)
    } else {
        Ok(())
    }
}

/// The server's umask may be strict; sandboxes run as another user.
fn make_readable(path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let mode = if metadata.is_dir() { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            make_readable(&entry?.path())?;
        }
    }
    Ok(())
}

/// Top-level links (`bin -> usr/bin`) and directories of the host's system, as it has them.
pub(super) fn system() -> (Vec<(String, String)>, Vec<PathBuf>) {
    let mut links = Vec::new();
    let mut directories = Vec::new();
    for name in ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix", "gnu"] {
        let path = Path::new("/").join(name);
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        if metadata.is_symlink() {
            if let Ok(target) = fs::read_link(&path)
                && let Some(target) = target.to_str()
            {
                links.push((name.to_owned(), target.to_owned()));
            }
        } else if metadata.is_dir() {
            directories.push(path);
        }
    }
    (links, directories)
}
