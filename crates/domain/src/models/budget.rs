//! Limits of a run's calls: reserved before a call, settled after it, so that calls in parallel cannot overspend
//! together (design, idea 3).
//!
//! A call that does not fit beside what others have reserved waits for them, since most take far less than they
//! reserve; it is refused when it would not fit alone, or when its patience ends. What is reserved is an estimate from
//! above (see `estimate`), so a single call can pass the limit only by as much as it was estimated too low.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{CallError, settings::Limits};
use crate::{Timestamp, runs::Run};

/// Calls that may wait for their turn, besides those that have it. Each of them is a connection without a body.
const MOST_WAITING: usize = 256;
/// How long the end of a run waits for the database after every answer has been cut off.
const LAST_WAIT: Duration = Duration::from_secs(20);

/// What calls take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) cost: u64,
    pub(super) tokens: u64,
}

/// The account of one run's calls, or of all calls that an account makes with its API keys.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) account_id: Arc<str>,
    pub(super) run_id: Option<Arc<str>>,
    /// When this execution of the run began, if it is not the first.
    pub(super) resumed_at: Option<Timestamp>,
    limits: Limits,
    parallel: usize,
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    state: Mutex<State>,
    changed: Notify,
    /// Fires when answers are no longer waited for.
    cut: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    spent: Amount,
    reserved: Amount,
    calls: u64,
    /// Calls that are not booked yet.
    open: usize,
    /// No more calls are taken.
    closed: bool,
}

impl Ledger {
    /// The ledger of a run, which goes on from what the run has used so far.
    pub(super) fn of_run(run: &Run, limits: Limits, now: Timestamp) -> Arc<Self> {
        let parallel = limits.run_parallel;
        let used = run.usage;
        let state = State {
            spent: Amount { cost: used.cost_nano_usd, tokens: used.input_tokens.saturating_add(used.output_tokens) },
            calls: used.model_calls,
            ..State::default()
        };
        let ledger = Self::new(&run.account_id, Some(run.id.as_str().into()), limits, parallel, state);
        Arc::new(Self { resumed_at: (run.epoch > 1).then_some(now), ..ledger })
    }

    /// The ledger of an account's API keys: only the number of parallel calls is limited.
    pub(super) fn of_account(account_id: &str, limits: &Limits) -> Arc<Self> {
        let parallel = limits.account_parallel;
        let limits = Limits { run_cost_nano_usd: None, run_tokens: None, run_calls: None, ..limits.clone() };
        Arc::new(Self::new(account_id, None, limits, parallel, State::default()))
    }

    fn new(account_id: &str, run_id: Option<Arc<str>>, limits: Limits, parallel: usize, state: State) -> Self {
        Self {
            account_id: account_id.into(),
            run_id,
            resumed_at: None,
            limits,
            parallel,
            slots: Arc::new(Semaphore::new(parallel.max(1))),
            waiting: AtomicUsize::new(0),
            state: Mutex::new(state),
            changed: Notify::new(),
            cut: CancellationToken::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fires when answers of this ledger's calls must end at once.
    pub(super) fn cut(&self) -> &CancellationToken {
        &self.cut
    }

    /// Whether calls are not booked yet.
    pub(super) fn is_busy(&self) -> bool {
        self.state().open > 0
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Waits for one of the parallel calls. Taken before the body is read, so that waiting calls hold no memory.
    pub(super) async fn admit(self: &Arc<Self>) -> Result<OwnedSemaphorePermit, CallError> {
        if self.is_closed() {
            return Err(ended());
        }
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Ok(slot);
        }
        let refused = || CallError::budget(format!("more than {} calls at the same time", self.parallel));
        let _waiting = Waiting::enter(&self.waiting).ok_or_else(refused)?;
        match timeout(self.limits.patience, Arc::clone(&self.slots).acquire_owned()).await {
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(_)) | Err(_) => Err(refused()),
        }
    }

    /// Reserves what a call may take. `amount.cost` is none when the price is unknown.
    pub(super) async fn reserve(self: &Arc<Self>, tokens: u64, cost: Option<u64>) -> Result<Reservation, CallError> {
        let amount = Amount { cost: cost.unwrap_or(0), tokens };
        let deadline = Instant::now() + self.limits.patience;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable(); // before looking, so that no change is missed
            let refusal = {
                let mut state = self.state();
                match self.refusal(&state, amount) {
                    None => {
                        state.reserved.cost = state.reserved.cost.saturating_add(amount.cost);
                        state.reserved.tokens = state.reserved.tokens.saturating_add(amount.tokens);
                        state.calls += 1;
                        state.open += 1;
                        return Ok(Reservation { ledger: Arc::clone(self), amount: Some(amount) });
                    }
                    Some(refusal) if state.closed || state.reserved == Amount::default() => return Err(refusal),
                    Some(refusal) => refusal,
                }
            };
            if timeout_at(deadline, changed).await.is_err() {
                return Err(refusal);
            }
        }
    }

    fn refusal(&self, state: &State, amount: Amount) -> Option<CallError> {
        if state.closed {
            return Some(ended());
        }
        if let Some(most) = self.limits.run_calls.filter(|most| state.calls >= *most) {
            return Some(CallError::budget(format!("this run may make {most} model calls and has made them")));
        }
        let over = |most: Option<u64>, spent: u64, reserved: u64, wanted: u64| {
            most.filter(|most| spent.saturating_add(reserved).saturating_add(wanted) > *most)
        };
        if let Some(most) = over(self.limits.run_tokens, state.spent.tokens, state.reserved.tokens, amount.tokens) {
            return Some(CallError::budget(format!(
                "this run may use {most} tokens, has used {} and this call may take {}",
                state.spent.tokens, amount.tokens
            )));
        }
        if let Some(most) = over(self.limits.run_cost_nano_usd, state.spent.cost, state.reserved.cost, amount.cost) {
            return Some(CallError::budget(format!(
                "this run may cost {}, has cost {} and this call may cost {}; a lower token limit of the request \
                 lowers that",
                dollars(most),
                dollars(state.spent.cost),
                dollars(amount.cost)
            )));
        }
        None
    }

    fn settle(&self, reserved: Amount, spent: Amount) {
        let mut state = self.state();
        state.reserved.cost = state.reserved.cost.saturating_sub(reserved.cost);
        state.reserved.tokens = state.reserved.tokens.saturating_sub(reserved.tokens);
        state.spent.cost = state.spent.cost.saturating_add(spent.cost);
        state.spent.tokens = state.spent.tokens.saturating_add(spent.tokens);
        drop(state);
        self.changed.notify_waiters();
    }

    /// A call is booked for good.
    pub(super) fn booked(&self) {
        {
            let mut state = self.state();
            state.open = state.open.saturating_sub(1);
        }
        self.changed.notify_waiters();
    }

    /// Takes no more calls, and waits until all are booked: for answers that nobody reads at most the limit `settle`,
    /// then they are cut off. Tells whether everything is booked.
    pub(super) async fn close(&self) -> bool {
        self.state().closed = true;
        self.changed.notify_waiters();
        if timeout(self.limits.settle, self.until_booked()).await.is_ok() {
            return true;
        }
        self.cut.cancel();
        timeout(LAST_WAIT, self.until_booked()).await.is_ok()
    }

    async fn until_booked(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if !self.is_busy() {
                return;
            }
            changed.await;
        }
    }
}

fn ended() -> CallError {
    CallError::unauthenticated("the run that this token belongs to has ended").code("run_ended")
}

/// Thousand-millionths as people read money.
fn dollars(nano: u64) -> String {
    format!("${}.{:04}", nano / 1_000_000_000, nano % 1_000_000_000 / 100_000)
}

/// A reservation; what it held returns when the call settles, or when it is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    ledger: Arc<Ledger>,
    amount: Option<Amount>,
}

impl Reservation {
    /// Replaces what was reserved by what was spent.
    pub(super) fn settle(mut self, spent: Amount) {
        if let Some(reserved) = self.amount.take() {
            self.ledger.settle(reserved, spent);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(reserved) = self.amount.take() {
            self.ledger.settle(reserved, Amount::default());
        }
    }
}

/// A place among those who wait.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Option<Self> {
        let waiting = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < MOST_WAITING).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use super::*;
    use crate::runs::{Status, UsageTotals};

    fn ledger(limits: Limits) -> Arc<Ledger> {
        Ledger::of_run(&run(UsageTotals::default()), limits, Timestamp(0))
    }

    fn run(usage: UsageTotals) -> Run {
        Run {
            id: "inv_1".into(),
            account_id: "usr_1".into(),
            kind: "invocation".into(),
            subject: "agt_1".into(),
            session: None,
            parent_id: None,
            status: Status::Running,
            input: serde_json::Value::Null,
            output: None,
            error: None,
            epoch: 1,
            deadline_at: None,
            usage,
            created_at: Timestamp(0),
            started_at: None,
            ended_at: None,
        }
    }

    fn limits() -> Limits {
        Limits { run_cost_nano_usd: Some(100), run_tokens: Some(1000), run_calls: Some(5), ..Limits::default() }
    }

    #[tokio::test]
    async fn what_would_not_fit_alone_is_refused_at_once() {
        let ledger = ledger(limits());
        for (tokens, cost) in [(1001, Some(1)), (1, Some(101)), (u64::MAX, None)] {
            let refusal = ledger.reserve(tokens, cost).await.unwrap_err();
            assert_eq!(refusal.code, Some("budget_exceeded"));
        }
        ledger.reserve(1000, Some(100)).await.unwrap().settle(Amount { cost: 60, tokens: 10 });
        assert!(ledger.reserve(1, Some(41)).await.is_err());
        assert!(ledger.reserve(1, Some(40)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn parallel_calls_wait_for_each_other_and_never_overspend_together() {
        let ledger = ledger(Limits { run_calls: None, ..limits() });
        let calls = (0..50).map(|_| {
            let ledger = Arc::clone(&ledger);
            tokio::spawn(async move {
                // Each reserves 40 and takes 10: two run side by side, and ten fit in all.
                let Ok(reservation) = ledger.reserve(1, Some(40)).await else { return false };
                {
                    let state = ledger.state();
                    assert!(state.spent.cost + state.reserved.cost <= 100);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
                reservation.settle(Amount { cost: 10, tokens: 1 });
                true
            })
        });
        let answered =
            futures::future::join_all(calls).await.into_iter().filter(|call| *call.as_ref().unwrap()).count();
        // The last may begin with 60 spent: 60 + 40 fit, 70 + 40 do not.
        assert_eq!(answered, 7);
        assert_eq!(ledger.state().spent.cost, 70);
        assert_eq!(ledger.state().reserved, Amount::default());
    }

    #[tokio::test]
    async fn calls_are_counted_also_when_they_fail() {
        let ledger = ledger(limits());
        for _ in 0..5 {
            drop(ledger.reserve(1, None).await.unwrap());
        }
        assert!(ledger.reserve(1, None).await.unwrap_err().error.message.contains("5 model calls"));
    }

    #[tokio::test(start_paused = true)]
    async fn parallel_calls_wait_for_their_turn_until_their_patience_ends() {
        let ledger = ledger(Limits { run_parallel: 2, ..limits() });
        let first = ledger.admit().await.unwrap();
        let _second = ledger.admit().await.unwrap();
        assert_eq!(ledger.admit().await.unwrap_err().code, Some("budget_exceeded"));
        let waiting = tokio::spawn({
            let ledger = Arc::clone(&ledger);
            async move { ledger.admit().await.is_ok() }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(first);
        assert!(waiting.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn closing_waits_for_open_calls_then_cuts_them_off() {
        let ledger = ledger(limits());
        let reservation = ledger.reserve(1, None).await.unwrap();
        tokio::spawn({
            let ledger = Arc::clone(&ledger);
            async move {
                ledger.cut().cancelled().await;
                reservation.settle(Amount { cost: 1, tokens: 1 });
                ledger.booked();
            }
        });
        assert!(ledger.close().await);
        assert!(ledger.cut().is_cancelled());
        assert_eq!(ledger.admit().await.unwrap_err().code, Some("run_ended"));
        assert_eq!(ledger.reserve(1, None).await.unwrap_err().code, Some("run_ended"));
    }

    #[tokio::test]
    async fn a_resumed_run_goes_on_where_it_was() {
        let used = UsageTotals { cost_nano_usd: 90, input_tokens: 10, model_calls: 4, ..UsageTotals::default() };
        let ledger = Ledger::of_run(&run(used), limits(), Timestamp(0));
        assert!(ledger.reserve(1, Some(11)).await.is_err());
        drop(ledger.reserve(1, Some(10)).await.unwrap());
        assert!(ledger.reserve(1, Some(1)).await.is_err(), "the fifth call was the last");
    }
}
