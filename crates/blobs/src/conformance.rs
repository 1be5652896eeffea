//! What every store must do, as tests: a new store calls [`run`] from a test of its own and passes.

use tokio::io::AsyncReadExt as _;

use crate::{Blobs, Error};

/// SHA-256 of `hello`.
const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
/// SHA-256 of nothing.
const NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Runs every test on an empty store.
pub async fn run(blobs: &Blobs) {
    an_object_is_named_by_its_content(blobs).await;
    the_same_content_is_the_same_object(blobs).await;
    an_absent_object_is_not_found(blobs).await;
    content_beyond_the_limit_leaves_nothing(blobs).await;
    content_that_fails_leaves_nothing(blobs).await;
    many_writers_of_one_object_agree(blobs).await;
    a_deleted_object_is_gone_and_can_come_back(blobs).await;
}

async fn read(blobs: &Blobs, sha256: &str) -> Vec<u8> {
    let mut content = Vec::new();
    blobs.get(sha256).await.expect("is there").read_to_end(&mut content).await.expect("can be read");
    content
}

async fn an_object_is_named_by_its_content(blobs: &Blobs) {
    for (content, name) in [("hello", HELLO), ("", NOTHING)] {
        let id = blobs.put(content.as_bytes(), 5).await.expect("is stored");
        assert_eq!((id.sha256.as_str(), id.size), (name, content.len() as u64));
        assert_eq!(id.to_string(), name);
        assert_eq!(read(blobs, name).await, content.as_bytes());
    }
}

async fn the_same_content_is_the_same_object(blobs: &Blobs) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("hello");
    std::fs::write(&file, "hello").expect("a file");
    assert_eq!(blobs.put_bytes("hello").await.expect("is stored").sha256, HELLO);
    assert_eq!(blobs.put_file(&file).await.expect("is stored").sha256, HELLO);
    assert_eq!(read(blobs, HELLO).await, b"hello");
    assert!(file.exists(), "the original stays");
}

async fn an_absent_object_is_not_found(blobs: &Blobs) {
    let name = "0".repeat(64);
    assert!(!blobs.exists(&name).await.expect("can be asked"));
    assert!(matches!(blobs.get(&name).await, Err(Error::NotFound(_))));
    assert!(matches!(blobs.get_verified(&name).await, Err(Error::NotFound(_))));
    assert!(!blobs.delete(&name).await.expect("can be asked"));
    assert!(matches!(blobs.get("../hello").await, Err(Error::Name(_))));
}

async fn content_beyond_the_limit_leaves_nothing(blobs: &Blobs) {
    let content = vec![b'x'; 1_000_000];
    let name = "1b977e9f84f1b26b6ed7f68b0498faee2385ea4125bd29adce4a7d9106ba3134";
    assert!(matches!(blobs.put(content.as_slice(), 999_999).await, Err(Error::TooLarge { limit: 999_999 })));
    assert!(!blobs.exists(name).await.expect("can be asked"));
    let id = blobs.put(content.as_slice(), 1_000_000).await.expect("is stored");
    assert!(blobs.delete(&id.sha256).await.expect("can be deleted"));
}

async fn content_that_fails_leaves_nothing(blobs: &Blobs) {
    assert!(matches!(blobs.put(Broken(false), u64::MAX).await, Err(Error::Source(_))));
}

/// Some bytes, then a failure.
struct Broken(bool);

impl tokio::io::AsyncRead for Broken {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if std::mem::replace(&mut self.0, true) {
            return std::task::Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()));
        }
        buffer.put_slice(b"hel");
        std::task::Poll::Ready(Ok(()))
    }
}

async fn many_writers_of_one_object_agree(blobs: &Blobs) {
    let writers: Vec<_> = (0..16)
        .map(|_| {
            let blobs = blobs.clone();
            tokio::spawn(async move { blobs.put_bytes(vec![b'y'; 100_000]).await })
        })
        .collect();
    let mut names = std::collections::BTreeSet::new();
    for writer in writers {
        let id = writer.await.expect("does not panic").expect("is stored");
        assert_eq!(id.size, 100_000);
        names.insert(id.sha256);
    }
    assert_eq!(names.len(), 1);
    let name = names.pop_first().expect("has a name");
    assert_eq!(read(blobs, &name).await.len(), 100_000);
}

async fn a_deleted_object_is_gone_and_can_come_back(blobs: &Blobs) {
    let id = blobs.put_bytes("gone soon").await.expect("is stored");
    let mut reader = blobs.get(&id.sha256).await.expect("is there");
    assert!(blobs.delete(&id.sha256).await.expect("can be deleted"));
    assert!(!blobs.exists(&id.sha256).await.expect("can be asked"));
    let mut text = String::new();
    reader.read_to_string(&mut text).await.expect("who reads can read on");
    assert_eq!(text, "gone soon");
    assert_eq!(blobs.put_bytes("gone soon").await.expect("is stored"), id);
    assert!(blobs.exists(&id.sha256).await.expect("can be asked"));
}
