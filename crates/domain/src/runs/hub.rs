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

/// The readers of all runs. A run has an entry exactly as long as somebody reads it: one takes some kilobytes.
#[derive(Default)]
pub(super) struct Hub {
    runs: Arc<Mutex<Readers>>,
}

type Readers = HashMap<String, broadcast::Sender<Live>>;

/// One reader of a run.
pub(super) struct Reader {
    run_id: String,
    receiver: broadcast::Receiver<Live>,
    runs: Arc<Mutex<Readers>>,
}

impl Reader {
    /// The next message; an error when messages were missed.
    pub(super) async fn next(&mut self) -> Result<Live, broadcast::error::RecvError> {
        self.receiver.recv().await
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        // This one is still counted. The run may have ended long ago, so that nobody else would notice.
        if runs.get(&self.run_id).is_some_and(|sender| sender.receiver_count() <= 1) {
            runs.remove(&self.run_id);
        }
    }
}

impl Hub {
    /// Listens to a run from now on.
    pub(super) fn subscribe(&self, run_id: &str) -> Reader {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = match runs.get(run_id) {
            Some(sender) => sender.subscribe(),
            None => {
                let (sender, receiver) = broadcast::channel(BEHIND);
                runs.insert(run_id.to_owned(), sender);
                receiver
            }
        };
        Reader { run_id: run_id.to_owned(), receiver, runs: Arc::clone(&self.runs) }
    }

    /// Tells the readers of a run, if there are any.
    pub(super) fn publish(&self, run_id: &str, live: Live) {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = runs.get(run_id) {
            let _nobody_reads_any_more = sender.send(live);
        }
    }

    /// Whether anybody reads this run here.
    pub(super) fn is_read(&self, run_id: &str) -> bool {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).contains_key(run_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_reader_takes_the_entry_along() {
        let hub = Hub::default();
        let (mut one, two) = (hub.subscribe("run_a"), hub.subscribe("run_a"));
        drop(two);
        hub.publish("run_a", Live::LookAgain);
        assert!(matches!(one.next().await, Ok(Live::LookAgain)));
        // Nothing is published after the end of a run.
        drop(one);
        assert!(!hub.is_read("run_a"));
        hub.publish("run_a", Live::LookAgain);
        assert!(!hub.is_read("run_a"));
    }
}
