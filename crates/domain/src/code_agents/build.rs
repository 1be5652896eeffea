//! Building a release: the source as a layer, its dependencies as another, and the command that runs it.
//!
//! Dependencies are installed in a sandbox of its own that may reach package registries and holds no secret except
//! those named `BUILD_…` (spec/castari.md 9.4). What the installation leaves in the project folder becomes a layer,
//! named by everything it depends on, so that an unchanged lock file is installed once.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use backlot_sandbox::{Cause, Command, Egress, Limits, Network, Output, ReadOnly, Spec, WORKSPACE};
use bytes::Bytes;

use super::{
    Agent, CodeAgents,
    install_plan::{Install, InstallPlan},
    manifest::{self, Manifest},
};
use crate::{
    Error, Kind,
    accounts::Redactor,
    runs::{Channel, RunContext},
    text::Utf8Pieces,
};

/// Wall-clock limit of one installation (spec/castari.md 9.4).
const INSTALL_TIME: Duration = Duration::from_secs(300);
/// Memory of one installation.
const INSTALL_MEMORY: u64 = 4 << 30;
/// The version of the TypeScript loader that runs `.ts` entry points.
const TSX: &str = "4.20.6";
/// Where the loader appears in the project folder.
const TSX_FOLDER: &str = ".backlot/tsx";
/// Programs are looked for here.
pub(super) const PATH: &str = "/workspace/.venv/bin:/workspace/node_modules/.bin:/usr/local/bin:/usr/bin:/bin";
/// Certificate authorities that the host trusts, as install steps see them.
const HOST_CA: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Where the operator's certificate authorities appear to install steps.
const EXTRA_CA: &str = "/etc/backlot/extra-ca.pem";

/// What a build produced.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Built {
    pub(super) source_hash: String,
    pub(super) source_blob: String,
    pub(super) layers: Vec<String>,
    pub(super) command: Vec<String>,
    pub(super) env: Vec<(String, String)>,
}

/// One build in progress.
pub(super) struct Build<'a> {
    pub(super) agents: &'a CodeAgents,
    pub(super) run: &'a RunContext,
    pub(super) agent: &'a Agent,
    /// Secrets that this build may see.
    pub(super) env: Vec<(String, String)>,
    pub(super) redactor: Redactor,
    /// Whether layers of earlier builds must not be reused.
    pub(super) force: bool,
}

/// How a program in a build sandbox ended.
struct Finished {
    succeeded: bool,
    cause: Cause,
    /// The last of what it wrote.
    tail: String,
}

impl Build<'_> {
    /// Turns a project folder into layers.
    pub(super) async fn build(&self, project: &Path, source_hash: &str) -> Result<(Vec<String>, Manifest), Error> {
        let (manifest, plan) = {
            let project = project.to_owned();
            blocking(move || {
                let manifest = read_manifest(&project)?;
                let plan = InstallPlan::of(&project, &manifest)?;
                Ok((manifest, plan))
            })
            .await?
        };
        for warning in &manifest.warnings {
            self.log(&format!("warning: {warning}\n")).await?;
        }
        let source_layer = format!("src-{source_hash}");
        let entry_is_there = project.join(&manifest.entrypoint).is_file();
        let mut layers = Vec::new();
        if manifest.is_typescript() {
            layers.push(self.typescript_loader().await?);
        }
        // The source must be a layer before anything is installed over it; from here on `project` has moved.
        self.add_layer(&source_layer, project).await?;
        let builds = !entry_is_there && plan.has_build_script;
        if !entry_is_there && !builds {
            return Err(Error::new(
                Kind::Conflict,
                "entrypoint_missing",
                format!("The entrypoint `{}` is not in the project", manifest.entrypoint),
            ));
        }
        if let Some(install) = &plan.install {
            layers.push(self.install(install, builds, &manifest, source_hash, &source_layer).await?);
        }
        layers.push(source_layer);
        Ok((layers, manifest))
    }

    async fn add_layer(&self, name: &str, tree: &Path) -> Result<(), Error> {
        if self.agents.layers.exists(name) {
            return Ok(());
        }
        let (name, tree) = (name.to_owned(), tree.to_owned());
        let layers = std::sync::Arc::clone(&self.agents.layers);
        blocking(move || layers.add(&name, &tree).map_err(Error::from_disk)).await
    }

    /// Installs dependencies and, where the entry point has to be built, builds it. Returns the layer's name.
    async fn install(
        &self,
        install: &Install,
        builds: bool,
        manifest: &Manifest,
        source_hash: &str,
        source_layer: &str,
    ) -> Result<String, Error> {
        let run = self.run.run();
        let depends_on = (builds || install.depends_on_project).then_some(source_hash);
        let name = install.layer_name(&run.account_id, depends_on, self.force.then_some(run.id.as_str()));
        if self.agents.layers.exists(&name) {
            self.log("dependencies: unchanged, reusing what was installed before\n").await?;
            return Ok(name);
        }
        self.tell("installing dependencies").await?;
        let staging = self.agents.layers.stage().map_err(Error::from_disk)?;
        let scratch = staging.folder("scratch")?;
        let sandbox = self.sandbox(vec![self.agents.layers.path(source_layer)], &scratch).await?;
        let installed = self.install_inside(sandbox.as_ref(), install, builds).await;
        // Also after a failure: nothing may write any more when the files are taken or removed.
        sandbox.destroy().await;
        installed?;
        let changed = backlot_sandbox::process::workspace_of(&scratch);
        if builds && !is_file_below(&changed, &manifest.entrypoint) {
            return Err(Error::new(
                Kind::Conflict,
                "entrypoint_missing",
                format!("The entrypoint `{}` is missing, also after `npm run build`", manifest.entrypoint),
            ));
        }
        self.add_layer(&name, &changed).await?;
        staging.remove().await;
        Ok(name)
    }

    async fn install_inside(
        &self,
        sandbox: &dyn backlot_sandbox::Sandbox,
        install: &Install,
        builds: bool,
    ) -> Result<(), Error> {
        for attempt in &install.attempts {
            self.log(&format!("$ {}\n", attempt.join(" "))).await?;
            let finished = self.exec(sandbox, attempt, &[]).await?;
            if finished.succeeded {
                break;
            }
            if Some(attempt) == install.attempts.last() || finished.cause != Cause::Exited {
                return Err(install_failed(install.tool, &finished));
            }
            self.log("warning: the lock file does not fit; installing without it\n").await?;
        }
        if !builds {
            return Ok(());
        }
        self.tell("building").await?;
        self.log("$ npm run build\n").await?;
        let argv = ["npm", "run", "build"].map(String::from);
        let finished = self.exec(sandbox, &argv, &[]).await?;
        if finished.succeeded {
            return Ok(());
        }
        Err(Error::new(Kind::Conflict, "build_failed", format!("npm run build failed: {}", telling_line(&finished))))
    }

    /// The layer with the TypeScript loader, installed once for all agents of this node.
    async fn typescript_loader(&self) -> Result<String, Error> {
        let name = format!("tsx-{TSX}");
        if self.agents.layers.exists(&name) {
            return Ok(name);
        }
        let _one_installs_the_others_wait = self.agents.tools.lock().await;
        if self.agents.layers.exists(&name) {
            return Ok(name);
        }
        self.tell("installing the TypeScript loader").await?;
        let staging = self.agents.layers.stage().map_err(Error::from_disk)?;
        let scratch = staging.folder("scratch")?;
        let sandbox = self.sandbox(vec![], &scratch).await?;
        let argv = ["npm", "install", "--no-audit", "--no-fund", "--prefix", TSX_FOLDER, &format!("tsx@{TSX}")]
            .map(String::from);
        self.log(&format!("$ {}\n", argv.join(" "))).await?;
        let finished = self.exec(sandbox.as_ref(), &argv, &[]).await;
        sandbox.destroy().await;
        let finished = finished?;
        if !finished.succeeded {
            return Err(install_failed("npm install", &finished));
        }
        self.add_layer(&name, &backlot_sandbox::process::workspace_of(&scratch)).await?;
        staging.remove().await;
        Ok(name)
    }

    pub(super) async fn sandbox(
        &self,
        layers: Vec<PathBuf>,
        scratch: &Path,
    ) -> Result<Box<dyn backlot_sandbox::Sandbox>, Error> {
        let settings = &self.agents.settings;
        let read_only = settings
            .extra_ca
            .iter()
            .map(|host| ReadOnly { host: host.clone(), inside: PathBuf::from(EXTRA_CA) })
            .collect();
        let spec = Spec {
            id: self.agents.ids.next("bld", self.agents.clock.now()),
            layers,
            scratch: scratch.to_owned(),
            read_only,
            limits: Limits { memory_bytes: INSTALL_MEMORY, processes: 4096, ..settings.limits.clone() },
            network: Network { egress: Egress::Public, gateway: None, allow: settings.allow_networks.clone() },
        };
        self.agents.driver.create(spec).await.map_err(super::pool::start_failed)
    }

    /// The environment of an install step: nothing of the server's but what the operator lists.
    fn environment(&self) -> Vec<(String, String)> {
        let mut env: Vec<(String, String)> = [
            ("PATH", PATH),
            ("HOME", backlot_sandbox::HOME),
            ("TMPDIR", "/tmp"),
            ("LANG", "C.UTF-8"),
            ("TZ", "UTC"),
            ("CI", "1"),
            ("npm_config_update_notifier", "false"),
            ("npm_config_fund", "false"),
            ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
            ("PIP_NO_INPUT", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        // Node trusts a list of its own unless told otherwise; an installation trusts what the host trusts.
        let trusted = if self.agents.settings.extra_ca.is_some() { EXTRA_CA } else { HOST_CA };
        env.push((String::from("NODE_EXTRA_CA_CERTS"), trusted.to_owned()));
        if self.agents.settings.extra_ca.is_some() {
            for name in ["SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "npm_config_cafile"] {
                env.push((name.to_owned(), EXTRA_CA.to_owned()));
            }
        }
        env.extend(self.agents.settings.build_env.iter().cloned());
        env.extend(self.env.iter().cloned());
        env
    }

    async fn exec(
        &self,
        sandbox: &dyn backlot_sandbox::Sandbox,
        argv: &[String],
        extra: &[(String, String)],
    ) -> Result<Finished, Error> {
        let (finished, _) = self.capture(sandbox, argv, extra, 0).await?;
        Ok(finished)
    }

    /// Runs a program; its output goes to the build log, and up to `keep` bytes of standard output are returned.
    async fn capture(
        &self,
        sandbox: &dyn backlot_sandbox::Sandbox,
        argv: &[String],
        extra: &[(String, String)],
        keep: usize,
    ) -> Result<(Finished, String), Error> {
        const TAIL: usize = 16 * 1024;
        let mut env = self.environment();
        env.extend(extra.iter().cloned());
        let command = Command {
            argv: argv.to_vec(),
            env,
            cwd: PathBuf::from(WORKSPACE),
            stdin: Bytes::new(),
            timeout: INSTALL_TIME,
            grace: Duration::from_secs(2),
            stdout_limit: 64 << 20,
            stderr_limit: 64 << 20,
        };
        let mut execution = sandbox.exec(command).await.map_err(|error| match error {
            backlot_sandbox::Error::Start { program, .. } => Error::new(
                Kind::Conflict,
                "install_failed",
                format!("`{program}` is not installed on this server; `backlot doctor` tells what is missing"),
            ),
            other => super::pool::start_failed(other),
        })?;
        let mut redactor = self.redactor.clone();
        let mut pieces = Utf8Pieces::default();
        let (mut tail, mut kept) = (String::new(), String::new());
        let stopped = self.run.stopped();
        loop {
            let piece = tokio::select! {
                piece = execution.output.recv() => piece,
                () = stopped.cancelled() => {
                    execution.kill.now();
                    execution.output.recv().await
                }
            };
            let Some(piece) = piece else { break };
            let (Output::Stdout(bytes) | Output::Stderr(bytes)) = &piece;
            if matches!(piece, Output::Stdout(_)) && kept.len() < keep {
                kept.push_str(&String::from_utf8_lossy(bytes));
            }
            let text = redactor.push(&pieces.push(bytes));
            self.log(&text).await?;
            tail.push_str(&text);
            if tail.len() > 2 * TAIL {
                let from = (tail.len() - TAIL..tail.len()).find(|at| tail.is_char_boundary(*at)).unwrap_or(0);
                tail.drain(..from);
            }
        }
        let mut rest = redactor.push(&pieces.finish());
        rest.push_str(&redactor.finish());
        self.log(&rest).await?;
        let exit = execution.exit.await.map_err(Error::internal)?;
        let succeeded = exit.cause == Cause::Exited && exit.code == Some(0);
        Ok((Finished { succeeded, cause: exit.cause, tail }, kept))
    }

    /// Fetches a repository into `into`; returns the commit (spec/castari.md 9.1).
    pub(super) async fn fetch_git(
        &self,
        url: &str,
        reference: &str,
        into: &Path,
        token: Option<&str>,
    ) -> Result<String, Error> {
        use base64::Engine as _;
        const SCRIPT: &str = "set -eu\n\
            git init --quiet .\n\
            git fetch --quiet --depth 1 --no-tags --no-recurse-submodules -- \"$1\" \"$2\"\n\
            git -c advice.detachedHead=false checkout --quiet FETCH_HEAD\n\
            git rev-parse HEAD\n";
        let staging = self.agents.layers.stage().map_err(Error::from_disk)?;
        let scratch = staging.folder("scratch")?;
        let sandbox = self.sandbox(vec![], &scratch).await?;
        // Settings travel as variables, so that no token shows in a list of processes.
        let mut settings = vec![
            (String::from("core.hooksPath"), String::from("/dev/null")),
            (String::from("protocol.allow"), String::from("never")),
            (String::from("protocol.https.allow"), String::from("always")),
            (String::from("protocol.http.allow"), String::from("always")),
            (String::from("filter.lfs.smudge"), String::from("cat")),
            (String::from("filter.lfs.required"), String::from("false")),
            // git would send the header with the token to wherever it is redirected.
            (String::from("http.followRedirects"), String::from(if token.is_some() { "false" } else { "initial" })),
        ];
        if let Some(token) = token {
            let basic = base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{token}"));
            settings.push((format!("http.{url}.extraHeader"), format!("Authorization: Basic {basic}")));
        }
        let mut env = vec![
            (String::from("GIT_CONFIG_NOSYSTEM"), String::from("1")),
            (String::from("GIT_LFS_SKIP_SMUDGE"), String::from("1")),
            (String::from("GIT_CONFIG_COUNT"), settings.len().to_string()),
        ];
        for (index, (key, value)) in settings.into_iter().enumerate() {
            env.push((format!("GIT_CONFIG_KEY_{index}"), key));
            env.push((format!("GIT_CONFIG_VALUE_{index}"), value));
        }
        self.log(&format!("$ git fetch {url} {reference}\n")).await?;
        let argv = ["sh", "-c", SCRIPT, "fetch", url, reference].map(String::from);
        let captured = self.capture(sandbox.as_ref(), &argv, &env, 4096).await;
        sandbox.destroy().await;
        let (finished, output) = captured?;
        if !finished.succeeded {
            let mut reason = telling_line(&finished);
            if token.is_some() && reason.contains("returned error: 30") {
                reason.push_str("; a redirect is not followed with a token, set git_repo_url to where it leads");
            }
            return Err(Error::new(
                Kind::Conflict,
                "clone_failed",
                format!("Cannot fetch `{reference}` of {url}: {reason}"),
            ));
        }
        let commit = output.lines().last().unwrap_or_default().trim().to_owned();
        if commit.len() != 40 || !commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Error::new(Kind::Conflict, "clone_failed", format!("git named no commit for `{reference}`")));
        }
        let (from, into) = (backlot_sandbox::process::workspace_of(&scratch), into.to_owned());
        blocking(move || super::source::import(&from, &into, &[".git"])).await?;
        staging.remove().await;
        Ok(commit)
    }

    /// Adds to the build log.
    pub(super) async fn log(&self, text: &str) -> Result<(), Error> {
        self.run.text(Channel::System, text).await.map_err(super::deploy::journal_failed)
    }

    /// Tells people who look at the agent how far this is.
    pub(super) async fn tell(&self, message: &'static str) -> Result<(), Error> {
        self.log(&format!("── {message}\n")).await?;
        let id = self.agent.id.clone();
        self.agents
            .db
            .write(move |tx| Box::pin(async move { super::store::set_status_message(tx, &id, message).await }))
            .await
    }
}

/// Whether a path below a folder that a sandbox wrote is a file, without being led out of the folder by a link.
fn is_file_below(folder: &Path, path: &str) -> bool {
    use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
    let Ok(folder) = open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) else {
        return false;
    };
    openat2(&folder, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::BENEATH)
        .and_then(fstat)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

fn read_manifest(project: &Path) -> Result<Manifest, Error> {
    const LARGEST: u64 = 1 << 20;
    for name in manifest::FILE_NAMES {
        let path = project.join(name);
        if let Ok(metadata) = std::fs::metadata(&path) {
            if metadata.len() > LARGEST {
                return Err(Error::new(Kind::Conflict, "manifest_invalid", format!("{name} is larger than 1 MiB")));
            }
            let text = std::fs::read_to_string(&path)
                .map_err(|error| Error::new(Kind::Conflict, "manifest_invalid", format!("{name}: {error}")))?;
            return Manifest::parse(&text);
        }
    }
    Err(manifest::missing())
}

fn install_failed(tool: &str, finished: &Finished) -> Error {
    Error::new(Kind::Conflict, "install_failed", format!("{tool} failed: {}", telling_line(finished)))
}

/// The line of a failed program's output that tells most: the first that speaks of an error, else the last.
fn telling_line(finished: &Finished) -> String {
    match finished.cause {
        Cause::Timeout => return format!("not finished after {} seconds", INSTALL_TIME.as_secs()),
        Cause::OutOfMemory => return format!("more than {} GiB of memory needed", INSTALL_MEMORY >> 30),
        Cause::DiskLimit => return String::from("more disk needed than a sandbox may use"),
        Cause::Killed => return String::from("stopped"),
        Cause::Exited | Cause::OutputLimit => {}
    }
    let lines = finished.tail.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_code = |line: &&str| line.starts_with("npm error code") || line.starts_with("npm ERR! code");
    let speaks_of_error =
        |line: &&str| ["error", "ERR!", "fatal:"].iter().any(|word| line.to_lowercase().contains(&word.to_lowercase()));
    let line = lines.clone().filter(|line| !is_code(line)).find(speaks_of_error).or_else(|| lines.clone().next_back());
    let line = line.unwrap_or("it wrote nothing");
    let line = line.trim_start_matches("npm error ").trim_start_matches("npm ERR! ");
    line.chars().take(400).collect()
}

/// Runs file work where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(Error::internal)?
}

/// The loader's module inside the project folder.
pub(super) fn tsx_module() -> String {
    format!("{WORKSPACE}/{TSX_FOLDER}/node_modules/tsx/dist/loader.mjs")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_link_does_not_lead_out_of_what_was_built() {
        let built = tempfile::tempdir().expect("temp dir");
        fs::create_dir(built.path().join("dist")).expect("folder");
        fs::write(built.path().join("dist/x.js"), "").expect("write");
        std::os::unix::fs::symlink("dist", built.path().join("inside")).expect("link");
        std::os::unix::fs::symlink("/etc", built.path().join("outside")).expect("link");
        assert!(is_file_below(built.path(), "dist/x.js"));
        assert!(is_file_below(built.path(), "inside/x.js"));
        for path in ["outside/passwd", "dist", "absent"] {
            assert!(!is_file_below(built.path(), path), "{path}");
        }
    }
}
