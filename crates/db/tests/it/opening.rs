//! Opening a database, and refusing to.

use backlot_db::{Db, Engine, Error};
use backlot_testkit::TestDatabase;

#[tokio::test]
async fn a_sqlite_file_may_have_any_name_and_folders_are_made() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["plain.db", "deep/er/x.db", "with space.db", "100%.db", "a?b#c.db", "ümlaut.db"] {
        let path = folder.path().join(name);
        let db = Db::open(&format!("sqlite://{}", path.display())).await.expect("opens");
        assert_eq!(db.engine(), Engine::Sqlite);
        db.close().await;
        assert!(path.is_file(), "{name} is where it was asked for");
    }
}

#[tokio::test]
async fn what_cannot_be_opened_says_why_and_keeps_passwords_to_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    std::fs::write(&file, "no database, but some text that is long enough to be read as a header").expect("a file");
    for url in [
        format!("sqlite://{}/x.db", file.display()),
        format!("sqlite://{}", file.display()),
        "mysql://root:hunter2@localhost/x".to_owned(),
        "postgres://user:hunter2@localhost:99999/x".to_owned(),
        "postgres://user:hunter2@127.0.0.1:1/x".to_owned(),
        String::new(),
    ] {
        let error = Db::open(&url).await.map(drop).expect_err("is refused");
        let text = format!("{error} {error:?}");
        assert!(!text.contains("hunter2"), "{text}");
        if url.starts_with("mysql") {
            assert_eq!(
                error.to_string(),
                "cannot use the database address: `mysql` is neither sqlite:// nor postgres://"
            );
        }
        if url.contains("99999") {
            assert!(matches!(error, Error::Address(_)), "{error:?}");
        }
    }
}

#[tokio::test]
async fn the_engine_is_known() {
    assert_eq!(TestDatabase::sqlite().await.db().engine(), Engine::Sqlite);
    if let Some(database) = TestDatabase::postgres().await {
        assert_eq!(database.db().engine(), Engine::Postgres);
        assert_eq!(database.db().read().await.expect("connects").engine(), Engine::Postgres);
    }
}
