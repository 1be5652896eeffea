//! Secrets: named values that belong to something an account owns. What a name may look like and how many there may
//! be is the owner's rule; here are only the limits that hold for all.

use backlot_db::Tx;

use super::{
    Accounts, Binding, SecretString, VaultError,
    store::{self, SecretSet},
};
use crate::{
    Error, Kind, Timestamp,
    page::{Page, Window},
};

/// Bytes of a name.
const LONGEST_NAME: usize = 256;
/// Bytes of a value.
const LARGEST_VALUE: usize = 1024 * 1024;
/// Secrets that are wrapped anew in one transaction.
const REWRAPPED_AT_ONCE: u32 = 200;

/// What may be known of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretInfo {
    /// Its name.
    pub name: String,
    /// When it was first set.
    pub created_at: Timestamp,
    /// When it was last set.
    pub updated_at: Timestamp,
}

impl Accounts {
    /// Sets a secret of `owner`, an object of the account. Tells whether it is new.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for an empty, too long or unprintable name or a value over 1 MiB; [`Kind::LimitReached`] when
    /// `owner` has `most` secrets already; [`Kind::NotFound`] when the account is gone.
    pub async fn set_secret(
        &self,
        account_id: &str,
        owner: &str,
        name: &str,
        value: &str,
        most: u64,
    ) -> Result<bool, Error> {
        check(name, value)?;
        let now = self.clock.now();
        let binding = Binding { account: account_id, owner, name };
        let sealed = self.vault.seal(&*self.ids, binding, &SecretString::from(value)).map_err(Error::internal)?;
        let (account_id, owner, name) = (account_id.to_owned(), owner.to_owned(), name.to_owned());
        let set = self
            .db
            .write(move |tx| {
                Box::pin(async move { store::set_secret(tx, (&account_id, &owner, &name), &sealed, most, now).await })
            })
            .await?;
        match set {
            SecretSet::Created => Ok(true),
            SecretSet::Replaced => Ok(false),
            SecretSet::TooMany => {
                Err(Error::new(Kind::LimitReached, "too_many_secrets", format!("There may be {most} secrets at most")))
            }
            SecretSet::NoAccount => Err(Error::new(Kind::NotFound, "account_not_found", "Account not found")),
        }
    }

    /// Secrets of `owner`, newest first, without values.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_secrets(&self, account_id: &str, owner: &str, window: Window) -> Result<Page<SecretInfo>, Error> {
        let mut db = self.db.read().await?;
        store::list_secrets(&mut db, account_id, owner, window).await
    }

    /// Removes a secret of `owner`. Tells whether there was one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_secret(&self, account_id: &str, owner: &str, name: &str) -> Result<bool, Error> {
        let (account_id, owner, name) = (account_id.to_owned(), owner.to_owned(), name.to_owned());
        self.db
            .write(move |tx| Box::pin(async move { store::delete_secret(tx, &account_id, &owner, &name).await }))
            .await
    }

    /// All secrets of `owner` with their values, by name.
    ///
    /// # Errors
    /// [`Kind::Internal`] when one does not open; the log says which and why.
    pub async fn open_secrets(&self, account_id: &str, owner: &str) -> Result<Vec<(String, SecretString)>, Error> {
        let mut db = self.db.read().await?;
        let sealed = store::sealed_secrets(&mut db, account_id, owner).await?;
        drop(db);
        sealed
            .into_iter()
            .map(|(name, sealed)| {
                let binding = Binding { account: account_id, owner, name: &name };
                let value = self.vault.open_sealed(binding, &sealed).map_err(|error| damaged(binding, error))?;
                Ok((name, value))
            })
            .collect()
    }

    /// The value of one secret of `owner`, if it is set.
    ///
    /// # Errors
    /// [`Kind::Internal`] when it does not open; the log says why.
    pub async fn open_secret(&self, account_id: &str, owner: &str, name: &str) -> Result<Option<SecretString>, Error> {
        let mut db = self.db.read().await?;
        let sealed = store::sealed_secret(&mut db, account_id, owner, name).await?;
        drop(db);
        let binding = Binding { account: account_id, owner, name };
        sealed
            .map(|sealed| self.vault.open_sealed(binding, &sealed).map_err(|error| damaged(binding, error)))
            .transpose()
    }

    /// Wraps every secret's data key with the newest master key, so that older ones (but the first) may be taken
    /// away. Tells how many there were.
    ///
    /// # Errors
    /// [`Kind::Internal`] when a secret does not open, or the database fails; what was done stays done.
    pub async fn rewrap_secrets(&self) -> Result<u64, Error> {
        let mut done = 0;
        loop {
            let mut db = self.db.read().await?;
            let part = store::secrets_wrapped_before(&mut db, self.vault.newest_version(), REWRAPPED_AT_ONCE).await?;
            drop(db);
            if part.is_empty() {
                return Ok(done);
            }
            done += part.len() as u64;
            let mut changes = Vec::with_capacity(part.len());
            for (account, owner, name, before) in part {
                let binding = Binding { account: &account, owner: &owner, name: &name };
                let after = self.vault.rewrap(&*self.ids, binding, &before).map_err(|e| damaged(binding, e))?;
                changes.extend(after.map(|after| (account, owner, name, before, after)));
            }
            self.db
                .write(move |tx| {
                    Box::pin(async move {
                        for (account, owner, name, before, after) in &changes {
                            store::replace_wrapping(tx, (account, owner, name), before, after).await?;
                        }
                        Ok::<_, Error>(())
                    })
                })
                .await?;
        }
    }
}

/// Removes every secret of `owner` together with `owner` itself, in the caller's transaction. Tells how many went.
///
/// # Errors
/// When the database fails.
pub async fn delete_secrets_of(tx: &mut Tx, account_id: &str, owner: &str) -> Result<u64, Error> {
    store::delete_secrets_of(tx, account_id, owner).await
}

fn check(name: &str, value: &str) -> Result<(), Error> {
    if name.is_empty() || name.len() > LONGEST_NAME || name.contains(char::is_control) {
        return Err(Error::invalid("name", format!("must have 1 to {LONGEST_NAME} bytes and no control characters")));
    }
    if value.len() > LARGEST_VALUE {
        return Err(Error::invalid("value", format!("ensure this value has at most {LARGEST_VALUE} bytes")));
    }
    Ok(())
}

fn damaged(binding: Binding<'_>, error: VaultError) -> Error {
    let Binding { account, owner, name } = binding;
    Error::internal(anyhow::Error::new(error).context(format!("table `secrets`, row `{account}` `{owner}` `{name}`")))
}
