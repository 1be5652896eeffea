//! Time and chance that a test decides.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use backlot_domain::{Clock, Ids, Timestamp};

/// A clock that stands still until it is told otherwise.
#[derive(Debug)]
pub struct TestClock(AtomicI64);

impl TestClock {
    /// A clock that stands at noon of 1 March 2026, UTC.
    #[must_use]
    pub fn new() -> Self {
        Self::at(Timestamp(1_772_366_400_000))
    }

    /// A clock that stands at `now`.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self(AtomicI64::new(now.0))
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let millis = i64::try_from(by.as_millis()).expect("a test lasts no million years");
        self.0.fetch_add(millis, Ordering::SeqCst);
    }

    /// Sets the clock, also back.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.0, Ordering::SeqCst);
    }
}

impl Default for TestClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// Identifiers and randomness that are the same at every run with the same seed. Identifiers made later sort later,
/// also within a millisecond.
#[derive(Debug)]
pub struct TestIds(Mutex<Chance>);

#[derive(Debug)]
struct Chance {
    state: u64,
    made: u16,
}

impl TestIds {
    /// Chance for a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(Chance { state: seed, made: 0 }))
    }
}

impl Chance {
    /// SplitMix64: fine for tests, of no use for keys.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Ids for TestIds {
    fn next(&self, prefix: &str, now: Timestamp) -> String {
        let mut chance = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        chance.made += 1;
        let random = (u128::from(chance.made) << 64) | u128::from(chance.next());
        let millis = u64::try_from(now.0).expect("tests take place after 1970");
        format!("{prefix}_{}", ulid::Ulid::from_parts(millis, random).to_string().to_lowercase())
    }

    fn fill(&self, bytes: &mut [u8]) {
        let mut chance = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in bytes.chunks_mut(8) {
            piece.copy_from_slice(&chance.next().to_le_bytes()[..piece.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use backlot_domain::{Ids as _, Timestamp};

    use super::TestIds;

    #[test]
    fn the_same_seed_gives_the_same_and_later_sorts_later() {
        let ids = |seed| {
            let ids = TestIds::new(seed);
            (0..5).map(|_| ids.next("x", Timestamp(1))).collect::<Vec<_>>()
        };
        assert_eq!(ids(7), ids(7));
        assert_ne!(ids(7), ids(8));
        assert!(ids(7).is_sorted());
    }
}
