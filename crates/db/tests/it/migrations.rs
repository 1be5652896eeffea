//! The schema: the same on both engines, brought up once, and never brought down.

use std::collections::BTreeMap;

use backlot_db::{Db, Engine, Error, MIGRATIONS, Row, args};
use backlot_testkit::{TestDatabase, both_engines};

/// A column as far as both engines can tell: kind, and whether null is allowed.
type Columns = BTreeMap<String, (&'static str, bool)>;

fn kind(declared: &str) -> &'static str {
    match declared.to_ascii_uppercase().as_str() {
        "TEXT" => "text",
        "INTEGER" | "BIGINT" => "integer",
        "DOUBLE PRECISION" => "float",
        "BOOLEAN" => "truth",
        "BLOB" | "BYTEA" => "bytes",
        other => panic!("`{other}` is none of the five kinds"),
    }
}

async fn columns(db: &Db) -> BTreeMap<String, Columns> {
    const SQLITE: &str = "SELECT m.name AS tab, c.name AS col, c.type AS declared, \
        CASE WHEN c.\"notnull\" = 1 OR c.pk > 0 THEN 1 ELSE 0 END AS required \
        FROM sqlite_master m JOIN pragma_table_info(m.name) c \
        WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'";
    const POSTGRES: &str = "SELECT CAST(table_name AS TEXT) AS tab, CAST(column_name AS TEXT) AS col, \
        CAST(data_type AS TEXT) AS declared, CAST(CASE is_nullable WHEN 'NO' THEN 1 ELSE 0 END AS BIGINT) AS required \
        FROM information_schema.columns WHERE table_schema = 'public'";
    let text = if db.engine() == Engine::Sqlite { SQLITE } else { POSTGRES };
    let rows = db.read().await.expect("connects").all(text, vec![]).await.expect("reads");
    let mut tables: BTreeMap<String, Columns> = BTreeMap::new();
    for row in &rows {
        let get = |name: &str| row.text(name).expect("is text");
        let column = (kind(&get("declared")), row.int("required").expect("is a number") == 0);
        tables.entry(get("tab")).or_default().insert(get("col"), column);
    }
    tables
}

/// Every unique key and index: table and columns, in order.
async fn keys(db: &Db) -> Vec<(String, String, bool)> {
    const SQLITE: &str = "SELECT m.name AS tab, i.\"unique\" AS is_unique, \
        (SELECT group_concat(name, ',') FROM (SELECT name FROM pragma_index_info(i.name) ORDER BY seqno)) AS cols \
        FROM sqlite_master m JOIN pragma_index_list(m.name) i WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' \
        UNION ALL SELECT m.name, 1, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c \
        WHERE m.type = 'table' AND c.pk = 1 AND c.type = 'INTEGER' AND m.name NOT LIKE 'sqlite_%'";
    const POSTGRES: &str = "SELECT CAST(t.relname AS TEXT) AS tab, \
        CAST(CASE WHEN i.indisunique THEN 1 ELSE 0 END AS BIGINT) AS is_unique, \
        (SELECT string_agg(CAST(a.attname AS TEXT), ',' ORDER BY k.place) \
         FROM unnest(i.indkey) WITH ORDINALITY AS k (number, place) \
         JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.number) AS cols \
        FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace \
        WHERE n.nspname = 'public'";
    let text = if db.engine() == Engine::Sqlite { SQLITE } else { POSTGRES };
    let rows = db.read().await.expect("connects").all(text, vec![]).await.expect("reads");
    let key = |row: &Row| {
        (
            row.text("tab").expect("is text"),
            row.text("cols").expect("is text"),
            row.int("is_unique").expect("is a number") == 1,
        )
    };
    let mut keys: Vec<_> = rows.iter().map(key).collect();
    keys.sort();
    keys
}

#[tokio::test]
async fn the_schemas_agree() {
    let sqlite = TestDatabase::sqlite().await;
    let Some(postgres) = TestDatabase::postgres().await else { return };
    let (left, right) = (columns(sqlite.db()).await, columns(postgres.db()).await);
    assert_eq!(left.keys().collect::<Vec<_>>(), right.keys().collect::<Vec<_>>());
    assert!(left.len() >= 10, "the query finds the tables");
    for (table, columns) in &left {
        assert_eq!(columns, &right[table], "table `{table}`");
    }
    assert_eq!(keys(sqlite.db()).await, keys(postgres.db()).await);
}

#[test]
fn names_are_in_order_and_texts_differ_only_where_engines_do() {
    let names: Vec<_> = MIGRATIONS.iter().map(|migration| migration.name).collect();
    assert!(names.is_sorted(), "{names:?}");
    for folder in ["sqlite", "postgres"] {
        let path = format!("{}/migrations/{folder}", env!("CARGO_MANIFEST_DIR"));
        let mut files: Vec<_> = std::fs::read_dir(&path)
            .expect("is there")
            .map(|entry| entry.expect("can be read").file_name().into_string().expect("is text"))
            .collect();
        files.sort();
        let expected: Vec<_> = names.iter().map(|name| format!("{name}.sql")).collect();
        assert_eq!(files, expected, "{folder}: every file is a migration");
    }
}

both_engines! {
    async fn opening_again_changes_nothing(database: &TestDatabase) {
        let before = columns(database.db()).await;
        let again = database.another().await;
        assert_eq!(columns(&again).await, before);
        let applied = again.read().await.expect("connects")
            .all("SELECT name FROM schema_migrations", vec![]).await.expect("reads");
        assert_eq!(applied.len(), MIGRATIONS.len());
    }

    async fn a_database_of_a_newer_version_is_refused_and_left_alone(database: &TestDatabase) {
        database.db().write(|tx| Box::pin(async move {
            tx.execute("INSERT INTO schema_migrations (name) VALUES ($1)", args!["9999_from_the_future"]).await
        })).await.expect("is written");
        let before = columns(database.db()).await;
        let refused = Db::open(database.url()).await.map(drop);
        assert!(
            matches!(&refused, Err(Error::Schema(reason)) if reason.contains("`9999_from_the_future`")),
            "{refused:?}"
        );
        assert_eq!(columns(database.db()).await, before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_nodes_may_start_on_an_empty_postgres_at_once() {
    let Some((url, _database)) = TestDatabase::empty_postgres() else { return };
    let starts: Vec<_> = (0..4)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { Db::open(&url).await })
        })
        .collect();
    for start in starts {
        start.await.expect("does not panic").expect("opens");
    }
}
