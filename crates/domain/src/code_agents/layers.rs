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

    /// A fresh, empty folder for work in progress. Dropping it removes it, in the background.
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
                // Out of sight first: half a layer must never be found under its name.
                let staging = self.stage()?;
                fs::rename(entry.path(), staging.path().join("layer"))?;
                staging.remove_now();
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

    /// Removes it and waits for that; dropping it does not wait.
    pub(super) async fn remove(mut self) {
        let folder = std::mem::take(&mut self.0);
        if tokio::task::spawn_blocking(move || remove(&folder)).await.is_err() {
            tracing::warn!("a staging folder was not removed; it is removed at the next start");
        }
    }

    /// The same where it may block.
    fn remove_now(mut self) {
        remove(&std::mem::take(&mut self.0));
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
        let folder = std::mem::take(&mut self.0);
        if folder.as_os_str().is_empty() {
            return;
        }
        // It may hold a million files, and others wait for this thread.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || remove(&folder))),
            Err(_no_runtime) => remove(&folder),
        }
    }
}

fn remove(folder: &Path) {
    if let Err(error) = backlot_sandbox::process::remove_scratch(folder)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "a staging folder could not be removed; it is removed at the next start");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_in_use_survive_a_sweep() {
        let data = tempfile::tempdir().expect("temp dir");
        let layers = Layers::open(data.path()).expect("open");
        for name in ["src-a", "src-b"] {
            let staging = layers.stage().expect("stage");
            let tree = staging.folder("tree").expect("folder");
            fs::write(tree.join("file"), name).expect("write");
            layers.add(name, &tree).expect("add");
        }
        assert_eq!(layers.sweep(&HashSet::from([String::from("src-a")])).expect("sweep"), 1);
        assert!(layers.exists("src-a") && !layers.exists("src-b"));
        assert_eq!(fs::read_dir(data.path().join("staging")).expect("read").count(), 0);
    }
}
