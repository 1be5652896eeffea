//! Bringing the schema up to date.
//!
//! Migrations are two folders of files with equal names, one per engine; a test compares the resulting
//! columns. A migration must tolerate the previous version of the program, because an upgrade may be rolled
//! back: add first, remove one release later.

use crate::{Db, Engine, Error, args};

/// One step of the schema.
#[derive(Debug)]
pub struct Migration {
    /// File name without extension; sorts by age.
    pub name: &'static str,
    /// Text for SQLite.
    pub sqlite: &'static str,
    /// Text for PostgreSQL.
    pub postgres: &'static str,
}

macro_rules! migrations {
    ($($name:literal),* $(,)?) => {
        /// All steps, oldest first.
        pub const MIGRATIONS: &[Migration] = &[$(Migration {
            name: $name,
            sqlite: include_str!(concat!("../migrations/sqlite/", $name, ".sql")),
            postgres: include_str!(concat!("../migrations/postgres/", $name, ".sql")),
        }),*];
    };
}

migrations!["0001_accounts", "0002_runs", "0003_code_agents"];

/// Serialises migrations of several processes on one PostgreSQL; any fixed number does.
const ADVISORY_LOCK: i64 = 0x6261_636b_6c6f_7401;

pub(crate) async fn run(db: &Db) -> Result<(), Error> {
    db.write(|tx| {
        Box::pin(async move {
            if tx.engine() == Engine::Postgres {
                tx.execute("SELECT pg_advisory_xact_lock($1)", args![ADVISORY_LOCK]).await?;
            }
            tx.execute("CREATE TABLE IF NOT EXISTS schema_migrations (name TEXT NOT NULL PRIMARY KEY)", vec![]).await?;
            let applied = tx.all("SELECT name FROM schema_migrations ORDER BY name", vec![]).await?;
            let applied = applied.iter().map(|row| row.text("name")).collect::<Result<Vec<_>, _>>()?;
            if let Some(unknown) = applied.iter().find(|name| MIGRATIONS.iter().all(|m| m.name != name.as_str())) {
                return Err(Error::Schema(format!(
                    "`{unknown}` was applied by a newer version of Backlot; use that version or restore a backup"
                )));
            }
            for migration in MIGRATIONS.iter().filter(|m| applied.iter().all(|name| name != m.name)) {
                let text = match tx.engine() {
                    Engine::Sqlite => migration.sqlite,
                    Engine::Postgres => migration.postgres,
                };
                tx.batch(text).await.map_err(|error| Error::Schema(format!("{}: {error}", migration.name)))?;
                tx.execute("INSERT INTO schema_migrations (name) VALUES ($1)", args![migration.name]).await?;
            }
            Ok(())
        })
    })
    .await
}
