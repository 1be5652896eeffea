//! Source code from outside: unpacking archives that may be hostile, and naming a tree by its content.
//!
//! An archive is refused whole, with the entry named, when it holds anything but plain files, directories and
//! symbolic links that stay inside: nothing of it is left then (spec/castari.md 9.1).

use std::{
    cell::Cell,
    collections::{BTreeMap, HashSet},
    fs,
    io::{self, Read, Seek as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::{Component, Path, PathBuf},
    rc::Rc,
};

use sha2::{Digest as _, Sha256};

use super::manifest;
use crate::{Error, Kind};

/// Largest packed archive in bytes (spec/castari.md 3).
pub const LARGEST_ARCHIVE: u64 = 100 << 20;
/// Bytes of an unpacked tree.
const LARGEST_TREE: u64 = 1 << 30;
/// Files, directories and links of a tree.
const MOST_ENTRIES: usize = 50_000;
/// Bytes of a path.
const LONGEST_PATH: usize = 1024;
/// Bytes between the contents of two files of a tar archive: headers, long names, extended attributes. The reader keeps
/// these in memory, whatever size they claim.
const LARGEST_HEADERS: u64 = 1 << 20;
/// Bytes of the directory of a zip archive, which the reader keeps in memory, too, many times as large.
const LARGEST_DIRECTORY: u64 = 16 << 20;

/// Unpacks `.tar`, `.tar.gz`, `.tar.zst` or `.zip` into the empty directory `into`. Blocking.
pub(super) fn unpack(archive: &Path, into: &Path) -> Result<(), Error> {
    unpack_at_most(LARGEST_TREE, archive, into)
}

fn unpack_at_most(most_bytes: u64, archive: &Path, into: &Path) -> Result<(), Error> {
    let mut file = fs::File::open(archive).map_err(Error::internal)?;
    let mut head = [0_u8; 264];
    let length = read_head(&mut file, &mut head).map_err(Error::internal)?;
    let head = head.get(..length).unwrap_or_default();
    file.rewind().map_err(Error::internal)?;
    let mut tree = Tree::new(into, most_bytes);
    if head.starts_with(&[0x1f, 0x8b]) {
        unpack_tar(flate2::read::MultiGzDecoder::new(file), &mut tree)
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = zstd::stream::read::Decoder::new(file).map_err(|error| refused(error.to_string()))?;
        unpack_tar(decoder, &mut tree)
    } else if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        unpack_zip(file, &mut tree)
    } else if head.get(257..262) == Some(b"ustar") {
        unpack_tar(file, &mut tree)
    } else {
        Err(refused("it is neither .tar, .tar.gz, .tar.zst nor .zip"))
    }?;
    tree.finish()
}

fn read_head(file: &mut fs::File, head: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < head.len() {
        let more = file.read(head.get_mut(length..).unwrap_or_default())?;
        if more == 0 {
            break;
        }
        length += more;
    }
    Ok(length)
}

fn unpack_tar(reader: impl Read, tree: &mut Tree<'_>) -> Result<(), Error> {
    let allowance = Rc::new(Cell::new(LARGEST_HEADERS));
    let mut archive = tar::Archive::new(Bounded { reader, allowance: Rc::clone(&allowance) });
    let mut entries = archive.entries().map_err(|error| refused(error.to_string()))?;
    loop {
        allowance.set(LARGEST_HEADERS);
        let Some(entry) = entries.next() else { break };
        // The content of a file is counted where it is written.
        allowance.set(u64::MAX);
        let mut entry = entry.map_err(|error| refused(error.to_string()))?;
        let path = entry.path().map_err(|error| refused(error.to_string()))?.into_owned();
        let kind = entry.header().entry_type();
        let is_executable = entry.header().mode().unwrap_or(0) & 0o111 != 0;
        if kind.is_dir() {
            tree.directory(&path)?;
        } else if kind.is_file() || kind == tar::EntryType::Continuous {
            tree.file(&path, is_executable, &mut entry)?;
        } else if kind.is_symlink() {
            let target = entry.link_name().map_err(|error| refused(error.to_string()))?;
            let target = target.ok_or_else(|| refused(format!("the link `{}` has no target", path.display())))?;
            tree.link(&path, &target)?;
        } else if kind.is_pax_global_extensions() {
            // A comment of `git archive`; it is no file.
        } else {
            return Err(refused(format!("`{}` is neither a file, a directory nor a symbolic link", path.display())));
        }
    }
    Ok(())
}

/// Passes on as many bytes as allowed at the moment, then fails.
struct Bounded<R> {
    reader: R,
    allowance: Rc<Cell<u64>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let allowed = usize::try_from(self.allowance.get()).unwrap_or(usize::MAX).min(buffer.len());
        if allowed == 0 && !buffer.is_empty() {
            return Err(io::Error::other("the names or attributes of its entries are too large"));
        }
        let length = self.reader.read(buffer.get_mut(..allowed).unwrap_or_default())?;
        self.allowance.set(self.allowance.get().saturating_sub(length as u64));
        Ok(length)
    }
}

impl<R: io::Seek> io::Seek for Bounded<R> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.reader.seek(to)
    }
}

fn unpack_zip(file: fs::File, tree: &mut Tree<'_>) -> Result<(), Error> {
    const KIND: u32 = 0o170_000;
    let allowance = Rc::new(Cell::new(LARGEST_DIRECTORY));
    let reader = Bounded { reader: io::BufReader::new(file), allowance: Rc::clone(&allowance) };
    let mut archive = zip::ZipArchive::new(reader).map_err(|error| refused(error.to_string()))?;
    allowance.set(u64::MAX);
    if archive.len() > MOST_ENTRIES {
        return Err(too_many_entries());
    }
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|error| refused(error.to_string()))?;
        let path = PathBuf::from(entry.name());
        let mode = entry.unix_mode().unwrap_or(0);
        if entry.is_dir() {
            tree.directory(&path)?;
        } else if mode & KIND == 0o120_000 {
            let mut target = String::new();
            entry
                .by_ref()
                .take(LONGEST_PATH as u64 + 1)
                .read_to_string(&mut target)
                .map_err(|error| refused(error.to_string()))?;
            tree.link(&path, Path::new(&target))?;
        } else if mode & KIND == 0 || mode & KIND == 0o100_000 {
            tree.file(&path, mode & 0o111 != 0, &mut entry)?;
        } else {
            return Err(refused(format!("`{}` is neither a file, a directory nor a symbolic link", path.display())));
        }
    }
    Ok(())
}

/// Copies a tree that somebody else made, under the same rules as an archive. `skip` names top-level entries to
/// leave out. Blocking.
pub(super) fn import(from: &Path, into: &Path, skip: &[&str]) -> Result<(), Error> {
    let mut tree = Tree::new(into, LARGEST_TREE);
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        let mut entries: Vec<_> = fs::read_dir(from.join(&directory))
            .and_then(Iterator::collect)
            .map_err(|error| refused(format!("`{}`: {error}", directory.display())))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if directory.as_os_str().is_empty() && skip.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            let path = directory.join(entry.file_name());
            let metadata = entry.metadata().map_err(|error| refused(format!("`{}`: {error}", path.display())))?;
            if metadata.is_dir() {
                tree.directory(&path)?;
                open.push(path);
            } else if metadata.is_symlink() {
                let target = fs::read_link(entry.path()).map_err(Error::internal)?;
                tree.link(&path, &target)?;
            } else if metadata.is_file() {
                let mut file = fs::OpenOptions::new()
                    .read(true)
                    .custom_flags(O_NOFOLLOW)
                    .open(entry.path())
                    .map_err(|error| refused(format!("`{}`: {error}", path.display())))?;
                tree.file(&path, metadata.permissions().mode() & 0o111 != 0, &mut file)?;
            } else {
                return Err(refused(format!(
                    "`{}` is neither a file, a directory nor a symbolic link",
                    path.display()
                )));
            }
        }
    }
    tree.finish()
}

/// The tree is copied out of reach of its maker, but a link must not be followed even so.
const O_NOFOLLOW: i32 = 0o400_000;

/// What a path of the tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Directory,
    File,
    Link,
}

/// A tree under construction, entry by entry, with everything that can be wrong with one.
struct Tree<'a> {
    root: &'a Path,
    made: BTreeMap<PathBuf, Made>,
    links: Vec<(PathBuf, PathBuf)>,
    folded: HashSet<String>,
    bytes: u64,
    most_bytes: u64,
}

impl<'a> Tree<'a> {
    fn new(root: &'a Path, most_bytes: u64) -> Self {
        Self { root, made: BTreeMap::new(), links: Vec::new(), folded: HashSet::new(), bytes: 0, most_bytes }
    }

    fn directory(&mut self, path: &Path) -> Result<(), Error> {
        let path = clean(path)?;
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        self.make_directories(&path)
    }

    fn file(&mut self, path: &Path, is_executable: bool, content: &mut impl Read) -> Result<(), Error> {
        let path = clean(path)?;
        self.place(&path, Made::File)?;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(if is_executable { 0o755 } else { 0o644 })
            .open(self.root.join(&path))
            .map_err(|error| write_failed(&path, error))?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = content
                .read(&mut buffer)
                .map_err(|error| refused(format!("`{}` cannot be read: {error}", path.display())))?;
            if length == 0 {
                return Ok(());
            }
            self.bytes += length as u64;
            if self.bytes > self.most_bytes {
                return Err(refused(format!("it holds more than {} MiB", self.most_bytes >> 20)));
            }
            file.write_all(buffer.get(..length).unwrap_or_default()).map_err(|error| write_failed(&path, error))?;
        }
    }

    fn link(&mut self, path: &Path, target: &Path) -> Result<(), Error> {
        let path = clean(path)?;
        if !stays_inside(&path, target) {
            return Err(refused(format!(
                "the link `{}` leads outside the project, to `{}`",
                path.display(),
                target.display()
            )));
        }
        self.place(&path, Made::Link)?;
        symlink(target, self.root.join(&path)).map_err(|error| write_failed(&path, error))?;
        self.links.push((path, target.to_owned()));
        Ok(())
    }

    /// Claims a new path, with directories above it.
    fn place(&mut self, path: &Path, made: Made) -> Result<(), Error> {
        if path.as_os_str().is_empty() {
            return Err(refused("an entry has no name"));
        }
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.make_directories(parent)?;
        }
        if self.made.contains_key(path) {
            return Err(refused(format!("`{}` comes up twice", path.display())));
        }
        self.claim(path, made)
    }

    fn make_directories(&mut self, path: &Path) -> Result<(), Error> {
        let mut partial = PathBuf::new();
        for part in path.components() {
            partial.push(part);
            match self.made.get(&partial) {
                Some(Made::Directory) => {}
                Some(Made::File | Made::Link) => {
                    return Err(refused(format!("`{}` is inside something that is no directory", path.display())));
                }
                None => {
                    self.claim(&partial, Made::Directory)?;
                    fs::create_dir(self.root.join(&partial)).map_err(|error| write_failed(&partial, error))?;
                }
            }
        }
        Ok(())
    }

    fn claim(&mut self, path: &Path, made: Made) -> Result<(), Error> {
        if self.made.len() >= MOST_ENTRIES {
            return Err(too_many_entries());
        }
        let folded = path.to_string_lossy().to_lowercase();
        if !self.folded.insert(folded) {
            return Err(refused(format!(
                "`{}` differs from another path in upper and lower case only",
                path.display()
            )));
        }
        self.made.insert(path.to_owned(), made);
        Ok(())
    }

    /// Checks what only the whole tree shows: a target that climbs after passing through another link does not lead
    /// where it says, and might lead out.
    fn finish(self) -> Result<(), Error> {
        for (path, target) in &self.links {
            let mut at = path.parent().map(Path::to_owned).unwrap_or_default();
            let mut passed_a_link = false;
            for part in target.components() {
                match part {
                    Component::ParentDir if passed_a_link => {
                        return Err(refused(format!(
                            "the link `{}` climbs out of another link, to `{}`",
                            path.display(),
                            target.display()
                        )));
                    }
                    Component::ParentDir => {
                        at.pop();
                    }
                    Component::Normal(part) => {
                        at.push(part);
                        passed_a_link |= self.made.get(&at) == Some(&Made::Link);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// A path without `.`; refused when it is absolute, climbs, or is too long.
fn clean(path: &Path) -> Result<PathBuf, Error> {
    if path.as_os_str().len() > LONGEST_PATH {
        return Err(refused(format!("a path is longer than {LONGEST_PATH} bytes")));
    }
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => {
                let text = part.to_str().ok_or_else(|| refused(format!("`{}` is not UTF-8", path.display())))?;
                // Not separators here, but on the machines of those who may unpack it again.
                if text.contains(['\\', '\0']) {
                    return Err(refused(format!("`{}` contains a backslash", path.display())));
                }
                clean.push(part);
            }
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(refused(format!("`{}` leads outside the project", path.display())));
            }
        }
    }
    Ok(clean)
}

/// Whether a link at `path` with this target stays inside the tree, on paper.
fn stays_inside(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count().saturating_sub(1);
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    !target.as_os_str().is_empty()
}

/// The directory that holds the project: the root, or the only directory in it when the root has no manifest
/// (spec/castari.md 9.1).
pub(super) fn project_root(root: &Path) -> Result<PathBuf, Error> {
    let has_manifest = |folder: &Path| manifest::FILE_NAMES.iter().any(|name| folder.join(name).is_file());
    if has_manifest(root) {
        return Ok(root.to_owned());
    }
    let entries: Vec<_> = fs::read_dir(root).and_then(Iterator::collect).map_err(Error::internal)?;
    if let [only] = entries.as_slice()
        && only.file_type().is_ok_and(|kind| kind.is_dir())
        && has_manifest(&only.path())
    {
        return Ok(only.path());
    }
    Err(manifest::missing())
}

/// Names a tree by its content: SHA-256 over the sorted list of `path NUL mode NUL sha256(content) LF`, so that equal
/// trees have equal hashes whatever packed them (spec/castari.md 9.2). Blocking.
pub(super) fn hash(root: &Path) -> Result<String, Error> {
    let mut lines = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(root.join(&directory)).map_err(Error::internal)? {
            let entry = entry.map_err(Error::internal)?;
            let path = directory.join(entry.file_name());
            let metadata = entry.metadata().map_err(Error::internal)?;
            let (mode, digest) = if metadata.is_dir() {
                open.push(path);
                continue;
            } else if metadata.is_symlink() {
                let target = fs::read_link(entry.path()).map_err(Error::internal)?;
                ("120000", Sha256::digest(target.as_os_str().as_encoded_bytes()))
            } else {
                let mut hasher = Sha256::new();
                io::copy(&mut fs::File::open(entry.path()).map_err(Error::internal)?, &mut hasher)
                    .map_err(Error::internal)?;
                let is_executable = metadata.permissions().mode() & 0o111 != 0;
                (if is_executable { "100755" } else { "100644" }, hasher.finalize())
            };
            lines.insert(path, format!("{mode}\0{}", hex::encode(digest)));
        }
    }
    let mut hasher = Sha256::new();
    for (path, line) in lines {
        hasher.update(path.as_os_str().as_encoded_bytes());
        hasher.update([0]);
        hasher.update(line.as_bytes());
        hasher.update(b"\n");
    }
    Ok(hex::encode(hasher.finalize()))
}

/// Packs a tree, so that its layers can be made again. Blocking.
pub(super) fn pack(root: &Path, into: fs::File) -> io::Result<()> {
    let mut archive = tar::Builder::new(zstd::stream::write::Encoder::new(into, 3)?);
    archive.follow_symlinks(false);
    archive.mode(tar::HeaderMode::Deterministic);
    archive.append_dir_all("", root)?;
    archive.into_inner()?.finish()?.sync_all()
}

fn refused(reason: impl std::fmt::Display) -> Error {
    Error::new(Kind::Conflict, "archive_refused", format!("The code cannot be used: {reason}"))
}

fn too_many_entries() -> Error {
    refused(format!("it holds more than {MOST_ENTRIES} files"))
}

fn write_failed(path: &Path, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::InvalidFilename {
        return refused(format!("`{}` is too long a name", path.display()));
    }
    Error::from_disk(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Entry<'a> = (&'a str, tar::EntryType, &'a str);

    fn tar_of(entries: &[Entry<'_>]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        let mut builder = tar::Builder::new(file.reopen().expect("reopen"));
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            // Written by hand: the builder refuses what an attacker would not.
            let raw = header.as_old_mut();
            raw.name.get_mut(..path.len()).expect("short").copy_from_slice(path.as_bytes());
            let is_file = *kind == tar::EntryType::Regular;
            if !is_file {
                raw.linkname.get_mut(..content.len()).expect("short").copy_from_slice(content.as_bytes());
            }
            header.set_size(if is_file { content.len() as u64 } else { 0 });
            header.set_cksum();
            builder.append(&header, if is_file { content.as_bytes() } else { b"" }).expect("append");
        }
        builder.finish().expect("finish");
        file
    }

    fn unpacked(entries: &[Entry<'_>]) -> Result<tempfile::TempDir, String> {
        let into = tempfile::tempdir().expect("temp dir");
        unpack(tar_of(entries).path(), into.path()).map(|()| into).map_err(|error| error.public)
    }

    use tar::EntryType::{Char, Directory, Link, Regular, Symlink};

    #[test]
    fn plain_trees_arrive_whole() {
        let tree = unpacked(&[
            ("./", Directory, ""),
            ("a/b.txt", Regular, "hello"),
            ("a/link", Symlink, "b.txt"),
            ("up", Symlink, "a/../a/b.txt"),
        ])
        .expect("fine");
        assert_eq!(fs::read_to_string(tree.path().join("a/link")).expect("read"), "hello");
        assert_eq!(fs::read_to_string(tree.path().join("up")).expect("read"), "hello");
    }

    #[test]
    fn ways_out_are_refused_and_named() {
        for (entries, named) in [
            (vec![("../x", Regular, "")], "../x"),
            (vec![("/etc/x", Regular, "")], "/etc/x"),
            (vec![("a/../../x", Regular, "")], "a/../../x"),
            (vec![("l", Symlink, "/etc")], "/etc"),
            (vec![("l", Symlink, "../x")], "../x"),
            (vec![("d/l", Symlink, "../../x")], "../../x"),
            (vec![("h", Link, "a")], "`h`"),
            (vec![("dev", Char, "")], "`dev`"),
            (vec![("l", Symlink, "d"), ("l/x", Regular, "")], "`l"),
            (vec![("f", Regular, ""), ("f/x", Regular, "")], "`f"),
            (vec![("a\\b", Regular, "")], "backslash"),
        ] {
            let error = unpacked(&entries).expect_err(named);
            assert!(error.contains(named), "{error} names {named}");
        }
    }

    #[test]
    fn a_chain_of_links_that_leads_out_is_refused() {
        // On paper `a/up/..` is `a`, but `a/up` is the root.
        let error = unpacked(&[("out", Symlink, "a/up/../etc"), ("a/up", Symlink, "..")]).expect_err("leads out");
        assert!(error.contains("`out`"), "{error}");
    }

    #[test]
    fn names_that_collide_are_refused() {
        assert!(unpacked(&[("Read.me", Regular, ""), ("read.me", Regular, "")]).expect_err("case").contains("case"));
        assert!(unpacked(&[("a", Regular, ""), ("a", Regular, "")]).expect_err("twice").contains("twice"));
        assert!(unpacked(&[("A/x", Regular, ""), ("a/y", Regular, "")]).expect_err("case").contains("case"));
    }

    #[test]
    fn bombs_are_refused() {
        const MOST: u64 = 3 << 20;
        let file = tempfile::NamedTempFile::new().expect("temp file");
        let mut encoder = flate2::write::GzEncoder::new(file.reopen().expect("reopen"), flate2::Compression::fast());
        let mut header = tar::Header::new_gnu();
        header.set_path("zeros").expect("path");
        header.set_mode(0o644);
        header.set_size(MOST + 1);
        header.set_cksum();
        encoder.write_all(header.as_bytes()).expect("header");
        let chunk = vec![0_u8; 1 << 20];
        for _ in 0..=(MOST >> 20) {
            encoder.write_all(&chunk).expect("zeros");
        }
        encoder.finish().expect("finish");
        let into = tempfile::tempdir().expect("temp dir");
        let error = unpack_at_most(MOST, file.path(), into.path()).expect_err("a bomb");
        assert!(error.public.contains("3 MiB"), "{error}");
    }

    #[test]
    fn a_name_as_large_as_a_bomb_is_refused_before_it_is_in_memory() {
        for kind in [tar::EntryType::GNULongName, tar::EntryType::GNULongLink, tar::EntryType::XHeader, Directory] {
            let file = tempfile::NamedTempFile::new().expect("temp file");
            let mut encoder =
                flate2::write::GzEncoder::new(file.reopen().expect("reopen"), flate2::Compression::fast());
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_path("name").expect("path");
            header.set_size(4 << 20);
            header.set_cksum();
            encoder.write_all(header.as_bytes()).expect("header");
            for _ in 0..4 {
                encoder.write_all(&vec![b'a'; 1 << 20]).expect("letters");
            }
            encoder.finish().expect("finish");
            let into = tempfile::tempdir().expect("temp dir");
            let error = unpack(file.path(), into.path()).expect_err("a bomb");
            assert!(error.public.contains("too large"), "{kind:?}: {error}");
        }
    }

    #[test]
    fn a_directory_as_large_as_a_bomb_is_refused() {
        const ENTRIES: u16 = 300;
        let mut bytes = b"PK\x03\x04".to_vec();
        bytes.resize(30, 0);
        let start = u32::try_from(bytes.len()).expect("fits");
        for index in 0..ENTRIES {
            let mut header = b"PK\x01\x02".to_vec();
            header.resize(46, 0);
            header.splice(28..30, 4_u16.to_le_bytes());
            header.splice(32..34, u16::MAX.to_le_bytes());
            bytes.extend(header);
            bytes.extend(format!("{index:04}").into_bytes());
            bytes.resize(bytes.len() + usize::from(u16::MAX), b'c');
        }
        let size = u32::try_from(bytes.len()).expect("fits") - start;
        bytes.extend(b"PK\x05\x06\0\0\0\0");
        bytes.extend([ENTRIES.to_le_bytes(), ENTRIES.to_le_bytes()].concat());
        bytes.extend([size.to_le_bytes(), start.to_le_bytes()].concat());
        bytes.extend([0, 0]);
        let file = tempfile::NamedTempFile::new().expect("temp file");
        fs::write(file.path(), &bytes).expect("write");
        let into = tempfile::tempdir().expect("temp dir");
        let error = unpack(file.path(), into.path()).expect_err("a bomb");
        assert!(error.public.contains("too large"), "{error}");
    }

    #[test]
    fn nonsense_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        fs::write(file.path(), b"hello").expect("write");
        let into = tempfile::tempdir().expect("temp dir");
        assert!(unpack(file.path(), into.path()).is_err());
    }

    #[test]
    fn equal_trees_have_equal_hashes() {
        let one = unpacked(&[("b", Regular, "2"), ("a", Regular, "1")]).expect("fine");
        let two = unpacked(&[("a", Regular, "1"), ("b", Regular, "2")]).expect("fine");
        let three = unpacked(&[("a", Regular, "1"), ("b", Regular, "3")]).expect("fine");
        let of = |tree: &tempfile::TempDir| hash(tree.path()).expect("hash");
        assert_eq!(of(&one), of(&two));
        assert_ne!(of(&one), of(&three));
        let packed = tempfile::NamedTempFile::new().expect("temp file");
        pack(one.path(), packed.reopen().expect("reopen")).expect("pack");
        let again = tempfile::tempdir().expect("temp dir");
        unpack(packed.path(), again.path()).expect("unpack");
        assert_eq!(of(&one), of(&again));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_or_leave_the_tree(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2048)) {
            let file = tempfile::NamedTempFile::new().expect("temp file");
            fs::write(file.path(), &bytes).expect("write");
            let into = tempfile::tempdir().expect("temp dir");
            let _refused_or_harmless = unpack(file.path(), into.path());
        }
    }
}
