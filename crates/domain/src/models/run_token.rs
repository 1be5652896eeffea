//! Credentials of the gateway: the token of a run, which is all that a sandbox ever holds (spec/castari.md 15.2), and
//! the API keys of accounts.
//!
//! A token is `sk-backlot-` and 43 letters and digits (256 bits). It is kept in memory only, as its SHA-256; it dies
//! ten seconds after its guard is dropped, or at once when its run is settled.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{CallError, Models, ProviderKeys, budget::Ledger};
use crate::{Timestamp, accounts::Scope, runs::Run};

/// What every run token begins with. Some clients insist on `sk-`.
const PREFIX: &str = "sk-backlot-";
/// Letters after the prefix.
const LENGTH: usize = 43;
/// How long a token outlives its guard.
const GRACE: Duration = Duration::from_secs(10);

type Digest = [u8; 32];

/// Who makes model calls.
#[derive(Debug, Clone)]
pub struct GatewayCaller {
    /// Who pays.
    pub account_id: Arc<str>,
    /// The run that the calls belong to; none for calls with an API key.
    pub run_id: Option<Arc<str>>,
    pub(super) keys: Arc<ProviderKeys>,
    pub(super) ledger: Arc<Ledger>,
}

/// The token of a run, valid while this guard lives and ten seconds longer. It shows nothing of itself.
pub struct RunToken {
    secret: Zeroizing<String>,
    digest: Digest,
    caller: GatewayCaller,
    tokens: Arc<Tokens>,
    clock: Arc<dyn crate::Clock>,
}

impl RunToken {
    /// The token itself, for the environment of a sandbox.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Whom the token stands for, for calls that the server itself makes for the run.
    #[must_use]
    pub fn caller(&self) -> &GatewayCaller {
        &self.caller
    }
}

impl fmt::Debug for RunToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunToken").field("run_id", &self.caller.run_id).finish_non_exhaustive()
    }
}

impl Drop for RunToken {
    fn drop(&mut self) {
        self.tokens.expire(&self.digest, self.clock.now().after(GRACE));
    }
}

/// All living tokens, and the ledgers behind them.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    by_digest: RwLock<HashMap<Digest, Entry>>,
    runs: Mutex<HashMap<Arc<str>, Arc<Ledger>>>,
    accounts: Mutex<HashMap<Arc<str>, Weak<Ledger>>>,
}

#[derive(Debug)]
struct Entry {
    caller: GatewayCaller,
    /// Set when the guard is gone.
    dies_at: Option<Timestamp>,
}

impl Tokens {
    fn insert(&self, digest: Digest, caller: GatewayCaller, now: Timestamp) {
        let mut tokens = self.by_digest.write().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|_, entry| entry.dies_at.is_none_or(|at| at > now));
        tokens.insert(digest, Entry { caller, dies_at: None });
    }

    fn find(&self, digest: &Digest, now: Timestamp) -> Option<GatewayCaller> {
        let tokens = self.by_digest.read().unwrap_or_else(PoisonError::into_inner);
        let entry = tokens.get(digest)?;
        entry.dies_at.is_none_or(|at| at > now).then(|| entry.caller.clone())
    }

    fn expire(&self, digest: &Digest, at: Timestamp) {
        if let Some(entry) = self.by_digest.write().unwrap_or_else(PoisonError::into_inner).get_mut(digest) {
            entry.dies_at = Some(at);
        }
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Ledger>>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ledger of a run, to be closed; it is forgotten with this.
    pub(super) fn take_run(&self, run_id: &str) -> Option<Arc<Ledger>> {
        self.runs().remove(run_id)
    }

    fn account(&self, account_id: &Arc<str>, make: impl FnOnce() -> Arc<Ledger>) -> Arc<Ledger> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ledger) = accounts.get(account_id).and_then(Weak::upgrade) {
            return ledger;
        }
        accounts.retain(|_, ledger| ledger.strong_count() > 0);
        let ledger = make();
        accounts.insert(Arc::clone(account_id), Arc::downgrade(&ledger));
        ledger
    }
}

fn digest_of(token: &str) -> Digest {
    Sha256::digest(token.as_bytes()).into()
}

impl Models {
    /// Makes a token for a run. `keys` are the agent's own provider keys, which are used instead of the operator's.
    ///
    /// The run's limits go on from what the run has used already. Drop the guard when the run's program has ended,
    /// then await [`Models::settle`] before the run ends.
    #[must_use]
    pub fn open_run_token(&self, run: &Run, keys: ProviderKeys) -> RunToken {
        let secret = Zeroizing::new(format!("{PREFIX}{}", self.ids.base62(LENGTH)));
        let digest = digest_of(&secret);
        let ledger = {
            let mut runs = self.tokens.runs();
            // Runs that were never settled, because they never called a model or their execution was taken over.
            runs.retain(|_, ledger| Arc::strong_count(ledger) > 1 || ledger.is_busy());
            match runs.get(run.id.as_str()).filter(|ledger| !ledger.is_closed()) {
                Some(ledger) => Arc::clone(ledger),
                None => {
                    let ledger = Ledger::of_run(run, self.settings.limits.clone(), self.clock.now());
                    runs.insert(run.id.as_str().into(), Arc::clone(&ledger));
                    ledger
                }
            }
        };
        let caller = GatewayCaller {
            account_id: Arc::clone(&ledger.account_id),
            run_id: ledger.run_id.clone(),
            keys: Arc::new(keys),
            ledger,
        };
        self.tokens.insert(digest, caller.clone(), self.clock.now());
        RunToken { secret, digest, caller, tokens: Arc::clone(&self.tokens), clock: Arc::clone(&self.clock) }
    }

    /// Who stands behind a token of a run or an API key.
    ///
    /// # Errors
    /// An authentication error for anything else, whether it never existed, has ended, or belongs elsewhere.
    pub async fn authenticate(&self, token: &str) -> Result<GatewayCaller, CallError> {
        if token.starts_with(PREFIX) {
            return self
                .tokens
                .find(&digest_of(token), self.clock.now())
                .filter(|caller| !caller.ledger.is_closed())
                .ok_or_else(|| CallError::unauthenticated("the token is not valid, or its run has ended"));
        }
        if token.starts_with("sk-") {
            return Err(CallError::unauthenticated(
                "the gateway takes the token of a run or an API key of this server, not a provider's own key",
            ));
        }
        let caller = self.accounts.authenticate(token).await?;
        caller.require(Scope::Agents)?;
        let ledger =
            self.tokens.account(&caller.account_id, || Ledger::of_account(&caller.account_id, &self.settings.limits));
        Ok(GatewayCaller { account_id: caller.account_id, run_id: None, keys: Arc::default(), ledger })
    }
}
