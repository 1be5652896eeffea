//! Registering and signing in.

use std::{collections::BTreeSet, sync::Arc};

use backlot_domain::{
    Kind,
    accounts::{Scope, Settings, Signup},
    page::Window,
};
use backlot_testkit::{TestDatabase, both_engines};

use super::{Node, PASSWORD, credentials, open, refused, suspend};

const ALL: Window = Window { limit: 100, offset: 0 };

both_engines! {
    async fn an_account_comes_with_a_key_named_default(database: &TestDatabase) {
        let node = Node::open(database.db());
        let registered = node.accounts.register(credentials("Ada", PASSWORD)).await.expect("registers");
        assert_eq!(registered.account.email.as_deref(), Some("ada@example.com"));
        assert!(registered.account.number > 0);
        let caller = node.accounts.authenticate(registered.api_key.expose()).await.expect("is good");
        assert_eq!(caller.scopes, BTreeSet::from([Scope::All]));
        assert_eq!(node.accounts.account(&caller).await.expect("exists"), registered.account);
        let keys = node.accounts.list_keys(&caller, ALL).await.expect("lists");
        assert_eq!(keys.total, 1);
        let key = &keys.items[0];
        assert_eq!((key.name.as_str(), key.prefix.len()), ("default", 8));
        assert!(registered.api_key.expose().starts_with(&format!("cast_{}_", key.prefix)));
        let next = node.accounts.register(credentials("bob", PASSWORD)).await.expect("registers");
        assert!(next.account.number > registered.account.number);
    }

    async fn an_address_is_taken_whatever_its_case(database: &TestDatabase) {
        let node = Node::open(database.db());
        node.register("ada").await;
        refused(node.accounts.register(credentials("ADA", "another password")).await, Kind::Conflict, "email_taken");
        node.accounts.login(credentials("ada", PASSWORD)).await.expect("the first stays");
    }

    async fn wrong_input_changes_nothing(database: &TestDatabase) {
        let node = Node::open(database.db());
        let short = refused(node.accounts.register(credentials("ada", "1234567")).await, Kind::Invalid, "validation_error");
        assert_eq!(short.fields[0].message, "password must be at least 8 characters");
        let mut no_address = credentials("ada", PASSWORD);
        no_address.email = "nobody".to_owned();
        let wrong = refused(node.accounts.register(no_address).await, Kind::Invalid, "validation_error");
        assert_eq!((wrong.fields[0].path[0].as_str(), wrong.fields[0].message.as_str()), ("email", "invalid email"));
        assert!(node.accounts.is_empty().await.expect("answers"));
    }

    async fn only_the_first_may_register_unless_the_operator_says_otherwise(database: &TestDatabase) {
        let first = Node::new(database.db(), Settings::default());
        first.register("ada").await;
        refused(first.accounts.register(credentials("bob", PASSWORD)).await, Kind::Forbidden, "registration_disabled");
        let closed = Node::new(database.db(), Settings { signup: Signup::Closed, ..Settings::default() });
        refused(closed.accounts.register(credentials("bob", PASSWORD)).await, Kind::Forbidden, "registration_disabled");
        Node::open(database.db()).register("bob").await;
    }

    async fn of_many_first_registrations_at_once_one_wins(database: &TestDatabase) {
        // Two nodes, so that nothing in memory decides.
        let nodes = [0, 1].map(|_| Arc::new(Node::new(database.db(), Settings::default())));
        let tries: Vec<_> = (0..8)
            .map(|n| {
                let node = Arc::clone(&nodes[n % 2]);
                tokio::spawn(async move { node.accounts.register(credentials(&format!("ada{n}"), PASSWORD)).await })
            })
            .collect();
        let mut winners = 0;
        for attempt in tries {
            match attempt.await.expect("no panic") {
                Ok(_) => winners += 1,
                Err(error) => assert_eq!((error.kind, error.code), (Kind::Forbidden, "registration_disabled")),
            }
        }
        assert_eq!(winners, 1);
    }

    async fn of_many_registrations_of_one_address_one_wins(database: &TestDatabase) {
        let node = Arc::new(Node::open(database.db()));
        let tries: Vec<_> = (0..6)
            .map(|_| {
                let node = Arc::clone(&node);
                tokio::spawn(async move { node.accounts.register(credentials("ada", PASSWORD)).await })
            })
            .collect();
        let mut winners = 0;
        for attempt in tries {
            match attempt.await.expect("no panic") {
                Ok(_) => winners += 1,
                Err(error) => assert_eq!((error.kind, error.code), (Kind::Conflict, "email_taken")),
            }
        }
        assert_eq!(winners, 1);
    }

    async fn every_mismatch_gets_the_same_answer(database: &TestDatabase) {
        let node = Node::open(database.db());
        node.register("ada").await;
        let mut nonsense = credentials("ada", PASSWORD);
        nonsense.email = "not an address".to_owned();
        for wrong in [credentials("ada", "wrong horse"), credentials("bob", PASSWORD), credentials("ada", &"x".repeat(2000)), nonsense] {
            let error = refused(node.accounts.login(wrong).await, Kind::Unauthenticated, "invalid_credentials");
            assert_eq!(error.public, "invalid email or password");
        }
        let signed_in = node.accounts.login(credentials(" ADA", PASSWORD)).await;
        assert_eq!(signed_in.expect("is right").account.email.as_deref(), Some("ada@example.com"));
    }

    async fn ten_failures_lock_an_address_for_a_quarter_of_an_hour_and_no_other(database: &TestDatabase) {
        // Rate limits are off: guessing is stopped all the same.
        let node = Node::open(database.db());
        node.register("ada").await;
        node.register("bob").await;
        for _ in 0..10 {
            refused(node.accounts.login(credentials("ada", "wrong horse")).await, Kind::Unauthenticated, "invalid_credentials");
        }
        let locked = refused(node.accounts.login(credentials("ada", PASSWORD)).await, Kind::RateLimited, "rate_limited");
        assert_eq!(locked.retry_after.expect("is known").as_secs(), 15 * 60);
        node.accounts.login(credentials("bob", PASSWORD)).await.expect("is another");
        node.advance(15 * 60 - 1);
        refused(node.accounts.login(credentials("ada", PASSWORD)).await, Kind::RateLimited, "rate_limited");
        node.advance(1);
        node.accounts.login(credentials("ada", PASSWORD)).await.expect("is open again");
    }

    async fn unknown_addresses_are_locked_like_known_ones(database: &TestDatabase) {
        let node = Node::open(database.db());
        for _ in 0..10 {
            refused(node.accounts.login(credentials("nobody", PASSWORD)).await, Kind::Unauthenticated, "invalid_credentials");
        }
        refused(node.accounts.login(credentials("nobody", PASSWORD)).await, Kind::RateLimited, "rate_limited");
    }

    async fn a_success_forgets_the_failures_before_it(database: &TestDatabase) {
        let node = Node::open(database.db());
        node.register("ada").await;
        for _ in 0..3 {
            for _ in 0..9 {
                refused(node.accounts.login(credentials("ada", "wrong horse")).await, Kind::Unauthenticated, "invalid_credentials");
            }
            node.accounts.login(credentials("ada", PASSWORD)).await.expect("is right");
        }
    }

    async fn sign_ins_and_registrations_are_limited_by_address(database: &TestDatabase) {
        let node = Node::new(database.db(), Settings { signup: Signup::Open, ..Settings::default() });
        for n in 0..10 {
            node.accounts.register(credentials(&format!("person{n}"), PASSWORD)).await.expect("registers");
            node.accounts.login(credentials(&format!("person{n}"), PASSWORD)).await.expect("signs in");
        }
        refused(node.accounts.register(credentials("late", PASSWORD)).await, Kind::RateLimited, "rate_limited");
        refused(node.accounts.login(credentials("person1", PASSWORD)).await, Kind::RateLimited, "rate_limited");
        let mut elsewhere = credentials("person1", PASSWORD);
        elsewhere.address = "192.0.2.2".parse().expect("is an address");
        node.accounts.login(elsewhere).await.expect("is another address");
        node.advance(60);
        node.accounts.login(credentials("person1", PASSWORD)).await.expect("a minute has passed");
        refused(node.accounts.register(credentials("late", PASSWORD)).await, Kind::RateLimited, "rate_limited");
        node.advance(59 * 60);
        node.accounts.register(credentials("late", PASSWORD)).await.expect("an hour has passed");
    }

    async fn a_suspended_account_is_told_so_after_the_password_alone(database: &TestDatabase) {
        let node = Node::open(database.db());
        let (caller, key) = node.register("ada").await;
        suspend(database.db(), &caller.account_id).await;
        refused(node.accounts.login(credentials("ada", "wrong horse")).await, Kind::Unauthenticated, "invalid_credentials");
        refused(node.accounts.login(credentials("ada", PASSWORD)).await, Kind::Forbidden, "account_disabled");
        node.advance(1);
        refused(node.accounts.authenticate(key.expose()).await, Kind::Forbidden, "account_disabled");
    }

    async fn nothing_that_proves_anything_is_stored_readably(database: &TestDatabase) {
        let node = Node::open(database.db());
        let (_, key) = node.register("ada").await;
        let tokens = node.accounts.login(credentials("ada", PASSWORD)).await.expect("signs in").tokens;
        let mut db = database.db().read().await.expect("connects");
        let account = db.first("SELECT password_hash FROM accounts", vec![]).await.expect("reads").expect("a row");
        assert!(account.text("password_hash").expect("is set").starts_with("$argon2id$"));
        let stored = db.first("SELECT name, prefix, mac FROM api_keys", vec![]).await.expect("reads").expect("a row");
        assert_eq!(stored.bytes("mac").expect("is set").len(), 32);
        let token = db.first("SELECT mac FROM refresh_tokens", vec![]).await.expect("reads").expect("a row");
        assert_eq!(token.bytes("mac").expect("is set").len(), 32);
        let shown = format!("{key} {key:?} {tokens:?} {:?}", credentials("ada", PASSWORD));
        for hidden in [key.expose(), tokens.access_token.expose(), tokens.refresh_token.expose(), PASSWORD] {
            assert!(!shown.contains(hidden), "{shown}");
        }
    }
}

#[tokio::test]
async fn a_flood_of_sign_ins_is_refused_not_queued() {
    let database = TestDatabase::sqlite().await;
    let node = Arc::new(Node::new(database.db(), open()));
    let tries: Vec<_> = (0..200)
        .map(|n| {
            let node = Arc::clone(&node);
            tokio::spawn(async move { node.accounts.login(credentials(&format!("nobody{n}"), PASSWORD)).await })
        })
        .collect();
    let mut refused = 0;
    for attempt in tries {
        let error = attempt.await.expect("no panic").expect_err("nobody is known");
        match error.kind {
            Kind::Unauthenticated => {}
            Kind::Unavailable => refused += 1,
            _ => panic!("{error:?}"),
        }
    }
    assert!(refused > 0, "more than can wait were let in");
}
