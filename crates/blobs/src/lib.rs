//! Objects named by their content, on local disk.
//!
//! An object is immutable and its name is the SHA-256 of its bytes: putting the same bytes twice gives the same object,
//! and a name that exists is whole. An object is written to a draft in the same file system, flushed, renamed to its
//! name, and the folder is flushed: after a crash it is there completely or not at all. Drafts that a crash left behind
//! are removed at a later opening.
//!
//! This crate knows nothing of what the objects mean; who refers to them decides when to delete.
//!
//! To add another store (S3): a module beside `disk.rs` with the same methods, then a trait over both, then run
//! `conformance` on it. The trait waits for that day.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod disk;
mod error;

use std::fmt;

pub use disk::Blobs;
pub use error::Error;

/// The name of an object and its size.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BlobId {
    /// SHA-256 of the content in lower-case hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sha256)
    }
}
