//! Directory layers on this node: immutable once they have a name.
//!
//! ```text
//! <data>/layers/<name>/     a finished layer
//! <data>/staging/<id>/      work in progress, swept at start
//! ```

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use crate::Error;

/// The layers of one node.
pub(super) struct Layers {
    layers: PathBuf,
    staging: PathBuf,
}

impl Layers {
    /// Opens the folders and removes what an earlier life left half done. Blocking.
    pub(super) fn open(data: &Path) -> io::Result<Self> {
        let (layers, staging) = (data.join("layers"), data.join("staging"));
        fs::create_dir_all(&layers)?;
        if staging.exists() {
            backlot_sandbox::process::remove_scratch(&staging)?;
        }
        fs::create_dir_all(&staging)?;
        Ok(Self { layers, staging })
    }

    /// A fresh, empty folder for work in progress. Dropping it removes it.
    pub(super) fn stage(&self) -> io::Result<Staging> {
        Ok(Staging(tempfile::Builder::new().prefix("s").tempdir_in(&self.staging)?.keep()))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.layers.join(name)
    }

    pub(super) fn exists(&self, name: &str) -> bool {
        self.path(name).is_dir()
    }

    /// Turns a staged tree into a layer: readable by sandboxes, on disk before it has its name. Somebody else's layer
    /// of the same name is as good. Blocking.
    pub(super) fn add(&self, name: &str, tree: &Path) -> io::Result<()> {
        backlot_sandbox::process::seal_layer(tree)?;
        let folder = fs::File::open(tree)?;
        rustix::fs::syncfs(&folder)?;
        match fs::rename(tree, self.path(name)) {
            Err(_) if self.exists(name) => {}
            other => other?,
        }
        fs::File::open(&self.layers)?.sync_all()
    }

    /// Removes layers that are not in use. Blocking.
    pub(super) fn sweep(&self, in_use: &HashSet<String>) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.layers)? {
            let entry = entry?;
            if !in_use.contains(entry.file_name().to_string_lossy().as_ref()) {
                backlot_sandbox::process::remove_scratch(&entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// A folder for work in progress.
pub(super) struct Staging(PathBuf);

impl Staging {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// A new empty folder inside.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.0.join(name);
        fs::create_dir_all(&path).map_err(Error::internal)?;
        Ok(path)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = backlot_sandbox::process::remove_scratch(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "a staging folder could not be removed; it is removed at the next start");
        }
    }
}
