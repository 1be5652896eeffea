//! Reading a run from any point: first what is stored, then what comes.

use std::{collections::VecDeque, fmt, str::FromStr, sync::Arc, time::Duration};

use futures::{Stream, stream};

use super::{
    Body, Channel, Event, Runs, context,
    hub::{Delta, Live, Reader},
    store,
};
use crate::Error;

/// A place in a run up to which a reader has seen it: after the event `seq`, and after `bytes` of the text that
/// follows it. Written `12` or `12.345`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// The last whole event seen; 0 for none.
    pub seq: i64,
    /// Bytes seen of the text after that event.
    pub bytes: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.seq)?;
        if self.bytes > 0 {
            write!(f, ".{}", self.bytes)?;
        }
        Ok(())
    }
}

impl FromStr for Position {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let (seq, bytes) = text.trim().split_once('.').unwrap_or((text.trim(), "0"));
        match (seq.parse(), bytes.parse()) {
            (Ok(seq), Ok(bytes)) if seq >= 0 => Ok(Self { seq, bytes }),
            _ => Err(Error::invalid("Last-Event-ID", "is not a place in a run, such as `12` or `12.345`")),
        }
    }
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Followed {
    /// Where the reader stands after this.
    pub position: Position,
    /// What there is.
    pub item: Item,
}

/// A piece of text or a durable event. Texts arrive as [`Item::Text`] only, whether live or stored.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// Text, cut anywhere between characters.
    Text {
        /// Where it belongs.
        channel: Channel,
        /// The piece.
        text: String,
    },
    /// Any event but [`Body::Text`].
    Event(Event),
}

/// Events read from the database at a time.
const CHUNK: u32 = 256;
/// How often a reader looks into the database by itself, in case no message told it of something.
const LOOK_EVERY: Duration = Duration::from_secs(2);

impl Runs {
    /// Follows a run of an account from `after` to its terminal event. Any number of readers may follow a run; each
    /// sees every event once, in order, and text without gaps or repetition.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`] when the run does not exist or is somebody else's; database failures inside the stream.
    pub async fn follow(
        self: &Arc<Self>,
        account_id: &str,
        run_id: &str,
        after: Position,
    ) -> Result<impl Stream<Item = Result<Followed, Error>> + Send + use<>, Error> {
        let reader = self.hub.subscribe(run_id);
        let run = self.get(account_id, run_id).await?;
        let follower = Follower {
            runs: Arc::clone(self),
            run_id: run.id,
            reader,
            seq: after.seq,
            block: None,
            seen: after.bytes,
            ready: VecDeque::new(),
            must_look: true,
            ended: false,
        };
        Ok(stream::try_unfold(follower, |mut follower| async move {
            Ok(follower.next().await?.map(|followed| (followed, follower)))
        }))
    }
}

struct Follower {
    runs: Arc<Runs>,
    run_id: String,
    reader: Reader,
    /// The last event seen.
    seq: i64,
    /// The text block that `seen` counts in; unknown until the first one is met.
    block: Option<u64>,
    /// Bytes seen of that block.
    seen: usize,
    ready: VecDeque<Followed>,
    must_look: bool,
    ended: bool,
}

impl Follower {
    async fn next(&mut self) -> Result<Option<Followed>, Error> {
        loop {
            if let Some(followed) = self.ready.pop_front() {
                return Ok(Some(followed));
            }
            if self.ended {
                return Ok(None);
            }
            if self.must_look {
                self.look().await?;
                continue;
            }
            match tokio::time::timeout(LOOK_EVERY, self.reader.next()).await {
                Ok(Ok(Live::Event(event))) if event.seq == self.seq.saturating_add(1) => {
                    self.take_event(Event::clone(&event))
                }
                Ok(Ok(Live::Event(event))) => self.must_look = event.seq > self.seq,
                Ok(Ok(Live::Delta(delta))) => self.take_delta(&delta),
                Ok(Ok(Live::Ended(_) | Live::LookAgain) | Err(_)) | Err(_) => self.must_look = true,
            }
        }
    }

    /// Reads what is stored and, when that is all, what is shown but not stored.
    async fn look(&mut self) -> Result<(), Error> {
        let mut connection = self.runs.db.read().await?;
        // Taken before the query: what is flushed in between is then met twice, and known by its block.
        let pending = self.runs.live_of(&self.run_id).and_then(|live| context::pending_of(&live));
        let has_ended = store::find(&mut connection, &self.run_id).await?.is_none_or(|run| run.status.is_terminal());
        let events = store::events_after(&mut connection, &self.run_id, self.seq, CHUNK).await?;
        drop(connection);
        if has_ended && events.is_empty() {
            // The reader had seen everything before, or the run was removed.
            self.ended = true;
            return Ok(());
        }
        self.must_look = events.len() == CHUNK as usize;
        for event in events {
            self.take_event(event);
        }
        if !self.must_look
            && let Some(delta) = pending
        {
            self.take_delta(&delta);
        }
        Ok(())
    }

    fn take_event(&mut self, event: Event) {
        self.seq = event.seq;
        match event.body {
            Body::Text { channel, text, block } => {
                if self.block.is_some_and(|known| known != block) {
                    self.seen = 0;
                }
                let unseen = tail(&text, self.seen);
                self.block = Some(block + 1);
                self.seen = self.seen.saturating_sub(text.len());
                if !unseen.is_empty() {
                    let item = Item::Text { channel, text: unseen.to_owned() };
                    self.ready.push_back(Followed { position: self.position(), item });
                }
            }
            body => {
                if matches!(body, Body::Resumed) {
                    // What the dead execution showed and did not store is gone.
                    self.block = None;
                    self.seen = 0;
                }
                self.ended = body.is_terminal();
                let item = Item::Event(Event { seq: event.seq, at: event.at, body });
                self.ready.push_back(Followed { position: self.position(), item });
            }
        }
    }

    fn take_delta(&mut self, delta: &Delta) {
        if self.block.is_none() {
            self.block = Some(delta.block);
        }
        // A block that is stored already, or a piece with something missing before it: the stored form tells it all.
        if self.block != Some(delta.block) || delta.offset > self.seen {
            return;
        }
        let unseen = tail(&delta.text, self.seen - delta.offset);
        if !unseen.is_empty() {
            let item = Item::Text { channel: delta.channel, text: unseen.to_owned() };
            self.seen = delta.offset + delta.text.len();
            self.ready.push_back(Followed { position: self.position(), item });
        }
    }

    fn position(&self) -> Position {
        Position { seq: self.seq, bytes: self.seen }
    }
}

/// The text after `from` bytes. A reader may claim a place inside a character; it gets the whole character again.
fn tail(text: &str, from: usize) -> &str {
    let mut from = from.min(text.len());
    while !text.is_char_boundary(from) {
        from -= 1;
    }
    text.get(from..).unwrap_or_default()
}
