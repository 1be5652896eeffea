//! A provider's answer on its way to the client, byte for byte, metered as it passes.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use backlot_models::{
    Error, ErrorKind,
    metering::{ChunkFilter, UsageReader},
    passthrough::BodyStream,
    wire::{Head, Wire},
};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{booking::OpenCall, key_guard::KeyGuard};

/// The body of an answer that is passed through. Dropped before its end, it is read to its end in the background.
pub(super) struct PassingBody {
    passing: Option<Passing>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

struct Passing {
    body: BodyStream,
    reader: UsageReader,
    filters: Filters,
    call: OpenCall,
    wire: Wire,
    status: u16,
    is_event_stream: bool,
    /// Nothing is passed on yet, or the last of it ended an event: an event of ours can follow.
    between_events: bool,
}

/// What is taken out on the way.
#[derive(Default)]
pub(super) struct Filters {
    /// The usage chunk that only the gateway had asked for.
    pub(super) usage: Option<ChunkFilter>,
    /// The operator's key.
    pub(super) guard: Option<KeyGuard>,
}

impl Filters {
    fn push(&mut self, mut bytes: Bytes) -> Bytes {
        if let Some(usage) = &mut self.usage {
            bytes = usage.push(bytes);
        }
        if let Some(guard) = &mut self.guard {
            bytes = guard.push(bytes);
        }
        bytes
    }

    fn finish(mut self) -> Bytes {
        let mut rest = self.usage.take().map(ChunkFilter::finish).unwrap_or_default();
        if let Some(mut guard) = self.guard.take() {
            let last = guard.push(rest);
            let held = guard.finish();
            rest = if held.is_empty() { last } else { [last, held].concat().into() };
        }
        rest
    }
}

impl PassingBody {
    pub(super) fn new(
        body: BodyStream,
        reader: UsageReader,
        filters: Filters,
        call: OpenCall,
        wire: Wire,
        status: u16,
        is_event_stream: bool,
    ) -> Self {
        let cut = Box::pin(call.ledger().cut().clone().cancelled_owned());
        let passing = Passing { body, reader, filters, call, wire, status, is_event_stream, between_events: true };
        Self { passing: Some(passing), cut }
    }

    /// The answer breaks off: inside an event stream the client is told so, elsewhere the connection tells it.
    fn break_off(&mut self, error: Error) -> Option<Result<Bytes, Error>> {
        let passing = self.passing.take()?;
        let told = (passing.is_event_stream && passing.between_events).then(|| {
            let mut frames = Vec::new();
            passing.wire.encoder(Head::default()).error(&error, &mut frames);
            Bytes::from(frames)
        });
        passing.finish();
        Some(told.ok_or(error))
    }
}

impl Passing {
    fn finish(self) {
        self.call.finish(self.status, &self.reader.finish());
    }

    async fn drain(mut self) {
        let cut = self.call.ledger().cut().clone();
        let limit = self.call.drain_limit();
        let rest = async {
            while let Some(Ok(bytes)) = self.body.next().await {
                self.reader.feed(&bytes);
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(limit, rest) => {}
            () = cut.cancelled() => {}
        }
        self.finish();
    }
}

impl Stream for PassingBody {
    type Item = Result<Bytes, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            let Some(passing) = &mut this.passing else { return Poll::Ready(None) };
            match passing.body.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(bytes))) => {
                    passing.reader.feed(&bytes);
                    let bytes = passing.filters.push(bytes);
                    if !bytes.is_empty() {
                        passing.between_events = bytes.ends_with(b"\n\n") || bytes.ends_with(b"\n\r\n");
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                }
                Poll::Ready(None) => {
                    let rest = std::mem::take(&mut passing.filters).finish();
                    if let Some(passing) = this.passing.take() {
                        passing.finish();
                    }
                    return Poll::Ready((!rest.is_empty()).then_some(Ok(rest)));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(this.break_off(error)),
                Poll::Pending => {
                    if this.cut.as_mut().poll(context).is_pending() {
                        return Poll::Pending;
                    }
                    let error = Error::new(ErrorKind::TimedOut, "the run has ended before this answer");
                    return Poll::Ready(this.break_off(error));
                }
            }
        }
    }
}

impl Drop for PassingBody {
    fn drop(&mut self) {
        if let Some(passing) = self.passing.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(passing.drain());
        }
    }
}
