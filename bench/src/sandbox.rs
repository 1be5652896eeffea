//! A fresh sandbox to the end of `/bin/true`, beside `bwrap`, `crun` and `docker run`.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use backlot_sandbox::{
    Command, Driver, Limits, Network, Spec,
    process::{Options, ProcessDriver},
};
use bytes::Bytes;

use crate::{Figure, statistics};

const ROUNDS: usize = 5;
const STARTS: usize = 100;

/// One way to run `/bin/true` confined.
enum Peer {
    Backlot(Arc<ProcessDriver>, PathBuf),
    Program(&'static str, Vec<String>),
}

pub(crate) async fn measure() -> anyhow::Result<Vec<Figure>> {
    let folder = tempfile::tempdir()?;
    let launcher = std::env::current_exe()?;
    let options = Options::new(launcher, vec![crate::LAUNCHER.to_owned()], folder.path().join("driver"));
    let driver = Arc::new(ProcessDriver::start(options)?);
    let peers = peers(driver, folder.path());
    let mut figures = Vec::new();
    for parallel in [1, 8] {
        // Per peer: the p50 and p99 of each round.
        let mut rounds: Vec<(Vec<f64>, Vec<f64>)> = peers.iter().map(|_| Default::default()).collect();
        for _ in 0..ROUNDS {
            for (peer, figures) in peers.iter().zip(&mut rounds) {
                let starts = if matches!(peer, Peer::Program("docker", _)) { STARTS / 10 } else { STARTS };
                let mut times = run(peer, starts, parallel).await?;
                figures.0.push(statistics::millis(statistics::percentile(&mut times, 0.5)));
                figures.1.push(statistics::millis(statistics::percentile(&mut times, 0.99)));
            }
        }
        let mut bwrap = None;
        for (peer, (p50, p99)) in peers.iter().zip(rounds).rev() {
            let (p50, p99) = (statistics::median(p50), statistics::median(p99));
            let name = match peer {
                Peer::Backlot(..) => "backlot",
                Peer::Program(name, _) => name,
            };
            if name == "bwrap" {
                bwrap = Some(p50);
            }
            let mut middle = Figure::new("sandbox", format!("{name}, {parallel} in parallel, p50"), p50, "ms");
            if let (Peer::Backlot(..), Some(bwrap)) = (peer, bwrap) {
                middle = middle.aim("at or below bwrap", p50 <= bwrap);
            }
            figures.push(middle);
            figures.push(Figure::new("sandbox", format!("{name}, {parallel} in parallel, p99"), p99, "ms"));
        }
    }
    Ok(figures)
}

fn peers(driver: Arc<ProcessDriver>, folder: &Path) -> Vec<Peer> {
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mut peers = vec![Peer::Backlot(driver, folder.to_owned())];
    if installed("bwrap") {
        let line = "bwrap --unshare-all --die-with-parent --new-session --clearenv --ro-bind /usr /usr \
            --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 --proc /proc --dev /dev \
            --tmpfs /tmp /bin/true";
        peers.push(Peer::Program("bwrap", words(line)));
    }
    if installed("crun")
        && let Ok(bundle) = crun_bundle(folder)
        // It refuses hosts that have both versions of control groups mounted.
        && succeeds(std::process::Command::new("crun").args(["run", "--bundle", &bundle, "bench-try"]))
    {
        peers.push(Peer::Program("crun", vec!["crun".into(), "run".into(), "--bundle".into(), bundle]));
    }
    if installed("docker") && docker_image() {
        peers.push(Peer::Program("docker", words("docker run --rm --network none backlot-bench /bin/true")));
    }
    peers
}

fn installed(program: &str) -> bool {
    succeeds(std::process::Command::new(program).arg("--version"))
}

fn succeeds(command: &mut std::process::Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// A bundle over the host's own `/usr`, so that all peers run the same file.
fn crun_bundle(folder: &Path) -> anyhow::Result<String> {
    let bundle = folder.join("bundle");
    let root = bundle.join("rootfs");
    for name in ["usr", "proc", "dev", "tmp"] {
        std::fs::create_dir_all(root.join(name))?;
    }
    for (link, target) in [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        std::os::unix::fs::symlink(target, root.join(link))?;
    }
    let status =
        std::process::Command::new("crun").args(["spec", "--bundle"]).arg(&bundle).current_dir(&bundle).status()?;
    ensure!(status.success(), "crun spec failed");
    let path = bundle.join("config.json");
    let mut config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["/bin/true"]);
    let mounts = config["mounts"].as_array_mut().context("mounts")?;
    mounts.push(
        serde_json::json!({ "destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"] }),
    );
    std::fs::write(&path, config.to_string())?;
    Ok(bundle.display().to_string())
}

/// An image made of `/bin/true` and what it needs, since a registry may be out of reach.
fn docker_image() -> bool {
    let script = "docker image inspect backlot-bench >/dev/null 2>&1 || \
        tar -C / -ch bin/true $(ldd /bin/true | grep -o '/[^ ]*' | sed 's#^/##') | docker import - backlot-bench";
    std::process::Command::new("sh")
        .args(["-c", script])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

async fn run(peer: &Peer, starts: usize, parallel: usize) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(starts);
    for batch in 0..starts.div_ceil(parallel) {
        let batch = (0..parallel).map(|index| once(peer, format!("b{batch}x{index}")));
        times.extend(futures::future::try_join_all(batch).await?);
    }
    Ok(times)
}

async fn once(peer: &Peer, id: String) -> anyhow::Result<Duration> {
    match peer {
        Peer::Backlot(driver, folder) => {
            let scratch = tempfile::tempdir_in(folder)?;
            let begin = Instant::now();
            let spec = Spec {
                id,
                layers: Vec::new(),
                scratch: scratch.path().to_owned(),
                read_only: Vec::new(),
                limits: Limits::default(),
                network: Network { egress: backlot_sandbox::Egress::None, gateway: None, allow: Vec::new() },
            };
            let sandbox = driver.create(spec).await?;
            let command = Command {
                argv: vec![String::from("/bin/true")],
                env: vec![(String::from("PATH"), String::from("/usr/bin:/bin"))],
                cwd: PathBuf::from("/"),
                stdin: Bytes::new(),
                timeout: Duration::from_secs(10),
                grace: Duration::from_secs(1),
                stdout_limit: 1024,
                stderr_limit: 1024,
            };
            let mut execution = sandbox.exec(command).await?;
            while execution.output.recv().await.is_some() {}
            let exit = execution.exit.await?;
            let time = begin.elapsed();
            ensure!(exit.code == Some(0), "/bin/true ended with {exit:?}");
            sandbox.destroy().await;
            tokio::task::spawn_blocking(move || backlot_sandbox::process::remove_scratch(scratch.path())).await??;
            Ok(time)
        }
        Peer::Program(name, argv) => {
            let (program, rest) = argv.split_first().context("no program")?;
            let begin = Instant::now();
            let mut command = tokio::process::Command::new(program);
            command.args(rest).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            if *name == "crun" {
                command.arg(format!("bench-{id}"));
            }
            let status = command.status().await?;
            let time = begin.elapsed();
            ensure!(status.success(), "{name} ended with {status}");
            Ok(time)
        }
    }
}
