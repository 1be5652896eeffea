//! Secrets of an agent: environment variables of its program, never shown again (spec/castari.md 14).

use super::CodeAgents;
use crate::{
    Error, Kind, Timestamp,
    accounts::{Caller, Scope},
    page::{Page, Window},
};

/// What may be known of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretInfo {
    /// Its name, which is the name of the variable.
    pub key: String,
    /// When it was first set.
    pub created_at: Timestamp,
    /// When it was last set.
    pub updated_at: Timestamp,
}

/// Names that would change how the program itself is run.
const RESERVED: &[&str] = &["PATH", "HOME", "USER", "SHELL", "NODE_OPTIONS"];
/// The one name under the platform's prefix that users may set: it fetches private repositories.
pub(super) const GIT_TOKEN: &str = "CASTARI_GIT_TOKEN";
/// Bytes of a value.
const LARGEST_VALUE: usize = 64 * 1024;
/// Secrets of an agent.
const MOST_SECRETS: u64 = 100;

impl CodeAgents {
    /// Secrets of an agent, newest first, without values.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when the agent does not exist.
    pub async fn secrets(&self, caller: &Caller, slug: &str, window: Window) -> Result<Page<SecretInfo>, Error> {
        caller.require(Scope::Agents)?;
        let agent = self.find(caller, slug).await?;
        let page = self.accounts.list_secrets(&caller.account_id, &agent.id, window).await?;
        Ok(page.map(|secret| SecretInfo {
            key: secret.name,
            created_at: secret.created_at,
            updated_at: secret.updated_at,
        }))
    }

    /// Sets a secret, in effect from the next invocation. Tells whether it is new.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for a reserved or malformed name or a value that is too large; [`Kind::LimitReached`] past
    /// 100 secrets; [`Kind::NotFound`].
    pub async fn set_secret(&self, caller: &Caller, slug: &str, key: &str, value: &str) -> Result<bool, Error> {
        caller.require(Scope::Agents)?;
        check_name(key)?;
        if value.len() > LARGEST_VALUE {
            return Err(Error::invalid("value", format!("ensure this value has at most {LARGEST_VALUE} bytes")));
        }
        if value.contains('\0') {
            return Err(Error::invalid("value", "must not contain a NUL character"));
        }
        let agent = self.find(caller, slug).await?;
        self.accounts.set_secret(&caller.account_id, &agent.id, key, value, MOST_SECRETS).await
    }

    /// Removes a secret.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when the agent or the secret does not exist.
    pub async fn delete_secret(&self, caller: &Caller, slug: &str, key: &str) -> Result<(), Error> {
        caller.require(Scope::Agents)?;
        let agent = self.find(caller, slug).await?;
        if self.accounts.delete_secret(&caller.account_id, &agent.id, key).await? {
            return Ok(());
        }
        Err(Error::new(Kind::NotFound, "secret_not_found", "Secret not found"))
    }
}

fn check_name(key: &str) -> Result<(), Error> {
    let mut bytes = key.bytes();
    let fits = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && key.len() <= 128;
    if !fits {
        return Err(Error::invalid("key", "string does not match regex \"^[A-Za-z_][A-Za-z0-9_]{0,127}$\""));
    }
    let is_reserved =
        RESERVED.contains(&key) || key.starts_with("LD_") || (key.starts_with("CASTARI_") && key != GIT_TOKEN);
    if is_reserved {
        return Err(Error::invalid("key", format!("`{key}` is reserved")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_name;

    #[test]
    fn names_that_would_change_how_programs_run_are_refused() {
        for good in ["STRIPE_SECRET_KEY", "_x", "a1", "ANTHROPIC_API_KEY", "CASTARI_GIT_TOKEN", &"X".repeat(128)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "1A", "A-B", "A B", "PATH", "LD_PRELOAD", "CASTARI_X", "Ä", "A=B", &"X".repeat(129)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
