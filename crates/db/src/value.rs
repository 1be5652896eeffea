//! Values that go into queries and rows that come out.

use sqlx::{Row as _, postgres::PgRow, sqlite::SqliteRow};

use crate::Error;

/// A query parameter. The kind is kept for nulls too, because PostgreSQL wants to know it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text, identifiers and JSON.
    Text(Option<String>),
    /// Numbers, and times in milliseconds since 1970.
    Int(Option<i64>),
    /// Floating point.
    Float(Option<f64>),
    /// Truth.
    Bool(Option<bool>),
    /// Raw bytes.
    Bytes(Option<Vec<u8>>),
}

macro_rules! value_from {
    ($($from:ty => $kind:ident($convert:expr)),* $(,)?) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$kind(Some($convert(value)))
            }
        }
        impl From<Option<$from>> for Value {
            fn from(value: Option<$from>) -> Self {
                Self::$kind(value.map($convert))
            }
        }
    )*};
}

value_from! {
    String => Text(|v| v),
    &str => Text(str::to_owned),
    &String => Text(Clone::clone),
    i64 => Int(|v| v),
    i32 => Int(i64::from),
    u32 => Int(i64::from),
    // Counters and sizes: beyond 2^63 the database could not hold them anyway.
    u64 => Int(|v| i64::try_from(v).unwrap_or(i64::MAX)),
    usize => Int(|v| i64::try_from(v).unwrap_or(i64::MAX)),
    f64 => Float(|v| v),
    bool => Bool(|v| v),
    Vec<u8> => Bytes(|v| v),
    &[u8] => Bytes(<[u8]>::to_vec),
}

/// One row of a result.
pub struct Row(pub(crate) EngineRow);

pub(crate) enum EngineRow {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

macro_rules! getter {
    ($(#[$doc:meta])* $name:ident, $optional:ident -> $kind:ty) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// When the column is absent, null or of another kind.
        pub fn $name(&self, column: &str) -> Result<$kind, Error> {
            self.$optional(column)?.ok_or_else(|| Error::Column { column: column.to_owned(), reason: "is null".to_owned() })
        }

        /// The same, where null is allowed.
        ///
        /// # Errors
        /// When the column is absent or of another kind.
        pub fn $optional(&self, column: &str) -> Result<Option<$kind>, Error> {
            match &self.0 {
                EngineRow::Sqlite(row) => row.try_get(column),
                EngineRow::Postgres(row) => row.try_get(column),
            }
            .map_err(|error| Error::Column { column: column.to_owned(), reason: error.to_string() })
        }
    };
}

impl Row {
    getter!(
        /// Text of a column.
        text, opt_text -> String);
    getter!(
        /// Integer of a column.
        int, opt_int -> i64);
    getter!(
        /// Floating-point number of a column.
        float, opt_float -> f64);
    getter!(
        /// Truth value of a column.
        bool, opt_bool -> bool);
    getter!(
        /// Bytes of a column.
        bytes, opt_bytes -> Vec<u8>);

    /// A count, size or sum: an integer that is never negative.
    ///
    /// # Errors
    /// When the column is absent, null, of another kind or negative.
    pub fn count(&self, column: &str) -> Result<u64, Error> {
        let value = self.int(column)?;
        u64::try_from(value)
            .map_err(|_| Error::Column { column: column.to_owned(), reason: format!("{value} is negative") })
    }
}
