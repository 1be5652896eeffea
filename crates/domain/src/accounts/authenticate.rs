//! Finding out who is asking (spec/castari.md 4).

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Accounts, Caller, Scope, access_token, account_disabled, api_key,
    store::{self, Identity, SessionState},
    unauthenticated,
    verified::Verified,
};
use crate::{
    Error, Timestamp,
    accounts::{identity_provider::Person, register},
};

/// Characters of a credential that we look at.
const LONGEST: usize = 8 * 1024;

impl Accounts {
    /// The caller behind a bearer credential: an API key, an access token of ours, or a JWT of the configured identity
    /// provider, whose first sight creates an account when registration allows.
    ///
    /// # Errors
    /// [`Kind::Unauthenticated`](crate::Kind::Unauthenticated) for anything unknown, expired or revoked;
    /// [`Kind::Forbidden`](crate::Kind::Forbidden) for a suspended account;
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) when the identity provider's keys cannot be had.
    pub async fn authenticate(&self, credential: &str) -> Result<Caller, Error> {
        if credential.len() > LONGEST {
            return Err(unauthenticated());
        }
        let now = self.clock.now();
        let mac = self.credential_mac("verified", credential);
        if let Some((caller, is_use_due)) = self.verified.find(&mac, now) {
            if is_use_due {
                self.note_use(&caller, now);
            }
            return Ok(caller);
        }
        let looked_up = self.verified.generation();
        let mut verified = self.verify(credential, now).await?;
        if verified.note_use(now) {
            self.note_use(&verified.caller, now);
        }
        let caller = verified.caller.clone();
        self.verified.insert(mac, verified, looked_up);
        Ok(caller)
    }

    async fn verify(&self, credential: &str, now: Timestamp) -> Result<Verified, Error> {
        if credential.starts_with(api_key::START) {
            return self.verify_key(credential, now).await;
        }
        let header = jsonwebtoken::decode_header(credential).map_err(|_| unauthenticated())?;
        if header.alg == access_token::ALGORITHM {
            return self.verify_access_token(credential, now).await;
        }
        self.verify_outside_token(credential, &header, now).await
    }

    async fn verify_key(&self, credential: &str, now: Timestamp) -> Result<Verified, Error> {
        let prefix = api_key::public_part(credential).ok_or_else(unauthenticated)?;
        let mut db = self.db.read().await?;
        let stored = store::find_key_by_prefix(&mut db, prefix).await?.ok_or_else(unauthenticated)?;
        drop(db);
        if !is_equal(&stored.mac, &self.credential_mac("key", credential)) {
            return Err(unauthenticated());
        }
        if stored.is_account_disabled {
            return Err(account_disabled());
        }
        Ok(Verified {
            caller: Caller {
                account_id: stored.account_id.into(),
                key_id: Some(stored.key.id.into()),
                scopes: stored.key.scopes,
            },
            session: None,
            checked_at: now,
            expires_at: None,
            noted_at: stored.key.last_used_at,
        })
    }

    async fn verify_access_token(&self, token: &str, now: Timestamp) -> Result<Verified, Error> {
        let claims = self.access_tokens.read(token).ok_or_else(unauthenticated)?;
        if now >= claims.expires_at() {
            return Err(ended("token_expired"));
        }
        let mut db = self.db.read().await?;
        match store::session_state(&mut db, &claims.sub, &claims.sid).await? {
            SessionState::Alive => Ok(Verified {
                expires_at: Some(claims.expires_at()),
                caller: everything(claims.sub),
                session: Some(claims.sid.into()),
                checked_at: now,
                noted_at: None,
            }),
            SessionState::Ended => Err(ended("token_revoked")),
            SessionState::AccountDisabled => Err(account_disabled()),
        }
    }

    async fn verify_outside_token(
        &self,
        token: &str,
        header: &jsonwebtoken::Header,
        now: Timestamp,
    ) -> Result<Verified, Error> {
        let provider = self.provider.as_ref().ok_or_else(unauthenticated)?;
        let person = provider.verify(token, header, now).await?;
        let expires_at = person.expires_at;
        let account = self.account_of(person, now).await?;
        Ok(Verified {
            caller: everything(account),
            session: None,
            checked_at: now,
            expires_at: Some(expires_at),
            noted_at: None,
        })
    }

    /// The account of a person whom the identity provider vouches for.
    async fn account_of(&self, person: Person, now: Timestamp) -> Result<String, Error> {
        let mut db = self.db.read().await?;
        let known = store::find_account_by_identity(&mut db, &person.issuer, &person.subject).await?;
        drop(db);
        let known = match known {
            Some(known) => known,
            None => self.welcome(person, now).await?,
        };
        if known.is_disabled {
            return Err(account_disabled());
        }
        Ok(known.account.id)
    }

    /// Creates the account of a person seen for the first time. An e-mail address that another account has stays with
    /// that account: the provider's word must not take over what somebody registered with a password.
    async fn welcome(&self, person: Person, now: Timestamp) -> Result<store::StoredAccount, Error> {
        let id = self.ids.next("usr", now);
        let signup = self.settings.signup;
        let email = person.email.as_deref().and_then(|email| register::check_email(email).ok());
        self.db
            .write(move |tx| {
                Box::pin(async move {
                    store::lock_registration(tx).await?;
                    // Another call of the same person may have been faster.
                    if let Some(known) = store::find_account_by_identity(tx, &person.issuer, &person.subject).await? {
                        return Ok(known);
                    }
                    register::admit(tx, signup).await?;
                    let email = match email {
                        Some(email) if store::find_account_by_email(tx, &email).await?.is_none() => Some(email),
                        _ => None,
                    };
                    let identity = Identity {
                        email: email.as_deref(),
                        password_hash: None,
                        issuer: Some(&person.issuer),
                        subject: Some(&person.subject),
                    };
                    let account = store::insert_account(tx, &id, identity, now).await?;
                    Ok(store::StoredAccount { account, password_hash: None, is_disabled: false })
                })
            })
            .await
    }

    /// Writes down that a key was used, without making its caller wait.
    fn note_use(&self, caller: &Caller, now: Timestamp) {
        let Some(id) = caller.key_id.clone() else { return };
        let db = self.db.clone();
        tokio::spawn(async move {
            let noted = db.write(move |tx| Box::pin(async move { store::note_key_use(tx, &id, now).await })).await;
            if let Err(error) = noted {
                tracing::warn!(?error, "the use of an API key could not be noted");
            }
        });
    }
}

/// A token that was good once.
fn ended(code: &'static str) -> Error {
    let mut error = unauthenticated();
    error.code = code;
    error
}

/// A person who signed in may do everything with their account.
fn everything(account: String) -> Caller {
    Caller { account_id: Arc::from(account), key_id: None, scopes: BTreeSet::from([Scope::All]) }
}

/// Comparison in constant time.
fn is_equal(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}
