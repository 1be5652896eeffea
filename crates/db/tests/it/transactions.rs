//! A write happens whole and durably, or not at all.

use std::{sync::Arc, time::Duration};

use backlot_db::{Db, Error, args};
use backlot_testkit::{TestDatabase, both_engines};
use tokio::sync::Notify;

async fn create(db: &Db) {
    db.write(|tx| {
        Box::pin(async move { tx.execute("CREATE TABLE things (n BIGINT NOT NULL PRIMARY KEY)", vec![]).await })
    })
    .await
    .expect("is created");
}

async fn insert(db: &Db, n: i64) -> Result<u64, Error> {
    db.write(move |tx| Box::pin(async move { tx.execute("INSERT INTO things (n) VALUES ($1)", args![n]).await })).await
}

async fn things(db: &Db) -> Vec<i64> {
    let rows = db.read().await.expect("connects").all("SELECT n FROM things ORDER BY n", vec![]).await.expect("reads");
    rows.iter().map(|row| row.int("n").expect("n")).collect()
}

#[derive(Debug)]
enum Failed {
    OnPurpose,
    Otherwise,
}

impl From<Error> for Failed {
    fn from(_: Error) -> Self {
        Self::Otherwise
    }
}

both_engines! {
    async fn work_that_fails_leaves_nothing(database: &TestDatabase) {
        let db = database.db();
        create(db).await;
        let failed = db.write(|tx| Box::pin(async move {
            tx.execute("INSERT INTO things (n) VALUES (1)", vec![]).await?;
            Err::<(), _>(Failed::OnPurpose)
        })).await;
        assert!(matches!(failed, Err(Failed::OnPurpose)));
        assert!(things(db).await.is_empty());
        insert(db, 2).await.expect("the next write is not affected");
        assert_eq!(things(db).await, [2]);
    }

    async fn a_failed_statement_ends_the_transaction_even_if_ignored(database: &TestDatabase) {
        let db = database.db();
        create(db).await;
        insert(db, 1).await.expect("is written");
        let ignored = db.write(|tx| Box::pin(async move {
            tx.execute("INSERT INTO things (n) VALUES (2)", vec![]).await?;
            let taken = tx.execute("INSERT INTO things (n) VALUES (1)", vec![]).await;
            assert!(matches!(taken, Err(Error::Unique { .. })), "{taken:?}");
            let after = tx.execute("INSERT INTO things (n) VALUES (3)", vec![]).await;
            assert!(matches!(after, Err(Error::Aborted)), "{after:?}");
            Ok::<_, Error>(())
        })).await;
        assert!(matches!(ignored, Err(Error::Aborted)), "{ignored:?}");
        assert_eq!(things(db).await, [1]);
    }

    async fn what_is_acknowledged_survives_reopening(database: &TestDatabase) {
        create(database.db()).await;
        for n in 0..20 {
            insert(database.db(), n).await.expect("is written");
        }
        let again = database.another().await;
        assert_eq!(things(&again).await, (0..20).collect::<Vec<_>>());
    }

    async fn closing_finishes_what_waits_and_refuses_the_rest(database: &TestDatabase) {
        let db = database.another().await;
        create(&db).await;
        let writes: Vec<_> = (0..50).map(|n| { let db = db.clone(); tokio::spawn(async move { insert(&db, n).await }) }).collect();
        // Wait until all have been handed in: on one engine or the other the last of them are still waiting.
        tokio::task::yield_now().await;
        db.close().await;
        let mut done = Vec::new();
        for (n, write) in (0..).zip(writes) {
            match write.await.expect("does not panic") {
                Ok(_) => done.push(n),
                Err(error) => assert!(matches!(error, Error::Closed), "{error:?}"),
            }
        }
        assert!(matches!(insert(&db, 100).await, Err(Error::Closed)));
        assert!(matches!(db.read().await.map(drop), Err(Error::Closed)));
        assert_eq!(things(database.db()).await, done, "acknowledged and stored are the same");
    }

    async fn a_caller_that_goes_away_leaves_all_or_nothing_and_a_working_database(database: &TestDatabase) {
        let db = database.db();
        create(db).await;
        let reached = Arc::new(Notify::new());
        let gate = Arc::new(Notify::new());
        let writing = tokio::spawn({
            let (db, reached, gate) = (db.clone(), Arc::clone(&reached), Arc::clone(&gate));
            async move {
                db.write(move |tx| Box::pin(async move {
                    tx.execute("INSERT INTO things (n) VALUES (1)", vec![]).await?;
                    reached.notify_one();
                    gate.notified().await;
                    tx.execute("INSERT INTO things (n) VALUES (2)", vec![]).await
                })).await
            }
        });
        reached.notified().await;
        writing.abort();
        assert!(writing.await.expect_err("was aborted").is_cancelled());
        gate.notify_one();
        // The same key: waits for the half-done transaction if there still is one.
        let taken = insert(db, 1).await;
        let stored = things(db).await;
        match taken {
            Ok(_) => assert_eq!(stored, [1], "it was undone"),
            Err(error) => {
                assert!(matches!(error, Error::Unique { .. }), "{error:?}");
                assert_eq!(stored, [1, 2], "it was finished");
            }
        }
        for n in 10..30 {
            insert(db, n).await.expect("every connection still works");
        }
    }

    async fn a_panic_inside_a_transaction_stays_there(database: &TestDatabase) {
        let db = database.db();
        create(db).await;
        let panicking = tokio::spawn({
            let db = db.clone();
            async move {
                db.write::<(), Error, _>(|tx| Box::pin(async move {
                    tx.execute("INSERT INTO things (n) VALUES (1)", vec![]).await?;
                    panic!("on purpose");
                })).await
            }
        });
        match panicking.await {
            Ok(result) => assert!(matches!(result, Err(Error::Panicked)), "{result:?}"),
            Err(error) => assert!(error.is_panic()),
        }
        insert(db, 1).await.expect("nothing of it remains and the database works");
    }

    async fn readers_do_not_wait_for_a_writer(database: &TestDatabase) {
        let db = database.db();
        create(db).await;
        let (reached, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let writing = tokio::spawn({
            let (db, reached, gate) = (db.clone(), Arc::clone(&reached), Arc::clone(&gate));
            async move {
                db.write(move |tx| Box::pin(async move {
                    tx.execute("INSERT INTO things (n) VALUES (1)", vec![]).await?;
                    reached.notify_one();
                    gate.notified().await;
                    Ok::<_, Error>(())
                })).await
            }
        });
        reached.notified().await;
        let read = tokio::time::timeout(Duration::from_secs(60), things(db)).await.expect("does not wait");
        assert!(read.is_empty(), "what is not committed is not seen");
        gate.notify_one();
        writing.await.expect("does not panic").expect("is written");
        assert_eq!(things(db).await, [1]);
    }
}
