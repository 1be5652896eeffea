//! `backlot serve`: choose the drivers, connect everything, serve, and end in order.

use std::{
    fs::File,
    io::{IsTerminal as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use backlot_blobs::Blobs;
use backlot_db::Db;
use backlot_domain::{DataFolder, Domain, Parts, RandomIds, SystemClock, accounts::Vault};
use backlot_faces::{
    FacesSettings,
    http::{ConnectionLimits, Readiness},
};
use backlot_sandbox::{
    Driver,
    process::{Options, ProcessDriver},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ServeArgs};

/// How long runs under way may go on after SIGTERM. What is not done by then is resumed at the next start.
const DRAIN: Duration = Duration::from_secs(30);

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn run(args: ServeArgs) -> anyhow::Result<()> {
    start_log();
    backlot_faces::http::install_metrics();
    let config = Config::resolve(args)?;
    let _lock = claim_data_folder(&config.data)?;
    empty_uploads(&config.data)?;
    let driver = start_sandboxes(&config.data)?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {} (is another server running? --listen chooses)", config.listen))?;
    // Sandboxes reach the model gateway here and nothing else of the server.
    let gateway = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("cannot listen for the gateway")?;
    let listening = listener.local_addr()?;
    let public_url = config.public_url.clone().unwrap_or_else(|| format!("http://{listening}"));
    let readiness = Readiness::default();
    let faces = FacesSettings { readiness: readiness.clone(), ..config.faces.clone() };
    let domain = assemble(config, driver, gateway.local_addr()?).await?;
    backlot_domain::start(&domain).await.context("cannot start the workers")?;

    let ended = CancellationToken::new();
    let api = tokio::spawn(backlot_faces::http::serve(
        listener,
        backlot_faces::router(domain.clone(), faces),
        ConnectionLimits::default(),
        ended.clone().cancelled_owned(),
    ));
    let models = tokio::spawn(backlot_faces::http::serve(
        gateway,
        backlot_faces::gateway_router(domain.clone()),
        ConnectionLimits::default(),
        ended.clone().cancelled_owned(),
    ));
    announce(&public_url)?;
    wait_for_signal().await?;

    tracing::info!("draining; a second signal ends at once");
    readiness.drain();
    let in_order = async {
        backlot_domain::stop(&domain, DRAIN).await;
        ended.cancel();
        for server in [api, models] {
            server.await.context("a listener failed")?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        result = in_order => result?,
        signal = wait_for_signal() => { signal?; }
    }
    tracing::info!("bye");
    Ok(())
}

async fn assemble(config: Config, driver: Arc<dyn Driver>, gateway: SocketAddr) -> anyhow::Result<Domain> {
    let ids = Arc::new(RandomIds);
    let vault = match &config.master_key {
        Some(text) => Vault::from_text(text).context("BACKLOT_MASTER_KEY")?,
        None => Vault::open(&config.data.master_key(), ids.as_ref()).context("cannot open the master key")?,
    };
    let db = Db::open(&config.database_url).await.context("cannot open the database")?;
    let blobs = Blobs::open(&config.blobs).with_context(|| format!("cannot open {}", config.blobs.display()))?;
    let code_agents = config.code_agents(gateway);
    let domain = backlot_domain::assemble(Parts {
        db,
        blobs: Arc::new(blobs),
        driver,
        vault: Arc::new(vault),
        clock: Arc::new(SystemClock),
        ids,
        accounts: config.accounts,
        runs: backlot_domain::runs::Settings::default(),
        models: config.models,
        code_agents,
    })?;
    Ok(domain)
}

/// Makes the folder private and takes it for this process, which an embedded database needs.
fn claim_data_folder(data: &DataFolder) -> anyhow::Result<File> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&data.0)
        .with_context(|| format!("cannot create the data folder {}", data.0.display()))?;
    keep_others_out(&data.0).with_context(|| format!("cannot make {} private", data.0.display()))?;
    let lock = File::create(data.lock()).with_context(|| format!("cannot write to {}", data.0.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!("another server uses {}; stop it or choose another folder with --data", data.0.display())
        }
        Err(std::fs::TryLockError::Error(error)) => Err(error).context("cannot lock the data folder"),
    }
}

/// A folder that existed already may be open to every user of the host; whom its group lets in is the operator's choice.
fn keep_others_out(folder: &Path) -> std::io::Result<()> {
    let mut permissions = std::fs::metadata(folder)?.permissions();
    let mode = permissions.mode();
    // Never a place such as /tmp, which is meant for all.
    if mode & 0o007 != 0 && mode & 0o1000 == 0 {
        permissions.set_mode(mode & !0o007);
        std::fs::set_permissions(folder, permissions)?;
    }
    Ok(())
}

/// What an earlier life was receiving when it died is of no use.
fn empty_uploads(data: &DataFolder) -> anyhow::Result<()> {
    let folder = data.uploads();
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))
}

fn start_sandboxes(data: &DataFolder) -> anyhow::Result<Arc<dyn Driver>> {
    let launcher = std::env::current_exe().context("cannot find my own executable")?;
    let options = Options::new(launcher, vec![crate::LAUNCHER.to_owned()], data.sandboxes());
    let driver = ProcessDriver::start(options).context("cannot start the sandbox launcher")?;
    let driver: Arc<dyn Driver> = Arc::new(driver);
    // Looking takes longer than starting, and holds nobody up: a sandbox that lacks something is refused anyway.
    let looked_at = Arc::clone(&driver);
    tokio::task::spawn_blocking(move || report_lacks(looked_at.as_ref()));
    Ok(driver)
}

/// Tells the operator what sandboxes lack on this host.
fn report_lacks(driver: &dyn Driver) {
    let preflight = driver.preflight();
    for check in preflight.checks.iter().filter(|check| !check.ok) {
        let advice = check.advice.as_deref().unwrap_or("see `backlot doctor`");
        if check.required {
            tracing::error!(found = check.found, advice, "sandboxes are refused: {} is missing", check.name);
        } else {
            tracing::warn!(found = check.found, advice, "sandboxes lack {}", check.name);
        }
    }
}

fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BACKLOT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let is_terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_terminal).init();
}

/// The one line of standard output that tells whoever started us that we serve (operator's contract).
fn announce(public_url: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "backlot ready on {public_url}")?;
    Ok(out.flush()?)
}

async fn wait_for_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
