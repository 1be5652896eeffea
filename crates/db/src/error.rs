//! Everything that can go wrong between Backlot and its database.

/// Why a database operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be used.
    #[error("cannot use the database address: {0}")]
    Address(String),
    /// A row with the same unique key exists.
    #[error("a row with the same key exists ({constraint})")]
    Unique {
        /// The engine's description of the violated constraint.
        constraint: String,
    },
    /// A stored value does not fit what the code expects of the column.
    #[error("column `{column}`: {reason}")]
    Column {
        /// The column's name.
        column: String,
        /// What was expected and found.
        reason: String,
    },
    /// The schema in the database cannot be used by this program.
    #[error("database schema: {0}")]
    Schema(String),
    /// The database is closed or closing.
    #[error("the database is closed")]
    Closed,
    /// The group of writes this one belonged to could not be committed.
    #[error("commit failed: {0}")]
    Commit(String),
    /// A statement of the transaction failed before, so that nothing of it can remain.
    #[error("a statement of this transaction failed before; all of it is undone")]
    Aborted,
    /// The work inside the transaction panicked.
    #[error("the work inside the transaction panicked; all of it is undone")]
    Panicked,
    /// The database's disk is full.
    #[error("the disk that holds the database is full")]
    Full,
    /// Anything else the engine reports.
    #[error("database: {0}")]
    Engine(sqlx::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(db) if db.is_unique_violation() => {
                Self::Unique { constraint: db.constraint().map_or_else(|| db.message().to_owned(), ToOwned::to_owned) }
            }
            // SQLITE_FULL and PostgreSQL's disk_full.
            sqlx::Error::Database(db) if db.code().is_some_and(|code| code == "13" || code == "53100") => Self::Full,
            sqlx::Error::PoolClosed => Self::Closed,
            other => Self::Engine(other),
        }
    }
}
