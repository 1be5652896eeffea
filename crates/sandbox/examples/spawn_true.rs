//! Measures fresh sandboxes: from the call that creates one, through `/bin/true`, to the end of its destruction.
//!
//! `spawn_true [runs] [parallel] [network: off|on] [program…]` prints one line of JSON with milliseconds. It finds the launcher
//! `backlot-sandbox-launcher` beside its own directory, or takes `BACKLOT_LAUNCHER`. `BACKLOT_LAYER` names a directory to put below
//! the workspace; without it there is no layer.
#![expect(clippy::print_stdout, reason = "a program that prints a measurement")]
#![expect(clippy::disallowed_methods, reason = "a program reads its own environment")]

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use backlot_sandbox::{
    Cause, Command, Driver, Egress, Error, Limits, Network, Spec,
    process::{Options, ProcessDriver, remove_scratch},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let runs: usize = arguments.next().map_or(Ok(200), |text| text.parse())?;
    let parallel: usize = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let egress = if arguments.next().as_deref() == Some("on") { Egress::Public } else { Egress::None };
    let mut argv: Vec<String> = arguments.collect();
    if argv.is_empty() {
        argv.push("/bin/true".into());
    }
    let launcher = match std::env::var_os("BACKLOT_LAUNCHER") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()?.ancestors().nth(2).ok_or("no directory")?.join("backlot-sandbox-launcher"),
    };
    let folder = std::env::temp_dir().join(format!("backlot-spawn-true-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let options = Options::new(launcher, Vec::new(), folder.join("state"));
    let result = runtime.block_on(measure(options, folder.clone(), runs, parallel, egress, argv));
    drop(runtime);
    let mut figures = result?;
    // The driver takes away its part at the same time, and each may come across what the other is removing.
    while let Err(error) = remove_scratch(&folder) {
        if error.kind() != std::io::ErrorKind::NotFound {
            return Err(error.into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    figures.times.sort_unstable();
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    let at = |share: f64| millis(figures.times[((figures.times.len() - 1) as f64 * share) as usize]);
    let mean = |total: Duration| millis(total) / figures.times.len() as f64;
    println!(
        "{{\"runs\":{},\"parallel\":{parallel},\"p50_ms\":{:.3},\"p90_ms\":{:.3},\"p99_ms\":{:.3},\"max_ms\":{:.3},\
         \"mean_create_ms\":{:.3},\"mean_exec_ms\":{:.3},\"mean_destroy_ms\":{:.3},\"per_second\":{:.1}}}",
        figures.times.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0),
        mean(figures.create),
        mean(figures.exec),
        mean(figures.destroy),
        figures.times.len() as f64 / figures.wall.as_secs_f64(),
    );
    Ok(())
}

#[derive(Default)]
struct Figures {
    times: Vec<Duration>,
    create: Duration,
    exec: Duration,
    destroy: Duration,
    wall: Duration,
}

async fn measure(
    options: Options,
    folder: PathBuf,
    runs: usize,
    parallel: usize,
    egress: Egress,
    argv: Vec<String>,
) -> Result<Figures, Error> {
    let driver = Arc::new(ProcessDriver::start(options)?);
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    // The first ones pay for cold caches.
    for number in 0..parallel.max(5) {
        one(&*driver, &folder, format!("warm-{number}"), egress, argv.clone()).await?;
    }
    let begun = Instant::now();
    let mut workers = Vec::new();
    for _ in 0..parallel {
        let (driver, next, folder, argv) = (driver.clone(), next.clone(), folder.clone(), argv.clone());
        workers.push(tokio::spawn(async move {
            let mut figures = Figures::default();
            loop {
                let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if number >= runs {
                    return Ok::<_, Error>(figures);
                }
                let [create, exec, destroy] =
                    one(&*driver, &folder, format!("run-{number}"), egress, argv.clone()).await?;
                figures.times.push(create + exec + destroy);
                figures.create += create;
                figures.exec += exec;
                figures.destroy += destroy;
            }
        }));
    }
    let mut all = Figures::default();
    for worker in workers {
        let figures = worker.await.map_err(|error| Error::Setup(error.to_string()))??;
        all.times.extend(figures.times);
        all.create += figures.create;
        all.exec += figures.exec;
        all.destroy += figures.destroy;
    }
    all.wall = begun.elapsed();
    Ok(all)
}

/// One sandbox; the times of creating, running, destroying.
async fn one(
    driver: &dyn Driver,
    folder: &std::path::Path,
    id: String,
    egress: Egress,
    argv: Vec<String>,
) -> Result<[Duration; 3], Error> {
    let scratch = folder.join(&id);
    std::fs::create_dir(&scratch).map_err(|error| Error::Setup(error.to_string()))?;
    let spec = Spec {
        id,
        layers: std::env::var_os("BACKLOT_LAYER").map(PathBuf::from).into_iter().collect(),
        scratch: scratch.clone(),
        read_only: Vec::new(),
        limits: Limits::default(),
        network: Network { egress, ..Network::default() },
    };
    let command = Command {
        argv,
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        cwd: "/workspace".into(),
        stdin: bytes::Bytes::new(),
        timeout: Duration::from_secs(30),
        grace: Duration::from_secs(1),
        stdout_limit: 1 << 20,
        stderr_limit: 1 << 20,
    };
    let start = Instant::now();
    let sandbox = driver.create(spec).await?;
    let created = Instant::now();
    let mut execution = sandbox.exec(command).await?;
    while execution.output.recv().await.is_some() {}
    let exit = execution.exit.await.map_err(|_| Error::Gone("no exit".into()))?;
    let ran = Instant::now();
    sandbox.destroy().await;
    let destroyed = Instant::now();
    if exit.cause != Cause::Exited || exit.code != Some(0) {
        return Err(Error::Setup(format!("the program failed: {exit:?}")));
    }
    // Not measured: the caller decides when to remove what a sandbox wrote.
    remove_scratch(&scratch).map_err(|error| Error::Setup(error.to_string()))?;
    Ok([created - start, ran - created, destroyed - ran])
}
