//! API keys.

use std::{collections::BTreeSet, time::Duration};

use backlot_domain::{
    Kind,
    accounts::{Caller, Scope},
    page::Window,
};
use backlot_testkit::{TestDatabase, both_engines};

use super::{Node, PASSWORD, credentials, execute, refused};

fn scopes<const N: usize>(scopes: [Scope; N]) -> BTreeSet<Scope> {
    BTreeSet::from(scopes)
}

both_engines! {
    async fn a_key_works_until_it_is_revoked_and_not_a_call_longer(database: &TestDatabase) {
        let node = Node::open(database.db());
        let (ada, _) = node.register("ada").await;
        let created = node.accounts.create_key(&ada, " ci ", scopes([Scope::All])).await.expect("is made");
        assert_eq!((created.key.name.as_str(), created.key.last_used_at), ("ci", None));
        for _ in 0..3 {
            let caller = node.accounts.authenticate(created.secret.expose()).await.expect("is good");
            assert_eq!(caller.key_id.as_deref(), Some(created.key.id.as_str()));
        }
        node.accounts.revoke_key(&ada, &created.key.id).await.expect("is revoked");
        refused(node.accounts.authenticate(created.secret.expose()).await, Kind::Unauthenticated, "unauthorized");
        refused(node.accounts.revoke_key(&ada, &created.key.id).await, Kind::NotFound, "api_key_not_found");
    }

    async fn a_revocation_reaches_other_nodes_within_a_second(database: &TestDatabase) {
        let (here, there) = (Node::open(database.db()), Node::open(database.db()));
        let (ada, key) = here.register("ada").await;
        there.accounts.authenticate(key.expose()).await.expect("is good");
        here.accounts.revoke_current_key(&ada).await.expect("is revoked");
        there.advance(1);
        refused(there.accounts.authenticate(key.expose()).await, Kind::Unauthenticated, "unauthorized");
    }

    async fn what_is_almost_a_key_is_no_key(database: &TestDatabase) {
        let node = Node::open(database.db());
        let (_, key) = node.register("ada").await;
        let key = key.expose();
        let (public, secret) = key.rsplit_once('_').expect("has parts");
        for wrong in [
            format!("{public}_{}x", &secret[..secret.len() - 1]),
            format!("{key}0"),
            key.to_uppercase(),
            public.to_owned(),
            format!(" {key}"),
            String::new(),
            "cast_".to_owned(),
            "a.b.c".to_owned(),
            "\u{0}".to_owned(),
            "x".repeat(1_000_000),
        ] {
            let last = key.chars().last();
            if wrong.ends_with('x') && last == Some('x') && wrong.len() == key.len() { continue }
            refused(node.accounts.authenticate(&wrong).await, Kind::Unauthenticated, "unauthorized");
        }
    }

    async fn another_accounts_key_is_like_an_absent_one(database: &TestDatabase) {
        let node = Node::open(database.db());
        let (ada, ada_key) = node.register("ada").await;
        let (bob, _) = node.register("bob").await;
        let ada_id = ada.key_id.as_deref().expect("came with a key").to_owned();
        let foreign = refused(node.accounts.revoke_key(&bob, &ada_id).await, Kind::NotFound, "api_key_not_found");
        let absent = refused(node.accounts.revoke_key(&bob, "ak_absent").await, Kind::NotFound, "api_key_not_found");
        assert_eq!(foreign.public, absent.public);
        node.accounts.authenticate(ada_key.expose()).await.expect("is untouched");
        let window = Window { limit: 100, offset: 0 };
        let keys = node.accounts.list_keys(&bob, window).await.expect("lists");
        assert!(keys.items.iter().all(|key| key.id != ada_id));
        assert_eq!(keys.total, 1);
    }

    async fn no_key_makes_or_revokes_one_that_may_do_more(database: &TestDatabase) {
        let node = Node::open(database.db());
        let (ada, _) = node.register("ada").await;
        let limited = node.accounts.create_key(&ada, "limited", scopes([Scope::Agents, Scope::Sessions])).await.expect("is made");
        let caller = node.accounts.authenticate(limited.secret.expose()).await.expect("is good");
        assert_eq!(caller.scopes, scopes([Scope::Agents, Scope::Sessions]));
        caller.require(Scope::Agents).expect("has it");
        refused(caller.require(Scope::All), Kind::Forbidden, "insufficient_scope");
        refused(node.accounts.create_key(&caller, "more", scopes([Scope::All])).await, Kind::Forbidden, "insufficient_scope");
        refused(node.accounts.create_key(&caller, "none", scopes([])).await, Kind::Invalid, "validation_error");
        let less = node.accounts.create_key(&caller, "less", scopes([Scope::Sessions])).await.expect("is made");
        let all = ada.key_id.as_deref().expect("came with a key");
        refused(node.accounts.revoke_key(&caller, all).await, Kind::Forbidden, "insufficient_scope");
        node.accounts.revoke_key(&caller, &less.key.id).await.expect("may do less");
        node.accounts.revoke_current_key(&caller).await.expect("may give itself up");
        refused(node.accounts.authenticate(limited.secret.expose()).await, Kind::Unauthenticated, "unauthorized");
    }

    async fn lists_are_newest_first_in_windows(database: &TestDatabase) {
        let node = Node::open(database.db());
        let (ada, _) = node.register("ada").await;
        for name in ["one", "two", "three"] {
            node.advance(1);
            node.accounts.create_key(&ada, name, scopes([Scope::All])).await.expect("is made");
        }
        let names = async |limit, offset| {
            let page = node.accounts.list_keys(&ada, Window { limit, offset }).await.expect("lists");
            (page.items.iter().map(|key| key.name.clone()).collect::<Vec<_>>().join(" "), page.total, page.has_more())
        };
        assert_eq!(names(2, 0).await, ("three two".to_owned(), 4, true));
        assert_eq!(names(2, 2).await, ("one default".to_owned(), 4, false));
        assert_eq!(names(2, 9).await, (String::new(), 4, false));
    }

    async fn an_account_has_fifty_keys_at_most(database: &TestDatabase) {
        let node = Node::open(database.db());
        let (ada, _) = node.register("ada").await;
        let mut last = None;
        for n in 1..50 {
            last = Some(node.accounts.create_key(&ada, &format!("key {n}"), scopes([Scope::All])).await.expect("is made"));
        }
        refused(node.accounts.create_key(&ada, "too many", scopes([Scope::All])).await, Kind::LimitReached, "too_many_api_keys");
        node.accounts.revoke_key(&ada, &last.expect("was made").key.id).await.expect("is revoked");
        node.accounts.create_key(&ada, "in its place", scopes([Scope::All])).await.expect("is made");
    }

    async fn a_token_stands_for_the_newest_key(database: &TestDatabase) {
        let node = Node::open(database.db());
        let (ada, ada_key) = node.register("ada").await;
        assert_eq!(node.accounts.current_key(&ada).await.expect("answers").expect("a key").name, "default");
        let tokens = node.accounts.login(credentials("ada", PASSWORD)).await.expect("signs in").tokens;
        let by_token = node.accounts.authenticate(tokens.access_token.expose()).await.expect("is good");
        assert_eq!(by_token.key_id, None);
        node.advance(1);
        node.accounts.create_key(&by_token, "newest", scopes([Scope::All])).await.expect("is made");
        assert_eq!(node.accounts.current_key(&by_token).await.expect("answers").expect("a key").name, "newest");
        node.accounts.revoke_current_key(&by_token).await.expect("is revoked");
        node.accounts.revoke_current_key(&by_token).await.expect("is revoked");
        refused(node.accounts.authenticate(ada_key.expose()).await, Kind::Unauthenticated, "unauthorized");
        assert_eq!(node.accounts.current_key(&by_token).await.expect("answers"), None);
        refused(node.accounts.revoke_current_key(&by_token).await, Kind::NotFound, "api_key_not_found");
    }

    async fn the_use_of_a_key_is_noted_once_a_minute(database: &TestDatabase) {
        let node = Node::open(database.db());
        let (ada, key) = node.register("ada").await;
        let first = noted(&node, &ada, |noted| noted.is_some()).await;
        node.advance(59);
        node.accounts.authenticate(key.expose()).await.expect("is good");
        node.advance(1);
        node.accounts.authenticate(key.expose()).await.expect("is good");
        let second = noted(&node, &ada, |noted| noted != Some(first)).await;
        assert_eq!(second - first, 60_000, "the use after 59 seconds was not noted");
    }

    async fn keys_go_with_their_account(database: &TestDatabase) {
        let node = Node::open(database.db());
        let (ada, key) = node.register("ada").await;
        execute(database.db(), "DELETE FROM accounts WHERE id = $1", &ada.account_id).await;
        node.advance(1);
        refused(node.accounts.authenticate(key.expose()).await, Kind::Unauthenticated, "unauthorized");
        refused(node.accounts.account(&ada).await, Kind::Unauthenticated, "unauthorized");
        refused(node.accounts.create_key(&ada, "ghost", scopes([Scope::All])).await, Kind::Unauthenticated, "unauthorized");
    }
}

/// When the caller's key was last used, once that is written down as expected.
async fn noted(node: &Node, caller: &Caller, is_expected: impl Fn(Option<i64>) -> bool) -> i64 {
    let waiting = async {
        loop {
            let key = node.accounts.current_key(caller).await.expect("answers").expect("a key");
            let at = key.last_used_at.map(|at| at.0);
            if let Some(at) = at.filter(|_| is_expected(at)) {
                return at;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("is written down")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_is_seen_by_every_call_that_begins_after_it() {
    let database = TestDatabase::sqlite().await;
    let node = std::sync::Arc::new(Node::open(database.db()));
    let (ada, _) = node.register("ada").await;
    for round in 0..20 {
        let created = node.accounts.create_key(&ada, "short", scopes([Scope::All])).await.expect("is made");
        // Calls that look the key up while it is revoked must not put it back into memory.
        let busy: Vec<_> = (0..4)
            .map(|_| {
                let (node, secret) = (std::sync::Arc::clone(&node), created.secret.clone());
                tokio::spawn(async move {
                    while node.accounts.authenticate(secret.expose()).await.is_ok() {
                        // What is remembered is answered without waiting, so that this task would never let go.
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        node.accounts.revoke_key(&ada, &created.key.id).await.expect("is revoked");
        refused(node.accounts.authenticate(created.secret.expose()).await, Kind::Unauthenticated, "unauthorized");
        for call in busy {
            tokio::time::timeout(Duration::from_secs(60), call)
                .await
                .unwrap_or_else(|_| panic!("round {round}"))
                .expect("no panic");
        }
    }
}
