//! Prepared sandboxes: made ahead, used once, holding no secret (spec/castari.md 11).

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use backlot_sandbox::{Egress, Network, Sandbox, Spec};

use super::{
    Agent, CodeAgents, NetworkMode,
    layers::Staging,
    store::{self, Release},
};
use crate::{Error, Kind, Timestamp};

/// A sandbox together with its scratch space. Dropping it kills what runs inside and removes the files.
pub(super) struct Prepared {
    pub(super) id: String,
    pub(super) sandbox: Box<dyn Sandbox>,
    /// Absent for sessions, whose files stay.
    pub(super) scratch: Option<Staging>,
}

impl Prepared {
    /// Ends everything inside, then removes the files.
    pub(super) async fn destroy(self) {
        let Self { sandbox, scratch, .. } = self;
        sandbox.destroy().await;
        if tokio::task::spawn_blocking(move || drop(scratch)).await.is_err() {
            tracing::warn!("removing the files of a sandbox panicked");
        }
    }
}

/// The prepared sandboxes of one node.
#[derive(Default)]
pub(super) struct Pool {
    agents: Mutex<HashMap<String, Shelf>>,
}

/// What is prepared for one agent.
struct Shelf {
    release_id: String,
    ready: Vec<Prepared>,
    /// Sandboxes that are being made.
    coming: usize,
    last_used: Timestamp,
}

impl Pool {
    /// Takes a sandbox of this release, if one is ready.
    pub(super) fn take(&self, agent_id: &str, release_id: &str, now: Timestamp) -> Option<Prepared> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let shelf = agents.get_mut(agent_id).filter(|shelf| shelf.release_id == release_id)?;
        shelf.last_used = now;
        let taken = shelf.ready.pop();
        show(&agents);
        taken
    }

    /// Asks for a place to put a new sandbox; refused when there are enough.
    fn reserve(&self, agent_id: &str, release_id: &str, per_agent: usize, total: usize, now: Timestamp) -> bool {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = agents.values().map(|shelf| shelf.ready.len() + shelf.coming).sum();
        let shelf = agents.entry(agent_id.to_owned()).or_insert_with(|| Shelf {
            release_id: release_id.to_owned(),
            ready: Vec::new(),
            coming: 0,
            last_used: now,
        });
        if shelf.release_id != release_id || all >= total || shelf.ready.len() + shelf.coming >= per_agent {
            return false;
        }
        shelf.coming += 1;
        true
    }

    /// Puts a new sandbox where a place was reserved; gives it back when the release has changed meanwhile.
    fn put(&self, agent_id: &str, release_id: &str, made: Option<Prepared>) -> Option<Prepared> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(shelf) = agents.get_mut(agent_id).filter(|shelf| shelf.release_id == release_id) else { return made };
        shelf.coming = shelf.coming.saturating_sub(1);
        shelf.ready.extend(made);
        show(&agents);
        None
    }

    /// Destroys what is prepared for an agent.
    pub(super) async fn discard(&self, agent_id: &str) {
        let shelf = {
            let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
            let shelf = agents.remove(agent_id);
            show(&agents);
            shelf
        };
        for prepared in shelf.into_iter().flat_map(|shelf| shelf.ready) {
            prepared.destroy().await;
        }
    }

    /// Agents whose sandboxes nobody used since `before`.
    fn idle(&self, before: Timestamp) -> Vec<String> {
        let agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        agents.iter().filter(|(_, shelf)| shelf.last_used < before).map(|(id, _)| id.clone()).collect()
    }

    /// How many sandboxes are ready.
    pub(super) fn ready(&self) -> usize {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner).values().map(|shelf| shelf.ready.len()).sum()
    }

    /// Destroys everything.
    pub(super) async fn clear(&self) {
        let ids: Vec<String> = self.agents.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        for id in ids {
            self.discard(&id).await;
        }
    }
}

/// Tells operators how many sandboxes are ready.
fn show(agents: &HashMap<String, Shelf>) {
    let ready: u32 = agents.values().map(|shelf| u32::try_from(shelf.ready.len()).unwrap_or(u32::MAX)).sum();
    metrics::gauge!("backlot_sandboxes", "use" => "prepared").set(f64::from(ready));
}

impl CodeAgents {
    /// Makes one fresh sandbox of a release.
    pub(super) async fn fresh_sandbox(&self, agent: &Agent, release: &Release) -> Result<Prepared, Error> {
        let staging = self.layers.stage().map_err(Error::from_disk)?;
        let scratch = staging.path().to_owned();
        let (id, sandbox) = self.sandbox_of(agent, release, scratch).await?;
        Ok(Prepared { id, sandbox, scratch: Some(staging) })
    }

    /// Makes a sandbox of a release over a scratch folder.
    pub(super) async fn sandbox_of(
        &self,
        agent: &Agent,
        release: &Release,
        scratch: PathBuf,
    ) -> Result<(String, Box<dyn Sandbox>), Error> {
        if let Some(missing) = release.layers.iter().find(|layer| !self.layers.exists(layer)) {
            return Err(Error::new(
                Kind::Unavailable,
                "layer_missing",
                "The built code of this agent is not on this server any more; deploy it again",
            )
            .because(anyhow::anyhow!("layer {missing} of release {} is missing", release.id)));
        }
        let id = self.ids.next("sbx", self.clock.now());
        let spec = Spec {
            id: id.clone(),
            layers: release.layers.iter().map(|layer| self.layers.path(layer)).collect(),
            scratch,
            read_only: Vec::new(),
            limits: self.settings.limits.clone(),
            network: Network {
                egress: match agent.network {
                    NetworkMode::Public => Egress::Public,
                    NetworkMode::None => Egress::None,
                },
                gateway: self.settings.gateway,
                allow: self.settings.allow_networks.clone(),
            },
        };
        let sandbox = self.driver.create(spec).await.map_err(start_failed)?;
        Ok((id, sandbox))
    }

    /// Prepares as many sandboxes of an agent's release as there should be. Returns the id of one of them.
    pub(super) async fn prepare(&self, agent: &Agent, release: &Release) -> Result<Option<String>, Error> {
        let mut last = None;
        loop {
            let now = self.clock.now();
            let (per_agent, total) = (self.settings.warm_per_agent, self.settings.warm_total);
            if !self.pool.reserve(&agent.id, &release.id, per_agent, total, now) {
                return Ok(last);
            }
            let made = match self.fresh_sandbox(agent, release).await {
                Ok(made) => made,
                Err(error) => {
                    self.pool.put(&agent.id, &release.id, None);
                    return Err(error);
                }
            };
            last = Some(made.id.clone());
            if let Some(outdated) = self.pool.put(&agent.id, &release.id, Some(made)) {
                outdated.destroy().await;
                return Ok(None);
            }
        }
    }

    /// Prepares sandboxes in the background.
    pub(super) fn prepare_soon(self: &Arc<Self>, agent: Agent, release: Release) {
        let agents = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = agents.prepare(&agent, &release).await {
                tracing::warn!(agent.id = agent.id, ?error, "no sandbox could be prepared");
            }
        });
    }

    /// Prepares sandboxes for the agents that were used last, after a start.
    ///
    /// # Errors
    /// Database failures.
    pub async fn warm_up(self: &Arc<Self>) -> Result<(), Error> {
        let limit = u32::try_from(self.settings.warm_total).unwrap_or(u32::MAX);
        let mut connection = self.db.read().await?;
        for agent in store::active(&mut connection, limit).await? {
            if let Some(release_id) = &agent.release_id
                && let Some(release) = store::find_release(&mut connection, release_id).await?
            {
                self.prepare_soon(agent, release);
            }
        }
        Ok(())
    }

    /// Destroys the sandboxes of agents that nobody has invoked for long.
    pub(super) async fn discard_idle(&self) {
        let idle = i64::try_from(self.settings.warm_idle.as_millis()).unwrap_or(i64::MAX);
        for agent_id in self.pool.idle(Timestamp(self.clock.now().0.saturating_sub(idle))) {
            self.pool.discard(&agent_id).await;
        }
    }

    /// How many sandboxes are ready to be used.
    #[must_use]
    pub fn prepared_sandboxes(&self) -> usize {
        self.pool.ready()
    }
}

/// A sandbox could not be made or used: a fault of the platform, not of the program.
pub(super) fn start_failed(error: backlot_sandbox::Error) -> Error {
    let kind = match error {
        backlot_sandbox::Error::Unsupported(_) => Kind::Unavailable,
        _ => Kind::Internal,
    };
    Error::new(kind, "start_failed", "The sandbox could not be started").because(error)
}
