//! What of a project folder is uploaded, and the archive made of it.
//!
//! The rules are git's own (`.gitignore` at every level, the repository's and the user's excludes), then
//! `.castariignore` with the same syntax, which wins. Never packed, whatever those files say: `node_modules`, `.git`,
//! `.castari`, virtual environments, byte-code caches and `.env*`, except `.env.example`. `dist` stays out unless the entry point lies in it
//! (`spec/castari.md` 22.3). Symbolic links are packed as links, never followed, and one that leads out of the
//! folder is refused, as the server would. The archive is the same for the same files: sorted, without times, owners and umask.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use ignore::WalkBuilder;

use super::error::Error;
use super::output;

/// The server's limits on an archive (`spec/castari.md` 9.1), checked here so that nobody uploads in vain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of the finished archive.
    pub(crate) packed: u64,
    /// Bytes of all files together.
    pub(crate) unpacked: u64,
    /// Number of files and links.
    pub(crate) entries: usize,
}

/// What the server accepts.
pub(crate) const SERVER_LIMITS: Limits = Limits { packed: 100 << 20, unpacked: 1 << 30, entries: 50_000 };

/// Largest file that is searched for keys.
const SEARCHED_BYTES: u64 = 1 << 20;

/// One thing to pack, by its path below the project folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// A regular file.
    File {
        /// Size when the folder was read.
        size: u64,
        /// Whether its owner may execute it.
        executable: bool,
    },
    /// A symbolic link that stays inside the folder.
    Link {
        /// Its target as written.
        target: PathBuf,
    },
}

/// The chosen files, sorted by path, and what a person should know about them.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    /// Paths with `/` between their parts.
    pub(crate) items: BTreeMap<String, Item>,
    /// Sentences for the person.
    pub(crate) warnings: Vec<String>,
}

impl Selection {
    /// Bytes of all files together.
    pub(crate) fn bytes(&self) -> u64 {
        self.items.values().map(|i| if let Item::File { size, .. } = i { *size } else { 0 }).sum()
    }
}

/// Chooses the files of the folder. `entrypoint` is the manifest's path of the main file.
///
/// # Errors
/// When the folder cannot be read, a link leads out of it, a name is not UTF-8, or a limit is passed.
pub(crate) fn select(root: &Path, entrypoint: &str, limits: Limits) -> Result<Selection, Error> {
    let real_root = root.canonicalize().map_err(|e| Error::file("read", root, e))?;
    let mut selection = Selection::default();
    walk(&real_root, &real_root, entrypoint, true, &mut selection)?;
    // A built entry point is usually ignored by git; its siblings come with it.
    let built = dist_of(entrypoint);
    if let Some(dist) = built.filter(|_| !selection.items.contains_key(&clean(entrypoint))) {
        let folder = real_root.join(dist);
        if folder.is_dir() {
            walk(&real_root, &folder, entrypoint, false, &mut selection)?;
        }
    }
    check(&selection, limits)?;
    for (path, item) in &selection.items {
        if let Some(why) = secret_looking(&real_root.join(path), path, item) {
            selection
                .warnings
                .push(format!("{path} {why}; keep it out with .castariignore, and use `backlot secrets set`"));
        }
    }
    Ok(selection)
}

/// Makes the `.tar.gz` of a selection.
///
/// # Errors
/// When a file cannot be read or changed meanwhile, or the archive passes `limits.packed`.
pub(crate) fn pack(root: &Path, selection: &Selection, limits: Limits) -> Result<Vec<u8>, Error> {
    let bounded = Bounded { bytes: Vec::new(), limit: limits.packed };
    let mut tar = tar::Builder::new(GzEncoder::new(bounded, Compression::default()));
    let too_large = |e: io::Error, path: &Path| {
        if e.kind() == io::ErrorKind::FileTooLarge {
            Error::failed_with(
                format!("the packed project is larger than {}", output::bytes(limits.packed)),
                format!("the largest files are {}; keep them out with .castariignore", largest(selection)),
            )
        } else {
            Error::file("pack", path, e)
        }
    };
    for (path, item) in &selection.items {
        let full = root.join(path);
        let mut header = tar::Header::new_gnu();
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        match item {
            Item::File { size, executable } => {
                let file = File::open(&full).map_err(|e| Error::file("read", &full, e))?;
                let now = file.metadata().map_err(|e| Error::file("read", &full, e))?;
                if !now.is_file() || now.len() != *size {
                    return Err(Error::failed_with(format!("{path} changed while it was packed"), "try again"));
                }
                header.set_entry_type(tar::EntryType::Regular);
                header.set_mode(if *executable { 0o755 } else { 0o644 });
                header.set_size(*size);
                let mut counted = Exactly { file: file.take(*size), left: *size };
                tar.append_data(&mut header, path, &mut counted).map_err(|e| too_large(e, &full))?;
            }
            Item::Link { target } => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                header.set_size(0);
                tar.append_link(&mut header, path, target).map_err(|e| too_large(e, &full))?;
            }
        }
    }
    tar.into_inner().and_then(GzEncoder::finish).map(|bounded| bounded.bytes).map_err(|e| too_large(e, root))
}

/// Reads one folder into the selection. Without `rules`, ignore files are not looked at.
fn walk(root: &Path, folder: &Path, entrypoint: &str, rules: bool, selection: &mut Selection) -> Result<(), Error> {
    // Git reads the ignore files of the folders above only inside a repository. Outside of one, a stray
    // `.gitignore` in the home folder must not empty the archive.
    let in_repository = folder.ancestors().any(|a| a.join(".git").exists());
    let mut builder = WalkBuilder::new(folder);
    builder
        .standard_filters(false)
        .git_ignore(rules)
        .git_exclude(rules)
        .git_global(rules)
        .parents(rules && in_repository)
        .require_git(in_repository)
        .follow_links(false);
    if rules {
        builder.add_custom_ignore_filename(".castariignore");
    }
    let base = root.to_owned();
    let kept_dist = dist_of(entrypoint).map(str::to_owned);
    builder.filter_entry(move |entry| {
        entry.path().strip_prefix(&base).is_ok_and(|relative| !never_packed(relative, kept_dist.as_deref()))
    });
    for entry in builder.build() {
        let entry = entry.map_err(|e| Error::failed(format!("cannot read the folder: {e}")))?;
        let path = entry.path();
        let relative = path.strip_prefix(root).unwrap_or(path);
        let Some(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            continue;
        }
        let name = relative
            .to_str()
            .ok_or_else(|| Error::failed(format!("the file name {} is not valid UTF-8", relative.display())))?
            .to_owned();
        if kind.is_symlink() {
            let target = fs::read_link(path).map_err(|e| Error::file("read", path, e))?;
            stays_inside(root, relative, &target)?;
            selection.items.insert(name, Item::Link { target });
        } else if kind.is_file() {
            let data = entry.metadata().map_err(|e| Error::failed(format!("cannot read {}: {e}", path.display())))?;
            let executable = data.permissions().mode() & 0o100 != 0;
            selection.items.insert(name, Item::File { size: data.len(), executable });
        } else {
            selection.warnings.push(format!("{name} is neither a file, a folder nor a link, and is left out"));
        }
    }
    Ok(())
}

/// Names that stay out whatever the ignore files say.
fn never_packed(relative: &Path, kept_dist: Option<&str>) -> bool {
    let Some(name) = relative.file_name().map(|n| n.to_string_lossy()) else { return false };
    match name.as_ref() {
        "node_modules" | ".git" | ".castari" | ".venv" | "__pycache__" => true,
        "dist" => kept_dist.is_none_or(|kept| Path::new(kept) != relative),
        ".env.example" => false,
        name => name.starts_with(".env"),
    }
}

/// The `dist` folder that holds the entry point, if one does: `dist/main.js` gives `dist`.
fn dist_of(entrypoint: &str) -> Option<&str> {
    let path = entrypoint.trim_start_matches("./");
    let mut end = 0;
    for part in path.split('/') {
        end += part.len();
        if part == "dist" && end < path.len() {
            return Some(&path[..end]);
        }
        end += 1;
    }
    None
}

fn clean(entrypoint: &str) -> String {
    entrypoint.trim_start_matches("./").to_owned()
}

/// Refuses a link that leads out of the folder: as written, or through other links.
fn stays_inside(root: &Path, link: &Path, target: &Path) -> Result<(), Error> {
    let refused = || {
        Err(Error::failed_with(
            format!("the link {} points out of the folder, to {}", link.display(), target.display()),
            "copy what it points to into the project, or keep the link out with .castariignore",
        ))
    };
    if target.is_absolute() {
        return refused();
    }
    let mut depth = link.parent().map_or(0, |p| p.components().count());
    for part in target.components() {
        match part {
            Component::ParentDir if depth == 0 => return refused(),
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => depth += 1,
            _ => {}
        }
    }
    match root.join(link).canonicalize() {
        Ok(real) if !real.starts_with(root) => refused(),
        // A dangling link does no harm, and may point at what the install step makes.
        _ => Ok(()),
    }
}

fn check(selection: &Selection, limits: Limits) -> Result<(), Error> {
    if selection.items.is_empty() {
        return Err(Error::failed_with(
            "there is nothing to pack in this folder",
            "look at .gitignore and .castariignore",
        ));
    }
    if selection.items.len() > limits.entries {
        let mut folders: BTreeMap<&str, usize> = BTreeMap::new();
        for path in selection.items.keys() {
            *folders.entry(path.split('/').next().unwrap_or(path)).or_default() += 1;
        }
        let (folder, count) = folders.into_iter().max_by_key(|(_, n)| *n).unwrap_or_default();
        return Err(Error::failed_with(
            format!("{} files are more than the {} that a deployment may have", selection.items.len(), limits.entries),
            format!("{folder} alone has {count}; keep folders out with .castariignore"),
        ));
    }
    if selection.bytes() > limits.unpacked {
        return Err(Error::failed_with(
            format!(
                "the project has {}, more than the {} that a deployment may have",
                output::bytes(selection.bytes()),
                output::bytes(limits.unpacked)
            ),
            format!("the largest files are {}; keep them out with .castariignore", largest(selection)),
        ));
    }
    Ok(())
}

/// The three largest files with their sizes.
fn largest(selection: &Selection) -> String {
    let mut files: Vec<(&str, u64)> = selection
        .items
        .iter()
        .filter_map(|(p, i)| if let Item::File { size, .. } = i { Some((p.as_str(), *size)) } else { None })
        .collect();
    files.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    files.iter().take(3).map(|(p, s)| format!("{p} ({})", output::bytes(*s))).collect::<Vec<_>>().join(", ")
}

/// Why a file looks as if it held a secret.
fn secret_looking(full: &Path, path: &str, item: &Item) -> Option<&'static str> {
    let Item::File { size, .. } = item else { return None };
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    let ends = |list: &[&str]| list.iter().any(|e| name.ends_with(e));
    let named = ends(&[".pem", ".key", ".p12", ".pfx", ".jks", ".kdbx", ".keystore"])
        || ["id_rsa", "id_dsa", "id_ecdsa", "id_ed25519"].contains(&name.as_str())
        || [".netrc", ".pypirc", ".pgpass", ".htpasswd", "credentials.json"].contains(&name.as_str())
        || name.starts_with("service-account") && name.ends_with(".json")
        || ["secrets.json", "secrets.yaml", "secrets.yml", "secrets.toml"].contains(&name.as_str());
    if named {
        return Some("looks like a secret");
    }
    if *size > SEARCHED_BYTES {
        return None;
    }
    let content = fs::read(full).ok()?;
    let holds = |mark: &[u8]| content.windows(mark.len()).any(|w| w == mark);
    if name == ".npmrc" {
        return holds(b"_authToken=").then_some("holds a registry token");
    }
    const MARKS: [&[u8]; 4] = [b"PRIVATE KEY-----", b"sk-ant-api0", b"github_pat_", b"xoxb-"];
    MARKS.iter().any(|m| holds(m)).then_some("seems to contain a key")
}

/// A buffer that refuses to grow past its limit.
#[derive(Debug)]
struct Bounded {
    bytes: Vec<u8>,
    limit: u64,
}

impl Write for Bounded {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.bytes.len() as u64 + data.len() as u64 > self.limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a file that must have the promised length: a shorter one would leave the archive out of step.
#[derive(Debug)]
struct Exactly {
    file: io::Take<File>,
    left: u64,
}

impl io::Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        if count == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was packed"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temp dir");
        for (path, text) in files {
            let full = dir.path().join(path);
            fs::create_dir_all(full.parent().expect("parent")).expect("folder");
            fs::write(full, text).expect("write");
        }
        dir
    }

    fn names(dir: &Path, entrypoint: &str) -> Vec<String> {
        select(dir, entrypoint, SERVER_LIMITS).expect("select").items.into_keys().collect()
    }

    fn unpack(archive: &[u8]) -> Vec<(String, u32, String)> {
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(archive));
        tar.entries()
            .expect("entries")
            .map(|entry| {
                let mut entry = entry.expect("entry");
                let mut text = String::new();
                entry.read_to_string(&mut text).expect("text");
                let path = entry.path().expect("path").display().to_string();
                let mode = entry.header().mode().expect("mode");
                if let Some(target) = entry.link_name().expect("link") {
                    text = format!("-> {}", target.display());
                }
                (path, mode, text)
            })
            .collect()
    }

    #[test]
    fn git_rules_hold_at_every_level_and_castariignore_wins() {
        let dir = project(&[
            (".gitignore", "*.log\n/build\n!keep.log\n"),
            (".castariignore", "docs/\n!wanted.log\n"),
            ("src/.gitignore", "generated.js\n"),
            ("src/index.js", ""),
            ("src/generated.js", ""),
            ("generated.js", ""),
            ("a.log", ""),
            ("keep.log", ""),
            ("wanted.log", ""),
            ("build/x", ""),
            ("sub/build/x", ""),
            ("docs/a.md", ""),
        ]);
        assert_eq!(
            names(dir.path(), "src/index.js"),
            [
                ".castariignore",
                ".gitignore",
                "generated.js",
                "keep.log",
                "src/.gitignore",
                "src/index.js",
                "sub/build/x",
                "wanted.log"
            ]
        );
    }

    #[test]
    fn some_names_are_never_packed() {
        let dir = project(&[
            (".castariignore", "!.env\n!node_modules\n!.git\n"),
            (".env", "KEY=1"),
            (".env.local", "KEY=1"),
            (".env.example", "KEY="),
            (".envrc", "x"),
            ("node_modules/a/index.js", ""),
            ("packages/b/node_modules/c.js", ""),
            (".git/config", ""),
            (".castari/state", ""),
            (".venv/bin/python", ""),
            ("lib/__pycache__/a.pyc", ""),
            ("dist/old.js", ""),
            ("deep/.env", "KEY=1"),
            ("main.js", ""),
        ]);
        assert_eq!(names(dir.path(), "main.js"), [".castariignore", ".env.example", "main.js"]);
    }

    #[test]
    fn a_built_entry_point_brings_its_folder_although_git_ignores_it() {
        let dir = project(&[
            (".gitignore", "dist\n*.map\n"),
            ("dist/main.js", ""),
            ("dist/part/a.js", ""),
            ("dist/.env", "KEY=1"),
            ("other/dist/x.js", ""),
            ("src/main.ts", ""),
        ]);
        assert_eq!(
            names(dir.path(), "./dist/main.js"),
            [".gitignore", "dist/main.js", "dist/part/a.js", "src/main.ts"]
        );
        assert_eq!(names(dir.path(), "src/main.ts"), [".gitignore", "src/main.ts"]);
    }

    #[test]
    fn a_repository_above_is_obeyed_and_a_stray_ignore_file_above_is_not() {
        let dir = project(&[(".gitignore", "*\n"), ("agent/main.js", "")]);
        assert_eq!(names(&dir.path().join("agent"), "main.js"), ["main.js"]);
        let dir = project(&[(".git/HEAD", ""), (".gitignore", "*.tmp\n"), ("agent/main.js", ""), ("agent/a.tmp", "")]);
        assert_eq!(names(&dir.path().join("agent"), "main.js"), ["main.js"]);
    }

    #[test]
    fn links_stay_links_and_may_not_leave_the_folder() {
        let outside = project(&[("secret.txt", "top")]);
        let dir = project(&[("main.js", "1"), ("lib/a.js", "2")]);
        symlink("../main.js", dir.path().join("lib/up")).expect("link");
        symlink("lib", dir.path().join("folder")).expect("link");
        symlink("later/made.js", dir.path().join("dangling")).expect("link");
        let selection = select(dir.path(), "main.js", SERVER_LIMITS).expect("select");
        let archive = pack(dir.path(), &selection, SERVER_LIMITS).expect("pack");
        assert_eq!(
            unpack(&archive),
            [
                ("dangling".into(), 0o777, "-> later/made.js".into()),
                ("folder".into(), 0o777, "-> lib".into()),
                ("lib/a.js".into(), 0o644, "2".into()),
                ("lib/up".into(), 0o777, "-> ../main.js".into()),
                ("main.js".into(), 0o644, "1".into()),
            ]
        );
        let absolute = outside.path().join("secret.txt");
        let upward = format!("../{}/secret.txt", outside.path().file_name().expect("name").to_string_lossy());
        let rooted = dir.path().join("main.js");
        for target in [absolute, upward.into(), "../nowhere".into(), "lib/../../x".into(), rooted] {
            let link = dir.path().join("bad");
            symlink(&target, &link).expect("link");
            let error = select(dir.path(), "main.js", SERVER_LIMITS).expect_err("refused").to_string();
            assert!(error.contains("bad") && error.contains("points out of the folder"), "{error}");
            fs::remove_file(link).expect("remove");
        }
    }

    #[test]
    fn a_link_chain_cannot_leave_either() {
        let outside = project(&[("x/secret.txt", "top")]);
        let dir = project(&[("main.js", ""), (".castariignore", "hole\n")]);
        symlink(outside.path().join("x"), dir.path().join("hole")).expect("link");
        symlink("hole/secret.txt", dir.path().join("chain")).expect("link");
        let error = select(dir.path(), "main.js", SERVER_LIMITS).expect_err("refused").to_string();
        assert!(error.contains("chain"), "{error}");
    }

    #[test]
    fn limits_name_the_culprit() {
        let dir = project(&[("main.js", "1"), ("data/big.bin", &"x".repeat(5000)), ("data/b", ""), ("data/c", "")]);
        let failing = |limits: Limits| {
            let error = match select(dir.path(), "main.js", limits) {
                Ok(selection) => pack(dir.path(), &selection, limits).expect_err("too large"),
                Err(error) => error,
            };
            format!("{error} / {}", error.hint().unwrap_or_default())
        };
        let text = failing(Limits { unpacked: 4000, ..SERVER_LIMITS });
        assert!(text.contains("data/big.bin (4.8 KiB)"), "{text}");
        let text = failing(Limits { entries: 3, ..SERVER_LIMITS });
        assert!(text.contains("data alone has 3"), "{text}");
        let text = failing(Limits { packed: 60, ..SERVER_LIMITS });
        assert!(text.contains("packed project is larger") && text.contains("data/big.bin"), "{text}");
    }

    #[test]
    fn the_archive_does_not_depend_on_time_or_umask() {
        let make = || {
            let dir = project(&[("b.sh", "#!/bin/sh\n"), ("a/long".repeat(40).as_str(), "x"), ("main.js", "1")]);
            let script = dir.path().join("b.sh");
            fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).expect("mode");
            let selection = select(dir.path(), "main.js", SERVER_LIMITS).expect("select");
            pack(dir.path(), &selection, SERVER_LIMITS).expect("pack")
        };
        let one = make();
        assert_eq!(one, make());
        let listed = unpack(&one);
        assert_eq!(listed[1], ("b.sh".into(), 0o755, "#!/bin/sh\n".into()));
        assert_eq!(listed[0].0, "a/long".repeat(40), "long paths survive");
    }

    #[test]
    fn a_file_that_changes_is_noticed() {
        let dir = project(&[("main.js", "12345")]);
        let selection = select(dir.path(), "main.js", SERVER_LIMITS).expect("select");
        fs::write(dir.path().join("main.js"), "1").expect("write");
        assert!(pack(dir.path(), &selection, SERVER_LIMITS).expect_err("changed").to_string().contains("changed"));
    }

    #[test]
    fn secrets_are_pointed_out_and_special_files_left_out() {
        let dir = project(&[
            ("main.js", "const key = 'sk-ant-api03-abc'"),
            ("certs/server.pem", ""),
            ("id_ed25519", ""),
            ("id_ed25519.pub", ""),
            (".npmrc", "//registry/:_authToken=abc"),
            ("notes.txt", "a token"),
        ]);
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s.sock")).expect("socket");
        let selection = select(dir.path(), "main.js", SERVER_LIMITS).expect("select");
        let warned: Vec<&str> = selection.warnings.iter().filter_map(|w| w.split(' ').next()).collect();
        assert_eq!(warned, ["s.sock", ".npmrc", "certs/server.pem", "id_ed25519", "main.js"]);
        assert!(!selection.items.contains_key("s.sock"));
    }

    #[test]
    fn an_empty_folder_is_an_error() {
        let dir = project(&[]);
        assert!(select(dir.path(), "main.js", SERVER_LIMITS).is_err());
    }
}
