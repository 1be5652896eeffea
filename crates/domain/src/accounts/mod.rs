//! Accounts: who owns everything, how callers prove who they are, and what they keep secret.
//!
//! Words: an *account* owns all objects of every face. A *caller* is an account together with the credential
//! that proved it and the credential's scopes. An *API key* is `cast_` + 8 public characters + `_` + secret,
//! stored as a MAC. A *session* begins with a sign-in by password: a family of refresh tokens, each good for one
//! use, and short-lived access tokens that die with it. A *secret* is a named value that belongs to something an
//! account owns, encrypted at rest by the [`Vault`].
//!
//! Invariants, held by tests in `tests/it/accounts.rs`: a credential is stored only as a MAC or a slow hash; what is
//! revoked is refused from the next call on; a credential never creates or revokes one that may do more than itself;
//! another account's object answers like an absent one.
//!
//! Tables: `accounts`, `api_keys`, `refresh_tokens`, `secrets`, `rate_windows`.

mod access_token;
mod api_key;
mod authenticate;
mod caller;
mod identity_provider;
mod login;
mod password;
mod rate;
mod redact;
mod register;
mod secret_string;
mod secrets;
mod session;
mod store;
mod vault;
mod verified;

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use backlot_db::Db;

pub use api_key::{ApiKey, CreatedKey};
pub use caller::{Caller, Scope};
pub use identity_provider::IdentityProvider;
pub use login::SignedIn;
pub use rate::{Principal, RateClass, RateLimits, RateStatus};
pub use redact::Redactor;
pub use register::Registered;
pub use secret_string::SecretString;
pub use secrets::{SecretInfo, delete_secrets_of};
pub use session::Tokens;
pub use vault::{Binding, KeyBytes, Sealed, Vault, VaultError};

use crate::{Clock, Error, Ids, Kind, Timestamp};

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The growing integer that the caster face shows.
    pub number: i64,
    /// `usr_…`.
    pub id: String,
    /// Lower case; absent when an identity provider tells none.
    pub email: Option<String>,
    /// When it came to be.
    pub created_at: Timestamp,
}

/// What somebody without a credential presents to get one.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// As typed; surrounding white space is ignored, and so is case.
    pub email: String,
    /// As typed.
    pub password: SecretString,
    /// The client's address, whose attempts are counted.
    pub address: IpAddr,
}

/// Who may register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Signup {
    /// Only the first person: while no account exists.
    #[default]
    First,
    /// Anybody.
    Open,
    /// Nobody.
    Closed,
}

impl std::str::FromStr for Signup {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "first" => Ok(Self::First),
            "open" => Ok(Self::Open),
            "closed" => Ok(Self::Closed),
            _ => Err(Error::invalid("signup", format!("`{text}` is not one of first, open, closed"))),
        }
    }
}

impl fmt::Display for Signup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "first",
            Self::Open => "open",
            Self::Closed => "closed",
        })
    }
}

/// Figures and choices of the operator.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who may register.
    pub signup: Signup,
    /// How often things may be done.
    pub rate_limits: RateLimits,
    /// An outside identity provider whose bearer JWTs are accepted.
    pub identity_provider: Option<IdentityProvider>,
    /// How long an access token is good, unless its session ends before (seed kasal: `expires_in` 86400).
    pub access_token_life: Duration,
    /// How long a refresh token waits for its use; a session unused for so long ends.
    pub refresh_token_life: Duration,
    /// How long a used refresh token still answers with the same successor, for tabs that race and answers that got
    /// lost (spec/kasal.md 2.2).
    pub refresh_grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        const DAY: u64 = 24 * 60 * 60;
        Self {
            signup: Signup::First,
            rate_limits: RateLimits::default(),
            identity_provider: None,
            access_token_life: Duration::from_secs(DAY),
            refresh_token_life: Duration::from_secs(30 * DAY),
            refresh_grace: Duration::from_secs(10),
        }
    }
}

/// The service.
pub struct Accounts {
    db: Db,
    vault: Arc<Vault>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    settings: Settings,
    /// Keys the MACs under which credentials are stored, so that a stolen database does not let anybody test guesses.
    pepper: KeyBytes,
    access_tokens: access_token::Signer,
    provider: Option<identity_provider::KeySet>,
    hasher: password::Hasher,
    verified: verified::VerifiedCache,
    windows: rate::Windows,
}

impl Accounts {
    /// Puts the service together. It starts no tasks and touches nothing.
    #[must_use]
    pub fn new(db: Db, vault: Arc<Vault>, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>, settings: Settings) -> Self {
        Self {
            pepper: vault.derive("credential macs"),
            access_tokens: access_token::Signer::new(&vault.derive("access tokens")),
            provider: settings.identity_provider.clone().map(identity_provider::KeySet::new),
            hasher: password::Hasher::new(),
            verified: verified::VerifiedCache::default(),
            windows: rate::Windows::default(),
            db,
            vault,
            clock,
            ids,
            settings,
        }
    }

    /// The account behind a caller.
    ///
    /// # Errors
    /// [`Kind::Unauthenticated`] when it was deleted a moment ago.
    pub async fn account(&self, caller: &Caller) -> Result<Account, Error> {
        let mut db = self.db.read().await?;
        let found = store::find_account(&mut db, &caller.account_id).await?;
        found.map(|stored| stored.account).ok_or_else(unauthenticated)
    }

    /// Whether anybody has registered yet.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn is_empty(&self) -> Result<bool, Error> {
        let mut db = self.db.read().await?;
        Ok(!store::has_accounts(&mut db).await?)
    }

    /// Removes expired sessions and rate windows. To be called now and then, for example every hour; tells how many
    /// rows went.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sweep(&self) -> Result<u64, Error> {
        let now = self.clock.now();
        self.db.write(move |tx| Box::pin(async move { store::sweep(tx, now).await })).await
    }

    /// The MAC under which a credential of one kind is stored or remembered.
    fn credential_mac(&self, kind: &str, credential: &str) -> [u8; 32] {
        *vault::mac(&self.pepper, &[kind, credential])
    }
}

/// Nobody known is asking. The same for every reason, so that a guesser learns nothing.
fn unauthenticated() -> Error {
    Error::new(Kind::Unauthenticated, "unauthorized", "Missing or invalid authentication")
}

/// The credential is right, but its account may not act.
fn account_disabled() -> Error {
    Error::new(Kind::Forbidden, "account_disabled", "This account is suspended")
}
