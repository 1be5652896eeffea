//! API keys: `cast_` + 8 public characters + `_` + secret (design: "API keys"; spec/castari.md 4.1).

use std::collections::BTreeSet;

use super::{
    Accounts, Caller, Scope, SecretString,
    store::{self, Inserted},
};
use crate::{
    Error, Kind, Timestamp,
    page::{Page, Window},
};

/// How every key begins.
pub(super) const START: &str = "cast_";
/// Characters of the public part.
const PUBLIC: usize = 8;
/// Characters of the secret part that we make: 256 bits of base62.
const SECRET: usize = 43;
/// Characters of the secret part that we look at.
const SECRETS: std::ops::RangeInclusive<usize> = 10..=64;
/// Keys of an account (spec/caster.md 1.2).
const MOST_KEYS: u64 = 50;
/// Characters of a key's name.
const LONGEST_NAME: usize = 100;

/// What may be known of an API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The growing integer that the caster face shows.
    pub number: i64,
    /// `ak_…`.
    pub id: String,
    /// What its owner calls it.
    pub name: String,
    /// The eight public characters, without `cast_`.
    pub prefix: String,
    /// What it may do.
    pub scopes: BTreeSet<Scope>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
}

/// A new API key.
#[derive(Debug)]
pub struct CreatedKey {
    /// What may be known of it later.
    pub key: ApiKey,
    /// The key in full, this once.
    pub secret: SecretString,
}

impl Accounts {
    /// Makes an API key with some of the caller's own scopes.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for a name outside of 1 to 100 characters or no scopes; [`Kind::Forbidden`] for a scope that
    /// the caller lacks; [`Kind::LimitReached`] past 50 keys.
    pub async fn create_key(&self, caller: &Caller, name: &str, scopes: BTreeSet<Scope>) -> Result<CreatedKey, Error> {
        let name = check_name(name)?;
        check_scopes(caller, &scopes)?;
        let mut created = self.new_key(name, scopes);
        let (inserted, number) = self.insert_key(&caller.account_id, &created).await?;
        match inserted {
            Inserted::Yes => {
                created.key.number = number;
                Ok(created)
            }
            Inserted::TooMany => Err(Error::new(Kind::LimitReached, "too_many_api_keys", "too many API keys")),
            Inserted::NoAccount => Err(super::unauthenticated()),
        }
    }

    /// The account's keys, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_keys(&self, caller: &Caller, window: Window) -> Result<Page<ApiKey>, Error> {
        let mut db = self.db.read().await?;
        store::list_keys(&mut db, &caller.account_id, window).await
    }

    /// The key that the caller used, or the newest key when it came with a token (spec/castari.md 4.3).
    ///
    /// # Errors
    /// When the database fails.
    pub async fn current_key(&self, caller: &Caller) -> Result<Option<ApiKey>, Error> {
        let mut db = self.db.read().await?;
        match &caller.key_id {
            Some(id) => store::find_key(&mut db, &caller.account_id, id).await,
            None => store::newest_key(&mut db, &caller.account_id).await,
        }
    }

    /// Revokes a key: from the next call on it is unknown.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when the account has no such key or it is revoked already; [`Kind::Forbidden`] for a key that
    /// may do more than the caller.
    pub async fn revoke_key(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        let now = self.clock.now();
        let (revoker, key_id) = (caller.clone(), id.to_owned());
        self.db
            .write(move |tx| {
                Box::pin(async move {
                    let key = store::find_key(tx, &revoker.account_id, &key_id).await?.ok_or_else(key_not_found)?;
                    check_scopes(&revoker, &key.scopes)?;
                    match store::revoke_key(tx, &revoker.account_id, &key_id, now).await? {
                        true => Ok(()),
                        false => Err(key_not_found()),
                    }
                })
            })
            .await?;
        self.verified.forget(|verified| verified.caller.key_id.as_deref() == Some(id));
        Ok(())
    }

    /// Revokes the key that the caller used, or the newest key when it came with a token (spec/castari.md 4.3).
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is none.
    pub async fn revoke_current_key(&self, caller: &Caller) -> Result<(), Error> {
        let key = self.current_key(caller).await?.ok_or_else(key_not_found)?;
        self.revoke_key(caller, &key.id).await
    }

    pub(super) fn new_key(&self, name: String, scopes: BTreeSet<Scope>) -> CreatedKey {
        let now = self.clock.now();
        let prefix = self.ids.base62(PUBLIC);
        let secret = SecretString::from(format!("{START}{prefix}_{}", self.ids.base62(SECRET)));
        let id = self.ids.next("ak", now);
        let key = ApiKey { number: 0, id, name, prefix, scopes, created_at: now, last_used_at: None };
        CreatedKey { key, secret }
    }

    async fn insert_key(&self, account: &str, created: &CreatedKey) -> Result<(Inserted, i64), Error> {
        let mac = self.credential_mac("key", created.secret.expose());
        let (account, key) = (account.to_owned(), created.key.clone());
        self.db
            .write(move |tx| Box::pin(async move { store::insert_key(tx, &account, &key, &mac, MOST_KEYS).await }))
            .await
    }
}

/// The public part of something that has a key's form.
pub(super) fn public_part(credential: &str) -> Option<&str> {
    let (public, secret) = credential.strip_prefix(START)?.split_once('_')?;
    let is_base62 = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let fits = public.len() == PUBLIC && SECRETS.contains(&secret.len()) && is_base62(public) && is_base62(secret);
    fits.then_some(public)
}

fn key_not_found() -> Error {
    Error::new(Kind::NotFound, "api_key_not_found", "API key not found")
}

fn check_name(name: &str) -> Result<String, Error> {
    let name = name.trim();
    if name.is_empty() {
        return Err(Error::invalid("name", "name is required"));
    }
    if name.chars().count() > LONGEST_NAME {
        return Err(Error::invalid("name", format!("ensure this value has at most {LONGEST_NAME} characters")));
    }
    if name.contains(char::is_control) {
        return Err(Error::invalid("name", "must not contain control characters"));
    }
    Ok(name.to_owned())
}

/// Insists that the caller has every one of these scopes.
fn check_scopes(caller: &Caller, scopes: &BTreeSet<Scope>) -> Result<(), Error> {
    if scopes.is_empty() {
        return Err(Error::invalid("scopes", "at least one scope is required"));
    }
    scopes.iter().try_for_each(|scope| caller.require(*scope))
}

#[cfg(test)]
mod tests {
    use super::{check_name, public_part};

    #[test]
    fn only_the_documented_form_is_looked_up() {
        assert_eq!(public_part("cast_abcd1234_0123456789"), Some("abcd1234"));
        assert_eq!(public_part(&format!("cast_abcd1234_{}", "Z".repeat(64))), Some("abcd1234"));
        for bad in [
            "cast_",
            "cast_abcd1234",
            "cast_abcd123_0123456789",
            "cast_abcd12345_0123456789",
            "cast_abcd1234_012345678",
            "cast_abcd1234_01234567_9",
            "cast_abcd123ö_0123456789",
            "cap_abcd1234_0123456789",
            "CAST_abcd1234_0123456789",
            &format!("cast_abcd1234_{}", "Z".repeat(65)),
        ] {
            assert_eq!(public_part(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_have_1_to_100_characters() {
        assert_eq!(check_name("  ci  ").expect("fits"), "ci");
        assert!(check_name(&"ö".repeat(100)).is_ok());
        for bad in ["", "  ", "a\nb", &"x".repeat(101)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
