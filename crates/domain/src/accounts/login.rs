//! Signing in with a password (seed caster; spec/caster.md 1.1.2).

use super::{
    Account, Accounts, Credentials, Principal, RateClass, Tokens, account_disabled,
    register::{LONGEST_PASSWORD, check_email},
    store,
};
use crate::{Error, Kind};

/// Somebody who signed in.
#[derive(Debug)]
pub struct SignedIn {
    /// The account.
    pub account: Account,
    /// The new session's tokens, shown this once.
    pub tokens: Tokens,
}

impl Accounts {
    /// Signs in and opens a session.
    ///
    /// # Errors
    /// As [`Accounts::check_password`].
    pub async fn login(&self, credentials: Credentials) -> Result<SignedIn, Error> {
        let account = self.check_password(credentials).await?;
        let tokens = self.open_session(&account.id).await?;
        Ok(SignedIn { account, tokens })
    }

    /// Tells whose e-mail address and password these are, without opening a session. Takes the same time and gives
    /// the same answer whether or not the account exists.
    ///
    /// # Errors
    /// [`Kind::Unauthenticated`] on any mismatch; [`Kind::RateLimited`] after too many tries from the address, or too
    /// many failures for the e-mail address; [`Kind::Forbidden`] for a suspended account.
    pub async fn check_password(&self, credentials: Credentials) -> Result<Account, Error> {
        self.spend(Principal::Address(credentials.address), RateClass::Login).await.map_err(|(_, e)| e)?;
        // What cannot be right must not cost a hash, and tells nothing about who exists.
        let email = check_email(&credentials.email).map_err(|_| mismatch())?;
        if credentials.password.expose().len() > LONGEST_PASSWORD {
            return Err(mismatch());
        }
        // Every try counts as a failure before it is judged, so that tries at the same time cannot slip past the limit.
        let counted = hex::encode(&self.credential_mac("email", &email)[..16]);
        self.spend(Principal::Email(&counted), RateClass::LoginFailure).await.map_err(|(_, e)| e)?;

        let mut db = self.db.read().await?;
        let stored = store::find_account_by_email(&mut db, &email).await?;
        drop(db);
        let (found, password_hash) = match stored {
            Some(stored) => (Some((stored.account, stored.is_disabled)), stored.password_hash),
            None => (None, None),
        };
        let is_right = self.hasher.matches(credentials.password, password_hash).await?;
        let (account, is_disabled) = found.filter(|_| is_right).ok_or_else(mismatch)?;
        if is_disabled {
            return Err(account_disabled());
        }
        self.forgive(Principal::Email(&counted), RateClass::LoginFailure).await?;
        Ok(account)
    }
}

fn mismatch() -> Error {
    Error::new(Kind::Unauthenticated, "invalid_credentials", "invalid email or password")
}
