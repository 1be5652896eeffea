//! SQLite: writes that wait share a commit, and stay apart in everything else.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use backlot_db::{Db, Error, args};
use backlot_testkit::{TestDatabase, both_engines};
use tokio::{sync::Notify, task::JoinHandle};

async fn create(db: &Db) {
    db.write(|tx| {
        Box::pin(async move {
            tx.execute("CREATE TABLE parents (n BIGINT NOT NULL PRIMARY KEY)", vec![]).await?;
            tx.execute(
                "CREATE TABLE children (n BIGINT NOT NULL PRIMARY KEY, parent BIGINT NOT NULL REFERENCES parents (n))",
                vec![],
            )
            .await
        })
    })
    .await
    .expect("is created");
}

async fn insert(db: Db, n: i64) -> Result<u64, Error> {
    db.write(move |tx| Box::pin(async move { tx.execute("INSERT INTO parents (n) VALUES ($1)", args![n]).await })).await
}

async fn parents(db: &Db) -> Vec<i64> {
    let rows = db.read().await.expect("connects").all("SELECT n FROM parents ORDER BY n", vec![]).await.expect("reads");
    rows.iter().map(|row| row.int("n").expect("n")).collect()
}

/// Occupies the writer, so that what is handed in meanwhile becomes one group.
async fn occupy(db: &Db) -> (Arc<Notify>, JoinHandle<Result<(), Error>>) {
    let (reached, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let holding = tokio::spawn({
        let (db, reached, gate) = (db.clone(), Arc::clone(&reached), Arc::clone(&gate));
        async move {
            db.write(move |_| {
                Box::pin(async move {
                    reached.notify_one();
                    gate.notified().await;
                    Ok::<_, Error>(())
                })
            })
            .await
        }
    });
    reached.notified().await;
    (gate, holding)
}

/// Hands in a write and waits until it is in the queue.
async fn hand_in<T: Send + 'static>(write: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    let mut write = Box::pin(write);
    // The first poll puts it into the queue, which has room.
    std::future::poll_fn(|context| {
        assert!(write.as_mut().poll(context).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
    tokio::spawn(write)
}

both_engines! {
    async fn many_writers_at_once_all_get_through(database: &TestDatabase) {
        const WRITERS: i64 = 400;
        create(database.db()).await;
        let writes: Vec<_> = (0..WRITERS).map(|n| tokio::spawn(insert(database.db().clone(), n % (WRITERS / 2)))).collect();
        let (mut written, mut taken) = (0, 0);
        for write in writes {
            match write.await.expect("does not panic") {
                Ok(rows) => written += rows,
                Err(Error::Unique { .. }) => taken += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!((written, taken), (200, 200), "each number went in once, however they were grouped");
        assert_eq!(parents(database.db()).await, (0..WRITERS / 2).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_write_that_fails_is_undone_alone() {
    let database = TestDatabase::sqlite().await;
    let db = database.db();
    create(db).await;
    let (gate, holding) = occupy(db).await;
    let before = hand_in(insert(db.clone(), 1)).await;
    let failing = hand_in({
        let db = db.clone();
        async move {
            db.write(|tx| {
                Box::pin(async move {
                    tx.execute("INSERT INTO parents (n) VALUES (2)", vec![]).await?;
                    tx.execute("INSERT INTO nonsense (n) VALUES (2)", vec![]).await
                })
            })
            .await
        }
    })
    .await;
    let panicking = hand_in({
        let db = db.clone();
        async move {
            db.write::<(), Error, _>(|tx| {
                Box::pin(async move {
                    tx.execute("INSERT INTO parents (n) VALUES (3)", vec![]).await?;
                    panic!("on purpose")
                })
            })
            .await
        }
    })
    .await;
    let after = hand_in(insert(db.clone(), 4)).await;
    gate.notify_one();
    holding.await.expect("no panic").expect("commits");
    before.await.expect("no panic").expect("commits");
    assert!(matches!(failing.await.expect("no panic"), Err(Error::Engine(_))));
    assert!(matches!(panicking.await.expect("no panic"), Err(Error::Panicked)));
    after.await.expect("no panic").expect("commits");
    assert_eq!(parents(db).await, [1, 4]);
}

#[tokio::test]
async fn a_commit_that_fails_is_told_to_everybody_in_it() {
    let database = TestDatabase::sqlite().await;
    let db = database.db();
    create(db).await;
    let mut signals = db.signals();
    let (gate, holding) = occupy(db).await;
    let innocent = hand_in({
        let db = db.clone();
        async move {
            db.write(|tx| {
                Box::pin(async move {
                    tx.signal("thing", "1");
                    tx.execute("INSERT INTO parents (n) VALUES (1)", vec![]).await
                })
            })
            .await
        }
    })
    .await;
    // Its statements succeed; what is wrong is found at the commit, as a disk that is full by then would be.
    let guilty = hand_in({
        let db = db.clone();
        async move {
            db.write(|tx| {
                Box::pin(async move {
                    tx.execute("PRAGMA defer_foreign_keys = ON", vec![]).await?;
                    tx.execute("INSERT INTO children (n, parent) VALUES (1, 99)", vec![]).await
                })
            })
            .await
        }
    })
    .await;
    gate.notify_one();
    holding.await.expect("no panic").expect("commits");
    assert!(matches!(innocent.await.expect("no panic"), Err(Error::Commit(_))));
    assert!(matches!(guilty.await.expect("no panic"), Err(Error::Commit(_))));
    assert!(parents(db).await.is_empty());
    assert!(signals.try_recv().is_err(), "nothing was committed, so nothing is signalled");
    insert(db.clone(), 5).await.expect("the writer goes on");
    assert_eq!(parents(db).await, [5]);
}

#[tokio::test]
async fn a_full_disk_is_told_and_survived() {
    let database = TestDatabase::sqlite().await;
    let db = database.db();
    create(db).await;
    db.write(|tx| {
        Box::pin(async move {
            tx.execute("CREATE TABLE ballast (bytes BLOB NOT NULL)", vec![]).await?;
            // The database may not grow any more: to it, the disk is full.
            tx.all("PRAGMA max_page_count = 1", vec![]).await
        })
    })
    .await
    .expect("is created");
    let (gate, holding) = occupy(db).await;
    let writes: Vec<JoinHandle<Result<u64, Error>>> = vec![
        hand_in(insert(db.clone(), 1)).await,
        hand_in({
            let db = db.clone();
            async move {
                db.write(|tx| {
                    Box::pin(async move {
                        tx.execute("INSERT INTO ballast (bytes) VALUES ($1)", args![vec![1_u8; 1 << 20]]).await
                    })
                })
                .await
            }
        })
        .await,
        hand_in(insert(db.clone(), 2)).await,
    ];
    gate.notify_one();
    holding.await.expect("no panic").expect("commits");
    let mut acknowledged = Vec::new();
    for (n, write) in (0..).zip(writes) {
        match write.await.expect("no panic") {
            Ok(_) => acknowledged.push(n),
            Err(error) => assert!(matches!(error, Error::Full), "{error:?}"),
        }
    }
    assert!(!acknowledged.contains(&1), "a mebibyte does not fit");
    let stored = parents(db).await;
    let expected: Vec<i64> =
        [(0, 1), (2, 2)].iter().filter(|(at, _)| acknowledged.contains(at)).map(|(_, n)| *n).collect();
    assert_eq!(stored, expected, "acknowledged and stored are the same");
    db.write(|tx| Box::pin(async move { tx.all("PRAGMA max_page_count = 1000000", vec![]).await }))
        .await
        .expect("there is room again");
    insert(db.clone(), 3).await.expect("the writer goes on");
}

#[tokio::test]
async fn a_caller_that_goes_away_before_its_turn_writes_nothing() {
    let database = TestDatabase::sqlite().await;
    let db = database.db();
    create(db).await;
    let (gate, holding) = occupy(db).await;
    let gone = hand_in(insert(db.clone(), 1)).await;
    let patient = hand_in(insert(db.clone(), 2)).await;
    gone.abort();
    assert!(gone.await.expect_err("was aborted").is_cancelled());
    gate.notify_one();
    holding.await.expect("no panic").expect("commits");
    patient.await.expect("no panic").expect("commits");
    assert_eq!(parents(db).await, [2]);
}

#[tokio::test]
async fn writes_are_done_in_the_order_they_came() {
    let database = TestDatabase::sqlite().await;
    let db = database.db();
    let (gate, holding) = occupy(db).await;
    let turn = Arc::new(AtomicUsize::new(0));
    let mut writes = Vec::new();
    // More than fit into one group.
    for expected in 0..300 {
        let (db, turn) = (db.clone(), Arc::clone(&turn));
        writes.push(
            hand_in(async move {
                db.write(move |_| {
                    Box::pin(async move {
                        assert_eq!(turn.fetch_add(1, Ordering::SeqCst), expected);
                        Ok::<_, Error>(())
                    })
                })
                .await
            })
            .await,
        );
    }
    gate.notify_one();
    holding.await.expect("no panic").expect("commits");
    for write in writes {
        write.await.expect("no panic").expect("is in order");
    }
}
