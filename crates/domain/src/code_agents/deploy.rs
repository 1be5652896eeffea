//! Deploying: from source to a release that answers (spec/castari.md 8.9 to 8.12).

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Agent, AgentStatus, CodeAgents, DEPLOYMENT, LogLine, SourceType,
    build::{Build, Built, blocking, tsx_module},
    manage::agent_not_found,
    secrets::GIT_TOKEN,
    source,
    store::{self, Release},
};
use crate::{
    Error, Kind, Timestamp,
    accounts::{Caller, Redactor, Scope},
    page::{Page, Window},
    runs::{self, AtCommit, Effect, Executor, Failure, NewRun, Outcome, Run, RunContext, Status},
};

/// What a deployment is asked for.
#[derive(Debug, Clone, Default)]
pub struct DeployRequest {
    /// Another branch than the agent's.
    pub git_branch: Option<String>,
    /// A commit instead of the branch's newest.
    pub git_commit: Option<String>,
    /// Whether to build everything anew (`redeploy`).
    pub force: bool,
    /// How long to wait for the end.
    pub wait: Duration,
}

/// The answer to a deployment.
#[derive(Debug, Clone)]
pub struct Deployed {
    /// The agent as it is now.
    pub agent: Agent,
    /// Whether the deployment has ended; otherwise it goes on.
    pub finished: bool,
    /// The deployment.
    pub deployment_id: String,
}

/// The answer to an upload.
#[derive(Debug, Clone)]
pub struct Uploaded {
    /// The agent as it is now.
    pub agent: Agent,
    /// Content hash of the uploaded tree.
    pub source_hash: String,
    /// What happened, for people.
    pub message: String,
    /// Whether a deployment was asked for and goes on.
    pub is_deploying: bool,
    /// The deployment, when one was asked for.
    pub deployment_id: Option<String>,
}

/// One deployment.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// `dep_…`
    pub id: String,
    /// Commit or content hash, once known.
    pub source_hash: Option<String>,
    /// How far it has come.
    pub status: DeploymentStatus,
    /// Why it failed.
    pub message: Option<String>,
    /// When it was asked for.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// How far a deployment has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeploymentStatus {
    /// Waiting or building.
    Running,
    /// Its release answered, or still does.
    Completed,
    /// It failed or was stopped.
    Failed,
}

impl DeploymentStatus {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }
}

/// What the journal keeps of a deployment's request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case")]
enum Source {
    Git { url: String, reference: String, force: bool },
    Blob { blob: String, force: bool },
}

/// Failures that are the deployer's, with codes that faces may show as such.
const CALLER_FAULTS: &[&str] = &[
    "no_source",
    "clone_failed",
    "manifest_missing",
    "manifest_invalid",
    "entrypoint_missing",
    "install_failed",
    "build_failed",
    "archive_refused",
    "stopped",
];

impl CodeAgents {
    /// Deploys an agent's source and waits for the end, at most as long as asked. A second identical request joins a
    /// deployment that is under way.
    ///
    /// # Errors
    /// [`Kind::Conflict`] when there is no source, another deployment is under way, or the build failed through the
    /// deployer's fault; [`Kind::NotFound`].
    pub async fn deploy(&self, caller: &Caller, slug: &str, request: DeployRequest) -> Result<Deployed, Error> {
        caller.require(Scope::Agents)?;
        for (field, reference) in [("git_branch", &request.git_branch), ("git_commit", &request.git_commit)] {
            if reference.as_deref().is_some_and(|reference| !super::agent::is_git_ref(reference)) {
                return Err(Error::invalid(field, "is not a valid branch or commit"));
            }
        }
        let agent = self.find(caller, slug).await?;
        let source = self.source_of(&agent, &request).await?;
        let run = self.start_deployment(&agent, source, None).await?;
        self.await_deployment(run, request.wait).await
    }

    async fn source_of(&self, agent: &Agent, request: &DeployRequest) -> Result<Source, Error> {
        let no_source =
            || Error::new(Kind::Conflict, "no_source", "Agent has no source; set git_repo_url or upload code");
        match agent.source_type {
            SourceType::Git => {
                let url = agent.git_repo_url.clone().ok_or_else(no_source)?;
                let reference = request.git_commit.clone().or_else(|| request.git_branch.clone());
                Ok(Source::Git {
                    url,
                    reference: reference.unwrap_or_else(|| agent.git_branch.clone()),
                    force: request.force,
                })
            }
            SourceType::Local => {
                let blob = match &agent.pending_source {
                    Some(blob) => blob.clone(),
                    None => {
                        let mut connection = self.db.read().await?;
                        let releases = store::releases(&mut connection, &agent.id).await?;
                        releases.into_iter().next().ok_or_else(no_source)?.source_blob
                    }
                };
                Ok(Source::Blob { blob, force: request.force })
            }
        }
    }

    /// Takes an archive of code as the agent's source and, if asked, deploys it (spec/castari.md 8.11).
    ///
    /// # Errors
    /// Those of [`CodeAgents::deploy`], and `archive_refused` with the reason.
    pub async fn upload(
        &self,
        caller: &Caller,
        slug: &str,
        archive: PathBuf,
        auto_deploy: bool,
        wait: Duration,
    ) -> Result<Uploaded, Error> {
        caller.require(Scope::Agents)?;
        let agent = self.find(caller, slug).await?;
        let (source_hash, blob) = self.take_archive(archive).await?;
        if !auto_deploy {
            let (id, now) = (agent.id.clone(), self.clock.now());
            let agent = self.db.write(move |tx| Box::pin(async move { take_source(tx, &id, blob, now).await })).await?;
            let message = String::from("Code uploaded");
            let agent = self.with_model(agent);
            return Ok(Uploaded { agent, source_hash, message, is_deploying: false, deployment_id: None });
        }
        // It becomes the agent's source with the deployment's start: a refused one changes nothing.
        let run = self.start_deployment(&agent, Source::Blob { blob: blob.clone(), force: false }, Some(blob)).await?;
        let deployed = self.await_deployment(run, wait).await?;
        let message = if deployed.finished { "Code uploaded and deployed" } else { "Code uploaded, deploying" };
        Ok(Uploaded {
            agent: deployed.agent,
            source_hash,
            message: message.to_owned(),
            is_deploying: !deployed.finished,
            deployment_id: Some(deployed.deployment_id),
        })
    }

    /// Checks an archive, and keeps its project packed in our own way. Returns content hash and blob.
    async fn take_archive(&self, archive: PathBuf) -> Result<(String, String), Error> {
        let _turn = self.unpacking.acquire().await.map_err(Error::internal)?;
        let staging = self.layers.stage().map_err(Error::from_disk)?;
        let tree = staging.folder("tree")?;
        let packed = staging.path().join("packed");
        let (hash, packed) = blocking(move || {
            source::unpack(&archive, &tree)?;
            let project = source::project_root(&tree)?;
            let hash = source::hash(&project)?;
            source::pack(&project, std::fs::File::create(&packed).map_err(Error::from_disk)?)
                .map_err(Error::from_disk)?;
            Ok((hash, packed))
        })
        .await?;
        let blob = self.blobs.put_file(&packed).await.map_err(blob_failed)?;
        staging.remove().await;
        Ok((hash, blob.to_string()))
    }

    /// Starts a deployment, or joins one with the same source that is under way. `uploaded` becomes the agent's source
    /// with the start.
    async fn start_deployment(&self, agent: &Agent, source: Source, uploaded: Option<String>) -> Result<Run, Error> {
        // One decision at a time on this node; the check and the start are not one transaction.
        let _one_at_a_time = self.deploying.lock().await;
        let filter = runs::Filter {
            account_id: agent.account_id.clone(),
            kind: DEPLOYMENT,
            subject: Some(agent.id.clone()),
            statuses: vec![Status::Queued, Status::Running],
            ..runs::Filter::default()
        };
        let input = serde_json::to_value(&source).map_err(Error::internal)?;
        let open = self.runs.list(filter, Window { limit: 1, offset: 0 }).await?;
        if let Some(open) = open.items.into_iter().next() {
            if open.input == input {
                return Ok(open);
            }
            return Err(Error::new(Kind::Busy, "deploy_in_progress", "Another deployment of this agent is under way"));
        }
        let (id, now) = (agent.id.clone(), self.clock.now());
        let mark: AtCommit = Box::new(move |tx| {
            Box::pin(async move {
                let mut agent = match uploaded {
                    Some(blob) => take_source(tx, &id, blob, now).await?,
                    None => store::find_to_change(tx, &id).await?.ok_or_else(agent_not_found)?,
                };
                agent.status = AgentStatus::Deploying;
                agent.status_message = Some(String::from("waiting for a worker"));
                agent.updated_at = now;
                store::update_state(tx, &agent).await
            })
        });
        let new = NewRun {
            prefix: "dep",
            kind: DEPLOYMENT,
            account_id: agent.account_id.clone(),
            subject: agent.id.clone(),
            session: None,
            parent_id: None,
            input,
            deadline: Some(Duration::from_secs(1800)),
            idempotency_key: None,
        };
        Ok(self.runs.start(new, Some(mark)).await?.run)
    }

    async fn await_deployment(&self, run: Run, wait: Duration) -> Result<Deployed, Error> {
        let ended = match tokio::time::timeout(wait, self.runs.wait(&run.id)).await {
            Ok(ended) => Some(ended?),
            Err(_) => None,
        };
        if let Some(Run { status: Status::Failed | Status::Stopped, error, .. }) = &ended {
            let failure = error.clone().unwrap_or_else(|| Failure::new("stopped", "The deployment was stopped"));
            return Err(deployment_error(failure));
        }
        let mut connection = self.db.read().await?;
        let agent = store::find(&mut connection, &run.subject).await?.ok_or_else(agent_not_found)?;
        Ok(Deployed { agent: self.with_model(agent), finished: ended.is_some(), deployment_id: run.id })
    }

    /// Deployments of an agent, newest first.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when the agent does not exist.
    pub async fn deployments(&self, caller: &Caller, slug: &str, window: Window) -> Result<Page<Deployment>, Error> {
        caller.require(Scope::Agents)?;
        let agent = self.find(caller, slug).await?;
        let filter = runs::Filter {
            account_id: agent.account_id,
            kind: DEPLOYMENT,
            subject: Some(agent.id),
            ..runs::Filter::default()
        };
        Ok(self.runs.list(filter, window).await?.map(|run| Deployment {
            source_hash: run.output.as_ref().and_then(|output| output.get("source_hash")?.as_str().map(str::to_owned)),
            status: match run.status {
                Status::Queued | Status::Running => DeploymentStatus::Running,
                Status::Completed => DeploymentStatus::Completed,
                Status::Failed | Status::Stopped => DeploymentStatus::Failed,
            },
            message: run.error.map(|failure| failure.message),
            started_at: run.created_at,
            finished_at: run.ended_at,
            id: run.id,
        }))
    }

    /// The build log of a deployment.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when the agent or the deployment does not exist.
    pub async fn deployment_log(&self, caller: &Caller, slug: &str, id: &str) -> Result<Vec<LogLine>, Error> {
        caller.require(Scope::Agents)?;
        let agent = self.find(caller, slug).await?;
        let not_found = || Error::new(Kind::NotFound, "deployment_not_found", "Deployment not found");
        let run = self.runs.get(&caller.account_id, id).await.map_err(|error| match error.kind {
            Kind::NotFound => not_found(),
            _ => error,
        })?;
        if run.kind != DEPLOYMENT || run.subject != agent.id {
            return Err(not_found());
        }
        self.log_of(&caller.account_id, id).await
    }

    /// Lets an earlier release answer again: that of a deployment, or the one before the present.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is no such release; [`Kind::Unavailable`] when its files are gone.
    pub async fn rollback(
        self: &Arc<Self>,
        caller: &Caller,
        slug: &str,
        deployment_id: Option<&str>,
    ) -> Result<Agent, Error> {
        caller.require(Scope::Agents)?;
        let agent = self.find(caller, slug).await?;
        let releases = {
            let mut connection = self.db.read().await?;
            store::releases(&mut connection, &agent.id).await?
        };
        let release = match deployment_id {
            Some(id) => releases.into_iter().find(|release| release.deployment_id == id),
            None => {
                let mut newest_first = releases.into_iter();
                match &agent.release_id {
                    Some(present) => {
                        newest_first.by_ref().find(|release| release.id == *present);
                        newest_first.next()
                    }
                    None => newest_first.next(),
                }
            }
        };
        let release = release.ok_or_else(|| {
            Error::new(Kind::NotFound, "release_not_found", "There is no earlier release to go back to")
        })?;
        let agents = Arc::clone(self);
        super::to_the_end(async move { agents.go_back_to(agent, release).await }).await
    }

    async fn go_back_to(&self, agent: Agent, release: Release) -> Result<Agent, Error> {
        let prepared = self.fresh_sandbox(&agent, &release).await?;
        prepared.destroy().await;
        let (id, now, release_id, source_hash) =
            (agent.id, self.clock.now(), release.id.clone(), release.source_hash.clone());
        let agent = self
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let mut agent = store::find_to_change(tx, &id).await?.ok_or_else(agent_not_found)?;
                    agent.status = AgentStatus::Active;
                    agent.status_message = Some(String::from("Rolled back"));
                    agent.release_id = Some(release_id);
                    agent.source_hash = Some(source_hash);
                    agent.start_failures = 0;
                    agent.updated_at = now;
                    store::update_state(tx, &agent).await?;
                    Ok::<_, Error>(agent)
                })
            })
            .await?;
        self.sessions.discard_agent(&agent.id).await;
        self.prepare(&agent, &release).await?;
        Ok(self.with_model(agent))
    }

    /// Removes layers that no release needs. Not while a deployment is under way, whose release is not there yet: what it
    /// has built stands in its journal, and it goes on from there.
    ///
    /// # Errors
    /// Database and disk failures.
    pub(super) async fn sweep_layers(&self) -> Result<usize, Error> {
        if self.runs.is_any_open(DEPLOYMENT).await? {
            return Ok(0);
        }
        let names = {
            let mut connection = self.db.read().await?;
            store::layers_in_use(&mut connection).await?
        };
        let layers = Arc::clone(&self.layers);
        let in_use: std::collections::HashSet<String> = names.into_iter().collect();
        blocking(move || layers.sweep(&in_use).map_err(Error::from_disk)).await
    }
}

impl CodeAgents {
    /// Frees agents that wait for a deployment that has ended without telling them: it found no worker in time, or its
    /// end could not be stored whole.
    ///
    /// # Errors
    /// Database failures.
    pub(super) async fn free_stuck_agents(&self) -> Result<(), Error> {
        let waiting = {
            let mut connection = self.db.read().await?;
            store::deploying(&mut connection).await?
        };
        for seen in waiting {
            let filter = runs::Filter {
                account_id: seen.account_id.clone(),
                kind: DEPLOYMENT,
                subject: Some(seen.id.clone()),
                statuses: vec![Status::Queued, Status::Running],
                ..runs::Filter::default()
            };
            if self.runs.list(filter, Window { limit: 1, offset: 0 }).await?.total > 0 {
                continue;
            }
            let now = self.clock.now();
            self.db
                .write(move |tx| {
                    Box::pin(async move {
                        let Some(mut agent) = store::find_to_change(tx, &seen.id).await? else { return Ok(()) };
                        // Changed since: the deployment has ended properly, or there is a new one.
                        if agent.status != AgentStatus::Deploying || agent.updated_at != seen.updated_at {
                            return Ok(());
                        }
                        agent.status = without_deployment(&agent);
                        agent.status_message = Some(String::from("The deployment was lost; deploy again"));
                        agent.updated_at = now;
                        store::update_state(tx, &agent).await
                    })
                })
                .await?;
        }
        Ok(())
    }
}

/// What an agent is after a deployment that failed: it falls back to its earlier release, if it has one
/// (spec/castari.md 8.2).
fn without_deployment(agent: &Agent) -> AgentStatus {
    if agent.release_id.is_some() { AgentStatus::Active } else { AgentStatus::Error }
}

/// Executes deployments.
pub(super) struct DeploymentExecutor(pub(super) Weak<CodeAgents>);

/// Deployments that one node builds at a time.
const PARALLEL_BUILDS: usize = 2;

#[async_trait::async_trait]
impl Executor for DeploymentExecutor {
    fn slots(&self) -> usize {
        PARALLEL_BUILDS
    }

    async fn execute(&self, run: &RunContext) -> Outcome {
        let Some(agents) = self.0.upgrade() else {
            return Outcome::failed(Failure::new("shutting_down", "The server is shutting down"));
        };
        match Box::pin(agents.execute_deployment(run)).await {
            Ok(outcome) => outcome,
            Err(error) => agents.failed_deployment(run, error),
        }
    }
}

impl CodeAgents {
    async fn execute_deployment(self: &Arc<Self>, run: &RunContext) -> Result<Outcome, Error> {
        let agent = {
            let mut connection = self.db.read().await?;
            store::find(&mut connection, &run.run().subject).await?.ok_or_else(agent_not_found)?
        };
        // Building is repeatable: layers are named by their content, and nothing is visible before the end.
        let built = run
            .step("build", "build", Effect::Idempotent, Value::Null, async {
                let built = Box::pin(self.build_release(run, &agent)).await?;
                serde_json::to_value(built).map_err(|error| Error::internal(error).into())
            })
            .await
            .map_err(deployment_error)?;
        let built: Built = serde_json::from_value(built).map_err(Error::internal)?;
        let release = Release {
            id: self.ids.next("rel", self.clock.now()),
            account_id: agent.account_id.clone(),
            agent_id: agent.id.clone(),
            deployment_id: run.run().id.clone(),
            source_hash: built.source_hash,
            source_blob: built.source_blob,
            layers: built.layers,
            command: built.command,
            env: built.env,
            created_at: self.clock.now(),
        };
        run.text(runs::Channel::System, "── preparing a sandbox\n").await.map_err(journal_failed)?;
        let sandbox_id = match self.prepare(&agent, &release).await? {
            Some(id) => Some(id),
            None => {
                // No place for a prepared one; that a sandbox starts must be known all the same.
                self.fresh_sandbox(&agent, &release).await?.destroy().await;
                None
            }
        };
        let output = json!({ "source_hash": release.source_hash, "release_id": release.id });
        let now = self.clock.now();
        let agents = Arc::clone(self);
        let at_commit: AtCommit = Box::new(move |tx| {
            Box::pin(async move {
                let Some(mut agent) = store::find_to_change(tx, &release.agent_id).await? else { return Ok(()) };
                store::insert_release(tx, &release).await?;
                // Who stopped the agent meanwhile has the last word.
                if agent.status != AgentStatus::Stopped {
                    agent.status = AgentStatus::Active;
                    agent.status_message = None;
                    agent.sandbox_id = sandbox_id;
                }
                agent.source_hash = Some(release.source_hash.clone());
                if agent.pending_source.as_ref() == Some(&release.source_blob) {
                    agent.pending_source = None;
                }
                agent.release_id = Some(release.id.clone());
                agent.start_failures = 0;
                agent.updated_at = now;
                store::update_state(tx, &agent).await?;
                // State of old sandboxes is lost with a new release (spec/castari.md 13).
                let sessions = Arc::clone(&agents);
                tokio::spawn(async move { sessions.sessions.discard_agent(&agent.id).await });
                Ok(())
            })
        });
        Ok(Outcome { output, failure: None, at_commit: Some(at_commit) })
    }

    async fn build_release(&self, run: &RunContext, agent: &Agent) -> Result<Built, Error> {
        let source: Source = serde_json::from_value(run.run().input.clone()).map_err(Error::internal)?;
        let secrets = self.accounts.open_secrets(&agent.account_id, &agent.id).await?;
        let token = secrets.iter().find(|(name, _)| name == GIT_TOKEN).map(|(_, value)| value.clone());
        let redactor = Redactor::new(&secrets);
        // Secrets are absent from builds, except those meant for them (spec/castari.md 9.4).
        let env = secrets
            .iter()
            .filter(|(name, _)| name.starts_with("BUILD_"))
            .map(|(name, value)| (name.clone(), value.expose().to_owned()))
            .collect();
        let force = matches!(source, Source::Git { force: true, .. } | Source::Blob { force: true, .. });
        let build = Build { agents: self, run, agent, env, redactor, force };
        build.tell("fetching source").await?;
        let staging = self.layers.stage().map_err(Error::from_disk)?;
        let tree = staging.folder("tree")?;
        let (source_hash, source_blob) = match &source {
            Source::Git { url, reference, .. } => {
                let token = token.as_ref().map(crate::accounts::SecretString::expose);
                let commit = build.fetch_git(url, reference, &tree, token).await?;
                let packed = staging.path().join("packed");
                let (from, to) = (tree.clone(), packed.clone());
                blocking(move || {
                    let file = std::fs::File::create(&to).map_err(Error::from_disk)?;
                    source::pack(&source::project_root(&from)?, file).map_err(Error::from_disk)
                })
                .await?;
                (commit, self.blobs.put_file(&packed).await.map_err(blob_failed)?.to_string())
            }
            Source::Blob { blob, .. } => {
                let packed = self.blobs.path_of(blob).map_err(blob_failed)?;
                let into = tree.clone();
                let hash = blocking(move || {
                    source::unpack(&packed, &into)?;
                    source::hash(&into)
                })
                .await?;
                (hash, blob.clone())
            }
        };
        let (project, content) = {
            let tree = tree.clone();
            blocking(move || {
                let project = source::project_root(&tree)?;
                let content = source::hash(&project)?;
                Ok((project, content))
            })
            .await?
        };
        let (layers, manifest) = build.build(&project, &content).await?;
        Ok(Built {
            source_hash,
            source_blob,
            layers,
            command: manifest.command(&tsx_module()),
            env: manifest.env.into_iter().collect(),
        })
    }

    /// The agent falls back to its earlier release, or shows the error (spec/castari.md 8.2).
    fn failed_deployment(self: &Arc<Self>, run: &RunContext, error: Error) -> Outcome {
        let (agent_id, now) = (run.run().subject.clone(), self.clock.now());
        let message = error.public.clone();
        let agents = Arc::clone(self);
        let at_commit: AtCommit = Box::new(move |tx| {
            Box::pin(async move {
                let Some(mut agent) = store::find_to_change(tx, &agent_id).await? else { return Ok(()) };
                if agent.status == AgentStatus::Deploying {
                    agent.status = without_deployment(&agent);
                }
                if agent.status != AgentStatus::Stopped {
                    agent.status_message = Some(message);
                }
                agent.updated_at = now;
                store::update_state(tx, &agent).await?;
                if agent.status == AgentStatus::Active {
                    agents.prepare_soon(agent.id);
                }
                Ok(())
            })
        });
        Outcome { at_commit: Some(at_commit), ..Outcome::from(error) }
    }
}

/// Makes uploaded code the source of the next deployment.
async fn take_source(tx: &mut backlot_db::Tx, id: &str, blob: String, now: Timestamp) -> Result<Agent, Error> {
    let mut agent = store::find_to_change(tx, id).await?.ok_or_else(agent_not_found)?;
    agent.pending_source = Some(blob);
    agent.source_type = SourceType::Local;
    agent.updated_at = now;
    store::update_state(tx, &agent).await?;
    Ok(agent)
}

/// What a failed deployment means to whoever waits for it.
fn deployment_error(failure: Failure) -> Error {
    match CALLER_FAULTS.iter().find(|code| **code == failure.code) {
        Some(code) => Error::new(Kind::Conflict, code, failure.message),
        None if failure.code == "storage_full" => Error::new(Kind::Unavailable, "storage_full", failure.message),
        None => Error::new(Kind::Internal, "deploy_failed", failure.message),
    }
}

pub(super) fn journal_failed(failure: Failure) -> Error {
    Error::internal(anyhow::anyhow!("{}: {}", failure.code, failure.message))
}

fn blob_failed(error: backlot_blobs::Error) -> Error {
    match error {
        backlot_blobs::Error::Full(_) => Error::from_disk(std::io::ErrorKind::StorageFull.into()),
        other => Error::internal(other),
    }
}
