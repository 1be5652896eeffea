//! What the cases have in common: a place on disk, sandboxes in it, programs in them.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use backlot_sandbox::{
    Command, Driver, Egress, Execution, Exit, Limits, Network, Output, Sandbox, Spec, process::remove_scratch,
};
use tempfile::TempDir;
use tokio::time::timeout;

/// Nothing here takes this long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A driver and a place for what its sandboxes need.
pub(crate) struct Stage {
    pub(crate) driver: Arc<dyn Driver>,
    place: TempDir,
}

impl Stage {
    pub(crate) fn new(driver: Arc<dyn Driver>) -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { driver, place }
    }

    /// A directory of its own, made on first use.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.place.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// A layer with the given files.
    pub(crate) fn layer(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let layer = self.directory(name);
        for (path, text) in files {
            let path = layer.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        layer
    }

    /// A policy without network and with the usual limits.
    pub(crate) fn spec(&self, id: &str) -> Spec {
        Spec {
            id: id.to_owned(),
            layers: Vec::new(),
            scratch: self.directory(&format!("scratch-{id}")),
            read_only: Vec::new(),
            limits: Limits::default(),
            network: Network { egress: Egress::None, gateway: None, allow: Vec::new() },
        }
    }

    /// A sandbox with that policy.
    pub(crate) async fn sandbox(&self, id: &str) -> Box<dyn Sandbox> {
        self.driver.create(self.spec(id)).await.unwrap()
    }

    /// A sandbox with other limits.
    pub(crate) async fn limited(&self, limits: Limits) -> Box<dyn Sandbox> {
        self.driver.create(Spec { limits, ..self.spec("limited") }).await.unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What sandboxes wrote is not always ours to remove the ordinary way.
        for entry in fs::read_dir(self.place.path()).into_iter().flatten().flatten() {
            let _sandbox_still_dying = remove_scratch(&entry.path());
        }
    }
}

/// A shell script as a program.
pub(crate) fn sh(script: &str) -> Command {
    program(&["sh", "-c", script])
}

/// A program with arguments.
pub(crate) fn program(argv: &[&str]) -> Command {
    Command {
        argv: argv.iter().map(|argument| (*argument).to_owned()).collect(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into()), ("HOME".into(), backlot_sandbox::HOME.into())],
        cwd: PathBuf::from(backlot_sandbox::WORKSPACE),
        stdin: bytes::Bytes::new(),
        timeout: Duration::from_secs(50),
        grace: Duration::from_millis(200),
        stdout_limit: 64 << 20,
        stderr_limit: 1 << 20,
    }
}

/// What a program wrote and how it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) exit: Exit,
}

/// Runs a program to its end.
pub(crate) async fn run(sandbox: &dyn Sandbox, command: Command) -> Ended {
    finish(sandbox.exec(command).await.unwrap()).await
}

/// Waits for the end of a program.
pub(crate) async fn finish(execution: Execution) -> Ended {
    let Execution { mut output, exit, kill: _kill } = execution;
    let all = async {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        while let Some(piece) = output.recv().await {
            match piece {
                Output::Stdout(bytes) => stdout.extend_from_slice(&bytes),
                Output::Stderr(bytes) => stderr.extend_from_slice(&bytes),
            }
        }
        let exit = exit.await.expect("every program's end is told");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ended { stdout: text(stdout), stderr: text(stderr), exit }
    };
    timeout(PATIENCE, all).await.expect("the program must end")
}

/// Waits until the program has written this to standard output.
pub(crate) async fn await_output(execution: &mut Execution, wanted: &str) {
    let mut seen = String::new();
    while !seen.contains(wanted) {
        match timeout(PATIENCE, execution.output.recv()).await.expect("output must come") {
            Some(Output::Stdout(bytes)) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            Some(Output::Stderr(_)) => {}
            None => panic!("the program ended without writing `{wanted}`: {seen}"),
        }
    }
}

/// Whether any process of the host has this in its command line.
pub(crate) fn somebody_runs(mark: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let numeric = entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
        numeric && fs::read(entry.path().join("cmdline")).is_ok_and(|line| contains(&line, mark))
    })
}

fn contains(line: &[u8], mark: &str) -> bool {
    line.windows(mark.len()).any(|window| window == mark.as_bytes())
}

/// Waits until nobody runs that any more.
pub(crate) async fn await_nobody_runs(mark: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while somebody_runs(mark) {
        assert!(tokio::time::Instant::now() < deadline, "`{mark}` still runs");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The content of a file that a test expects.
pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}
