//! One call over HTTP: from the request to a stream of events, with every wait bounded.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::time::{Instant, timeout, timeout_at};

use super::Timeouts;
use crate::http::{describe, retry_after};
use crate::sse::Splitter;
use crate::wire::{StreamDecoder, Wire};
use crate::{Error, ErrorKind, Event, EventStream, Request};

/// Largest error body that is read, in bytes; what the provider has to say stands at its beginning.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// Largest answer, in bytes of its body.
const MAX_BODY: usize = 128 * 1024 * 1024;

/// Sends the request and waits for the first event, so that failures up to there are the call's own.
pub(super) async fn open(
    request: reqwest::RequestBuilder,
    wire: Wire,
    asked: &Request,
    timeouts: Timeouts,
    key: &str,
) -> Result<EventStream, Error> {
    let deadline = Instant::now() + timeouts.first_event;
    let slow = || timed_out("did not begin to answer", timeouts.first_event);
    let opened = timeout_at(deadline, async {
        let response = request.send().await.map_err(|error| broken(&error))?;
        let status = response.status().as_u16();
        let wait = retry_after(response.headers());
        if status != 200 {
            let body = read_up_to(response, MAX_ERROR_BODY).await;
            let mut error = wire.decode_error(status, &body);
            error.retry_after = wait;
            return Err(without(key, error));
        }
        let kind = response.headers().get(reqwest::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        // Some compatible servers do not stream although asked to.
        let whole = kind.is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("application/json"));
        let mut reader = Reader {
            bytes: Box::pin(response.bytes_stream()),
            splitter: Splitter::new(),
            decoder: wire.decoder(asked),
            queue: VecDeque::new(),
            failure: None,
            ended: false,
            read: 0,
            idle: timeouts.idle,
            key: key.to_owned(),
        };
        if whole {
            reader.read_whole(wire, asked).await?;
        }
        while reader.queue.is_empty() && !reader.ended {
            reader.read_more(None).await;
        }
        match reader.queue.is_empty() {
            true => Err(without(key, reader.failure.take().unwrap_or_else(Error::incomplete))),
            false => Ok(reader),
        }
    });
    let reader = opened.await.map_err(|_| slow())??;
    Ok(Box::pin(futures::stream::unfold(reader, |mut reader| async move {
        let item = reader.next().await?;
        Some((item, reader))
    })))
}

struct Reader {
    bytes: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    splitter: Splitter,
    decoder: StreamDecoder,
    queue: VecDeque<Event>,
    /// What went wrong; told after the events that came before it.
    failure: Option<Error>,
    ended: bool,
    read: usize,
    idle: Duration,
    key: String,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<Event, Error>> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                // Nothing after the end is of interest; the connection goes back to its pool or is closed.
                self.ended |= matches!(event, Event::Done { .. });
                return Some(Ok(event));
            }
            if let Some(error) = self.failure.take() {
                self.ended = true;
                return Some(Err(without(&self.key, error)));
            }
            if self.ended {
                return None;
            }
            self.read_more(Some(self.idle)).await;
        }
    }

    /// Reads one piece of the body and decodes what it completes.
    async fn read_more(&mut self, limit: Option<Duration>) {
        let next = match limit {
            Some(limit) => match timeout(limit, self.bytes.next()).await {
                Ok(next) => next,
                Err(_) => return self.fail(timed_out("stopped in the middle of its answer", limit)),
            },
            None => self.bytes.next().await,
        };
        match next {
            Some(Ok(bytes)) => {
                self.read += bytes.len();
                if self.read > MAX_BODY {
                    return self.fail(Error::nonsense("an answer without end"));
                }
                let mut frames = Vec::new();
                let outcome = self.splitter.push(&bytes, &mut frames);
                self.decode(&frames);
                if let Err(error) = outcome {
                    self.fail(error);
                }
            }
            Some(Err(error)) => self.fail(broken(&error)),
            None => {
                let last = self.splitter.finish();
                self.decode(last.as_slice());
                let mut events = Vec::new();
                let outcome = self.decoder.finish(&mut events);
                self.queue.extend(events);
                if let Err(error) = outcome {
                    self.fail(error);
                }
                self.ended = true;
            }
        }
    }

    fn decode(&mut self, frames: &[crate::sse::Frame]) {
        let mut events = Vec::new();
        for frame in frames {
            if self.failure.is_some() {
                return;
            }
            let outcome = self.decoder.frame(frame, &mut events);
            self.queue.extend(events.drain(..));
            if let Err(error) = outcome {
                self.fail(error);
            }
        }
    }

    fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error);
        self.ended = true;
    }

    async fn read_whole(&mut self, wire: Wire, asked: &Request) -> Result<(), Error> {
        let mut body = Vec::new();
        while let Some(bytes) = self.bytes.next().await {
            body.extend_from_slice(&bytes.map_err(|error| broken(&error))?);
            if body.len() > MAX_BODY {
                return Err(Error::nonsense("an answer without end"));
            }
        }
        self.queue.extend(wire.decode_answer(&body, asked).map_err(|error| without(&self.key, error))?);
        self.ended = true;
        Ok(())
    }
}

async fn read_up_to(response: reqwest::Response, limit: usize) -> Vec<u8> {
    let mut bytes = response.bytes_stream();
    let mut body = Vec::new();
    while let Some(Ok(piece)) = bytes.next().await {
        body.extend_from_slice(&piece[..piece.len().min(limit - body.len())]);
        if body.len() >= limit {
            break;
        }
    }
    body
}

fn broken(error: &reqwest::Error) -> Error {
    let kind = if error.is_timeout() {
        ErrorKind::TimedOut
    } else if error.is_builder() {
        ErrorKind::Invalid // the address is none
    } else {
        ErrorKind::Unavailable
    };
    Error::new(kind, describe(error))
}

fn timed_out(what: &str, limit: Duration) -> Error {
    Error::new(ErrorKind::TimedOut, format!("the provider {what} within {} s", limit.as_secs_f32()))
}

/// Providers may quote the key.
fn without(key: &str, mut error: Error) -> Error {
    if key.len() >= 8 && error.message.contains(key) {
        error.message = error.message.replace(key, "[key]");
    }
    error
}
