//! The files of the repository in memory.

use std::{collections::BTreeMap, fs, io, os::unix::fs::PermissionsExt as _, path::Path};

/// A text file.
#[derive(Debug, Clone, Default)]
pub struct File {
    /// Its content.
    pub text: String,
    /// Whether its owner may execute it.
    pub is_executable: bool,
}

/// Text files by their path from the root of the repository, with `/` between the parts.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    files: BTreeMap<String, File>,
}

impl Tree {
    /// Reads what git would track below `root`, whether or not it is a clone. Files that are no text are left out.
    ///
    /// # Errors
    /// When a folder or file cannot be read.
    pub fn read(root: &Path) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        let walk = ignore::WalkBuilder::new(root)
            .hidden(false)
            .parents(false)
            .git_global(false)
            .require_git(false)
            .filter_entry(|entry| entry.file_name() != ".git")
            .build();
        for entry in walk {
            let entry = entry.map_err(io::Error::other)?;
            if !entry.file_type().is_some_and(|kind| kind.is_file()) {
                continue;
            }
            let bytes = match fs::read(entry.path()) {
                Ok(bytes) => bytes,
                // Somebody's editor was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let Ok(text) = String::from_utf8(bytes) else { continue };
            let is_executable = entry.metadata().map_err(io::Error::other)?.permissions().mode() & 0o100 != 0;
            let path = entry.path().strip_prefix(root).unwrap_or(entry.path());
            files.insert(path.to_string_lossy().into_owned(), File { text, is_executable });
        }
        Ok(Self { files })
    }

    /// A tree of the files given, for the tests of a rule.
    pub fn of<const N: usize>(files: [(&str, &str); N]) -> Self {
        let file = |text: &str| File { text: text.to_owned(), is_executable: false };
        Self { files: files.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect() }
    }

    /// All files, by path.
    pub fn files(&self) -> impl Iterator<Item = (&str, &File)> {
        self.files.iter().map(|(path, file)| (path.as_str(), file))
    }

    /// The text of one file.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(|file| file.text.as_str())
    }

    /// Whether there is such a file.
    pub fn has(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    /// The Rust files of the folder `below`, which ends with `/`.
    pub fn rust<'a>(&'a self, below: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.files()
            .filter(move |(path, _)| path.starts_with(below) && path.ends_with(".rs"))
            .map(|(path, file)| (path, file.text.as_str()))
    }

    /// The Rust files that a product or its tools are built from: `crates/*/src`.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.rust("crates/").filter(|(path, _)| path.split('/').nth(2) == Some("src"))
    }

    /// The names of the folders directly below `folder`, which ends with `/`.
    pub fn folders(&self, folder: &str) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .files
            .keys()
            .filter_map(|path| path.strip_prefix(folder)?.split_once('/').map(|(name, _)| name))
            .collect();
        names.dedup();
        names
    }
}
