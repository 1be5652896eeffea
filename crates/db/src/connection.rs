//! Running statements: the same four methods on a reading connection and inside a transaction.

use std::ops::{Deref, DerefMut};

use sqlx::{AssertSqlSafe, Postgres, Sqlite, pool::PoolConnection, query::Query};

use crate::{Engine, Error, Row, Signal, Value, value::EngineRow};

/// A connection that runs statements.
pub struct Connection {
    pub(crate) inner: EngineConnection,
    /// Set in a transaction when a statement fails. PostgreSQL refuses what follows; so do we on SQLite, where otherwise
    /// a full disk could undo the transaction in the middle and let the rest of it through.
    is_failed: bool,
    /// Whether the disk was ever full for a statement of this connection's present use.
    is_full: bool,
    is_transaction: bool,
}

pub(crate) enum EngineConnection {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

macro_rules! bind_all {
    ($query:expr, $args:expr) => {{
        let mut query = $query;
        for arg in $args {
            query = match arg {
                Value::Text(v) => query.bind(v),
                Value::Int(v) => query.bind(v),
                Value::Float(v) => query.bind(v),
                Value::Bool(v) => query.bind(v),
                Value::Bytes(v) => query.bind(v),
            };
        }
        query
    }};
}

fn sqlite_query<'q>(sql: &'static str, args: Vec<Value>) -> Query<'q, Sqlite, sqlx::sqlite::SqliteArguments> {
    bind_all!(sqlx::query::<Sqlite>(sql), args)
}

fn postgres_query<'q>(sql: &'static str, args: Vec<Value>) -> Query<'q, Postgres, sqlx::postgres::PgArguments> {
    bind_all!(sqlx::query::<Postgres>(sql), args)
}

impl Connection {
    pub(crate) fn new(inner: EngineConnection) -> Self {
        Self { inner, is_failed: false, is_full: false, is_transaction: false }
    }

    /// The engine behind this connection, for the few texts that differ.
    #[must_use]
    pub fn engine(&self) -> Engine {
        match self.inner {
            EngineConnection::Sqlite(_) => Engine::Sqlite,
            EngineConnection::Postgres(_) => Engine::Postgres,
        }
    }

    /// Runs a statement and tells how many rows it changed.
    ///
    /// # Errors
    /// What the engine reports.
    pub async fn execute(&mut self, sql: &'static str, args: Vec<Value>) -> Result<u64, Error> {
        self.refuse_after_failure()?;
        let result = match &mut self.inner {
            EngineConnection::Sqlite(c) => {
                sqlite_query(sql, args).execute(&mut **c).await.map(|done| done.rows_affected())
            }
            EngineConnection::Postgres(c) => {
                postgres_query(sql, args).execute(&mut **c).await.map(|done| done.rows_affected())
            }
        };
        self.note(result)
    }

    /// All rows of a query.
    ///
    /// # Errors
    /// What the engine reports.
    pub async fn all(&mut self, sql: &'static str, args: Vec<Value>) -> Result<Vec<Row>, Error> {
        self.refuse_after_failure()?;
        let result = match &mut self.inner {
            EngineConnection::Sqlite(c) => {
                let rows = sqlite_query(sql, args).fetch_all(&mut **c).await;
                rows.map(|rows| rows.into_iter().map(|row| Row(EngineRow::Sqlite(row))).collect())
            }
            EngineConnection::Postgres(c) => {
                let rows = postgres_query(sql, args).fetch_all(&mut **c).await;
                rows.map(|rows| rows.into_iter().map(|row| Row(EngineRow::Postgres(row))).collect())
            }
        };
        self.note(result)
    }

    /// The first row of a query, if there is one.
    ///
    /// # Errors
    /// What the engine reports.
    pub async fn first(&mut self, sql: &'static str, args: Vec<Value>) -> Result<Option<Row>, Error> {
        self.refuse_after_failure()?;
        let result = match &mut self.inner {
            EngineConnection::Sqlite(c) => {
                let row = sqlite_query(sql, args).fetch_optional(&mut **c).await;
                row.map(|row| row.map(|row| Row(EngineRow::Sqlite(row))))
            }
            EngineConnection::Postgres(c) => {
                let row = postgres_query(sql, args).fetch_optional(&mut **c).await;
                row.map(|row| row.map(|row| Row(EngineRow::Postgres(row))))
            }
        };
        self.note(result)
    }

    /// Inserts many rows with one statement: `head` is everything up to `VALUES`, each row has `width` values.
    /// Far faster than many statements, since each statement is a hand-over to the engine.
    ///
    /// # Errors
    /// What the engine reports, or a number of values that is no multiple of `width`.
    pub async fn insert_many(&mut self, head: &'static str, width: usize, values: Vec<Value>) -> Result<u64, Error> {
        /// SQLite takes 32,766 parameters and PostgreSQL 65,535.
        const MOST_PARAMETERS: usize = 30_000;
        if width == 0 || width > MOST_PARAMETERS || !values.len().is_multiple_of(width) {
            return Err(Error::Schema(format!("{} values do not make rows of {width}", values.len())));
        }
        self.refuse_after_failure()?;
        let engine = self.engine();
        let mut inserted = 0;
        let mut values = values.into_iter().peekable();
        while values.peek().is_some() {
            let chunk: Vec<Value> = values.by_ref().take(MOST_PARAMETERS / width * width).collect();
            let mut sql = String::with_capacity(head.len() + chunk.len() * 5);
            sql.push_str(head);
            for (index, _) in chunk.iter().enumerate() {
                sql.push_str(match (index % width, index) {
                    (0, 0) => " VALUES (",
                    (0, _) => "), (",
                    _ => ", ",
                });
                match engine {
                    // SQLite looks numbered parameters up by name, one by one: thousands of them take seconds.
                    Engine::Sqlite => sql.push('?'),
                    Engine::Postgres => {
                        sql.push('$');
                        sql.push_str(&(index + 1).to_string());
                    }
                }
            }
            sql.push(')');
            // Safe: the text is made of a static head and parameter marks alone.
            let sql = AssertSqlSafe(sql);
            let result = match &mut self.inner {
                EngineConnection::Sqlite(c) => {
                    let done = bind_all!(sqlx::query::<Sqlite>(sql), chunk).execute(&mut **c).await;
                    done.map(|done| done.rows_affected())
                }
                EngineConnection::Postgres(c) => {
                    let done = bind_all!(sqlx::query::<Postgres>(sql), chunk).execute(&mut **c).await;
                    done.map(|done| done.rows_affected())
                }
            };
            inserted += self.note(result)?;
        }
        Ok(inserted)
    }

    /// Runs several statements at once, without parameters.
    pub(crate) async fn batch(&mut self, sql: &'static str) -> Result<(), Error> {
        self.refuse_after_failure()?;
        let result = match &mut self.inner {
            EngineConnection::Sqlite(c) => sqlx::raw_sql(sql).execute(&mut **c).await.map(drop),
            EngineConnection::Postgres(c) => sqlx::raw_sql(sql).execute(&mut **c).await.map(drop),
        };
        self.note(result)
    }

    /// Runs a statement that begins or ends a transaction or a part of it, whatever happened before.
    pub(crate) async fn control(&mut self, sql: &'static str) -> Result<(), Error> {
        match &mut self.inner {
            // Prepared once and kept: savepoints come with every write.
            EngineConnection::Sqlite(c) => sqlx::query::<Sqlite>(sql).execute(&mut **c).await.map(drop)?,
            // Sent as plain text: one message instead of three.
            EngineConnection::Postgres(c) => sqlx::raw_sql(sql).execute(&mut **c).await.map(drop)?,
        }
        Ok(())
    }

    fn refuse_after_failure(&self) -> Result<(), Error> {
        if self.is_transaction && self.is_failed { Err(Error::Aborted) } else { Ok(()) }
    }

    fn note<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<T, Error> {
        let result = result.map_err(Error::from);
        self.is_failed |= result.is_err();
        self.is_full |= matches!(result, Err(Error::Full));
        result
    }
}

/// A transaction in progress. It dereferences to [`Connection`] for running statements.
///
/// A statement that fails ends the transaction: what follows is refused, and nothing of it remains, even when the work
/// takes the error for an answer. So it is on PostgreSQL, and so we make it on SQLite. To insert what may be there
/// already, say `ON CONFLICT`.
pub struct Tx {
    pub(crate) connection: Connection,
    pub(crate) signals: Vec<Signal>,
}

impl Tx {
    pub(crate) fn new(mut connection: Connection) -> Self {
        connection.is_transaction = true;
        Self { connection, signals: Vec::new() }
    }

    /// Whether a statement failed since the last call.
    pub(crate) fn take_failure(&mut self) -> bool {
        std::mem::take(&mut self.connection.is_failed)
    }

    /// Whether the disk was full for a statement of this transaction.
    pub(crate) fn met_full_disk(&self) -> bool {
        self.connection.is_full
    }

    /// Sends a signal to every listener of [`crate::Db::signals`], if and when the transaction commits.
    pub fn signal(&mut self, topic: &'static str, about: impl Into<String>) {
        self.signals.push(Signal { topic: topic.to_owned(), about: about.into() });
    }
}

impl Deref for Tx {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}
