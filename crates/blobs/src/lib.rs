//! Objects on disk, named by their content.
//!
//! ```text
//! <root>/<first two digits>/<sha256 in hex>    an object, never changed
//! <root>/incoming/                             objects that are being written, swept at start
//! ```
//!
//! An object is on disk, its name included, before [`Blobs::put_file`] returns; writing one that is there already does
//! nothing. This crate knows nothing of what the objects are.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

/// Why an object could not be stored or found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not the name of an object.
    #[error("`{0}` is not the name of an object")]
    Name(String),
    /// There is no such object.
    #[error("there is no object {0}")]
    NotFound(BlobId),
    /// The disk is full.
    #[error("the disk that holds objects is full")]
    Full,
    /// Any other failure of the disk.
    #[error("objects: {0}")]
    Io(io::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io(error),
        }
    }
}

/// The name of an object: the SHA-256 of its content.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlobId([u8; 32]);

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for BlobId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut bytes = [0; 32];
        // Upper-case digits would name the same object in two ways.
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) || hex::decode_to_slice(text, &mut bytes).is_err() {
            return Err(Error::Name(text.to_owned()));
        }
        Ok(Self(bytes))
    }
}

/// The objects of one server.
#[derive(Debug)]
pub struct Blobs {
    root: PathBuf,
}

/// Bytes that are read and hashed at a time.
const CHUNK: usize = 128 * 1024;

impl Blobs {
    /// Opens the folder, creating it if absent, and removes what an earlier life left half written. Blocking.
    ///
    /// # Errors
    /// When the folder cannot be created or read.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let incoming = root.join("incoming");
        if incoming.exists() {
            std::fs::remove_dir_all(&incoming)?;
        }
        std::fs::create_dir_all(&incoming)?;
        Ok(Self { root: root.to_owned() })
    }

    /// Stores everything that `content` gives.
    ///
    /// # Errors
    /// Failures of `content` and of the disk; nothing is left then.
    pub async fn put(&self, mut content: impl AsyncRead + Unpin) -> Result<BlobId, Error> {
        let incoming = self.root.join("incoming");
        let temporary = tokio::task::spawn_blocking(move || tempfile::NamedTempFile::new_in(incoming))
            .await
            .map_err(io::Error::other)??;
        let (file, path) = temporary.into_parts();
        let mut file = tokio::fs::File::from_std(file);
        let mut hasher = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = content.read(&mut chunk).await?;
            let Some(bytes) = chunk.get(..length).filter(|bytes| !bytes.is_empty()) else { break };
            hasher.update(bytes);
            file.write_all(bytes).await?;
        }
        file.flush().await?;
        file.sync_all().await?;
        let id = BlobId(hasher.finalize().into());
        let target = self.file_of(id);
        let folder = target.parent().unwrap_or(&self.root).to_owned();
        let root = self.root.clone();
        tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&folder)?;
            path.persist(&target).map_err(|error| error.error)?;
            std::fs::File::open(&folder)?.sync_all()?;
            std::fs::File::open(&root)?.sync_all()
        })
        .await
        .map_err(io::Error::other)??;
        Ok(id)
    }

    /// Stores a copy of a file.
    ///
    /// # Errors
    /// When the file cannot be read, and failures of the disk.
    pub async fn put_file(&self, file: &Path) -> Result<BlobId, Error> {
        self.put(tokio::fs::File::open(file).await?).await
    }

    /// Where an object lies on disk, for reading.
    ///
    /// # Errors
    /// [`Error::Name`] and [`Error::NotFound`].
    pub fn path_of(&self, id: &str) -> Result<PathBuf, Error> {
        let id: BlobId = id.parse()?;
        let path = self.file_of(id);
        if path.is_file() { Ok(path) } else { Err(Error::NotFound(id)) }
    }

    /// Removes an object; tells whether it was there.
    ///
    /// # Errors
    /// Failures of the disk.
    pub async fn remove(&self, id: BlobId) -> Result<bool, Error> {
        match tokio::fs::remove_file(self.file_of(id)).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn file_of(&self, id: BlobId) -> PathBuf {
        let name = id.to_string();
        self.root.join(name.get(..2).unwrap_or_default()).join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn objects_are_named_by_their_content_and_kept_once() {
        let folder = tempfile::tempdir().expect("temp dir");
        let blobs = Blobs::open(folder.path()).expect("open");
        let one = blobs.put(&b"hello"[..]).await.expect("put");
        assert_eq!(one, blobs.put(&b"hello"[..]).await.expect("put again"));
        assert_eq!(one.to_string(), "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
        let path = blobs.path_of(&one.to_string()).expect("there");
        assert_eq!(std::fs::read(path).expect("read"), b"hello");
        assert!(blobs.remove(one).await.expect("remove"));
        assert!(!blobs.remove(one).await.expect("remove again"));
        assert!(matches!(blobs.path_of(&one.to_string()), Err(Error::NotFound(_))));
    }

    #[tokio::test]
    async fn names_that_are_no_hash_are_refused() {
        let folder = tempfile::tempdir().expect("temp dir");
        let blobs = Blobs::open(folder.path()).expect("open");
        for name in ["", "..", "../../etc/passwd", &"A".repeat(64), &"a".repeat(63)] {
            assert!(matches!(blobs.path_of(name), Err(Error::Name(_))), "{name}");
        }
    }

    #[tokio::test]
    async fn half_written_objects_are_swept_at_start() {
        let folder = tempfile::tempdir().expect("temp dir");
        drop(Blobs::open(folder.path()).expect("open"));
        let left = folder.path().join("incoming/left");
        std::fs::write(&left, "half").expect("write");
        drop(Blobs::open(folder.path()).expect("open again"));
        assert!(!left.exists());
    }

    #[tokio::test]
    async fn failing_content_leaves_nothing() {
        struct Failing;
        impl AsyncRead for Failing {
            fn poll_read(
                self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
                _: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<io::Result<()>> {
                std::task::Poll::Ready(Err(io::Error::other("cut")))
            }
        }
        let folder = tempfile::tempdir().expect("temp dir");
        let blobs = Blobs::open(folder.path()).expect("open");
        assert!(blobs.put(Failing).await.is_err());
        assert_eq!(std::fs::read_dir(folder.path().join("incoming")).expect("list").count(), 0);
    }
}
