//! A git server over HTTP: git's own `http-backend` behind a small web server, at an address that sandboxes can reach.
//!
//! A sandbox reaches neither the host's loopback nor any of its own addresses, so the server listens on a documentation
//! address (RFC 5737) that is added to the loopback interface for the length of a test, and the server under test is
//! told to let sandboxes reach it. Adding it takes root; without, these tests say that they are skipped.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use backlot_testkit::{Person, Setup, TestServer};
use tokio::{io::AsyncWriteExt as _, net::TcpListener, task::JoinHandle};

/// An address of this machine for as long as it lives.
struct Address(String);

impl Address {
    fn add() -> Result<Self, String> {
        let own = std::process::id();
        let mut reason = String::from("every address is taken");
        for step in 0..254 {
            let address = format!("198.51.100.{}", 1 + (own + step) % 254);
            let added = Command::new("ip").args(["addr", "add", &format!("{address}/32"), "dev", "lo"]).output();
            match added {
                Err(error) => return Err(format!("`ip` does not start: {error}")),
                Ok(added) if added.status.success() => return Ok(Self(address)),
                Ok(added) => reason = String::from_utf8_lossy(&added.stderr).trim().to_owned(),
            }
            if !reason.contains("File exists") && !reason.contains("already assigned") {
                break;
            }
        }
        Err(reason)
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        let _gone_already = Command::new("ip").args(["addr", "del", &format!("{}/32", self.0), "dev", "lo"]).output();
    }
}

/// What the web server does before git is asked.
#[derive(Default)]
struct Behaviour {
    /// Required in `Authorization`.
    password: Option<String>,
    /// Answers everything with this text, in which `{authorization}` is what was sent.
    refusal: Option<String>,
    /// Sends everybody elsewhere.
    redirect: Option<String>,
    /// The `Authorization` of each request; empty when there was none.
    seen: Vec<String>,
}

/// The server.
pub(super) struct GitServer {
    address: Address,
    port: u16,
    behaviour: Arc<Mutex<Behaviour>>,
    folder: tempfile::TempDir,
    listener: JoinHandle<()>,
}

#[derive(Clone)]
struct Web {
    behaviour: Arc<Mutex<Behaviour>>,
    repositories: PathBuf,
}

impl GitServer {
    /// Starts it; `None` where this user may not add an address, which is said.
    pub(super) async fn start() -> Option<Self> {
        let address = match Address::add() {
            Ok(address) => address,
            Err(reason) => {
                skipped(&reason);
                return None;
            }
        };
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind((address.0.as_str(), 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let behaviour = Arc::default();
        let web = Web { behaviour: Arc::clone(&behaviour), repositories: folder.path().to_owned() };
        let router = Router::new().fallback(answer).with_state(web);
        let listener = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Some(Self { address, port, behaviour, folder, listener })
    }

    /// Where a repository is found.
    pub(super) fn url(&self, name: &str) -> String {
        format!("http://{}:{}/{name}", self.address.0, self.port)
    }

    /// A server of agents whose sandboxes reach this one, and Ada.
    pub(super) async fn agents(&self) -> (TestServer, Person) {
        self.agents_beside(self).await
    }

    /// The same, whose sandboxes reach another one, too.
    pub(super) async fn agents_beside(&self, other: &Self) -> (TestServer, Person) {
        let reachable = [self, other].map(|server| format!("{}/32", server.address.0).parse().unwrap());
        let allow_networks = reachable.to_vec();
        let (server, ada, _) = TestServer::with(Setup { allow_networks, ..Setup::default() }).await;
        (server, ada)
    }

    /// A new repository with the branch `main`.
    pub(super) fn repository(&self, name: &str) -> Repository {
        let repository = Repository(self.folder.path().join(name));
        std::fs::create_dir(&repository.0).unwrap();
        repository.git(&["init", "--quiet", "--initial-branch", "main"]);
        repository
    }

    /// Only who sends this password, as the user that the platform documents, is answered.
    pub(super) fn require_password(&self, password: &str) {
        self.behaviour.lock().unwrap().password = Some(password.to_owned());
    }

    /// Everybody is answered with status 403 and this text; `{authorization}` in it is what they sent.
    pub(super) fn refuse_with(&self, text: &str) {
        self.behaviour.lock().unwrap().refusal = Some(text.to_owned());
    }

    /// Everybody is sent to the same path of another server.
    pub(super) fn redirect_to(&self, other: &Self) {
        self.behaviour.lock().unwrap().redirect = Some(other.url(""));
    }

    /// The `Authorization` of every request so far.
    pub(super) fn seen(&self) -> Vec<String> {
        self.behaviour.lock().unwrap().seen.clone()
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn skipped(reason: &str) {
    eprintln!("SKIPPED: no address for a git server can be added to the loopback interface: {reason}");
}

/// A repository with a work tree on the server.
pub(super) struct Repository(PathBuf);

impl Repository {
    /// Writes a file.
    pub(super) fn write(&self, path: &str, content: &str) -> &Self {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    /// Makes a symbolic link.
    pub(super) fn link(&self, path: &str, target: &str) -> &Self {
        std::os::unix::fs::symlink(target, self.0.join(path)).unwrap();
        self
    }

    /// Writes a project for node.
    pub(super) fn project(&self, program: &str) -> &Self {
        let manifest = super::manifest("node", "main.mjs", "slug", &serde_json::json!("x"));
        self.write("castari.json", &manifest).write("main.mjs", program)
    }

    /// Commits everything; returns the commit.
    pub(super) fn commit(&self) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", "A commit"]);
        self.git(&["rev-parse", "HEAD"]).trim().to_owned()
    }

    /// Runs git in the work tree.
    pub(super) fn git(&self, arguments: &[&str]) -> String {
        let run = git(&self.0).args(arguments).output().expect("git is installed");
        assert!(run.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8(run.stdout).unwrap()
    }
}

/// git without this user's settings.
fn git(folder: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(folder).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    for role in ["AUTHOR", "COMMITTER"] {
        git.env(format!("GIT_{role}_NAME"), "Ada").env(format!("GIT_{role}_EMAIL"), "ada@example.com");
    }
    git
}

async fn answer(State(web): State<Web>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let sent = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    {
        let mut behaviour = web.behaviour.lock().unwrap();
        behaviour.seen.push(sent.to_owned());
        if let Some(text) = &behaviour.refusal {
            let text = text.replace("{authorization}", sent);
            return (StatusCode::FORBIDDEN, [(header::CONTENT_TYPE, "text/plain")], text).into_response();
        }
        if let Some(elsewhere) = &behaviour.redirect {
            let path = parts.uri.path_and_query().unwrap().as_str().trim_start_matches('/');
            return (StatusCode::FOUND, [(header::LOCATION, format!("{elsewhere}{path}"))]).into_response();
        }
        if behaviour.password.as_deref().is_some_and(|password| sent != basic(password)) {
            return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=\"git\"")]).into_response();
        }
    }
    let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
    backend(&web.repositories, parts.method.as_str(), &parts.uri, &parts.headers, &body).await
}

/// What a user with this token sends.
fn basic(token: &str) -> String {
    // Encoded by a program of the system: the tests need no library for one line.
    let script = "printf 'x-access-token:%s' \"$1\" | base64 --wrap=0";
    let encoded = Command::new("sh").args(["-c", script, "sh", token]).output().unwrap();
    format!("Basic {}", String::from_utf8(encoded.stdout).unwrap())
}

/// Runs `git http-backend` as a CGI program (RFC 3875).
async fn backend(root: &Path, method: &str, uri: &axum::http::Uri, headers: &HeaderMap, body: &Bytes) -> Response {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let mut command = git(root);
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_PROTOCOL", text("git-protocol"))
        .env("REQUEST_METHOD", method)
        .env("PATH_INFO", format!("{}/.git{}", repository_of(uri), rest_of(uri)))
        .env("QUERY_STRING", uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", text("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", text("content-encoding"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut process = tokio::process::Command::from(command).spawn().unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let body = body.clone();
    let feeding = tokio::spawn(async move { stdin.write_all(&body).await });
    let output = process.wait_with_output().await.unwrap().stdout;
    // A backend that refuses reads nothing.
    let _broken_pipe = feeding.await.unwrap();
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").expect("a CGI answer has a head");
    let mut answer = Response::builder();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let (name, value) = line.split_once(": ").unwrap();
        answer = match name {
            "Status" => answer.status(value[..3].parse::<u16>().unwrap()),
            _ => answer.header(name, value),
        };
    }
    answer.body(Body::from(output[end + 4..].to_vec())).unwrap()
}

fn repository_of(uri: &axum::http::Uri) -> String {
    format!("/{}", uri.path().split('/').nth(1).unwrap_or_default())
}

fn rest_of(uri: &axum::http::Uri) -> String {
    uri.path().splitn(3, '/').nth(2).map(|rest| format!("/{rest}")).unwrap_or_default()
}
