//! The few places where the engines truly differ, each with a name.

use crate::Engine;

/// The text of a claim: a `SELECT` that takes one row for updating. On PostgreSQL it must end in
/// `FOR UPDATE SKIP LOCKED`, so that several processes pass over each other's rows; SQLite has one writer and knows
/// no such clause.
#[must_use]
pub fn claim(engine: Engine, sqlite: &'static str, postgres: &'static str) -> &'static str {
    match engine {
        Engine::Sqlite => sqlite,
        Engine::Postgres => postgres,
    }
}
