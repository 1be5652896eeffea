//! Accounts on both engines.

mod api_keys;
mod identity_provider;
mod passwords;
mod rate_limits;
mod secrets;
mod sessions;

use std::{net::IpAddr, sync::Arc, time::Duration};

use backlot_db::{Db, args};
use backlot_domain::{
    Error, Ids, Kind,
    accounts::{Accounts, Caller, Credentials, SecretString, Settings, Signup, Vault},
};
use backlot_testkit::{TestClock, TestIds};

const MASTER_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const PASSWORD: &str = "correct horse";
const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// A node: the service with a clock that the test moves.
struct Node {
    accounts: Accounts,
    clock: Arc<TestClock>,
}

impl Node {
    fn new(db: &Db, settings: Settings) -> Self {
        Self::with_vault(db, settings, MASTER_KEY)
    }

    fn with_vault(db: &Db, settings: Settings, master_key: &str) -> Self {
        static SEED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let seed = SEED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let clock = Arc::new(TestClock::new());
        let vault = Arc::new(Vault::from_text(master_key).expect("is a key"));
        let ids: Arc<dyn Ids> = Arc::new(TestIds::new(seed));
        let accounts = Accounts::new(db.clone(), vault, Arc::clone(&clock) as _, ids, settings);
        Self { accounts, clock }
    }

    /// A node where anybody may register and nothing is limited.
    fn open(db: &Db) -> Self {
        Self::new(db, open())
    }

    async fn register(&self, name: &str) -> (Caller, SecretString) {
        let registered = self.accounts.register(credentials(name, PASSWORD)).await.expect("registers");
        let caller = self.accounts.authenticate(registered.api_key.expose()).await.expect("the key is good");
        assert_eq!(*caller.account_id, *registered.account.id);
        (caller, registered.api_key)
    }

    fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}

fn open() -> Settings {
    let mut settings = Settings { signup: Signup::Open, ..Settings::default() };
    settings.rate_limits.enabled = false;
    settings
}

fn credentials(name: &str, password: &str) -> Credentials {
    Credentials { email: format!("{name}@example.com"), password: SecretString::from(password), address: HOME }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, kind: Kind, code: &str) -> Error {
    let error = result.expect_err("is refused");
    assert_eq!((error.kind, error.code), (kind, code), "{error:?}");
    error
}

async fn execute(db: &Db, sql: &'static str, account: &str) {
    let account = account.to_owned();
    let changed = db.write(move |tx| Box::pin(async move { tx.execute(sql, args![account]).await })).await;
    assert!(changed.expect("is written") > 0, "{sql} changes something");
}

async fn suspend(db: &Db, account: &str) {
    execute(db, "UPDATE accounts SET disabled_at = 1 WHERE id = $1", account).await;
}
