//! Sessions: a family of refresh tokens, each good for one use (spec/kasal.md 2.2).
//!
//! A refresh token's successor is computed from it with a key of the server's. So a client whose answer got lost, or
//! whose second tab was a moment late, gets the *same* successor within a short grace and nothing needs to be stored
//! in the clear. Anything later means that two parties hold the token: the whole session ends.

use super::{Accounts, SecretString, account_disabled, store, vault};
use crate::{Error, Kind, Timestamp};

/// How refresh tokens begin, so that scanners find them.
const PREFIX: &str = "rt_";
/// Characters of a refresh token after its prefix: more than 256 bits of base62.
const LENGTH: usize = 43;

/// What a session hands to its client.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// A JWT for the `Authorization` header.
    pub access_token: SecretString,
    /// When it ends.
    pub access_expires_at: Timestamp,
    /// Good for one [`Accounts::refresh`].
    pub refresh_token: SecretString,
    /// When it ends unused.
    pub refresh_expires_at: Timestamp,
}

/// How the use of a refresh token ended.
enum Use {
    /// Its successor is valid: account and family.
    Good {
        account: String,
        family: String,
        expires_at: Timestamp,
    },
    Unknown,
    Expired,
    Revoked,
    Disabled,
    /// It was used before; the family is revoked.
    Reused {
        family: String,
    },
}

impl Accounts {
    /// Opens a session for an account that proved itself.
    pub(super) async fn open_session(&self, account: &str) -> Result<Tokens, Error> {
        let now = self.clock.now();
        let family = self.ids.next("ses", now);
        let token = format!("{PREFIX}{}", self.ids.base62(LENGTH));
        let expires_at = now.after(self.settings.refresh_token_life);
        let mac = self.credential_mac("refresh", &token);
        let (owner, session) = (account.to_owned(), family.clone());
        self.db
            .write(move |tx| {
                Box::pin(async move { store::insert_token(tx, &mac, &owner, &session, now, expires_at).await })
            })
            .await?;
        self.tokens(account, &family, SecretString::from(token), expires_at)
    }

    /// Exchanges a refresh token for a new pair.
    ///
    /// # Errors
    /// [`Kind::Unauthenticated`] with the code `refresh_token_reused` when the token was used before, which ends its
    /// session; `token_revoked`, `token_expired`, or `unauthorized` for one that never was. [`Kind::Forbidden`] for a
    /// suspended account.
    pub async fn refresh(&self, refresh_token: &str) -> Result<Tokens, Error> {
        let now = self.clock.now();
        let successor = self.successor_of(refresh_token);
        let mac = self.credential_mac("refresh", refresh_token);
        let successor_mac = self.credential_mac("refresh", successor.expose());
        let (life, grace) = (self.settings.refresh_token_life, self.settings.refresh_grace);
        let used = self
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let Some(token) = store::claim_token(tx, &mac).await? else { return Ok(Use::Unknown) };
                    if token.is_revoked {
                        return Ok(Use::Revoked);
                    }
                    if token.is_account_disabled {
                        return Ok(Use::Disabled);
                    }
                    if let Some(used_at) = token.used_at {
                        let next = store::claim_token(tx, &successor_mac).await?;
                        return match next {
                            Some(next) if now < used_at.after(grace) && next.used_at.is_none() => Ok(Use::Good {
                                account: token.account_id,
                                family: token.family,
                                expires_at: next.expires_at,
                            }),
                            _ => {
                                store::revoke_family(tx, &token.family, now).await?;
                                Ok(Use::Reused { family: token.family })
                            }
                        };
                    }
                    if now >= token.expires_at {
                        return Ok(Use::Expired);
                    }
                    let expires_at = now.after(life);
                    store::mark_token_used(tx, &mac, now).await?;
                    store::insert_token(tx, &successor_mac, &token.account_id, &token.family, now, expires_at).await?;
                    Ok::<_, Error>(Use::Good { account: token.account_id, family: token.family, expires_at })
                })
            })
            .await?;
        let refused = |code, message| Err(Error::new(Kind::Unauthenticated, code, message));
        match used {
            Use::Good { account, family, expires_at } => self.tokens(&account, &family, successor, expires_at),
            Use::Unknown => Err(super::unauthenticated()),
            Use::Expired => refused("token_expired", "This session has expired; sign in again"),
            Use::Revoked => refused("token_revoked", "This session has ended; sign in again"),
            Use::Disabled => Err(account_disabled()),
            Use::Reused { family } => {
                self.forget_session(&family);
                tracing::warn!(session.id = %family, "a refresh token was used twice; its session is ended");
                refused(
                    "refresh_token_reused",
                    "This refresh token was used before; the session is ended, sign in again",
                )
            }
        }
    }

    /// Ends the session of an access token (expired ones too) or a refresh token. Ending it again is no error.
    ///
    /// # Errors
    /// [`Kind::Unauthenticated`] for a token that is not of ours.
    pub async fn logout(&self, token: &str) -> Result<(), Error> {
        let now = self.clock.now();
        let by_access_token = self.access_tokens.read(token).map(|claims| claims.sid);
        let mac = self.credential_mac("refresh", token);
        let family = self
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let family = match by_access_token {
                        Some(family) => Some(family),
                        None => store::claim_token(tx, &mac).await?.map(|token| token.family),
                    };
                    if let Some(family) = &family {
                        store::revoke_family(tx, family, now).await?;
                    }
                    Ok::<_, Error>(family)
                })
            })
            .await?
            .ok_or_else(super::unauthenticated)?;
        self.forget_session(&family);
        Ok(())
    }

    fn forget_session(&self, family: &str) {
        self.verified.forget(|verified| verified.session.as_deref() == Some(family));
    }

    fn tokens(
        &self,
        account: &str,
        family: &str,
        refresh_token: SecretString,
        refresh_expires_at: Timestamp,
    ) -> Result<Tokens, Error> {
        let life = self.settings.access_token_life;
        let (access_token, access_expires_at) = self.access_tokens.sign(account, family, self.clock.now(), life)?;
        Ok(Tokens {
            access_token: SecretString::from(access_token),
            access_expires_at,
            refresh_token,
            refresh_expires_at,
        })
    }

    fn successor_of(&self, token: &str) -> SecretString {
        let mac = vault::mac(&self.pepper, &["refresh successor", token]);
        SecretString::from(format!("{PREFIX}{}", hex::encode(*mac)))
    }
}
