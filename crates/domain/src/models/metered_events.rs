//! A translated answer, metered event by event.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use backlot_models::{Error, ErrorKind, Event, EventStream, Usage, metering::Metered};
use futures::{Stream, StreamExt as _};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::booking::OpenCall;

/// Events of an answer. Dropped before their end, they are read to the end in the background, unless the answer
/// stops costing anything when nobody listens.
pub(super) struct MeteredEvents {
    passing: Option<Passing>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

struct Passing {
    events: EventStream,
    call: OpenCall,
    seen: Seen,
    is_drained: bool,
}

#[derive(Debug, Default)]
struct Seen {
    guessed_input: u64,
    usage: Usage,
    model: Option<String>,
    response_id: Option<String>,
    bytes: u64,
    complete: bool,
}

impl MeteredEvents {
    /// `is_drained` says whether the answer goes on, and costs, without a reader.
    pub(super) fn new(events: EventStream, call: OpenCall, guessed_input: u64, is_drained: bool) -> Self {
        let cut = Box::pin(call.ledger().cut().clone().cancelled_owned());
        let seen = Seen { guessed_input, ..Seen::default() };
        Self { passing: Some(Passing { events, call, seen, is_drained }), cut }
    }

    fn finish(&mut self, status: u16) {
        if let Some(passing) = self.passing.take() {
            passing.finish(status);
        }
    }
}

impl Passing {
    fn finish(self, status: u16) {
        self.call.finish(status, &self.seen.metered());
    }

    async fn drain(mut self) {
        let cut = self.call.ledger().cut().clone();
        let limit = self.call.drain_limit();
        let rest = async {
            while let Some(Ok(event)) = self.events.next().await {
                self.seen.note(&event);
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(limit, rest) => {}
            () = cut.cancelled() => {}
        }
        self.finish(200);
    }
}

impl Seen {
    fn note(&mut self, event: &Event) {
        match event {
            Event::Started { id, model, usage } => {
                self.response_id = Some(id.clone());
                self.model = Some(model.clone());
                self.usage = *usage;
            }
            Event::Text { delta } | Event::Thinking { delta } | Event::ToolArguments { delta, .. } => {
                self.bytes = self.bytes.saturating_add(delta.len() as u64);
            }
            Event::Done { usage, .. } => {
                self.usage = *usage;
                self.complete = true;
            }
            Event::ThinkingDone { .. } | Event::ToolCall { .. } | Event::ToolCallDone { .. } => {}
        }
    }

    fn metered(self) -> Metered {
        let mut usage = self.usage;
        // Some compatible servers never tell what an answer took.
        let is_told = self.complete && (usage.total_input() > 0 || usage.output > 0);
        if !is_told {
            usage.output = usage.output.max(self.bytes.div_ceil(4));
            if usage.total_input() == 0 {
                usage.input = self.guessed_input;
            }
        }
        Metered {
            usage,
            model: self.model,
            response_id: self.response_id,
            complete: self.complete,
            estimated: !is_told,
        }
    }
}

impl Stream for MeteredEvents {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let Some(passing) = &mut this.passing else { return Poll::Ready(None) };
        match passing.events.as_mut().poll_next(context) {
            Poll::Ready(Some(Ok(event))) => {
                passing.seen.note(&event);
                if passing.seen.complete {
                    this.finish(200);
                }
                Poll::Ready(Some(Ok(event)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.finish(error.status.unwrap_or(502));
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                this.finish(200);
                Poll::Ready(None)
            }
            Poll::Pending => {
                if this.cut.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                this.finish(200);
                Poll::Ready(Some(Err(Error::new(ErrorKind::TimedOut, "the run has ended before this answer"))))
            }
        }
    }
}

impl Drop for MeteredEvents {
    fn drop(&mut self) {
        let Some(passing) = self.passing.take() else { return };
        if !passing.is_drained {
            passing.finish(200);
        } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(passing.drain());
        }
    }
}
