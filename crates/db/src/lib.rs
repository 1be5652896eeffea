//! The SQL seam: one SQL text on SQLite and PostgreSQL.
//!
//! [`Db`] hides two engines behind one small vocabulary. It admits five kinds of columns that mean the same
//! on both: text, 64-bit integers, floats, booleans and bytes; JSON travels as text, times as integer
//! milliseconds since 1970. Queries use `$1` parameters, `RETURNING`, `ON CONFLICT` and common table
//! expressions, which both engines understand. The few true differences are named functions in [`dialect`].
//!
//! Reading takes a [`Connection`] from [`Db::read`]; writing happens inside [`Db::write`], which runs a
//! closure in a transaction. On SQLite all writes go through one writer task that puts waiting closures into
//! one transaction (group commit), so that `synchronous=FULL` costs one flush for many writers; a closure that
//! fails is rolled back alone. A write is acknowledged only after its commit is on disk.
//!
//! This crate knows no table but its own `schema_migrations`.

mod connection;
pub mod dialect;
mod error;
mod migrate;
mod postgres;
mod signal;
mod sqlite;
mod value;

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::broadcast;

pub use connection::{Connection, Tx};
pub use error::Error;
pub use migrate::{MIGRATIONS, Migration};
pub use signal::Signal;
pub use value::{Row, Value};

/// Builds the parameter list of a query from anything that converts into a [`Value`].
#[macro_export]
macro_rules! args {
    ($($value:expr),* $(,)?) => { vec![$($crate::Value::from($value)),*] };
}

/// Which engine stands behind a [`Db`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// SQLite, embedded: one writer, one process.
    Sqlite,
    /// PostgreSQL 14 or newer: any number of processes.
    Postgres,
}

/// A database: cheap to clone, safe to share.
#[derive(Clone)]
pub struct Db {
    engine: Arc<Backend>,
}

enum Backend {
    Sqlite(sqlite::Sqlite),
    Postgres(postgres::Postgres),
}

impl Db {
    /// Opens `sqlite://<path>` (created when absent) or `postgres://…` and brings the schema up to date.
    ///
    /// # Errors
    /// An address of another scheme, an unreachable server, or a schema newer than this program.
    pub async fn open(url: &str) -> Result<Self, Error> {
        let backend = if let Some(path) = url.strip_prefix("sqlite://") {
            Backend::Sqlite(sqlite::Sqlite::open(path).await?)
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            Backend::Postgres(postgres::Postgres::open(url).await?)
        } else {
            return Err(Error::Address(format!(
                "`{}` is neither sqlite:// nor postgres://",
                url.split("://").next().unwrap_or_default()
            )));
        };
        let db = Self { engine: Arc::new(backend) };
        migrate::run(&db).await?;
        Ok(db)
    }

    /// The engine behind this database.
    #[must_use]
    pub fn engine(&self) -> Engine {
        match *self.engine {
            Backend::Sqlite(_) => Engine::Sqlite,
            Backend::Postgres(_) => Engine::Postgres,
        }
    }

    /// Takes a connection for reading. Every statement sees what was committed before it.
    ///
    /// # Errors
    /// When no connection becomes free in time or the server is away.
    pub async fn read(&self) -> Result<Connection, Error> {
        match &*self.engine {
            Backend::Sqlite(sqlite) => sqlite.read().await,
            Backend::Postgres(postgres) => postgres.read().await,
        }
    }

    /// Runs `work` in a transaction and waits until it is durable. When `work` fails, nothing of it remains.
    ///
    /// The closure must do nothing but database work: on SQLite other writers wait for it.
    ///
    /// # Errors
    /// What `work` returns, or a failed commit.
    pub async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        match &*self.engine {
            Backend::Sqlite(sqlite) => sqlite.write(work).await,
            Backend::Postgres(postgres) => postgres.write(work).await,
        }
    }

    /// Listens to the signals that transactions send with [`Tx::signal`], from this process and, on
    /// PostgreSQL, from every other. Signals are hints to look again: they may be lost or repeated.
    #[must_use]
    pub fn signals(&self) -> broadcast::Receiver<Signal> {
        match &*self.engine {
            Backend::Sqlite(sqlite) => sqlite.signals.subscribe(),
            Backend::Postgres(postgres) => postgres.signals.subscribe(),
        }
    }

    /// Finishes waiting writes and closes every connection.
    pub async fn close(&self) {
        match &*self.engine {
            Backend::Sqlite(sqlite) => sqlite.close().await,
            Backend::Postgres(postgres) => postgres.pool.close().await,
        }
    }
}
