//! Sessions: several invocations in one sandbox, one after the other (spec/castari.md 13).
//!
//! A session's files live in a folder of their own and outlast the sandbox: after some idle time the sandbox is put
//! away and made again over the same files at the next turn, also after a restart of the server. A new release or a
//! stop begins with empty files.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use super::{
    Agent, CodeAgents, build,
    pool::{Make, Prepared},
    store::{self, Release},
};
use crate::{
    Error, Kind, Timestamp,
    accounts::{Caller, Scope},
    page::{Page, Window},
};

/// A session of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The caller's name for it.
    pub id: String,
    /// The agent it belongs to.
    pub agent_id: String,
    /// The sandbox of its last turn.
    pub sandbox_id: Option<String>,
    /// When it was first used.
    pub created_at: Timestamp,
    /// When it was last used.
    pub last_invocation_at: Option<Timestamp>,
}

type Key = (String, String);

/// Sandboxes of sessions that rest on this node at a time: each is a living process with its memory. The files of those
/// that are put away stay.
const MOST_RESTING: usize = 64;

/// The sessions that are in use on this node.
#[derive(Default)]
pub(super) struct LiveSessions {
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
}

/// One session in use.
struct Slot {
    /// Held for the length of a turn; first come, first served.
    turn: Arc<Turn<()>>,
    sandbox: Turn<Option<Resting>>,
}

/// A sandbox between two turns.
struct Resting {
    prepared: Prepared,
    make: Make,
    since: Timestamp,
}

impl Slot {
    /// Destroys the sandbox if it rests. Who wants the next turn waits, since its files are in use until then.
    async fn put_away(&self) {
        let mut sandbox = self.sandbox.lock().await;
        if let Some(resting) = sandbox.take() {
            resting.prepared.destroy().await;
        }
    }
}

impl LiveSessions {
    fn slot(&self, agent_id: &str, session_id: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots
            .entry((agent_id.to_owned(), session_id.to_owned()))
            .or_insert_with(|| Arc::new(Slot { turn: Arc::new(Turn::new(())), sandbox: Turn::new(None) }));
        Arc::clone(slot)
    }

    /// Waits for this session's turn.
    pub(super) async fn enter(&self, agent_id: &str, session_id: &str) -> OwnedMutexGuard<()> {
        let turn = Arc::clone(&self.slot(agent_id, session_id).turn);
        turn.lock_owned().await
    }

    async fn take(&self, agent_id: &str, session_id: &str) -> Option<Resting> {
        self.slot(agent_id, session_id).sandbox.lock().await.take()
    }

    /// Keeps a sandbox. When too many rest, the one that rests longest is put away.
    async fn rest(&self, agent_id: &str, session_id: &str, resting: Resting) {
        *self.slot(agent_id, session_id).sandbox.lock().await = Some(resting);
        if let Some(slot) = self.longest_resting() {
            tokio::spawn(async move { slot.put_away().await });
        }
    }

    /// The session whose sandbox rests longest, when more than [`MOST_RESTING`] do.
    fn longest_resting(&self) -> Option<Arc<Slot>> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let resting: Vec<(Timestamp, &Arc<Slot>)> =
            slots.values().filter_map(|slot| Some((slot.sandbox.try_lock().ok()?.as_ref()?.since, slot))).collect();
        if resting.len() <= MOST_RESTING {
            return None;
        }
        resting.into_iter().min_by_key(|(since, _)| *since).map(|(_, slot)| Arc::clone(slot))
    }

    /// Destroys the sandbox of a session. Its slot stays: whoever waits for a turn must not overtake who has it.
    async fn discard(&self, agent_id: &str, session_id: &str) {
        let slot = {
            let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.get(&(agent_id.to_owned(), session_id.to_owned())).map(Arc::clone)
        };
        if let Some(slot) = slot {
            slot.put_away().await;
        }
    }

    /// Destroys the sandboxes of all sessions of an agent.
    pub(super) async fn discard_agent(&self, agent_id: &str) {
        let keys: Vec<Key> = {
            let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.keys().filter(|(agent, _)| agent == agent_id).cloned().collect()
        };
        for (agent, session) in keys {
            self.discard(&agent, &session).await;
        }
    }

    /// Destroys the sandboxes of all sessions; their files stay.
    pub(super) async fn clear(&self) {
        let keys: Vec<Key> = self.slots.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        for (agent, session) in keys {
            self.discard(&agent, &session).await;
        }
    }

    /// Puts away the sandboxes that rest since before `before`, and forgets sessions that nobody uses.
    async fn put_away(&self, before: Timestamp) {
        let slots: Vec<Arc<Slot>> = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.retain(|_, slot| {
                let is_empty = slot.sandbox.try_lock().is_ok_and(|sandbox| sandbox.is_none());
                !(is_empty && Arc::strong_count(slot) == 1 && Arc::strong_count(&slot.turn) == 1)
            });
            slots.values().cloned().collect()
        };
        for slot in slots {
            let Ok(_nobody_is_taking_a_turn) = slot.turn.try_lock() else { continue };
            let mut sandbox = slot.sandbox.lock().await;
            if sandbox.as_ref().is_some_and(|resting| resting.since < before)
                && let Some(resting) = sandbox.take()
            {
                resting.prepared.destroy().await;
            }
        }
    }
}

impl CodeAgents {
    /// Sessions of an agent, newest first.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when the agent does not exist.
    pub async fn sessions(&self, caller: &Caller, slug: &str, window: Window) -> Result<Page<Session>, Error> {
        caller.require(Scope::Agents)?;
        let agent = self.find(caller, slug).await?;
        let mut connection = self.db.read().await?;
        store::list_sessions(&mut connection, &agent.id, window).await
    }

    /// Removes a session with its files; a turn in progress is stopped.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when the agent or the session does not exist.
    pub async fn delete_session(self: &Arc<Self>, caller: &Caller, slug: &str, id: &str) -> Result<(), Error> {
        caller.require(Scope::Agents)?;
        let agent = self.find(caller, slug).await?;
        let (agents, id) = (Arc::clone(self), id.to_owned());
        super::to_the_end(async move {
            agents.forget_session(&agent.id, &id).await?;
            agents.end_runs_of(&agent, Some(&id)).await?;
            let patience = agents.settings.queue_patience;
            let _turn = tokio::time::timeout(patience, agents.sessions.enter(&agent.id, &id))
                .await
                .map_err(|_| Error::new(Kind::Busy, "session_busy", "Session is busy"))?;
            // The turn that was in progress may have noted the session once more.
            match agents.forget_session(&agent.id, &id).await {
                Err(error) if error.kind != Kind::NotFound => return Err(error),
                _ => {}
            }
            agents.remove_session_files(&agent.id, &id).await
        })
        .await
    }

    async fn forget_session(&self, agent_id: &str, id: &str) -> Result<(), Error> {
        let (agent, session) = (agent_id.to_owned(), id.to_owned());
        let existed =
            self.db.write(move |tx| Box::pin(async move { store::delete_session(tx, &agent, &session).await })).await?;
        if !existed {
            return Err(Error::new(Kind::NotFound, "session_not_found", "Session not found"));
        }
        Ok(())
    }

    async fn remove_session_files(&self, agent_id: &str, id: &str) -> Result<(), Error> {
        self.sessions.discard(agent_id, id).await;
        let folder = self.session_folder(agent_id, id);
        // First the marker: files without it are never taken for those of a release.
        match tokio::fs::remove_file(release_marker(&folder)).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::from_disk(error)),
            _ => {}
        }
        self.remove_files(folder).await
    }

    /// The session's sandbox of this release: the resting one, or a new one over its files.
    pub(super) async fn session_sandbox(
        &self,
        agent: &Agent,
        release: &Release,
        session_id: &str,
    ) -> Result<Prepared, Error> {
        if let Some(resting) = self.sessions.take(&agent.id, session_id).await {
            if resting.make == Make::of(agent, release) {
                return Ok(resting.prepared);
            }
            resting.prepared.destroy().await;
        }
        let folder = self.session_folder(&agent.id, session_id);
        // The name of the release is kept beside the files: another release begins with empty ones.
        let marker = release_marker(&folder);
        if tokio::fs::read_to_string(&marker).await.ok().as_deref() != Some(release.id.as_str()) {
            self.remove_files(folder.clone()).await?;
            tokio::fs::create_dir_all(&folder).await.map_err(Error::from_disk)?;
            tokio::fs::write(&marker, &release.id).await.map_err(Error::from_disk)?;
        }
        let (id, sandbox) = self.sandbox_of(agent, release, folder).await?;
        Ok(Prepared { id, sandbox, scratch: None })
    }

    /// Keeps a session's sandbox for its next turn.
    pub(super) async fn rest_session(&self, agent: &Agent, release: &Release, session_id: &str, prepared: Prepared) {
        let resting = Resting { prepared, make: Make::of(agent, release), since: self.clock.now() };
        self.sessions.rest(&agent.id, session_id, resting).await;
    }

    fn session_folder(&self, agent_id: &str, session_id: &str) -> PathBuf {
        // Callers choose session ids; a hash is a safe file name for any of them.
        let name = hex::encode(Sha256::digest(session_id));
        self.settings.data.join("sessions").join(agent_id).join(name)
    }

    /// Removes the files of all sessions of an agent.
    pub(super) async fn forget_session_files(&self, agent_id: &str) -> Result<(), Error> {
        self.remove_files(self.settings.data.join("sessions").join(agent_id)).await
    }

    async fn remove_files(&self, folder: PathBuf) -> Result<(), Error> {
        build::blocking(move || match backlot_sandbox::process::remove_scratch(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::internal(error)),
            _ => Ok(()),
        })
        .await
    }

    /// Puts idle session sandboxes away and removes sessions that nobody used for long.
    ///
    /// # Errors
    /// Database failures.
    pub(super) async fn tidy_sessions(&self) -> Result<(), Error> {
        let now = self.clock.now().0;
        let ago = |span: std::time::Duration| {
            Timestamp(now.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
        };
        self.sessions.put_away(ago(self.settings.session_idle)).await;
        let stale = {
            let mut connection = self.db.read().await?;
            store::stale_sessions(&mut connection, ago(self.settings.session_life)).await?
        };
        for (agent_id, session_id) in stale {
            match self.forget_session(&agent_id, &session_id).await {
                Err(error) if error.kind != Kind::NotFound => return Err(error),
                _ => self.remove_session_files(&agent_id, &session_id).await?,
            }
        }
        Ok(())
    }
}

/// Where the name of the release stands whose sandboxes wrote a session's files.
fn release_marker(folder: &Path) -> PathBuf {
    folder.with_extension("release")
}

/// Checks a caller's name for a session (spec/castari.md 13).
pub(super) fn check_session_id(id: &str) -> Result<(), Error> {
    let fits = !id.is_empty()
        && id.len() <= 128
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-'));
    if fits {
        return Ok(());
    }
    Err(Error::invalid("session_id", "string does not match regex \"^[A-Za-z0-9._:-]{1,128}$\""))
}
