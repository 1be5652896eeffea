//! Credentials that were found good a moment ago, so that a busy client does not cost a query per call.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::Caller;
use crate::Timestamp;

/// How long a credential stays good without another look. Another node's revocation takes effect after this time
/// (spec/castari.md 4.1 allows 5 s, spec/caster.md 1.2 one second); our own at once.
const FRESH: Duration = Duration::from_secs(1);
/// Credentials kept at most.
const MOST: usize = 10_000;
/// `last_used_at` of a key is written at most so often (spec/castari.md 4.1).
const USE_NOTED_EVERY: Duration = Duration::from_secs(60);

/// A credential that was found good.
#[derive(Debug, Clone)]
pub(super) struct Verified {
    pub(super) caller: Caller,
    /// The session that an access token belongs to.
    pub(super) session: Option<Arc<str>>,
    /// When it was looked at.
    pub(super) checked_at: Timestamp,
    /// When it ends by itself.
    pub(super) expires_at: Option<Timestamp>,
    /// When its use was last noted.
    pub(super) noted_at: Option<Timestamp>,
}

impl Verified {
    fn is_fresh(&self, now: Timestamp) -> bool {
        // A clock set back makes an entry stale, not immortal.
        now >= self.checked_at
            && now < self.checked_at.after(FRESH)
            && self.expires_at.is_none_or(|expires_at| now < expires_at)
    }

    /// Whether this use of an API key should be written down; if so, it counts as done.
    pub(super) fn note_use(&mut self, now: Timestamp) -> bool {
        let is_due = self.caller.key_id.is_some()
            && self.noted_at.is_none_or(|noted_at| now >= noted_at.after(USE_NOTED_EVERY) || noted_at > now);
        if is_due {
            self.noted_at = Some(now);
        }
        is_due
    }
}

/// The memory of good credentials, by MAC. It holds no credential itself.
#[derive(Default)]
pub(super) struct VerifiedCache {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Grows with every revocation: what was read before one must not be remembered after it.
    generation: u64,
    entries: HashMap<[u8; 32], Verified>,
}

/// The number of revocations at the time a look at the database began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Generation(u64);

impl VerifiedCache {
    /// The caller behind a credential that is still fresh, and whether this use of its key should be noted.
    pub(super) fn find(&self, mac: &[u8; 32], now: Timestamp) -> Option<(Caller, bool)> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let verified = inner.entries.get_mut(mac).filter(|verified| verified.is_fresh(now))?;
        let is_due = verified.note_use(now);
        Some((verified.caller.clone(), is_due))
    }

    pub(super) fn generation(&self) -> Generation {
        Generation(self.inner.lock().unwrap_or_else(PoisonError::into_inner).generation)
    }

    /// Remembers a credential, unless something was revoked since it was looked up.
    pub(super) fn insert(&self, mac: [u8; 32], verified: Verified, looked_up: Generation) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.generation != looked_up.0 {
            return;
        }
        if inner.entries.len() >= MOST {
            let now = verified.checked_at;
            inner.entries.retain(|_, entry| entry.is_fresh(now));
            if inner.entries.len() >= MOST {
                inner.entries.clear();
            }
        }
        inner.entries.insert(mac, verified);
    }

    /// Forgets the credentials that `is_revoked` names.
    pub(super) fn forget(&self, is_revoked: impl Fn(&Verified) -> bool) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.generation += 1;
        inner.entries.retain(|_, verified| !is_revoked(verified));
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use super::{Verified, VerifiedCache};
    use crate::{
        Timestamp,
        accounts::{Caller, Scope},
    };

    fn key(id: &str, checked_at: i64) -> Verified {
        Verified {
            caller: Caller {
                account_id: Arc::from("usr_a"),
                key_id: Some(Arc::from(id)),
                scopes: BTreeSet::from([Scope::All]),
            },
            session: None,
            checked_at: Timestamp(checked_at),
            expires_at: None,
            noted_at: None,
        }
    }

    #[test]
    fn a_revocation_between_look_up_and_insert_wins() {
        let cache = VerifiedCache::default();
        let looked_up = cache.generation();
        cache.forget(|verified| verified.caller.key_id.as_deref() == Some("ak_1"));
        cache.insert([1; 32], key("ak_1", 0), looked_up);
        assert!(cache.find(&[1; 32], Timestamp(0)).is_none());
    }

    #[test]
    fn an_entry_is_good_for_a_second_and_not_before_it_was_made() {
        let cache = VerifiedCache::default();
        cache.insert([1; 32], key("ak_1", 10_000), cache.generation());
        assert!(cache.find(&[1; 32], Timestamp(10_999)).is_some());
        assert!(cache.find(&[1; 32], Timestamp(11_000)).is_none());
        assert!(cache.find(&[1; 32], Timestamp(9_999)).is_none());
    }

    #[test]
    fn use_is_noted_once_a_minute() {
        let mut verified = key("ak_1", 0);
        assert!(verified.note_use(Timestamp(1_000)));
        assert!(!verified.note_use(Timestamp(60_999)));
        assert!(verified.note_use(Timestamp(61_000)));
    }

    #[test]
    fn the_memory_is_bounded() {
        let cache = VerifiedCache::default();
        for number in 0..super::MOST as u32 + 5 {
            let mut mac = [0; 32];
            mac[..4].copy_from_slice(&number.to_be_bytes());
            cache.insert(mac, key("ak_1", 0), cache.generation());
        }
        assert!(cache.inner.lock().expect("not poisoned").entries.len() <= super::MOST);
    }
}
