//! Everything that can go wrong with an object.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why an operation on an object failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no name of an object.
    #[error("`{0}` is no name of an object; expected 64 lower-case hex digits")]
    Name(String),
    /// There is no such object.
    #[error("there is no object {0}")]
    NotFound(String),
    /// The content is longer than allowed; nothing was kept.
    #[error("the content has more than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The disk or its quota is full; nothing was kept.
    #[error("no space left for objects at {path}; free some, or move the folder", path = .0.display())]
    Full(PathBuf),
    /// The bytes on disk are not those that the name promises.
    #[error("the object {0} is damaged on disk; restore it from a backup or put it again")]
    Damaged(String),
    /// Where the content should have come from failed.
    #[error("the content could not be read: {0}")]
    Source(io::Error),
    /// The file system failed.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

impl Error {
    /// Turns a file system error into ours, where full disks are told apart.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(path.to_owned()),
            _ => Self::Io { action, path: path.to_owned(), source },
        }
    }
}
