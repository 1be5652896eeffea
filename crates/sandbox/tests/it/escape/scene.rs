//! The stage of every attack: a victim, an attacker, and a neighbour who must not notice.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command as HostCommand,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use backlot_sandbox::{
    Cause, Command, Driver, Execution, Exit, Limits, Network, Output, ReadOnly, Sandbox, Spec, process::remove_scratch,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// In the environment of the neighbour's program only.
pub(crate) const NEIGHBOURS_SECRET: &str = "neighbours-secret-4b1d";
/// In the environment of the attacker's program only.
pub(crate) const ATTACKERS_MARK: &str = "attackers-mark-77aa";
/// A file in the layer of every sandbox here, and what it says.
pub(crate) const LAYER_FILE: (&str, &str) = ("layer-file", "as the layer has it\n");
/// A name that exists on the host only, in several places.
pub(crate) const CANARY: &str = "canary-of-the-host-9c2e";

/// Nothing in these tests takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the tests run against.
pub(crate) struct Host {
    /// The driver under test.
    pub(crate) driver: Arc<dyn Driver>,
    /// Whether memory, processes and processor time of a whole sandbox are limited, rather than of one process.
    pub(crate) whole_sandbox_limits: bool,
}

/// One test's stage.
pub(crate) struct Scene {
    pub(crate) host: Host,
    directory: TempDir,
    elsewhere: TempDir,
    gateway: SocketAddr,
    neighbour: Box<dyn Sandbox>,
    neighbours_end: JoinHandle<(String, Exit)>,
    beats: Arc<AtomicU64>,
}

impl Scene {
    /// Sets the stage; the neighbour is at work when this returns.
    pub(crate) async fn open(host: Host) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir_in("/var/tmp").unwrap();
        for place in [directory.path(), elsewhere.path()] {
            // As open as it can be: only the walls of the sandbox may keep a program out.
            fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let data = directory.path().join("server-data");
        fs::create_dir(&data).unwrap();
        for place in [&data, &elsewhere.path().to_owned()] {
            fs::write(place.join(CANARY), "a secret of the server").unwrap();
            fs::set_permissions(place.join(CANARY), fs::Permissions::from_mode(0o666)).unwrap();
        }
        let layer = directory.path().join("layer");
        fs::create_dir(&layer).unwrap();
        fs::copy(probe(), layer.join("probe")).unwrap();
        fs::write(layer.join(LAYER_FILE.0), LAYER_FILE.1).unwrap();

        let (gateway, _server) = echo_server().await;
        let neighbour =
            host.driver.create(spec("neighbour", directory.path(), Limits::default(), gateway)).await.unwrap();
        let mut command = command(&["neighbour"]);
        command.env.push(("SECRET".into(), NEIGHBOURS_SECRET.into()));
        command.timeout = Duration::from_secs(600);
        let beats = Arc::new(AtomicU64::new(0));
        let execution = neighbour.exec(command).await.unwrap();
        let neighbours_end = tokio::spawn(count_beats(execution, Arc::clone(&beats)));
        let scene = Self { host, directory, elsewhere, gateway, neighbour, neighbours_end, beats };
        scene.await_beats(1).await;
        scene
    }

    /// A sandbox for the attacker.
    pub(crate) async fn attacker(&self, limits: Limits) -> Attacker {
        let spec = self.spec("attacker", limits);
        self.attacker_with(spec).await
    }

    /// A sandbox for the attacker, as given.
    pub(crate) async fn attacker_with(&self, spec: Spec) -> Attacker {
        let scratch = spec.scratch.clone();
        Attacker { sandbox: self.host.driver.create(spec).await.unwrap(), scratch }
    }

    /// What [`Scene::attacker`] would be given.
    pub(crate) fn spec(&self, id: &str, limits: Limits) -> Spec {
        spec(id, self.directory.path(), limits, self.gateway)
    }

    /// The directory that stands for the server's data: not shown to any sandbox, open to everybody otherwise.
    pub(crate) fn server_data(&self) -> PathBuf {
        self.directory.path().join("server-data")
    }

    /// Another directory of the host with a canary.
    pub(crate) fn elsewhere(&self) -> &Path {
        self.elsewhere.path()
    }

    /// The layer under every workspace here, on the host.
    pub(crate) fn layer(&self) -> PathBuf {
        self.directory.path().join("layer")
    }

    /// Ends the test: the neighbour must have gone on working and must still be.
    pub(crate) async fn close(self) {
        self.await_beats(5).await;
        let layer_file = fs::read_to_string(self.layer().join(LAYER_FILE.0)).unwrap();
        assert_eq!(layer_file, LAYER_FILE.1, "a read-only layer changed");
        self.neighbour.destroy().await;
        let (stderr, exit) = self.neighbours_end.await.unwrap();
        assert_eq!(exit.cause, Cause::Killed, "the neighbour ended by itself: {exit:?} {stderr}");
        for entry in fs::read_dir(self.directory.path()).unwrap() {
            let path = entry.unwrap().path();
            // What the temporary directory's own end may not be able to remove.
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("scratch-")) {
                remove_scratch(&path).unwrap();
            }
        }
    }

    /// Rounds of the neighbour's work so far.
    pub(crate) fn beats(&self) -> u64 {
        self.beats.load(Ordering::SeqCst)
    }

    /// Waits for more rounds of the neighbour's work.
    async fn await_beats(&self, count: u64) {
        let goal = self.beats() + count;
        let deadline = Instant::now() + PATIENCE;
        while self.beats() < goal {
            assert!(!self.neighbours_end.is_finished(), "the neighbour ended");
            assert!(Instant::now() < deadline, "the neighbour does not get on");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The attacker's sandbox.
pub(crate) struct Attacker {
    pub(crate) sandbox: Box<dyn Sandbox>,
    pub(crate) scratch: PathBuf,
}

impl Attacker {
    /// Runs the probe and waits for its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_command(command(arguments)).await
    }

    /// Runs a program and waits for its end.
    pub(crate) async fn run_command(&self, command: Command) -> Outcome {
        let execution = self.sandbox.exec(command).await.unwrap();
        timeout(PATIENCE, collect(execution)).await.expect("the attacker must come to an end")
    }

    /// Whether the sandbox still does what it is for.
    pub(crate) async fn assert_usable(&self) {
        let outcome = self.run(&["identity"]).await;
        assert_eq!(outcome.exit.code, Some(0), "the sandbox must be usable afterwards: {outcome:?}");
    }

    /// Bytes that the sandbox holds on the host.
    pub(crate) fn bytes_on_disk(&self) -> u64 {
        bytes_under(&self.scratch)
    }
}

fn bytes_under(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    if !metadata.is_dir() {
        return metadata.len();
    }
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries.filter_map(Result::ok).map(|entry| bytes_under(&entry.path())).sum()
}

/// What an attack came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) exit: Exit,
}

impl Outcome {
    /// The `name: result` lines.
    pub(crate) fn results(&self) -> BTreeMap<&str, &str> {
        self.stdout.lines().filter_map(|line| line.rsplit_once(": ")).collect()
    }

    /// Every attempt must have been made and must have failed.
    pub(crate) fn assert_all_refused(&self, attempts: &[&str]) {
        let results = self.results();
        for attempt in attempts {
            let result = results.get(attempt).unwrap_or_else(|| panic!("`{attempt}` was not tried: {self:?}"));
            assert_ne!(*result, "ok", "`{attempt}` must fail");
        }
        assert_eq!(results.len(), attempts.len(), "{self:?}");
    }

    /// Every attempt must have come to one of the given results, separated by `|`.
    pub(crate) fn assert_results(&self, expected: &[(&str, &str)]) {
        let results = self.results();
        let wrong: Vec<String> = expected
            .iter()
            .filter_map(|(attempt, expected)| {
                let result = results.get(attempt).copied().unwrap_or("not tried");
                (!expected.split('|').any(|one| one == result))
                    .then(|| format!("{attempt}: {result}, expected {expected}"))
            })
            .collect();
        assert!(wrong.is_empty(), "{}\nstderr: {}", wrong.join("\n"), self.stderr);
    }

    /// The number that follows `name: ` in the output.
    pub(crate) fn number(&self, name: &str) -> u64 {
        let words = self.stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let number = words.and_then(|words| words.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("no `{name}` in {self:?}"))
    }
}

/// The probe with arguments, and limits that are no matter of the test.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut argv = vec!["/workspace/probe".to_owned()];
    argv.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    Command {
        argv,
        env: vec![("PATH".into(), "/usr/bin:/bin".into()), ("MARK".into(), ATTACKERS_MARK.into())],
        cwd: PathBuf::from("/workspace"),
        stdin: bytes::Bytes::new(),
        timeout: Duration::from_secs(30),
        grace: Duration::from_millis(300),
        stdout_limit: 16 << 20,
        stderr_limit: 1 << 20,
    }
}

fn spec(id: &str, directory: &Path, limits: Limits, gateway: SocketAddr) -> Spec {
    let scratch = directory.join(format!("scratch-{id}"));
    fs::create_dir_all(&scratch).unwrap();
    let shown = directory.join("shown");
    fs::write(&shown, "shown read-only\n").unwrap();
    Spec {
        id: format!("{id}-{}", std::process::id()),
        layers: vec![directory.join("layer")],
        scratch,
        read_only: vec![ReadOnly { host: shown, inside: PathBuf::from("/opt/shown") }],
        limits,
        network: Network { gateway: Some(gateway), ..Network::default() },
    }
}

async fn collect(mut execution: Execution) -> Outcome {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(piece) = execution.output.recv().await {
        match piece {
            Output::Stdout(bytes) => stdout.extend_from_slice(&bytes),
            Output::Stderr(bytes) => stderr.extend_from_slice(&bytes),
        }
    }
    let exit = execution.exit.await.expect("every execution tells its end");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Outcome { stdout: text(stdout), stderr: text(stderr), exit }
}

async fn count_beats(mut execution: Execution, beats: Arc<AtomicU64>) -> (String, Exit) {
    let mut stderr = String::new();
    while let Some(piece) = execution.output.recv().await {
        match piece {
            Output::Stdout(bytes) => {
                let count = bytes.iter().filter(|byte| **byte == b'\n').count();
                beats.fetch_add(u64::try_from(count).unwrap(), Ordering::SeqCst);
            }
            Output::Stderr(bytes) => stderr.push_str(&String::from_utf8_lossy(&bytes)),
        }
    }
    (stderr, execution.exit.await.expect("every execution tells its end"))
}

/// A server on the host's loopback that sends back what comes.
pub(crate) async fn echo_server() -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    if stream.write_all(&buffer[..count]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (address, server)
}

/// Tells where the compiled attacker is.
pub(crate) const PROBE: &str = "BACKLOT_ESCAPE_PROBE";

/// The compiled attacker; compiled anew when its source changed.
pub(crate) fn probe() -> PathBuf {
    if let Some(program) = std::env::var_os(PROBE) {
        return program.into();
    }
    const SOURCE: &str = include_str!("../probes/probe.c");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut hasher = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(SOURCE, &mut hasher);
    let program = directory.join(format!("probe-{:016x}", std::hash::Hasher::finish(&hasher)));
    if program.exists() {
        return program;
    }
    // Other test processes may be compiling it too: each into a place of its own, the last one wins.
    let own = tempfile::tempdir_in(directory).unwrap();
    let source = own.path().join("probe.c");
    fs::write(&source, SOURCE).unwrap();
    let output = HostCommand::new("cc")
        .args(["-static", "-O1", "-pthread", "-w", "-o"])
        .arg(own.path().join("probe"))
        .arg(&source)
        .output()
        .expect("the escape suite needs a C compiler named `cc`");
    assert!(output.status.success(), "the probe does not compile: {}", String::from_utf8_lossy(&output.stderr));
    fs::rename(own.path().join("probe"), &program).unwrap();
    program
}
