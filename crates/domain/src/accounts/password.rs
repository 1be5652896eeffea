//! Passwords: hashing them without stalling the server, and checking them without telling who exists.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use argon2::{
    Algorithm, Argon2, Params, PasswordHash, PasswordHasher as _, PasswordVerifier as _, Version,
    password_hash::SaltString,
};
use tokio::sync::Semaphore;

use super::SecretString;
use crate::{Error, Ids, Kind};

/// Memory of one hash in KiB (OWASP's first recommendation for argon2id: 19 MiB, two passes, one lane).
const MEMORY: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// A hash that no password has, with the figures above: checking against it takes as long as a real check.
const NOBODYS_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Passwords that may wait to be hashed; more are refused, so that a flood of sign-ins cannot pile up.
const MOST_WAITING: usize = 64;

/// Hashes passwords on blocking threads, a few at a time: each takes 19 MiB and a core for some tens of milliseconds.
pub(super) struct Hasher {
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Hasher {
    pub(super) fn new() -> Self {
        let slots = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(1, 4));
        Self { slots: Arc::new(Semaphore::new(slots)), waiting: AtomicUsize::new(0) }
    }

    /// The text to store for a new password.
    pub(super) async fn hash(&self, password: SecretString, ids: &dyn Ids) -> Result<String, Error> {
        let mut salt = [0_u8; 16];
        ids.fill(&mut salt);
        self.run(move || {
            let salt = SaltString::encode_b64(&salt).map_err(|error| broken(&error))?;
            let hash = argon2()?.hash_password(password.expose().as_bytes(), &salt).map_err(|error| broken(&error))?;
            Ok(hash.to_string())
        })
        .await
    }

    /// Whether the password belongs to the stored text. Takes as long when there is none.
    pub(super) async fn matches(&self, password: SecretString, stored: Option<String>) -> Result<bool, Error> {
        self.run(move || {
            let hash = PasswordHash::new(stored.as_deref().unwrap_or(NOBODYS_HASH)).map_err(|error| broken(&error))?;
            Ok(argon2()?.verify_password(password.expose().as_bytes(), &hash).is_ok())
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let _place = Place::take(&self.waiting)?;
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(Error::internal)?;
        tokio::task::spawn_blocking(move || {
            let result = work();
            drop(slot);
            result
        })
        .await
        .map_err(Error::internal)?
    }
}

/// A place among those who wait, given back when dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize) -> Result<Self, Error> {
        let place = Self(waiting);
        if waiting.fetch_add(1, Ordering::Relaxed) >= MOST_WAITING {
            return Err(Error::new(
                Kind::Unavailable,
                "too_many_sign_ins",
                "Too many sign-ins at once; try again soon",
            )
            .retry_after(Duration::from_secs(2)));
        }
        Ok(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn argon2() -> Result<Argon2<'static>, Error> {
    let params =
        Params::new(MEMORY, PASSES, LANES, None).map_err(|error| Error::internal(anyhow::anyhow!("{error}")))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn broken(error: &argon2::password_hash::Error) -> Error {
    Error::internal(anyhow::anyhow!("password hash: {error}"))
}

#[cfg(test)]
mod tests {
    use argon2::{Params, PasswordHash};

    use super::{Hasher, LANES, MEMORY, NOBODYS_HASH, PASSES};
    use crate::{RandomIds, accounts::SecretString};

    #[tokio::test]
    async fn the_right_password_matches_and_no_other() {
        let hasher = Hasher::new();
        let stored = hasher.hash(SecretString::from("correct horse"), &RandomIds).await.expect("hashes");
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(hasher.matches(SecretString::from("correct horse"), Some(stored.clone())).await.expect("checks"));
        assert!(!hasher.matches(SecretString::from("correct horse "), Some(stored)).await.expect("checks"));
        assert!(!hasher.matches(SecretString::from("correct horse"), None).await.expect("checks"));
    }

    #[test]
    fn nobodys_hash_costs_what_a_real_one_costs() {
        let hash = PasswordHash::new(NOBODYS_HASH).expect("parses");
        let params = Params::try_from(&hash).expect("has parameters");
        assert_eq!((params.m_cost(), params.t_cost(), params.p_cost()), (MEMORY, PASSES, LANES));
        assert_eq!(hash.hash.expect("has an output").len(), 32);
    }
}
