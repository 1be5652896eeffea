//! The few places where the engines truly differ, each with a name.

use crate::Engine;

/// The clause that makes a `SELECT` take rows for updating while passing over those that another process
/// holds. SQLite has one writer, so nothing can be held.
#[must_use]
pub fn for_update_skip_locked(engine: Engine) -> &'static str {
    match engine {
        Engine::Sqlite => "",
        Engine::Postgres => " FOR UPDATE SKIP LOCKED",
    }
}
