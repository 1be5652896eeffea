//! Hints that travel with commits.

use std::time::Duration;

use backlot_db::{Db, Error, Signal};
use backlot_testkit::{TestDatabase, both_engines};
use tokio::{sync::broadcast::Receiver, time::timeout};

async fn next(signals: &mut Receiver<Signal>) -> Signal {
    timeout(Duration::from_secs(60), signals.recv()).await.expect("arrives").expect("is not lost")
}

fn signal(topic: &str, about: &str) -> Signal {
    Signal { topic: topic.to_owned(), about: about.to_owned() }
}

async fn send(db: &Db, about: &'static str, succeed: bool) -> Result<(), Error> {
    db.write(move |tx| {
        Box::pin(async move {
            tx.signal("run", about);
            if succeed { Ok(()) } else { Err(Error::Schema(String::from("on purpose"))) }
        })
    })
    .await
}

both_engines! {
    async fn signals_arrive_in_order_and_only_with_a_commit(database: &TestDatabase) {
        let db = database.db();
        let mut signals = db.signals();
        send(db, "run_1", true).await.expect("commits");
        send(db, "run_2", false).await.expect_err("fails");
        send(db, "run_3 with spaces", true).await.expect("commits");
        send(db, "", true).await.expect("commits");
        assert_eq!(next(&mut signals).await, signal("run", "run_1"));
        assert_eq!(next(&mut signals).await, signal("run", "run_3 with spaces"));
        assert_eq!(next(&mut signals).await, signal("run", ""));
        assert!(signals.try_recv().is_err());
    }

    async fn whoever_hears_of_a_change_can_see_it(database: &TestDatabase) {
        let db = database.db();
        db.write(|tx| Box::pin(async move {
            tx.execute("CREATE TABLE heard (n BIGINT NOT NULL)", vec![]).await
        })).await.expect("is created");
        let mut signals = db.signals();
        for n in 0..50_i64 {
            db.write(move |tx| Box::pin(async move {
                tx.signal("heard", n.to_string());
                tx.execute("INSERT INTO heard (n) VALUES ($1)", backlot_db::args![n]).await
            })).await.expect("commits");
            next(&mut signals).await;
            let row = db.read().await.expect("connects")
                .first("SELECT COUNT(*) AS total FROM heard", vec![]).await.expect("reads").expect("has a row");
            assert_eq!(row.int("total").expect("total"), n + 1);
        }
    }
}

#[tokio::test]
async fn on_postgres_signals_reach_other_processes() {
    let Some(database) = TestDatabase::postgres().await else { return };
    let other = database.another().await;
    let (mut here, mut there) = (database.db().signals(), other.signals());
    send(database.db(), "run_1", true).await.expect("commits");
    send(&other, "run_2", true).await.expect("commits");
    for signals in [&mut here, &mut there] {
        assert_eq!(next(signals).await, signal("run", "run_1"));
        assert_eq!(next(signals).await, signal("run", "run_2"));
    }
}
