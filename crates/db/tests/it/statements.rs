//! One text, the same meaning on both engines.

use backlot_db::{Error, Value, args};
use backlot_testkit::{TestDatabase, both_engines};

both_engines! {
    async fn every_kind_of_value_comes_back_as_it_went_in(database: &TestDatabase) {
        let db = database.db();
        db.write(|tx| Box::pin(async move {
            tx.execute("CREATE TABLE kinds (t TEXT, i BIGINT, f DOUBLE PRECISION, b BOOLEAN, x BYTEA)", vec![]).await?;
            tx.execute(
                "INSERT INTO kinds (t, i, f, b, x) VALUES ($1, $2, $3, $4, $5)",
                args!["Grüße \u{1F600}", i64::MIN, -0.5, true, vec![0_u8, 255]],
            ).await?;
            tx.execute(
                "INSERT INTO kinds (t, i, f, b, x) VALUES ($1, $2, $3, $4, $5)",
                args![None::<String>, None::<i64>, None::<f64>, None::<bool>, None::<Vec<u8>>],
            ).await
        })).await.expect("is written");
        let rows = db.read().await.expect("connects")
            .all("SELECT t, i, f, b, x FROM kinds ORDER BY t IS NULL", vec![]).await.expect("reads");
        let [full, empty] = rows.as_slice() else { panic!("two rows") };
        assert_eq!(full.text("t").expect("text"), "Grüße \u{1F600}");
        assert_eq!(full.int("i").expect("integer"), i64::MIN);
        assert_eq!(full.float("f").expect("float"), -0.5);
        assert!(full.bool("b").expect("truth"));
        assert_eq!(full.bytes("x").expect("bytes"), [0, 255]);
        assert!(matches!(full.count("i"), Err(Error::Column { column, .. }) if column == "i"));
        assert_eq!(empty.opt_text("t").expect("null"), None);
        assert_eq!(empty.opt_int("i").expect("null"), None);
        assert_eq!(empty.opt_float("f").expect("null"), None);
        assert_eq!(empty.opt_bool("b").expect("null"), None);
        assert_eq!(empty.opt_bytes("x").expect("null"), None);
        assert!(matches!(empty.text("t"), Err(Error::Column { .. })));
        assert!(matches!(full.text("absent"), Err(Error::Column { .. })));
    }

    async fn text_that_looks_like_sql_is_text(database: &TestDatabase) {
        let db = database.db();
        let hostile = "'; DROP TABLE accounts; -- $1 \\ \" ?";
        let row = db.read().await.expect("connects")
            .first("SELECT CAST($1 AS TEXT) AS echo", args![hostile]).await.expect("reads").expect("has a row");
        assert_eq!(row.text("echo").expect("text"), hostile);
        db.read().await.expect("connects").all("SELECT id FROM accounts", vec![]).await.expect("is still there");
    }

    async fn many_rows_go_in_with_one_call(database: &TestDatabase) {
        let db = database.db();
        // More parameters than either engine takes at once.
        const ROWS: i64 = 45_000;
        let inserted = db.write(|tx| Box::pin(async move {
            tx.execute("CREATE TABLE numbers (n BIGINT NOT NULL, square TEXT NOT NULL)", vec![]).await?;
            let values = (0..ROWS).flat_map(|n| args![n, (n * n).to_string()]).collect();
            tx.insert_many("INSERT INTO numbers (n, square)", 2, values).await
        })).await.expect("is written");
        assert_eq!(inserted, u64::try_from(ROWS).expect("is positive"));
        let row = db.read().await.expect("connects")
            .first("SELECT COUNT(*) AS total, MAX(n) AS last FROM numbers WHERE square = CAST(n * n AS TEXT)", vec![])
            .await.expect("reads").expect("has a row");
        assert_eq!((row.int("total").expect("total"), row.int("last").expect("last")), (ROWS, ROWS - 1));
    }

    async fn rows_that_do_not_add_up_are_refused(database: &TestDatabase) {
        for (width, values) in [(0, args![1_i64]), (2, args![1_i64, 2_i64, 3_i64]), (usize::MAX, Vec::<Value>::new())] {
            let refused = database.db().write(move |tx| Box::pin(async move {
                tx.insert_many("INSERT INTO schema_migrations (name)", width, values).await
            })).await;
            assert!(matches!(refused, Err(Error::Schema(_))), "{width}: {refused:?}");
        }
    }

    async fn a_key_that_is_taken_is_told_apart(database: &TestDatabase) {
        let refused = database.db().write(|tx| Box::pin(async move {
            tx.execute("INSERT INTO schema_migrations (name) VALUES ($1)", args!["0001_accounts"]).await
        })).await;
        assert!(matches!(refused, Err(Error::Unique { .. })), "{refused:?}");
    }

    async fn reading_connections_see_what_was_committed_before(database: &TestDatabase) {
        let db = database.db();
        db.write(|tx| Box::pin(async move {
            tx.execute("CREATE TABLE seen (n BIGINT NOT NULL)", vec![]).await
        })).await.expect("is written");
        let mut reader = db.read().await.expect("connects");
        for n in 0..50_i64 {
            db.write(move |tx| Box::pin(async move {
                tx.execute("INSERT INTO seen (n) VALUES ($1)", args![n]).await
            })).await.expect("is written");
            let row = reader.first("SELECT COUNT(*) AS total FROM seen", vec![]).await.expect("reads").expect("a row");
            assert_eq!(row.int("total").expect("total"), n + 1);
        }
    }
}

#[tokio::test]
async fn reading_connections_cannot_write_on_sqlite() {
    let database = TestDatabase::sqlite().await;
    let mut reader = database.db().read().await.expect("connects");
    let refused = reader.execute("INSERT INTO schema_migrations (name) VALUES ('x')", vec![]).await;
    assert!(matches!(refused, Err(Error::Engine(_))), "{refused:?}");
    // A reader is no transaction: what failed does not spoil what follows.
    reader.all("SELECT name FROM schema_migrations", vec![]).await.expect("reads");
}
