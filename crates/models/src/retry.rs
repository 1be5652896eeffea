//! Repeating calls that failed before their first event.
//!
//! Nothing is repeated once an event has arrived: what the caller has seen cannot be taken back.

use std::time::Duration;

use crate::{Error, EventStream, Model, Request};

/// How often and how patiently to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Calls in all, the first included; at least one is made.
    pub attempts: u32,
    /// Wait before the second call; doubled for each further one.
    pub first_wait: Duration,
    /// Longest single wait. A provider that asks for a longer one ends the trying.
    pub max_wait: Duration,
    /// Spreads the waits of many callers. Equal seeds wait equally long, so that a resumed run repeats itself.
    pub seed: u64,
}

impl Default for Policy {
    fn default() -> Self {
        let (first_wait, max_wait) = (Duration::from_millis(500), Duration::from_secs(60));
        Self { attempts: 4, first_wait, max_wait, seed: 0 }
    }
}

/// A call that failed and will be repeated.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Which call it was; the first is 1.
    pub number: u32,
    /// Why it failed.
    pub error: Error,
    /// How long to wait before the next one.
    pub wait: Duration,
}

impl Policy {
    /// What to do after call `number` failed: the wait before the next one, or `None` to give up.
    ///
    /// The provider's own wish ([`Error::retry_after`]) is kept to; a little is added so that callers who were
    /// refused together do not come back together.
    #[must_use]
    pub fn wait_after(&self, number: u32, error: &Error) -> Option<Duration> {
        if number >= self.attempts || !error.kind.is_retryable() {
            return None;
        }
        let spread = f64::from(scramble(self.seed.wrapping_add(u64::from(number))) % 1000) / 1000.0;
        if let Some(asked) = error.retry_after {
            if asked > self.max_wait {
                return None;
            }
            return Some(asked.saturating_add(self.first_wait.mul_f64(spread / 4.0)));
        }
        let doubled = self.first_wait.saturating_mul(1 << (number - 1).min(20)).min(self.max_wait);
        // Between half and the whole of the doubled wait.
        Some(doubled.mul_f64(0.5 + spread / 2.0))
    }
}

/// SplitMix64's finaliser: neighbouring numbers come out far apart.
fn scramble(seed: u64) -> u32 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    u32::try_from((z ^ (z >> 31)) >> 32).unwrap_or(0)
}

/// Calls the model until it answers or the policy gives up.
///
/// `sleep` is told of every failed call that will be repeated and waits as long as it says; this is the place to
/// journal the attempt.
///
/// # Errors
/// That of the last call.
pub async fn call_with_retries<Sleep, Slept>(
    model: &dyn Model,
    request: Request,
    policy: Policy,
    mut sleep: Sleep,
) -> Result<EventStream, Error>
where
    Sleep: FnMut(Attempt) -> Slept,
    Slept: Future<Output = ()>,
{
    let mut number = 1;
    loop {
        let error = match model.call(request.clone()).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let Some(wait) = policy.wait_after(number, &error) else { return Err(error) };
        sleep(Attempt { number, error, wait }).await;
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn error(kind: ErrorKind, retry_after: Option<u64>) -> Error {
        Error { retry_after: retry_after.map(Duration::from_secs), ..Error::new(kind, "no") }
    }

    #[test]
    fn waits_double_and_stay_bounded() {
        let policy = Policy { attempts: 40, seed: 7, ..Policy::default() };
        let unavailable = error(ErrorKind::Unavailable, None);
        let mut nominal = policy.first_wait;
        for number in 1..40 {
            let wait = policy.wait_after(number, &unavailable).expect("a further attempt");
            assert!(wait >= nominal / 2 && wait <= nominal, "{number}: {wait:?} of {nominal:?}");
            nominal = (nominal * 2).min(policy.max_wait);
        }
        assert_eq!(policy.wait_after(40, &unavailable), None);
    }

    #[test]
    fn the_providers_wish_is_kept_or_the_trying_ends() {
        let policy = Policy::default();
        let wait = policy.wait_after(1, &error(ErrorKind::RateLimited, Some(20))).expect("within the longest wait");
        assert!(wait >= Duration::from_secs(20) && wait < Duration::from_secs(21));
        assert_eq!(policy.wait_after(1, &error(ErrorKind::RateLimited, Some(61))), None);
    }

    #[test]
    fn what_cannot_succeed_is_not_repeated() {
        for kind in [ErrorKind::Invalid, ErrorKind::Authentication, ErrorKind::NotFound, ErrorKind::ContextOverflow] {
            assert_eq!(Policy::default().wait_after(1, &error(kind, Some(1))), None);
        }
    }

    #[test]
    fn seeds_spread_the_waits() {
        let unavailable = error(ErrorKind::Unavailable, None);
        let waits: std::collections::HashSet<Duration> =
            (0..100).filter_map(|seed| Policy { seed, ..Policy::default() }.wait_after(1, &unavailable)).collect();
        assert!(waits.len() > 80);
    }
}
