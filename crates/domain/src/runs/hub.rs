//! Live readers of this process: what is shown before or beside what is stored.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::broadcast;

use super::{Channel, Event, Run};

/// Messages that a slow reader may be behind before it has to read from the database.
const BEHIND: usize = 256;

/// What live readers are told.
#[derive(Debug, Clone)]
pub(super) enum Live {
    /// A durable event.
    Event(Arc<Event>),
    /// Text that is not stored yet.
    Delta(Delta),
    /// The run has ended, this is its final state; its terminal event came before.
    Ended(Arc<Run>),
    /// Something was stored by another process.
    LookAgain,
}

/// A piece of text that is not stored yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Delta {
    pub(super) channel: Channel,
    /// The text block it belongs to.
    pub(super) block: u64,
    /// Bytes of the block before this piece.
    pub(super) offset: usize,
    pub(super) text: Arc<str>,
}

/// The readers of all runs. A run has an entry while somebody reads or executes it.
#[derive(Default)]
pub(super) struct Hub {
    runs: Mutex<HashMap<String, broadcast::Sender<Live>>>,
}

impl Hub {
    /// Listens to a run from now on.
    pub(super) fn subscribe(&self, run_id: &str) -> broadcast::Receiver<Live> {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = runs.get(run_id) {
            return sender.subscribe();
        }
        let (sender, receiver) = broadcast::channel(BEHIND);
        runs.insert(run_id.to_owned(), sender);
        receiver
    }

    /// Tells the readers of a run, if there are any.
    pub(super) fn publish(&self, run_id: &str, live: Live) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = runs.get(run_id)
            && sender.send(live).is_err()
        {
            // The last reader has left.
            runs.remove(run_id);
        }
    }

    /// Whether anybody reads this run here.
    pub(super) fn is_read(&self, run_id: &str) -> bool {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).contains_key(run_id)
    }
}
