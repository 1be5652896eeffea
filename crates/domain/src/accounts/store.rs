//! Every query on the tables of accounts.

use std::{collections::BTreeSet, time::Duration};

use backlot_db::{Connection, Engine, Row, Tx, args, dialect};

use super::{Account, ApiKey, Scope, SecretInfo, rate, vault::Sealed};
use crate::{
    Error, Timestamp,
    page::{Page, Window},
};

/// Serialises first registrations on PostgreSQL; any fixed number does.
const REGISTRATION_LOCK: i64 = 0x6261_636b_6c6f_7402;

// ── accounts ─────────────────────────────────────────────────────────────

macro_rules! account_query {
    ($rest:literal) => {
        concat!("SELECT number, id, email, password_hash, disabled_at, created_at FROM accounts ", $rest)
    };
}

/// An account with what only this folder may see.
pub(super) struct StoredAccount {
    pub(super) account: Account,
    pub(super) password_hash: Option<String>,
    pub(super) is_disabled: bool,
}

fn account_from(row: &Row) -> Result<StoredAccount, Error> {
    Ok(StoredAccount {
        account: Account {
            number: row.int("number")?,
            id: row.text("id")?,
            email: row.opt_text("email")?,
            created_at: Timestamp(row.int("created_at")?),
        },
        password_hash: row.opt_text("password_hash")?,
        is_disabled: row.opt_int("disabled_at")?.is_some(),
    })
}

pub(super) async fn find_account(db: &mut Connection, id: &str) -> Result<Option<StoredAccount>, Error> {
    db.first(account_query!("WHERE id = $1"), args![id]).await?.as_ref().map(account_from).transpose()
}

pub(super) async fn find_account_by_email(db: &mut Connection, email: &str) -> Result<Option<StoredAccount>, Error> {
    db.first(account_query!("WHERE email = $1"), args![email]).await?.as_ref().map(account_from).transpose()
}

pub(super) async fn find_account_by_identity(
    db: &mut Connection,
    issuer: &str,
    subject: &str,
) -> Result<Option<StoredAccount>, Error> {
    db.first(account_query!("WHERE issuer = $1 AND subject = $2"), args![issuer, subject])
        .await?
        .as_ref()
        .map(account_from)
        .transpose()
}

pub(super) async fn has_accounts(db: &mut Connection) -> Result<bool, Error> {
    Ok(db.first("SELECT 1 AS one FROM accounts LIMIT 1", vec![]).await?.is_some())
}

/// Makes registrations wait for each other. SQLite has one writer and needs nothing.
pub(super) async fn lock_registration(tx: &mut Tx) -> Result<(), Error> {
    if tx.engine() == Engine::Postgres {
        tx.execute("SELECT pg_advisory_xact_lock($1)", args![REGISTRATION_LOCK]).await?;
    }
    Ok(())
}

/// Makes changes to one account's things wait for each other. Tells whether the account exists.
async fn lock_account(tx: &mut Tx, id: &str) -> Result<bool, Error> {
    let text = dialect::claim(
        tx.engine(),
        "SELECT id FROM accounts WHERE id = $1",
        "SELECT id FROM accounts WHERE id = $1 FOR UPDATE",
    );
    Ok(tx.first(text, args![id]).await?.is_some())
}

/// How a new account can be recognised later.
pub(super) struct Identity<'a> {
    pub(super) email: Option<&'a str>,
    pub(super) password_hash: Option<&'a str>,
    pub(super) issuer: Option<&'a str>,
    pub(super) subject: Option<&'a str>,
}

/// Stores an account and tells its number.
pub(super) async fn insert_account(
    tx: &mut Tx,
    id: &str,
    identity: Identity<'_>,
    now: Timestamp,
) -> Result<Account, Error> {
    let row = tx
        .first(
            "INSERT INTO accounts (id, email, password_hash, issuer, subject, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6) RETURNING number",
            args![id, identity.email, identity.password_hash, identity.issuer, identity.subject, now.0],
        )
        .await?
        .ok_or_else(|| Error::internal(anyhow::anyhow!("table `accounts`: an insert returned no number")))?;
    Ok(Account {
        number: row.int("number")?,
        id: id.to_owned(),
        email: identity.email.map(ToOwned::to_owned),
        created_at: now,
    })
}

// ── API keys ─────────────────────────────────────────────────────────────

macro_rules! key_query {
    ($rest:literal) => {
        concat!(
            "SELECT k.number, k.id, k.account_id, k.name, k.prefix, k.mac, k.scopes, k.created_at, k.last_used_at, \
             a.disabled_at FROM api_keys k JOIN accounts a ON a.id = k.account_id WHERE k.revoked_at IS NULL AND ",
            $rest
        )
    };
}

/// An API key with what only this folder may see.
pub(super) struct StoredKey {
    pub(super) key: ApiKey,
    pub(super) account_id: String,
    pub(super) mac: Vec<u8>,
    pub(super) is_account_disabled: bool,
}

fn key_from(row: &Row) -> Result<StoredKey, Error> {
    let id = row.text("id")?;
    let scopes = row.text("scopes")?;
    let scopes = scopes.split(' ').map(str::parse).collect::<Result<BTreeSet<Scope>, Error>>().map_err(|error| {
        Error::internal(anyhow::anyhow!("table `api_keys`, column `scopes`, row `{id}`: {}", error.public))
    })?;
    Ok(StoredKey {
        key: ApiKey {
            number: row.int("number")?,
            id,
            name: row.text("name")?,
            prefix: row.text("prefix")?,
            scopes,
            created_at: Timestamp(row.int("created_at")?),
            last_used_at: row.opt_int("last_used_at")?.map(Timestamp),
        },
        account_id: row.text("account_id")?,
        mac: row.bytes("mac")?,
        is_account_disabled: row.opt_int("disabled_at")?.is_some(),
    })
}

pub(super) async fn find_key_by_prefix(db: &mut Connection, prefix: &str) -> Result<Option<StoredKey>, Error> {
    db.first(key_query!("k.prefix = $1"), args![prefix]).await?.as_ref().map(key_from).transpose()
}

pub(super) async fn find_key(db: &mut Connection, account: &str, id: &str) -> Result<Option<ApiKey>, Error> {
    let row = db.first(key_query!("k.account_id = $1 AND k.id = $2"), args![account, id]).await?;
    Ok(row.as_ref().map(key_from).transpose()?.map(|stored| stored.key))
}

pub(super) async fn newest_key(db: &mut Connection, account: &str) -> Result<Option<ApiKey>, Error> {
    let row =
        db.first(key_query!("k.account_id = $1 ORDER BY k.created_at DESC, k.id DESC LIMIT 1"), args![account]).await?;
    Ok(row.as_ref().map(key_from).transpose()?.map(|stored| stored.key))
}

pub(super) async fn list_keys(db: &mut Connection, account: &str, window: Window) -> Result<Page<ApiKey>, Error> {
    let total = count_keys(db, account).await?;
    let rows = db
        .all(
            key_query!("k.account_id = $1 ORDER BY k.created_at DESC, k.id DESC LIMIT $2 OFFSET $3"),
            args![account, window.limit, window.offset],
        )
        .await?;
    let items = rows.iter().map(|row| key_from(row).map(|stored| stored.key)).collect::<Result<_, _>>()?;
    Ok(Page { items, total, window })
}

async fn count_keys(db: &mut Connection, account: &str) -> Result<u64, Error> {
    let row = db
        .first("SELECT COUNT(*) AS total FROM api_keys WHERE account_id = $1 AND revoked_at IS NULL", args![account])
        .await?;
    Ok(row.map(|row| row.count("total")).transpose()?.unwrap_or(0))
}

/// How an insertion ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    Yes,
    TooMany,
    NoAccount,
}

pub(super) async fn insert_key(
    tx: &mut Tx,
    account: &str,
    key: &ApiKey,
    mac: &[u8; 32],
    most: u64,
) -> Result<(Inserted, i64), Error> {
    if !lock_account(tx, account).await? {
        return Ok((Inserted::NoAccount, 0));
    }
    if count_keys(tx, account).await? >= most {
        return Ok((Inserted::TooMany, 0));
    }
    let scopes = key.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" ");
    let row = tx
        .first(
            "INSERT INTO api_keys (id, account_id, name, prefix, mac, scopes, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING number",
            args![&key.id, account, &key.name, &key.prefix, mac.as_slice(), scopes, key.created_at.0],
        )
        .await?;
    Ok((Inserted::Yes, row.map(|row| row.int("number")).transpose()?.unwrap_or(0)))
}

/// Revokes a key. Tells whether there was one.
pub(super) async fn revoke_key(tx: &mut Tx, account: &str, id: &str, now: Timestamp) -> Result<bool, Error> {
    let revoked = tx
        .execute(
            "UPDATE api_keys SET revoked_at = $3 WHERE account_id = $1 AND id = $2 AND revoked_at IS NULL",
            args![account, id, now.0],
        )
        .await?;
    Ok(revoked > 0)
}

pub(super) async fn note_key_use(tx: &mut Tx, id: &str, now: Timestamp) -> Result<(), Error> {
    tx.execute(
        "UPDATE api_keys SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)",
        args![id, now.0],
    )
    .await?;
    Ok(())
}

// ── sessions ─────────────────────────────────────────────────────────────

/// A refresh token as it is stored.
pub(super) struct StoredToken {
    pub(super) account_id: String,
    pub(super) family: String,
    pub(super) expires_at: Timestamp,
    pub(super) used_at: Option<Timestamp>,
    pub(super) is_revoked: bool,
    pub(super) is_account_disabled: bool,
}

pub(super) async fn insert_token(
    tx: &mut Tx,
    mac: &[u8; 32],
    account: &str,
    family: &str,
    now: Timestamp,
    expires_at: Timestamp,
) -> Result<(), Error> {
    tx.execute(
        "INSERT INTO refresh_tokens (mac, account_id, family, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)",
        args![mac.as_slice(), account, family, now.0, expires_at.0],
    )
    .await?;
    Ok(())
}

/// Finds a refresh token and, on PostgreSQL, makes others who present it wait.
pub(super) async fn claim_token(tx: &mut Tx, mac: &[u8; 32]) -> Result<Option<StoredToken>, Error> {
    const QUERY: &str = "SELECT t.account_id, t.family, t.expires_at, t.used_at, t.revoked_at, a.disabled_at \
                         FROM refresh_tokens t JOIN accounts a ON a.id = t.account_id WHERE t.mac = $1";
    const LOCKING: &str = "SELECT t.account_id, t.family, t.expires_at, t.used_at, t.revoked_at, a.disabled_at \
                           FROM refresh_tokens t JOIN accounts a ON a.id = t.account_id WHERE t.mac = $1 \
                           FOR UPDATE OF t";
    let text = dialect::claim(tx.engine(), QUERY, LOCKING);
    let Some(row) = tx.first(text, args![mac.as_slice()]).await? else {
        return Ok(None);
    };
    Ok(Some(StoredToken {
        account_id: row.text("account_id")?,
        family: row.text("family")?,
        expires_at: Timestamp(row.int("expires_at")?),
        used_at: row.opt_int("used_at")?.map(Timestamp),
        is_revoked: row.opt_int("revoked_at")?.is_some(),
        is_account_disabled: row.opt_int("disabled_at")?.is_some(),
    }))
}

pub(super) async fn mark_token_used(tx: &mut Tx, mac: &[u8; 32], now: Timestamp) -> Result<(), Error> {
    tx.execute("UPDATE refresh_tokens SET used_at = $2 WHERE mac = $1", args![mac.as_slice(), now.0]).await?;
    Ok(())
}

pub(super) async fn revoke_family(tx: &mut Tx, family: &str, now: Timestamp) -> Result<(), Error> {
    tx.execute(
        "UPDATE refresh_tokens SET revoked_at = $2 WHERE family = $1 AND revoked_at IS NULL",
        args![family, now.0],
    )
    .await?;
    Ok(())
}

/// Whether a session is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionState {
    Alive,
    Ended,
    AccountDisabled,
}

pub(super) async fn session_state(db: &mut Connection, account: &str, family: &str) -> Result<SessionState, Error> {
    let row = db
        .first(
            "SELECT t.revoked_at, a.disabled_at FROM refresh_tokens t JOIN accounts a ON a.id = t.account_id \
             WHERE t.family = $1 AND t.account_id = $2 ORDER BY t.revoked_at IS NULL, t.created_at DESC LIMIT 1",
            args![family, account],
        )
        .await?;
    Ok(match row {
        None => SessionState::Ended,
        Some(row) if row.opt_int("revoked_at")?.is_some() => SessionState::Ended,
        Some(row) if row.opt_int("disabled_at")?.is_some() => SessionState::AccountDisabled,
        Some(_) => SessionState::Alive,
    })
}

/// Removes what no longer means anything: expired refresh tokens and windows that are over.
pub(super) async fn sweep(tx: &mut Tx, now: Timestamp) -> Result<u64, Error> {
    let oldest_window = now.0.saturating_sub(i64::try_from(rate::LONGEST_WINDOW.as_millis()).unwrap_or(i64::MAX));
    let tokens = tx.execute("DELETE FROM refresh_tokens WHERE expires_at < $1", args![now.0]).await?;
    let windows = tx.execute("DELETE FROM rate_windows WHERE started_at < $1", args![oldest_window]).await?;
    Ok(tokens + windows)
}

// ── secrets ──────────────────────────────────────────────────────────────

pub(super) async fn list_secrets(
    db: &mut Connection,
    account: &str,
    owner: &str,
    window: Window,
) -> Result<Page<SecretInfo>, Error> {
    let total = count_secrets(db, account, owner).await?;
    let rows = db
        .all(
            "SELECT name, created_at, updated_at FROM secrets WHERE account_id = $1 AND owner = $2 \
             ORDER BY created_at DESC, name LIMIT $3 OFFSET $4",
            args![account, owner, window.limit, window.offset],
        )
        .await?;
    let items = rows
        .iter()
        .map(|row| {
            Ok(SecretInfo {
                name: row.text("name")?,
                created_at: Timestamp(row.int("created_at")?),
                updated_at: Timestamp(row.int("updated_at")?),
            })
        })
        .collect::<Result<_, Error>>()?;
    Ok(Page { items, total, window })
}

async fn count_secrets(db: &mut Connection, account: &str, owner: &str) -> Result<u64, Error> {
    let row = db
        .first("SELECT COUNT(*) AS total FROM secrets WHERE account_id = $1 AND owner = $2", args![account, owner])
        .await?;
    Ok(row.map(|row| row.count("total")).transpose()?.unwrap_or(0))
}

fn sealed_from(row: &Row) -> Result<(String, Sealed), Error> {
    let sealed = Sealed {
        ciphertext: row.bytes("ciphertext")?,
        data_key: row.bytes("data_key")?,
        key_version: row.int("key_version")?,
    };
    Ok((row.text("name")?, sealed))
}

pub(super) async fn sealed_secrets(
    db: &mut Connection,
    account: &str,
    owner: &str,
) -> Result<Vec<(String, Sealed)>, Error> {
    let rows = db
        .all(
            "SELECT name, ciphertext, data_key, key_version FROM secrets WHERE account_id = $1 AND owner = $2 \
             ORDER BY name",
            args![account, owner],
        )
        .await?;
    rows.iter().map(sealed_from).collect()
}

pub(super) async fn sealed_secret(
    db: &mut Connection,
    account: &str,
    owner: &str,
    name: &str,
) -> Result<Option<Sealed>, Error> {
    let row = db
        .first(
            "SELECT name, ciphertext, data_key, key_version FROM secrets \
             WHERE account_id = $1 AND owner = $2 AND name = $3",
            args![account, owner, name],
        )
        .await?;
    Ok(row.as_ref().map(sealed_from).transpose()?.map(|(_, sealed)| sealed))
}

/// How setting a secret ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SecretSet {
    Created,
    Replaced,
    TooMany,
    NoAccount,
}

pub(super) async fn set_secret(
    tx: &mut Tx,
    (account, owner, name): (&str, &str, &str),
    sealed: &Sealed,
    most: u64,
    now: Timestamp,
) -> Result<SecretSet, Error> {
    if !lock_account(tx, account).await? {
        return Ok(SecretSet::NoAccount);
    }
    let replaced = tx
        .execute(
            "UPDATE secrets SET ciphertext = $4, data_key = $5, key_version = $6, updated_at = $7 \
             WHERE account_id = $1 AND owner = $2 AND name = $3",
            args![
                account,
                owner,
                name,
                sealed.ciphertext.as_slice(),
                sealed.data_key.as_slice(),
                sealed.key_version,
                now.0
            ],
        )
        .await?;
    if replaced > 0 {
        return Ok(SecretSet::Replaced);
    }
    if count_secrets(tx, account, owner).await? >= most {
        return Ok(SecretSet::TooMany);
    }
    tx.execute(
        "INSERT INTO secrets (account_id, owner, name, ciphertext, data_key, key_version, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
        args![
            account,
            owner,
            name,
            sealed.ciphertext.as_slice(),
            sealed.data_key.as_slice(),
            sealed.key_version,
            now.0
        ],
    )
    .await?;
    Ok(SecretSet::Created)
}

pub(super) async fn delete_secret(tx: &mut Tx, account: &str, owner: &str, name: &str) -> Result<bool, Error> {
    let deleted = tx
        .execute("DELETE FROM secrets WHERE account_id = $1 AND owner = $2 AND name = $3", args![account, owner, name])
        .await?;
    Ok(deleted > 0)
}

pub(super) async fn delete_secrets_of(tx: &mut Tx, account: &str, owner: &str) -> Result<u64, Error> {
    Ok(tx.execute("DELETE FROM secrets WHERE account_id = $1 AND owner = $2", args![account, owner]).await?)
}

/// Where secrets lie that an older master key wraps, a part at a time.
pub(super) async fn secrets_wrapped_before(
    db: &mut Connection,
    key_version: i64,
    most: u32,
) -> Result<Vec<(String, String, String, Sealed)>, Error> {
    let rows = db
        .all(
            "SELECT account_id, owner, name, ciphertext, data_key, key_version FROM secrets WHERE key_version < $1 \
             ORDER BY account_id, owner, name LIMIT $2",
            args![key_version, most],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let (name, sealed) = sealed_from(row)?;
            Ok((row.text("account_id")?, row.text("owner")?, name, sealed))
        })
        .collect()
}

/// Replaces the wrapping of a secret, unless the secret changed meanwhile.
pub(super) async fn replace_wrapping(
    tx: &mut Tx,
    (account, owner, name): (&str, &str, &str),
    before: &Sealed,
    after: &Sealed,
) -> Result<(), Error> {
    tx.execute(
        "UPDATE secrets SET data_key = $5, key_version = $6 \
         WHERE account_id = $1 AND owner = $2 AND name = $3 AND data_key = $4",
        args![account, owner, name, before.data_key.as_slice(), after.data_key.as_slice(), after.key_version],
    )
    .await?;
    Ok(())
}

// ── rate windows ─────────────────────────────────────────────────────────

pub(super) async fn count_call(
    tx: &mut Tx,
    principal: &str,
    class: &'static str,
    now: Timestamp,
    length: Duration,
) -> Result<rate::Window, Error> {
    let length = i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
    // A window is over when its time has passed, or when it begins far in the future: then it was opened before
    // the clock was set back.
    let row = tx
        .first(
            "INSERT INTO rate_windows AS w (principal, class, started_at, used) VALUES ($1, $2, $3, 1) \
             ON CONFLICT (principal, class) DO UPDATE SET \
             started_at = CASE WHEN w.started_at <= $4 OR w.started_at > $5 THEN $3 ELSE w.started_at END, \
             used = CASE WHEN w.started_at <= $4 OR w.started_at > $5 THEN 1 ELSE w.used + 1 END \
             RETURNING started_at, used",
            args![principal, class, now.0, now.0.saturating_sub(length), now.0.saturating_add(length)],
        )
        .await?
        .ok_or_else(|| Error::internal(anyhow::anyhow!("table `rate_windows`: an upsert returned nothing")))?;
    Ok(rate::Window { started_at: Timestamp(row.int("started_at")?), used: row.count("used")? })
}

pub(super) async fn forget_calls(tx: &mut Tx, principal: &str, class: &'static str) -> Result<(), Error> {
    tx.execute("DELETE FROM rate_windows WHERE principal = $1 AND class = $2", args![principal, class]).await?;
    Ok(())
}
