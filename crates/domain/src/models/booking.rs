//! A call from its beginning to its place in the books.
//!
//! What is written, and when: as the call begins, its row is written with status 0 and the guessed input, beside the
//! request to the provider, not before it, since waiting for the disk would cost every call more than the gateway
//! itself. When the answer ends, one transaction completes the row, adds to the totals of the run and its ancestors,
//! and appends the run's `ModelCalled` event. The client does not wait for that; the end of the run does, through
//! [`Models::settle`].
//!
//! A server killed in the middle of a call finds the open row when it starts again and books it as estimated (see
//! `recovery`). What can be lost is a call that was sent off within the few milliseconds before the kill in which the
//! row was not yet on the disk.

use std::{sync::Arc, time::Duration};

use backlot_models::{Usage, metering::Metered};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    Models,
    budget::{Amount, Ledger, Reservation},
    resolve::Answerer,
    store::{self, Ended, IN_DOUBT, Opened},
};
use crate::{
    Error,
    runs::{Body, CallUsage, Event, Runs},
};

/// Status of a call whose client went away before its provider answered.
pub(super) const CLIENT_GONE: u16 = 499;

/// A call in progress. It must be finished; dropping it books what was guessed.
pub(super) struct OpenCall {
    models: Arc<Models>,
    ledger: Arc<Ledger>,
    answerer: Answerer,
    opened: Arc<Opened>,
    reservation: Option<Reservation>,
    slot: Option<OwnedSemaphorePermit>,
    done: Option<oneshot::Sender<Ended>>,
}

impl OpenCall {
    /// Begins a call: from here on it is booked, whatever happens.
    pub(super) fn begin(
        models: &Arc<Models>,
        ledger: &Arc<Ledger>,
        answerer: &Answerer,
        reservation: Reservation,
        slot: OwnedSemaphorePermit,
        guessed_input: u64,
    ) -> Self {
        let began = models.clock.now();
        let opened = Arc::new(Opened {
            id: models.ids.next("call", began),
            account_id: ledger.account_id.to_string(),
            run_id: ledger.run_id.as_deref().map(str::to_owned),
            provider: answerer.provider.clone(),
            model: answerer.model.clone(),
            input_tokens: guessed_input,
            began,
        });
        let (done, ended) = oneshot::channel();
        models.bookings.spawn(book(Arc::clone(models), Arc::clone(ledger), Arc::clone(&opened), ended));
        Self {
            models: Arc::clone(models),
            ledger: Arc::clone(ledger),
            answerer: answerer.clone(),
            opened,
            reservation: Some(reservation),
            slot: Some(slot),
            done: Some(done),
        }
    }

    /// The ledger that the call is on.
    pub(super) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// How long an answer without a reader is still read.
    pub(super) fn drain_limit(&self) -> Duration {
        self.models.settings.limits.drain
    }

    /// The call has ended with an answer, whole or broken off.
    pub(super) fn finish(mut self, status: u16, metered: &Metered) {
        self.end(status, metered.usage, metered.model.as_deref(), metered.estimated);
    }

    /// The call has ended without an answer; providers do not charge for that.
    pub(super) fn fail(mut self, status: u16) {
        self.end(status, Usage::default(), None, false);
    }

    fn end(&mut self, status: u16, usage: Usage, answered: Option<&str>, estimated: bool) {
        let Some(done) = self.done.take() else { return };
        let model = answered.filter(|model| !model.is_empty()).unwrap_or(&self.answerer.model).to_owned();
        // Tokens that were not used cost nothing at any price.
        let cost_nano_usd =
            if usage == Usage::default() { Some(0) } else { self.models.cost(&self.answerer, &model, &usage) };
        if let Some(reservation) = self.reservation.take() {
            let tokens = usage.total_input().saturating_add(usage.output);
            reservation.settle(Amount { cost: cost_nano_usd.unwrap_or(0), tokens });
        }
        self.slot = None;
        let duration = self.models.clock.now().since(self.opened.began);
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        metrics::counter!("backlot_model_calls_total", "provider" => self.opened.provider.clone(), "status" => status.to_string())
            .increment(1);
        metrics::counter!("backlot_model_tokens_total", "direction" => "input").increment(usage.total_input());
        metrics::counter!("backlot_model_tokens_total", "direction" => "output").increment(usage.output);
        let _the_server_is_shutting_down =
            done.send(Ended { model, usage, cost_nano_usd, estimated, status, duration_ms });
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let guess = Usage { input: self.opened.input_tokens, ..Usage::default() };
        self.end(CLIENT_GONE, guess, None, true);
    }
}

/// Writes the call's beginning, waits for its end, writes that.
async fn book(models: Arc<Models>, ledger: Arc<Ledger>, opened: Arc<Opened>, ended: oneshot::Receiver<Ended>) {
    let intent = Arc::clone(&opened);
    let written = models.db.write(move |tx| Box::pin(async move { store::insert_open(tx, &intent).await })).await;
    if let Err(error) = written {
        // The end will be written as a whole row; only a crash in between would be forgotten.
        tracing::error!(call.id = opened.id, ?error, "the beginning of a model call could not be stored");
    }
    if let Ok(ended) = ended.await {
        models.book_with_retries(&opened, &ended).await;
    }
    ledger.booked();
}

impl Models {
    /// What a call cost; none when a price that is needed is unknown. The local model costs nothing.
    pub(super) fn cost(&self, answerer: &Answerer, answered: &str, usage: &Usage) -> Option<u64> {
        if answerer.is_free {
            return Some(0);
        }
        let prices = &self.settings.prices;
        // Prices of a model on somebody's own server are not those of the vendor.
        let qualified = |model: &str| prices.cost(&format!("{}/{model}", answerer.provider), usage);
        let mut cost = qualified(answered).or_else(|| qualified(&answerer.model));
        if answerer.is_vendor {
            cost = cost.or_else(|| prices.cost(answered, usage)).or_else(|| prices.cost(&answerer.model, usage));
        }
        if cost.is_none() {
            self.warn_unpriced(answerer, answered);
        }
        cost
    }

    /// Once per model and day.
    fn warn_unpriced(&self, answerer: &Answerer, answered: &str) {
        /// Names a client makes up must not fill the memory.
        const MOST_NAMES: usize = 1000;
        let today = self.clock.now().date();
        let name = format!("{}/{answered}", answerer.provider);
        let mut warned = self.warned.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if warned.len() >= MOST_NAMES {
            warned.clear();
        }
        if warned.get(&name).is_none_or(|day| *day != today) {
            tracing::warn!(model = name, "the price of this model is unknown; add it to the price file");
            warned.insert(name, today);
        }
    }

    async fn book_with_retries(&self, opened: &Arc<Opened>, ended: &Ended) {
        for wait in [1, 4, 16] {
            match self.write_end(opened, ended).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(call.id = opened.id, ?error, "the end of a model call could not be stored")
                }
            }
            tokio::time::sleep(Duration::from_secs(wait)).await;
        }
        if let Err(error) = self.write_end(opened, ended).await {
            tracing::error!(
                call.id = opened.id,
                run.id = opened.run_id,
                model = ended.model,
                input = ended.usage.total_input(),
                output = ended.usage.output,
                ?error,
                "a model call is not in the books"
            );
        }
    }

    /// Books the end of a call, unless that has been done, and shows it to the followers of its run.
    pub(super) async fn write_end(&self, opened: &Arc<Opened>, ended: &Ended) -> Result<(), Error> {
        let now = self.clock.now();
        let (call, end) = (Arc::clone(opened), ended.clone());
        let event: Option<Event> = self
            .db
            .write(move |tx| {
                Box::pin(async move {
                    if !store::close(tx, &call, &end).await? {
                        return Ok::<_, Error>(None);
                    }
                    let Some(run_id) = &call.run_id else { return Ok(None) };
                    let usage = CallUsage {
                        input_tokens: end.usage.total_input(),
                        output_tokens: end.usage.output,
                        cost_nano_usd: end.cost_nano_usd,
                        estimated: end.estimated,
                    };
                    let body = Body::ModelCalled {
                        call_id: call.id.clone(),
                        provider: call.provider.clone(),
                        model: end.model.clone(),
                        usage,
                        status: end.status,
                        duration_ms: end.duration_ms,
                    };
                    Runs::book_model_call(tx, now, run_id, body, usage).await
                })
            })
            .await?;
        if let (Some(event), Some(run_id)) = (event, &opened.run_id) {
            self.runs.show(run_id, event);
        }
        Ok(())
    }

    /// The end of a call that nobody saw.
    pub(super) fn end_in_doubt(&self, opened: &Opened) -> Ended {
        let usage = Usage { input: opened.input_tokens, ..Usage::default() };
        let cost_nano_usd = self.cost(&self.answerer_of(&opened.provider, &opened.model), &opened.model, &usage);
        Ended { model: opened.model.clone(), usage, cost_nano_usd, estimated: true, status: IN_DOUBT, duration_ms: 0 }
    }
}
