//! Fixed windows per principal and class.

use std::{sync::Arc, time::Duration};

use backlot_db::Engine;
use backlot_domain::{
    Clock as _, Kind,
    accounts::{Principal, RateClass, Settings},
};
use backlot_testkit::{TestDatabase, both_engines};

use super::{HOME, Node};

const ADA: Principal<'_> = Principal::Account("usr_ada");

both_engines! {
    async fn a_window_is_a_minute_from_the_first_call(database: &TestDatabase) {
        let node = Node::new(database.db(), Settings::default());
        let opened = node.clock.now();
        for used in 1..=10 {
            let status = node.accounts.spend(ADA, RateClass::Invocation).await.expect("is allowed");
            assert_eq!((status.limit, status.remaining), (10, 10 - used));
            assert_eq!(status.reset_at, opened.after(Duration::from_secs(60)));
            node.advance(5);
        }
        let (status, error) = node.accounts.spend(ADA, RateClass::Invocation).await.expect_err("is used up");
        assert_eq!((status.limit, status.remaining), (10, 0));
        assert_eq!(status.reset_at, opened.after(Duration::from_secs(60)));
        assert_eq!((error.kind, error.retry_after), (Kind::RateLimited, Some(Duration::from_secs(10))));
        assert_eq!(error.public, "Rate limit exceeded. Try again in 10 seconds.");
        node.advance(9);
        assert!(node.accounts.spend(ADA, RateClass::Invocation).await.is_err(), "refused calls do not move the window");
        node.advance(1);
        let status = node.accounts.spend(ADA, RateClass::Invocation).await.expect("a new window");
        assert_eq!((status.remaining, status.reset_at), (9, opened.after(Duration::from_secs(120))));
    }

    async fn principals_and_classes_are_counted_apart(database: &TestDatabase) {
        let node = Node::new(database.db(), Settings::default());
        for _ in 0..10 {
            node.accounts.spend(ADA, RateClass::Invocation).await.expect("is allowed");
        }
        node.accounts.spend(ADA, RateClass::Invocation).await.expect_err("is used up");
        let status = node.accounts.spend(ADA, RateClass::Crud).await.expect("is another class");
        assert_eq!((status.limit, status.remaining), (100, 99));
        node.accounts.spend(Principal::Account("usr_bob"), RateClass::Invocation).await.expect("is another account");
        let status = node.accounts.spend(Principal::Address(HOME), RateClass::Anonymous).await.expect("is allowed");
        assert_eq!((status.limit, status.remaining), (30, 29));
    }

    async fn limits_can_be_switched_off_one_by_one_and_all_together(database: &TestDatabase) {
        let mut settings = Settings::default();
        settings.rate_limits.invocation = 0;
        settings.rate_limits.crud = 1;
        let node = Node::new(database.db(), settings.clone());
        for _ in 0..30 {
            let status = node.accounts.spend(ADA, RateClass::Invocation).await.expect("is not limited");
            assert_eq!(status.limit, 0);
        }
        node.accounts.spend(ADA, RateClass::Crud).await.expect("is allowed");
        node.accounts.spend(ADA, RateClass::Crud).await.expect_err("is used up");
        settings.rate_limits.enabled = false;
        let node = Node::new(database.db(), settings);
        for _ in 0..30 {
            node.accounts.spend(ADA, RateClass::Crud).await.expect("is not limited");
        }
    }

    async fn calls_at_the_same_time_are_all_counted(database: &TestDatabase) {
        let node = Arc::new(Node::new(database.db(), Settings::default()));
        let calls: Vec<_> = (0..60)
            .map(|_| {
                let node = Arc::clone(&node);
                tokio::spawn(async move { node.accounts.spend(ADA, RateClass::Invocation).await.is_ok() })
            })
            .collect();
        let mut allowed = 0;
        for call in calls {
            allowed += u32::from(call.await.expect("no panic"));
        }
        assert_eq!(allowed, 10);
    }

    async fn a_clock_set_back_locks_nobody_out(database: &TestDatabase) {
        let node = Node::new(database.db(), Settings::default());
        for _ in 0..11 {
            let _used_up = node.accounts.spend(ADA, RateClass::Invocation).await;
        }
        let now = node.clock.now();
        node.clock.set(backlot_domain::Timestamp(now.0 - 3_600_000));
        node.accounts.spend(ADA, RateClass::Invocation).await.expect("a new window");
    }

    async fn nodes_share_their_windows_on_postgres(database: &TestDatabase) {
        let nodes = [(); 2].map(|()| Node::new(database.db(), Settings::default()));
        let mut allowed = 0;
        for n in 0..40 {
            allowed += u32::from(nodes[n % 2].accounts.spend(ADA, RateClass::Invocation).await.is_ok());
        }
        // SQLite has one node, and counts in memory.
        assert_eq!(allowed, if database.db().engine() == Engine::Postgres { 10 } else { 20 });
    }
}

#[tokio::test]
async fn finished_windows_are_swept_on_postgres() {
    let Some(database) = TestDatabase::postgres().await else { return };
    let node = Node::new(database.db(), Settings::default());
    node.accounts.spend(ADA, RateClass::Crud).await.expect("is allowed");
    assert_eq!(node.accounts.sweep().await.expect("sweeps"), 0);
    node.advance(60 * 60 + 1);
    assert_eq!(node.accounts.sweep().await.expect("sweeps"), 1);
}
