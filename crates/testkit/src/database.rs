//! Databases for tests: a fresh one for every test, on both engines.
//!
//! SQLite is a file in a folder of its own. PostgreSQL is a server that the tests start themselves from the
//! distribution's package; see [`postgres`] for how test processes share it. Each test gets a database
//! copied from a template with the schema in it, which takes some tens of milliseconds.

use backlot_db::Db;

use crate::postgres;

/// A database that disappears with this value.
pub struct TestDatabase {
    db: Db,
    url: String,
    _place: Place,
}

/// What is removed at the end.
enum Place {
    Folder(#[expect(dead_code, reason = "held for its removal")] tempfile::TempDir),
    Server(#[expect(dead_code, reason = "held for its removal")] postgres::Database),
}

impl TestDatabase {
    /// A fresh SQLite database.
    ///
    /// # Panics
    /// When it cannot be created.
    pub async fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let url = format!("sqlite://{}", folder.path().join("backlot.db").display());
        Self { db: open(&url).await, url, _place: Place::Folder(folder) }
    }

    /// A fresh PostgreSQL database, or nothing where PostgreSQL is not installed: then it says so on standard error.
    ///
    /// # Panics
    /// When the server does not start; and where PostgreSQL is not installed although `BACKLOT_REQUIRE_POSTGRES` is 1.
    pub async fn postgres() -> Option<Self> {
        let database = postgres::Database::with_schema().await?;
        let url = database.url();
        Some(Self { db: open(&url).await, url, _place: Place::Server(database) })
    }

    /// The database.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// The address of an empty PostgreSQL database that lasts as long as the guard beside it; nothing where PostgreSQL
    /// is not installed.
    ///
    /// # Panics
    /// As [`TestDatabase::postgres`].
    #[must_use]
    pub fn empty_postgres() -> Option<(String, impl Sized)> {
        let database = postgres::Database::empty()?;
        Some((database.url(), database))
    }

    /// The address, to open the same database once more.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Another handle on the same database, as another process would have it.
    ///
    /// # Panics
    /// When it cannot be opened.
    pub async fn another(&self) -> Db {
        open(&self.url).await
    }
}

async fn open(url: &str) -> Db {
    Db::open(url).await.unwrap_or_else(|error| panic!("cannot open {url}: {error}"))
}

/// Makes each function a test on SQLite and a test on PostgreSQL.
///
/// ```text
/// both_engines! {
///     async fn a_key_is_shown_once(database: &TestDatabase) { … }
/// }
/// ```
#[macro_export]
macro_rules! both_engines {
    ($($(#[$meta:meta])* async fn $name:ident($database:ident: &$kind:ident) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            use super::*;

            async fn body($database: &$kind) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_sqlite() {
                body(&$kind::sqlite().await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_postgres() {
                if let Some(database) = $kind::postgres().await {
                    body(&database).await;
                }
            }
        }
    )*};
}
