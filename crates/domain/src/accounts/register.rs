//! Registering: an account and its first API key, together or not at all (seed caster; spec/caster.md 1.1.1).

use std::collections::BTreeSet;

use super::{
    Account, Accounts, CreatedKey, Credentials, Principal, RateClass, Scope, SecretString, Signup,
    store::{self, Identity},
};
use crate::{Error, Kind};

/// Bytes of a password.
const SHORTEST_PASSWORD: usize = 8;
/// Bytes of a password. Hashing takes time in proportion.
pub(super) const LONGEST_PASSWORD: usize = 1024;
/// Name of the key that comes with an account.
const FIRST_KEY: &str = "default";

/// A new account.
#[derive(Debug)]
pub struct Registered {
    /// The account.
    pub account: Account,
    /// Its first API key, in full, this once.
    pub api_key: SecretString,
}

impl Accounts {
    /// Registers an account with an e-mail address and a password. Its first key is named `default` and may do all.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for a malformed address or a password outside of 8 to 1024 bytes; [`Kind::Forbidden`] when
    /// registration is closed; [`Kind::Conflict`] for an address that is taken; [`Kind::RateLimited`].
    pub async fn register(&self, credentials: Credentials) -> Result<Registered, Error> {
        let email = check_email(&credentials.email)?;
        check_password(&credentials.password)?;
        self.check_signup().await?;
        self.spend(Principal::Address(credentials.address), RateClass::Registration).await.map_err(|(_, e)| e)?;
        let password_hash = self.hasher.hash(credentials.password, &*self.ids).await?;
        let key = self.new_key(FIRST_KEY.to_owned(), BTreeSet::from([Scope::All]));
        self.store_registration(email, password_hash, key).await
    }

    /// Refuses early what the transaction would refuse, before time is spent on hashing.
    async fn check_signup(&self) -> Result<(), Error> {
        match self.settings.signup {
            Signup::Open => Ok(()),
            Signup::First if self.is_empty().await? => Ok(()),
            Signup::First | Signup::Closed => Err(registration_disabled()),
        }
    }

    async fn store_registration(
        &self,
        email: String,
        password_hash: String,
        key: CreatedKey,
    ) -> Result<Registered, Error> {
        let now = self.clock.now();
        let id = self.ids.next("usr", now);
        let signup = self.settings.signup;
        let mac = self.credential_mac("key", key.secret.expose());
        self.db
            .write(move |tx| {
                Box::pin(async move {
                    admit(tx, signup).await?;
                    if store::find_account_by_email(tx, &email).await?.is_some() {
                        return Err(email_taken());
                    }
                    let identity = Identity {
                        email: Some(&email),
                        password_hash: Some(&password_hash),
                        issuer: None,
                        subject: None,
                    };
                    let account = store::insert_account(tx, &id, identity, now).await?;
                    store::insert_key(tx, &account.id, &key.key, &mac, u64::MAX).await?;
                    Ok(Registered { account, api_key: key.secret })
                })
            })
            .await
    }
}

/// Decides inside the transaction whether another account may come to be.
pub(super) async fn admit(tx: &mut backlot_db::Tx, signup: Signup) -> Result<(), Error> {
    store::lock_registration(tx).await?;
    match signup {
        Signup::Open => Ok(()),
        Signup::First if !store::has_accounts(tx).await? => Ok(()),
        Signup::First | Signup::Closed => Err(registration_disabled()),
    }
}

fn registration_disabled() -> Error {
    Error::new(Kind::Forbidden, "registration_disabled", "registration is disabled")
}

fn email_taken() -> Error {
    Error::new(Kind::Conflict, "email_taken", "email already registered")
}

/// The address in the form it is stored and compared in, if it looks like one.
pub(super) fn check_email(typed: &str) -> Result<String, Error> {
    let email = typed.trim();
    let looks_right = (3..=254).contains(&email.len())
        && !email.contains(|c: char| c.is_whitespace() || c.is_control())
        && email.split_once('@').is_some_and(|(local, domain)| {
            let has_place = domain == "localhost" || domain.contains('.');
            !local.is_empty() && has_place && !domain.contains('@') && domain.split('.').all(|label| !label.is_empty())
        });
    if looks_right { Ok(email.to_lowercase()) } else { Err(Error::invalid("email", "invalid email")) }
}

fn check_password(password: &SecretString) -> Result<(), Error> {
    match password.expose().len() {
        length if length < SHORTEST_PASSWORD => {
            Err(Error::invalid("password", format!("password must be at least {SHORTEST_PASSWORD} characters")))
        }
        length if length > LONGEST_PASSWORD => {
            Err(Error::invalid("password", format!("password must be at most {LONGEST_PASSWORD} bytes")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{check_email, check_password};
    use crate::accounts::SecretString;

    #[test]
    fn addresses_are_trimmed_and_compared_in_lower_case() {
        assert_eq!(check_email("  Alice@Example.COM ").expect("is an address"), "alice@example.com");
        assert_eq!(check_email("root@localhost").expect("is an address"), "root@localhost");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("{}@example.com", "a".repeat(250));
        for bad in ["", "a@", "@b.c", "ab", "a@b", "a@b@c.d", "a b@c.d", "a\0@c.d", "a@.c", "a@c..d", "a@c.", &long] {
            assert!(check_email(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn passwords_have_8_to_1024_bytes() {
        for (length, is_fine) in [(0, false), (7, false), (8, true), (1024, true), (1025, false)] {
            assert_eq!(check_password(&SecretString::from("p".repeat(length))).is_ok(), is_fine, "{length}");
        }
        assert!(check_password(&SecretString::from("   öö   ")).is_ok(), "any characters, not trimmed");
    }
}
