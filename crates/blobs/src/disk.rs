//! The store on local disk: `<folder>/<first two digits>/<the other 62>`, drafts in `<folder>/drafts/`.

use std::{
    fs,
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::{BlobId, Error};

/// Bytes that go to disk at a time.
const PIECE: usize = 256 * 1024;
/// Drafts that nobody wrote to for so long belong to a process that is gone. Long, because several servers may share
/// the folder.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// Objects in a folder. Cheap to clone; safe to use from many tasks and processes at once.
#[derive(Debug, Clone)]
pub struct Blobs {
    folder: PathBuf,
}

impl Blobs {
    /// Opens a folder, which is created when absent, and removes what a crash left behind.
    ///
    /// # Errors
    /// When the folder cannot be created or written.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, Error> {
        let blobs = Self { folder: folder.into() };
        let drafts = blobs.drafts();
        fs::create_dir_all(&drafts).map_err(Error::io("create", &drafts))?;
        remove_stale(&drafts)?;
        Ok(blobs)
    }

    /// Stores what `content` yields, up to `most` bytes. Nothing is kept when it fails.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Source`] when `content` fails, [`Error::Full`], [`Error::Io`].
    pub async fn put(&self, content: impl AsyncRead, most: u64) -> Result<BlobId, Error> {
        let mut content = std::pin::pin!(content);
        let folder = self.drafts();
        let mut draft = blocking(move || Draft::begin(&folder)).await?;
        loop {
            let mut piece = BytesMut::with_capacity(PIECE);
            while piece.len() < PIECE && content.read_buf(&mut piece).await.map_err(Error::Source)? > 0 {}
            if piece.is_empty() {
                break;
            }
            if draft.size + piece.len() as u64 > most {
                return Err(Error::TooLarge { limit: most });
            }
            draft = blocking(move || {
                draft.write(&piece)?;
                Ok(draft)
            })
            .await?;
        }
        let blobs = self.clone();
        blocking(move || blobs.keep(draft)).await
    }

    /// Stores bytes.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`].
    pub async fn put_bytes(&self, content: impl Into<Bytes>) -> Result<BlobId, Error> {
        let (blobs, content) = (self.clone(), content.into());
        blocking(move || {
            let mut draft = Draft::begin(&blobs.drafts())?;
            draft.write(&content)?;
            blobs.keep(draft)
        })
        .await
    }

    /// Stores a copy of a file.
    ///
    /// # Errors
    /// [`Error::Source`] when the file cannot be read, [`Error::Full`], [`Error::Io`].
    pub async fn put_file(&self, path: &Path) -> Result<BlobId, Error> {
        let (blobs, path) = (self.clone(), path.to_owned());
        blocking(move || {
            let mut source = fs::File::open(&path).map_err(Error::Source)?;
            let mut draft = Draft::begin(&blobs.drafts())?;
            let mut piece = vec![0; PIECE];
            loop {
                match source.read(&mut piece) {
                    Ok(0) => break,
                    Ok(length) => draft.write(&piece[..length])?,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(Error::Source(error)),
                }
            }
            blobs.keep(draft)
        })
        .await
    }

    /// Opens an object for reading.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Name`], [`Error::Io`].
    pub async fn get(&self, sha256: &str) -> Result<tokio::fs::File, Error> {
        let (path, name) = (self.path_of(sha256)?, sha256.to_owned());
        let file = blocking(move || open(&path, &name)).await?;
        Ok(tokio::fs::File::from_std(file))
    }

    /// Opens an object for reading after checking that it is undamaged, which reads it once more.
    ///
    /// # Errors
    /// [`Error::Damaged`], and as [`Blobs::get`].
    pub async fn get_verified(&self, sha256: &str) -> Result<tokio::fs::File, Error> {
        let (path, name) = (self.path_of(sha256)?, sha256.to_owned());
        let file = blocking(move || {
            let mut file = open(&path, &name)?;
            if hash(&mut file).map_err(Error::io("read", &path))? != name {
                return Err(Error::Damaged(name));
            }
            file.rewind().map_err(Error::io("read", &path))?;
            Ok(file)
        })
        .await?;
        Ok(tokio::fs::File::from_std(file))
    }

    /// Where an object lies, whether it exists or not. The file must not be changed.
    ///
    /// # Errors
    /// [`Error::Name`] for anything but 64 lower-case hex digits.
    pub fn path_of(&self, sha256: &str) -> Result<PathBuf, Error> {
        let is_name = sha256.len() == 64 && sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_name {
            return Err(Error::Name(sha256.chars().take(80).collect()));
        }
        let (shelf, rest) = sha256.split_at(2);
        Ok(self.folder.join(shelf).join(rest))
    }

    /// Whether an object exists.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Io`].
    pub async fn exists(&self, sha256: &str) -> Result<bool, Error> {
        let path = self.path_of(sha256)?;
        blocking(move || path.try_exists().map_err(Error::io("find", &path))).await
    }

    /// Deletes an object. Tells whether there was one. Who reads it at this moment can read on.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Io`].
    pub async fn delete(&self, sha256: &str) -> Result<bool, Error> {
        let path = self.path_of(sha256)?;
        blocking(move || match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("delete", &path)(error)),
        })
        .await
    }

    fn drafts(&self) -> PathBuf {
        self.folder.join("drafts")
    }

    /// Flushes a draft and gives it its name.
    fn keep(&self, draft: Draft) -> Result<BlobId, Error> {
        let id = BlobId { sha256: hex::encode(draft.hash.finalize()), size: draft.size };
        let path = self.path_of(&id.sha256)?;
        let shelf = path.parent().unwrap_or(&self.folder);
        // The same content may be there already. A file of another length is damaged, and is replaced.
        let is_there = fs::metadata(&path).is_ok_and(|metadata| metadata.len() == id.size);
        if !is_there {
            draft.file.as_file().sync_all().map_err(Error::io("flush", draft.file.path()))?;
            self.create_shelf(shelf)?;
            draft.file.persist(&path).map_err(|error| Error::io("create", &path)(error.error))?;
        }
        // Also when another writer renamed it a moment ago and has not flushed yet: we promise durability ourselves.
        sync_folder(shelf)?;
        Ok(id)
    }

    fn create_shelf(&self, shelf: &Path) -> Result<(), Error> {
        match fs::create_dir(shelf) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("create", shelf)(error)),
            Ok(()) => {}
        }
        // Whoever created it may not have flushed yet.
        sync_folder(&self.folder)
    }
}

/// An object in the making. Its file disappears with it.
struct Draft {
    file: NamedTempFile,
    hash: Sha256,
    size: u64,
}

impl Draft {
    fn begin(folder: &Path) -> Result<Self, Error> {
        let file =
            tempfile::Builder::new().prefix("draft-").tempfile_in(folder).map_err(Error::io("write in", folder))?;
        Ok(Self { file, hash: Sha256::new(), size: 0 })
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.hash.update(piece);
        self.size += piece.len() as u64;
        let path = self.file.path().to_owned();
        self.file.as_file_mut().write_all(piece).map_err(Error::io("write", &path))
    }
}

fn open(path: &Path, name: &str) -> Result<fs::File, Error> {
    fs::File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound(name.to_owned()),
        _ => Error::io("open", path)(error),
    })
}

fn hash(file: &mut fs::File) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(file, &mut hash)?;
    Ok(hex::encode(hash.finalize()))
}

fn sync_folder(folder: &Path) -> Result<(), Error> {
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("flush", folder))
}

fn remove_stale(drafts: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(drafts).map_err(Error::io("list", drafts))? {
        let entry = entry.map_err(Error::io("list", drafts))?;
        // Another process may remove it, or finish it, at the same time.
        let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified()) else { continue };
        #[expect(clippy::disallowed_methods, reason = "compared with the time of a file, which nobody can move")]
        let age = SystemTime::now().duration_since(modified).unwrap_or_default();
        if age >= STALE
            && let Err(error) = fs::remove_file(entry.path())
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %entry.path().display(), "a stale draft could not be removed");
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // The runtime is shutting down.
        Err(error) => Err(Error::Io { action: "reach", path: PathBuf::new(), source: io::Error::other(error) }),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::{
        fs,
        os::unix::fs::PermissionsExt as _,
        time::{Duration, SystemTime},
    };

    use proptest::prelude::*;
    use tokio::io::AsyncReadExt as _;

    use super::{Blobs, PIECE, STALE};
    use crate::{Error, conformance};

    fn store() -> (tempfile::TempDir, Blobs) {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path().join("blobs")).unwrap();
        (folder, blobs)
    }

    fn drafts(blobs: &Blobs) -> usize {
        fs::read_dir(blobs.drafts()).unwrap().count()
    }

    #[tokio::test]
    async fn it_conforms() {
        let (_folder, blobs) = store();
        conformance::run(&blobs).await;
        assert_eq!(drafts(&blobs), 0, "no draft is left");
    }

    #[tokio::test]
    async fn objects_survive_reopening() {
        let (folder, blobs) = store();
        let id = blobs.put_bytes("kept").await.unwrap();
        let again = Blobs::open(folder.path().join("blobs")).unwrap();
        let mut text = String::new();
        again.get_verified(&id.sha256).await.unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "kept");
    }

    #[tokio::test]
    async fn damage_is_noticed_when_asked_for_and_healed_by_putting_again() {
        let (_folder, blobs) = store();
        let id = blobs.put_bytes("0123456789").await.unwrap();
        let path = blobs.path_of(&id.sha256).unwrap();
        for damage in ["012345678X", "012345"] {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(&path, damage).unwrap();
            assert!(matches!(blobs.get_verified(&id.sha256).await, Err(Error::Damaged(_))), "{damage}");
        }
        blobs.put_bytes("0123456789").await.unwrap();
        blobs.get_verified(&id.sha256).await.unwrap();
    }

    #[tokio::test]
    async fn a_put_that_is_abandoned_leaves_nothing() {
        let (_folder, blobs) = store();
        let (mut writer, reader) = tokio::io::duplex(64);
        let putting = tokio::spawn({
            let blobs = blobs.clone();
            async move { blobs.put(reader, u64::MAX).await }
        });
        tokio::io::AsyncWriteExt::write_all(&mut writer, &[7; 1000]).await.unwrap();
        putting.abort();
        assert!(putting.await.unwrap_err().is_cancelled());
        // A piece may be on its way to disk at this moment; the draft goes with it.
        let gone = async {
            while drafts(&blobs) > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), gone).await.unwrap();
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "compared with the time of a file, which nobody can move")]
    fn opening_removes_stale_drafts_and_leaves_fresh_ones() {
        let (folder, blobs) = store();
        let (stale, fresh) = (blobs.drafts().join("draft-stale"), blobs.drafts().join("draft-fresh"));
        fs::write(&stale, "x").unwrap();
        fs::write(&fresh, "x").unwrap();
        fs::File::options().write(true).open(&stale).unwrap().set_modified(SystemTime::now() - STALE).unwrap();
        Blobs::open(folder.path().join("blobs")).unwrap();
        assert!(!stale.exists() && fresh.exists());
    }

    #[test]
    fn a_folder_that_cannot_be_is_a_clear_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = Blobs::open(file.join("blobs")).unwrap_err();
        assert!(error.to_string().starts_with("cannot create "), "{error}");
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let error = Error::io("write", "/data/x".as_ref())(std::io::ErrorKind::StorageFull.into());
        assert_eq!(error.to_string(), "no space left for objects at /data/x; free some, or move the folder");
    }

    #[test]
    fn only_names_become_paths() {
        let (_folder, blobs) = store();
        let good = "a".repeat(64);
        assert!(blobs.path_of(&good).is_ok());
        for bad in ["", "..", "../../etc/passwd", &"A".repeat(64), &"a".repeat(63), &"a".repeat(65), &"ä".repeat(32)] {
            assert!(matches!(blobs.path_of(bad), Err(Error::Name(_))), "{bad}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn what_goes_in_comes_out(content in proptest::collection::vec(any::<u8>(), 0..3 * PIECE)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (_folder, blobs) = store();
                let id = blobs.put(content.as_slice(), u64::MAX).await.unwrap();
                let mut read = Vec::new();
                blobs.get_verified(&id.sha256).await.unwrap().read_to_end(&mut read).await.unwrap();
                assert_eq!((id.size, &read), (content.len() as u64, &content));
                assert_eq!(blobs.put_bytes(content).await.unwrap(), id);
            });
        }
    }
}
