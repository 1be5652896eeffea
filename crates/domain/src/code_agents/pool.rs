//! Prepared sandboxes: made ahead, used once, holding no secret (spec/castari.md 11).

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use backlot_sandbox::{Egress, Network, Sandbox, Spec};

use super::{
    Agent, AgentStatus, CodeAgents, NetworkMode,
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
        if let Some(scratch) = scratch {
            scratch.remove().await;
        }
    }
}

/// What decides whether a sandbox fits an agent as it is now: its release and its reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Make {
    release_id: String,
    network: NetworkMode,
}

impl Make {
    pub(super) fn of(agent: &Agent, release: &Release) -> Self {
        Self { release_id: release.id.clone(), network: agent.network }
    }
}

/// The prepared sandboxes of one node.
#[derive(Default)]
pub(super) struct Pool {
    agents: Mutex<HashMap<String, Shelf>>,
    shelves: AtomicU64,
}

/// What is prepared for one agent.
struct Shelf {
    /// Tells this shelf from an earlier one of the same agent.
    number: u64,
    make: Make,
    ready: Vec<Prepared>,
    /// Sandboxes that are being made.
    coming: usize,
    last_used: Timestamp,
}

/// A place that is kept for a sandbox in the making; given back when it is dropped.
struct Place<'a> {
    pool: &'a Pool,
    agent_id: String,
    shelf: u64,
}

impl Place<'_> {
    /// Puts the sandbox there; gives it back when the shelf is gone.
    fn fill(self, made: Prepared) -> Option<Prepared> {
        let mut agents = self.pool.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(shelf) = agents.get_mut(&self.agent_id).filter(|shelf| shelf.number == self.shelf) else {
            drop(agents);
            return Some(made);
        };
        shelf.ready.push(made);
        show(&agents);
        drop(agents);
        None
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut agents = self.pool.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shelf) = agents.get_mut(&self.agent_id).filter(|shelf| shelf.number == self.shelf) {
            shelf.coming = shelf.coming.saturating_sub(1);
        }
    }
}

impl Pool {
    /// Takes a sandbox of this make, if one is ready.
    pub(super) fn take(&self, agent_id: &str, make: &Make, now: Timestamp) -> Option<Prepared> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let shelf = agents.get_mut(agent_id).filter(|shelf| shelf.make == *make)?;
        shelf.last_used = now;
        let taken = shelf.ready.pop();
        show(&agents);
        taken
    }

    /// Asks for a place to put a new sandbox; refused when there are enough. Also returns sandboxes of another make,
    /// which have lost their place.
    fn reserve(
        &self,
        agent_id: &str,
        make: &Make,
        per_agent: usize,
        total: usize,
        now: Timestamp,
    ) -> (Option<Place<'_>>, Vec<Prepared>) {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let outdated = match agents.get(agent_id) {
            Some(shelf) if shelf.make != *make => agents.remove(agent_id).map(|shelf| shelf.ready).unwrap_or_default(),
            _ => Vec::new(),
        };
        let all: usize = agents.values().map(|shelf| shelf.ready.len() + shelf.coming).sum();
        let shelf = agents.entry(agent_id.to_owned()).or_insert_with(|| Shelf {
            number: self.shelves.fetch_add(1, Ordering::Relaxed),
            make: make.clone(),
            ready: Vec::new(),
            coming: 0,
            last_used: now,
        });
        if all >= total || shelf.ready.len() + shelf.coming >= per_agent {
            return (None, outdated);
        }
        shelf.coming += 1;
        let place = Place { pool: self, agent_id: agent_id.to_owned(), shelf: shelf.number };
        (Some(place), outdated)
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
        let make = Make::of(agent, release);
        let mut last = None;
        loop {
            let now = self.clock.now();
            let (per_agent, total) = (self.settings.warm_per_agent, self.settings.warm_total);
            let (place, outdated) = self.pool.reserve(&agent.id, &make, per_agent, total, now);
            for prepared in outdated {
                prepared.destroy().await;
            }
            let Some(place) = place else { return Ok(last) };
            let made = self.fresh_sandbox(agent, release).await?;
            last = Some(made.id.clone());
            if let Some(outdated) = place.fill(made) {
                outdated.destroy().await;
                return Ok(None);
            }
        }
    }

    /// Prepares sandboxes of what the agent is by then, in the background.
    pub(super) fn prepare_soon(self: &Arc<Self>, agent_id: String) {
        let agents = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = agents.prepare_present(&agent_id).await {
                tracing::warn!(agent.id = agent_id, ?error, "no sandbox could be prepared");
            }
        });
    }

    async fn prepare_present(&self, agent_id: &str) -> Result<(), Error> {
        let Some((agent, release)) = self.present(agent_id).await? else { return Ok(()) };
        self.prepare(&agent, &release).await?;
        // It may have been stopped or removed meanwhile, and looked for its sandboxes before there was this one.
        if self.present(agent_id).await?.is_none() {
            self.pool.discard(agent_id).await;
        }
        Ok(())
    }

    /// An agent that answers invocations, and the release that does.
    async fn present(&self, agent_id: &str) -> Result<Option<(Agent, Release)>, Error> {
        let mut connection = self.db.read().await?;
        let Some(agent) = store::find(&mut connection, agent_id).await? else { return Ok(None) };
        if !matches!(agent.status, AgentStatus::Active | AgentStatus::Deploying) {
            return Ok(None);
        }
        let Some(release_id) = &agent.release_id else { return Ok(None) };
        let release = store::find_release(&mut connection, release_id).await?;
        Ok(release.map(|release| (agent, release)))
    }

    /// Prepares sandboxes for the agents that were used last, after a start.
    ///
    /// # Errors
    /// Database failures.
    pub async fn warm_up(self: &Arc<Self>) -> Result<(), Error> {
        let limit = u32::try_from(self.settings.warm_total).unwrap_or(u32::MAX);
        let mut connection = self.db.read().await?;
        for agent in store::active(&mut connection, limit).await? {
            self.prepare_soon(agent.id);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn make(release: &str, network: NetworkMode) -> Make {
        Make { release_id: release.to_owned(), network }
    }

    fn reserve<'a>(pool: &'a Pool, make: &Make) -> Option<Place<'a>> {
        pool.reserve("agt_a", make, 1, 8, Timestamp(0)).0
    }

    #[test]
    fn a_place_that_is_not_filled_is_given_back() {
        let pool = Pool::default();
        let make = make("rel_1", NetworkMode::Public);
        let place = reserve(&pool, &make).expect("the first");
        assert!(reserve(&pool, &make).is_none());
        // As when whoever made the sandbox was dropped in the middle.
        drop(place);
        assert!(reserve(&pool, &make).is_some());
    }

    #[test]
    fn what_an_agent_was_does_not_stand_in_the_way_of_what_it_is() {
        let pool = Pool::default();
        let places =
            [make("rel_1", NetworkMode::Public), make("rel_1", NetworkMode::None), make("rel_2", NetworkMode::None)]
                .map(|make| (reserve(&pool, &make).expect("a place"), make));
        let [(first, _), (_, _), (_last, last)] = places;
        // A place on a shelf that is gone frees none on the present one.
        drop(first);
        assert!(reserve(&pool, &last).is_none());
    }
}
