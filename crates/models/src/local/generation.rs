//! One answer: reading the prompt, then token after token until something ends it.

use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use super::failure;
use super::prompt::Sampling;
use super::sampler::Sampler;
use super::text_stream::{Added, TextStream};
use super::transformer::{Attention, PROMPT_BATCH, Weights};
use super::vocabulary::Vocabulary;
use crate::{Error, ErrorKind, Event, StopReason, Usage};

/// An accepted request on its way through the queue.
pub(super) struct Job {
    pub(super) model: String,
    pub(super) prompt: Vec<u32>,
    pub(super) sampling: Sampling,
    pub(super) seed: u64,
    /// Until when the prompt must be read.
    pub(super) prompt_deadline: std::time::Duration,
    pub(super) events: UnboundedSender<Result<Event, Error>>,
}

/// Nobody waits for the answer any more.
struct Abandoned;

impl Job {
    /// Whether the reader of the answer went away.
    pub(super) fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    /// Tells the reader of a failure.
    pub(super) fn fail(&self, error: Error) {
        // A reader that went away needs no error.
        drop(self.events.send(Err(error)));
    }

    fn send(&self, event: Event) -> Result<(), Abandoned> {
        self.events.send(Ok(event)).map_err(|_| Abandoned)
    }

    fn text(&self, delta: String) -> Result<(), Abandoned> {
        if delta.is_empty() {
            return if self.is_abandoned() { Err(Abandoned) } else { Ok(()) };
        }
        self.send(Event::Text { delta })
    }

    /// Makes the answer. Ends early when the reader goes away.
    pub(super) fn run(&self, weights: &Weights, vocabulary: &Vocabulary) {
        match self.generate(weights, vocabulary) {
            Ok(Ok(())) | Err(Abandoned) => {}
            Ok(Err(error)) => self.fail(error),
        }
    }

    fn generate(&self, weights: &Weights, vocabulary: &Vocabulary) -> Result<Result<(), Error>, Abandoned> {
        let mut usage = Usage { input: self.prompt.len() as u64, ..Usage::default() };
        let id = format!("local_{:016x}", rand::random::<u64>());
        self.send(Event::Started { id, model: self.model.clone(), usage })?;

        // The caller made sure that the prompt leaves room.
        let room = vocabulary.context.saturating_sub(self.prompt.len());
        let limit = self.sampling.max_tokens.min(room);
        let mut attention = Attention::new(weights, self.prompt.len() + limit);
        let started = Instant::now();
        let mut scores = Vec::new();
        for batch in self.prompt.chunks(PROMPT_BATCH) {
            scores = attention.advance(batch);
            if self.is_abandoned() {
                return Err(Abandoned);
            }
            if started.elapsed() > self.prompt_deadline {
                return Ok(Err(failure(
                    ErrorKind::TimedOut,
                    format!(
                        "reading the prompt of {} tokens took longer than {} s; shorten it, give the local model more \
                         threads, or configure a faster model",
                        self.prompt.len(),
                        self.prompt_deadline.as_secs()
                    ),
                )));
            }
        }
        let mut sampler = Sampler::new(self.sampling.temperature, self.sampling.top_p, self.seed);
        let mut text = TextStream::new(&self.sampling.stops);
        let stop = loop {
            let token = sampler.choose(&scores);
            usage.output += 1;
            if vocabulary.ends_turn(token) {
                break StopReason::EndTurn;
            }
            match text.push(&vocabulary.bytes(token)) {
                Added::Text(delta) => self.text(delta)?,
                Added::Stopped(delta) => {
                    self.text(delta)?;
                    break StopReason::StopSequence;
                }
            }
            if usage.output >= limit as u64 {
                break StopReason::MaxTokens;
            }
            scores = attention.advance(&[token]);
        };
        // After a stop sequence nothing is held back any more.
        let stop = match text.finish() {
            Added::Text(delta) if stop != StopReason::StopSequence => {
                self.text(delta)?;
                stop
            }
            Added::Text(_) => stop,
            Added::Stopped(delta) => {
                self.text(delta)?;
                StopReason::StopSequence
            }
        };
        self.send(Event::Done { stop, usage })?;
        Ok(Ok(()))
    }
}
