//! Rate limits: fixed windows per principal and class, opened by the first call in them (spec/castari.md 6).
//!
//! With SQLite there is one node and the windows are kept in memory; with PostgreSQL all nodes share them in the
//! table `rate_windows`, which an atomic upsert keeps.

use std::{
    borrow::Cow,
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use backlot_db::Engine;

use super::{Accounts, store};
use crate::{Error, Kind, Timestamp};

/// What kind of call is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RateClass {
    /// Every authenticated call but invocations.
    Crud,
    /// Calls that start a run.
    Invocation,
    /// Calls without a valid credential, by address.
    Anonymous,
    /// Sign-ins by address. Counted inside the domain.
    Login,
    /// Sign-ins by e-mail that have not succeeded. Counted inside the domain, and even when rate limits are off,
    /// because it is what stops guessing.
    LoginFailure,
    /// Registrations by address. Counted inside the domain.
    Registration,
}

impl RateClass {
    fn as_str(self) -> &'static str {
        match self {
            Self::Crud => "crud",
            Self::Invocation => "invocation",
            Self::Anonymous => "anonymous",
            Self::Login => "login",
            Self::LoginFailure => "login_failure",
            Self::Registration => "registration",
        }
    }

    fn window(self) -> Duration {
        Duration::from_secs(match self {
            Self::Crud | Self::Invocation | Self::Anonymous | Self::Login => 60,
            Self::LoginFailure => 15 * 60,
            Self::Registration => 60 * 60,
        })
    }
}

/// The longest window of all: older rows are of no use.
pub(super) const LONGEST_WINDOW: Duration = Duration::from_secs(60 * 60);

/// Who is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Principal<'a> {
    /// An account, whichever of its credentials is used.
    Account(&'a str),
    /// A client's address. IPv6 clients are counted by their /64, since one client commonly has all of it.
    Address(IpAddr),
    /// Whoever signs in with this e-mail address, as a keyed hash.
    Email(&'a str),
}

impl<'a> Principal<'a> {
    fn as_key(&self) -> Cow<'a, str> {
        match *self {
            Self::Account(id) => Cow::Borrowed(id),
            Self::Address(address) => Cow::Owned(match address.to_canonical() {
                IpAddr::V4(v4) => v4.to_string(),
                IpAddr::V6(v6) => {
                    let [a, b, c, d, ..] = v6.segments();
                    format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
                }
            }),
            Self::Email(hash) => Cow::Owned(format!("email:{hash}")),
        }
    }
}

/// How many calls are allowed in a window. Zero switches a class off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimits {
    /// Whether anything is limited at all (but guessing of passwords always is).
    pub enabled: bool,
    /// Per account and minute.
    pub crud: u32,
    /// Per account and minute.
    pub invocation: u32,
    /// Per address and minute.
    pub anonymous: u32,
    /// Per address and minute.
    pub login: u32,
    /// Per e-mail address and quarter of an hour.
    pub login_failure: u32,
    /// Per address and hour.
    pub registration: u32,
}

impl Default for RateLimits {
    /// The figures of spec/castari.md 6 and spec/caster.md 1.1.
    fn default() -> Self {
        Self { enabled: true, crud: 100, invocation: 10, anonymous: 30, login: 10, login_failure: 10, registration: 10 }
    }
}

impl RateLimits {
    fn of(&self, class: RateClass) -> u32 {
        match class {
            RateClass::LoginFailure => self.login_failure,
            _ if !self.enabled => 0,
            RateClass::Crud => self.crud,
            RateClass::Invocation => self.invocation,
            RateClass::Anonymous => self.anonymous,
            RateClass::Login => self.login,
            RateClass::Registration => self.registration,
        }
    }
}

/// Where a principal stands in its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateStatus {
    /// Calls per window; zero when the class is not limited.
    pub limit: u32,
    /// Calls left.
    pub remaining: u32,
    /// When the window ends.
    pub reset_at: Timestamp,
}

/// A window in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) started_at: Timestamp,
    pub(super) used: u64,
}

impl Accounts {
    /// Counts one call. The status belongs on every answer, the refused ones included.
    ///
    /// # Errors
    /// [`Kind::RateLimited`] when the window is used up, with the time to come back after; [`Kind::Internal`] when
    /// the database fails.
    pub async fn spend(&self, principal: Principal<'_>, class: RateClass) -> Result<RateStatus, (RateStatus, Error)> {
        let now = self.clock.now();
        let limit = self.settings.rate_limits.of(class);
        if limit == 0 {
            return Ok(RateStatus { limit, remaining: 0, reset_at: now.after(class.window()) });
        }
        let key = principal.as_key();
        let window = match self.db.engine() {
            Engine::Sqlite => self.windows.count(class, &key, now),
            Engine::Postgres => {
                let (key, length) = (key.into_owned(), class.window());
                let counted = self
                    .db
                    .write(move |tx| {
                        Box::pin(async move { store::count_call(tx, &key, class.as_str(), now, length).await })
                    })
                    .await;
                match counted {
                    Ok(window) => window,
                    Err(error) => {
                        return Err((RateStatus { limit, remaining: 0, reset_at: now.after(class.window()) }, error));
                    }
                }
            }
        };
        judge(limit, window, class.window(), now)
    }

    /// Forgets the calls that a principal made in the current window.
    pub(super) async fn forgive(&self, principal: Principal<'_>, class: RateClass) -> Result<(), Error> {
        let key = principal.as_key();
        match self.db.engine() {
            Engine::Sqlite => {
                self.windows.forget(class, &key);
                Ok(())
            }
            Engine::Postgres => {
                let key = key.into_owned();
                self.db
                    .write(move |tx| Box::pin(async move { store::forget_calls(tx, &key, class.as_str()).await }))
                    .await
            }
        }
    }
}

fn judge(limit: u32, window: Window, length: Duration, now: Timestamp) -> Result<RateStatus, (RateStatus, Error)> {
    let used = u32::try_from(window.used).unwrap_or(u32::MAX);
    let reset_at = window.started_at.after(length);
    let status = RateStatus { limit, remaining: limit.saturating_sub(used), reset_at };
    if used <= limit {
        return Ok(status);
    }
    let seconds = reset_at.since(now).as_millis().div_ceil(1000).max(1);
    let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
    let error =
        Error::new(Kind::RateLimited, "rate_limited", format!("Rate limit exceeded. Try again in {seconds} seconds."));
    Err((status, error.retry_after(Duration::from_secs(seconds))))
}

/// Whether a window is over. One that begins far in the future was opened before the clock was set back.
fn is_over(started_at: Timestamp, length: Duration, now: Timestamp) -> bool {
    now >= started_at.after(length) || started_at > now.after(length)
}

/// Windows kept at most; beyond that the finished ones go, then the oldest.
const MOST_WINDOWS: usize = 100_000;

/// Windows in memory, for a single node.
#[derive(Default)]
pub(super) struct Windows {
    by_class: Mutex<HashMap<RateClass, HashMap<String, Window>>>,
}

impl Windows {
    fn count(&self, class: RateClass, key: &str, now: Timestamp) -> Window {
        let mut by_class = self.by_class.lock().unwrap_or_else(PoisonError::into_inner);
        let windows = by_class.entry(class).or_default();
        if let Some(window) = windows.get_mut(key) {
            if is_over(window.started_at, class.window(), now) {
                *window = Window { started_at: now, used: 0 };
            }
            window.used += 1;
            return *window;
        }
        if windows.len() >= MOST_WINDOWS {
            make_room(windows, class.window(), now);
        }
        let window = Window { started_at: now, used: 1 };
        windows.insert(key.to_owned(), window);
        window
    }

    fn forget(&self, class: RateClass, key: &str) {
        let mut by_class = self.by_class.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(windows) = by_class.get_mut(&class) {
            windows.remove(key);
        }
    }
}

/// Drops what is over; if that is little, the older half goes too, so that the work is done rarely.
fn make_room(windows: &mut HashMap<String, Window>, length: Duration, now: Timestamp) {
    windows.retain(|_, window| !is_over(window.started_at, length, now));
    if windows.len() > MOST_WINDOWS / 2 {
        let mut starts: Vec<Timestamp> = windows.values().map(|window| window.started_at).collect();
        let middle = starts.len() / 2;
        let (_, median, _) = starts.select_nth_unstable(middle);
        let median = *median;
        windows.retain(|_, window| window.started_at > median);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{MOST_WINDOWS, Principal, RateClass, Windows, judge};
    use crate::Timestamp;

    #[test]
    fn a_window_is_opened_by_its_first_call_and_ends_after_a_minute() {
        let windows = Windows::default();
        let first = windows.count(RateClass::Crud, "usr_a", Timestamp(5_000));
        assert_eq!((first.started_at, first.used), (Timestamp(5_000), 1));
        let last = windows.count(RateClass::Crud, "usr_a", Timestamp(64_999));
        assert_eq!((last.started_at, last.used), (Timestamp(5_000), 2));
        let next = windows.count(RateClass::Crud, "usr_a", Timestamp(65_000));
        assert_eq!((next.started_at, next.used), (Timestamp(65_000), 1));
        assert_eq!(windows.count(RateClass::Invocation, "usr_a", Timestamp(65_000)).used, 1);
        assert_eq!(windows.count(RateClass::Crud, "usr_b", Timestamp(65_000)).used, 1);
    }

    #[test]
    fn a_clock_set_back_does_not_lock_anybody_out() {
        let windows = Windows::default();
        windows.count(RateClass::Crud, "usr_a", Timestamp(10_000_000));
        assert_eq!(windows.count(RateClass::Crud, "usr_a", Timestamp(1_000_000)).used, 1);
    }

    #[test]
    fn the_refusal_says_in_whole_seconds_when_to_come_back() {
        let window = super::Window { started_at: Timestamp(0), used: 11 };
        let (status, error) = judge(10, window, Duration::from_secs(60), Timestamp(59_001)).expect_err("is used up");
        assert_eq!((status.remaining, status.reset_at), (0, Timestamp(60_000)));
        assert_eq!(error.public, "Rate limit exceeded. Try again in 1 seconds.");
        assert_eq!(error.retry_after, Some(Duration::from_secs(1)));
    }

    #[test]
    fn addresses_are_counted_as_one_client_has_them() {
        let key = |text: &str| Principal::Address(text.parse().expect("is an address")).as_key().into_owned();
        assert_eq!(key("2001:db8:1:2:3::4"), key("2001:db8:1:2:ffff::"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:192.0.2.7"), "192.0.2.7");
    }

    #[test]
    fn memory_is_bounded_whoever_calls() {
        let windows = Windows::default();
        for caller in 0..(MOST_WINDOWS as i64 + 10) {
            windows.count(RateClass::Anonymous, &caller.to_string(), Timestamp(caller / 10_000));
        }
        let held = windows.by_class.lock().expect("not poisoned").values().map(|map| map.len()).sum::<usize>();
        assert!(held <= MOST_WINDOWS, "{held}");
    }
}
