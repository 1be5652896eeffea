//! Creating, reading, changing, stopping and removing agents.

use std::sync::Arc;

use super::{
    Agent, AgentPatch, AgentStatus, CodeAgents, NetworkMode, NewAgent, SourceType,
    agent::{self, Candidate},
    store,
};
use crate::{
    Error, Kind,
    accounts::{Caller, Scope},
    page::{Page, Window},
};

/// Asked for where nothing is configured yet (spec/castari.md 8.1).
const FALLBACK_MODEL: &str = "claude-sonnet-4-5-20250929";
/// Derived slugs that are tried before giving up.
const MOST_SUFFIXES: u32 = 1000;

impl CodeAgents {
    /// Creates an agent that waits for its first deployment (spec/castari.md 8.4).
    ///
    /// # Errors
    /// [`Kind::Invalid`] with every wrong field; [`Kind::Conflict`] when an explicit slug is taken.
    pub async fn create(&self, caller: &Caller, new: NewAgent) -> Result<Agent, Error> {
        caller.require(Scope::Agents)?;
        Candidate {
            name: Some(&new.name),
            slug: new.slug.as_deref(),
            description: new.description.as_deref(),
            git_repo_url: new.git_repo_url.as_deref(),
            git_branch: new.git_branch.as_deref(),
            default_model: new.default_model.as_deref(),
            max_turns: new.max_turns,
            timeout_seconds: new.timeout_seconds,
            config: new.config.as_ref(),
        }
        .check()?;
        let now = self.clock.now();
        let mut agent = Agent {
            id: self.ids.next("agt", now),
            account_id: caller.account_id.to_string(),
            slug: new.slug.clone().unwrap_or_else(|| self.derive_slug(&new.name)),
            name: new.name.trim().to_owned(),
            description: new.description,
            source_type: new.source_type.unwrap_or(SourceType::Git),
            git_repo_url: new.git_repo_url,
            git_branch: new.git_branch.unwrap_or_else(|| String::from("main")),
            source_hash: None,
            default_model: new.default_model.unwrap_or_default(),
            max_turns: new.max_turns.unwrap_or(50),
            timeout_seconds: new.timeout_seconds.unwrap_or(120),
            config: new.config.unwrap_or_default(),
            network: new.network.unwrap_or(NetworkMode::Public),
            status: AgentStatus::Draft,
            status_message: None,
            sandbox_id: None,
            release_id: None,
            pending_source: None,
            start_failures: 0,
            created_at: now,
            updated_at: now,
        };
        let is_derived = new.slug.is_none();
        let created = self
            .db
            .write(move |tx| {
                Box::pin(async move {
                    if is_derived {
                        agent.slug = free_slug(tx, &agent).await?;
                    } else if store::find_by_slug(tx, &agent.account_id, &agent.slug).await?.is_some() {
                        return Err(slug_taken(&agent.slug));
                    }
                    store::insert(tx, &agent).await.map_err(|error| match error {
                        // Lost a race for the slug against another process.
                        backlot_db::Error::Unique { .. } => slug_taken(&agent.slug),
                        other => other.into(),
                    })?;
                    Ok(agent)
                })
            })
            .await?;
        Ok(self.with_model(created))
    }

    /// An agent as others see it: whose owner named no model asks for the server's default of today, so that an agent
    /// made for the local model asks the provider that was configured since.
    pub(super) fn with_model(&self, mut agent: Agent) -> Agent {
        if agent.default_model.is_empty() {
            agent.default_model = self.models.default_model().unwrap_or_else(|| FALLBACK_MODEL.to_owned());
        }
        agent
    }

    fn derive_slug(&self, name: &str) -> String {
        let slug = agent::slug_of(name);
        if slug.is_empty() {
            return format!("agent-{}", self.ids.base62(6).to_lowercase());
        }
        if agent::is_reserved(&slug) { format!("{slug}-agent") } else { slug }
    }

    /// Agents of the account, newest first.
    ///
    /// # Errors
    /// Database failures.
    pub async fn list(
        &self,
        caller: &Caller,
        status: Option<AgentStatus>,
        window: Window,
    ) -> Result<Page<Agent>, Error> {
        caller.require(Scope::Agents)?;
        let mut connection = self.db.read().await?;
        let page = store::list(&mut connection, &caller.account_id, status, window).await?;
        Ok(page.map(|agent| self.with_model(agent)))
    }

    /// One agent.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when it does not exist or is somebody else's.
    pub async fn get(&self, caller: &Caller, slug: &str) -> Result<Agent, Error> {
        caller.require(Scope::Agents)?;
        self.find(caller, slug).await
    }

    pub(super) async fn find(&self, caller: &Caller, slug: &str) -> Result<Agent, Error> {
        let mut connection = self.db.read().await?;
        let agent = store::find_by_slug(&mut connection, &caller.account_id, slug).await?;
        agent.map(|agent| self.with_model(agent)).ok_or_else(agent_not_found)
    }

    /// Changes settings. Limits and model apply from the next invocation, source settings from the next deployment
    /// (spec/castari.md 8.6).
    ///
    /// # Errors
    /// [`Kind::Invalid`] with every wrong field; [`Kind::NotFound`].
    pub async fn update(&self, caller: &Caller, slug: &str, patch: AgentPatch) -> Result<Agent, Error> {
        caller.require(Scope::Agents)?;
        Candidate {
            name: patch.name.as_deref(),
            slug: None,
            description: patch.description.as_ref().and_then(Option::as_deref),
            git_repo_url: patch.git_repo_url.as_deref(),
            git_branch: patch.git_branch.as_deref(),
            default_model: patch.default_model.as_deref(),
            max_turns: patch.max_turns,
            timeout_seconds: patch.timeout_seconds,
            config: patch.config.as_ref(),
        }
        .check()?;
        let (account_id, slug, now) = (Arc::clone(&caller.account_id), slug.to_owned(), self.clock.now());
        let (agent, network_changed) = self
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let mut agent = store::find_by_slug(tx, &account_id, &slug).await?.ok_or_else(agent_not_found)?;
                    let network_changed = patch.network.is_some_and(|network| network != agent.network);
                    apply(&mut agent, patch);
                    agent.updated_at = now;
                    store::update_settings(tx, &agent).await?;
                    Ok::<_, Error>((agent, network_changed))
                })
            })
            .await?;
        if network_changed {
            // Prepared sandboxes have the old reach.
            self.pool.discard(&agent.id).await;
        }
        Ok(self.with_model(agent))
    }

    /// Stops an agent: ends its invocations, destroys its sandboxes, refuses invocations until it is deployed again
    /// (spec/castari.md 8.7). Stopping a stopped agent does nothing.
    ///
    /// # Errors
    /// [`Kind::Conflict`] for an agent that was never deployed; [`Kind::NotFound`].
    pub async fn stop(self: &Arc<Self>, caller: &Caller, slug: &str) -> Result<Agent, Error> {
        caller.require(Scope::Agents)?;
        let agent = self.find(caller, slug).await?;
        let agents = Arc::clone(self);
        super::to_the_end(async move {
            let agent = agents.refuse_invocations(agent, "Stopped").await?;
            agents.end_everything_of(&agent).await?;
            Ok(agents.with_model(agent))
        })
        .await
    }

    /// From here on an agent answers no invocations.
    async fn refuse_invocations(&self, agent: Agent, reason: &'static str) -> Result<Agent, Error> {
        let (id, now) = (agent.id, self.clock.now());
        self.db
            .write(move |tx| {
                Box::pin(async move {
                    let mut agent = store::find_to_change(tx, &id).await?.ok_or_else(agent_not_found)?;
                    match agent.status {
                        AgentStatus::Draft => return Err(agent_not_active()),
                        AgentStatus::Stopped => return Ok(agent),
                        AgentStatus::Deploying | AgentStatus::Active | AgentStatus::Error => {}
                    }
                    agent.status = AgentStatus::Stopped;
                    agent.status_message = Some(reason.to_owned());
                    agent.sandbox_id = None;
                    agent.updated_at = now;
                    store::update_state(tx, &agent).await?;
                    Ok(agent)
                })
            })
            .await
    }

    /// Ends the runs of an agent, destroys its sandboxes, removes the files of its sessions.
    async fn end_everything_of(&self, agent: &Agent) -> Result<(), Error> {
        self.end_runs_of(agent, None).await?;
        self.pool.discard(&agent.id).await;
        self.sessions.discard_agent(&agent.id).await;
        self.forget_session_files(&agent.id).await
    }

    /// Removes an agent with its secrets, sessions, releases and history. Daily usage stays (spec/castari.md 8.8).
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub async fn delete(self: &Arc<Self>, caller: &Caller, slug: &str) -> Result<(), Error> {
        caller.require(Scope::Agents)?;
        let agent = self.find(caller, slug).await?;
        let agents = Arc::clone(self);
        super::to_the_end(async move {
            // First, so that no run begins that would outlive its agent. A draft has none.
            let agent = match agents.refuse_invocations(agent.clone(), "Being removed").await {
                Err(error) if error.kind == Kind::Conflict => agent,
                other => other?,
            };
            agents.end_everything_of(&agent).await?;
            let (account_id, id) = (agent.account_id, agent.id);
            agents
                .db
                .write(move |tx| {
                    Box::pin(async move {
                        crate::accounts::delete_secrets_of(tx, &account_id, &id).await?;
                        crate::runs::forget_subject(tx, &account_id, &id).await?;
                        store::delete(tx, &id).await
                    })
                })
                .await
        })
        .await
    }

    /// Stops every run of an agent, or of one of its sessions, and waits for their ends.
    pub(super) async fn end_runs_of(&self, agent: &Agent, session: Option<&str>) -> Result<(), Error> {
        for kind in [super::INVOCATION, super::DEPLOYMENT] {
            loop {
                let filter = crate::runs::Filter {
                    account_id: agent.account_id.clone(),
                    kind,
                    subject: Some(agent.id.clone()),
                    session: session.map(str::to_owned),
                    statuses: vec![crate::runs::Status::Queued, crate::runs::Status::Running],
                    ..crate::runs::Filter::default()
                };
                let open = self.runs.list(filter, Window { limit: 100, offset: 0 }).await?;
                if open.items.is_empty() {
                    break;
                }
                for run in &open.items {
                    self.runs.stop(&run.id).await?;
                }
                for run in &open.items {
                    self.runs.wait(&run.id).await?;
                }
            }
        }
        Ok(())
    }
}

fn apply(agent: &mut Agent, patch: AgentPatch) {
    if let Some(name) = patch.name {
        name.trim().clone_into(&mut agent.name);
    }
    if let Some(description) = patch.description {
        agent.description = description;
    }
    if let Some(url) = patch.git_repo_url {
        agent.git_repo_url = Some(url);
        agent.source_type = SourceType::Git;
    }
    if let Some(branch) = patch.git_branch {
        agent.git_branch = branch;
    }
    if let Some(model) = patch.default_model {
        agent.default_model = model;
    }
    if let Some(turns) = patch.max_turns {
        agent.max_turns = turns;
    }
    if let Some(seconds) = patch.timeout_seconds {
        agent.timeout_seconds = seconds;
    }
    if let Some(config) = patch.config {
        agent.config = config;
    }
    if let Some(network) = patch.network {
        agent.network = network;
    }
}

/// The derived slug, or the first of `-2`, `-3` … that is free.
async fn free_slug(tx: &mut backlot_db::Tx, agent: &Agent) -> Result<String, Error> {
    for suffix in 1..MOST_SUFFIXES {
        let slug = if suffix == 1 {
            agent.slug.clone()
        } else {
            let ending = format!("-{suffix}");
            let stem = agent.slug.get(..agent.slug.len().min(100 - ending.len())).unwrap_or_default();
            format!("{}{ending}", stem.trim_end_matches('-'))
        };
        if store::find_by_slug(tx, &agent.account_id, &slug).await?.is_none() {
            return Ok(slug);
        }
    }
    Err(slug_taken(&agent.slug))
}

pub(super) fn agent_not_found() -> Error {
    Error::new(Kind::NotFound, "agent_not_found", "Agent not found")
}

pub(super) fn agent_not_active() -> Error {
    Error::new(Kind::Conflict, "agent_not_active", "Agent not active")
}

fn slug_taken(slug: &str) -> Error {
    Error::new(Kind::Conflict, "slug_taken", format!("Agent with slug '{slug}' already exists"))
}
