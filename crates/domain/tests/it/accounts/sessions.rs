//! Sessions: access tokens, and refresh tokens that are good for one use.

use std::sync::Arc;

use backlot_domain::{Kind, accounts::Tokens};
use backlot_testkit::{TestDatabase, both_engines};

use super::{MASTER_KEY, Node, PASSWORD, credentials, open, refused, suspend};

const DAY: u64 = 24 * 60 * 60;

async fn sign_in(node: &Node) -> Tokens {
    node.accounts.login(credentials("ada", PASSWORD)).await.expect("signs in").tokens
}

async fn works(node: &Node, tokens: &Tokens) -> bool {
    node.accounts.authenticate(tokens.access_token.expose()).await.is_ok()
}

both_engines! {
    async fn refreshing_rotates_and_the_session_goes_on(database: &TestDatabase) {
        let node = Node::open(database.db());
        let (ada, _) = node.register("ada").await;
        let mut tokens = sign_in(&node).await;
        for _ in 0..5 {
            node.advance(60);
            let next = node.accounts.refresh(tokens.refresh_token.expose()).await.expect("is good");
            assert_ne!(next.refresh_token.expose(), tokens.refresh_token.expose());
            assert!(next.refresh_expires_at > tokens.refresh_expires_at, "the session slides on");
            let caller = node.accounts.authenticate(next.access_token.expose()).await.expect("is good");
            assert_eq!(caller.account_id, ada.account_id);
            assert!(works(&node, &tokens).await, "the access token before lives to its own end");
            tokens = next;
        }
    }

    async fn a_refresh_token_used_twice_ends_the_session(database: &TestDatabase) {
        let node = Node::open(database.db());
        node.register("ada").await;
        let (stolen, other) = (sign_in(&node).await, sign_in(&node).await);
        let thief = node.accounts.refresh(stolen.refresh_token.expose()).await.expect("is good");
        assert!(works(&node, &thief).await);
        node.advance(11);
        refused(node.accounts.refresh(stolen.refresh_token.expose()).await, Kind::Unauthenticated, "refresh_token_reused");
        refused(node.accounts.refresh(thief.refresh_token.expose()).await, Kind::Unauthenticated, "token_revoked");
        refused(node.accounts.refresh(stolen.refresh_token.expose()).await, Kind::Unauthenticated, "token_revoked");
        for tokens in [&stolen, &thief] {
            refused(node.accounts.authenticate(tokens.access_token.expose()).await, Kind::Unauthenticated, "token_revoked");
        }
        assert!(works(&node, &other).await, "another session of the same account goes on");
        node.accounts.refresh(other.refresh_token.expose()).await.expect("goes on");
    }

    async fn racing_tabs_get_the_same_successor_for_a_moment(database: &TestDatabase) {
        let node = Arc::new(Node::open(database.db()));
        node.register("ada").await;
        let tokens = sign_in(&node).await;
        let tabs: Vec<_> = (0..6)
            .map(|_| {
                let (node, token) = (Arc::clone(&node), tokens.refresh_token.clone());
                tokio::spawn(async move { node.accounts.refresh(token.expose()).await })
            })
            .collect();
        let mut successors = std::collections::BTreeSet::new();
        for tab in tabs {
            successors.insert(tab.await.expect("no panic").expect("is good").refresh_token.expose().to_owned());
        }
        assert_eq!(successors.len(), 1);
        let successor = successors.pop_first().expect("is one");
        node.accounts.refresh(&successor).await.expect("is good");
        refused(node.accounts.refresh(tokens.refresh_token.expose()).await, Kind::Unauthenticated, "refresh_token_reused");
    }

    async fn logging_out_ends_the_session_at_once(database: &TestDatabase) {
        let node = Node::open(database.db());
        node.register("ada").await;
        let (by_access, by_refresh, other) = (sign_in(&node).await, sign_in(&node).await, sign_in(&node).await);
        for tokens in [&by_access, &by_refresh, &other] {
            assert!(works(&node, tokens).await);
        }
        node.accounts.logout(by_access.access_token.expose()).await.expect("ends");
        node.accounts.logout(by_refresh.refresh_token.expose()).await.expect("ends");
        for tokens in [&by_access, &by_refresh] {
            refused(node.accounts.authenticate(tokens.access_token.expose()).await, Kind::Unauthenticated, "token_revoked");
            refused(node.accounts.refresh(tokens.refresh_token.expose()).await, Kind::Unauthenticated, "token_revoked");
        }
        node.accounts.logout(by_access.access_token.expose()).await.expect("once more is no error");
        assert!(works(&node, &other).await);
        refused(node.accounts.logout("rt_nonsense").await, Kind::Unauthenticated, "unauthorized");
    }

    async fn tokens_end_by_themselves(database: &TestDatabase) {
        let node = Node::open(database.db());
        node.register("ada").await;
        let tokens = sign_in(&node).await;
        node.advance(DAY - 1);
        assert!(works(&node, &tokens).await);
        node.advance(1);
        refused(node.accounts.authenticate(tokens.access_token.expose()).await, Kind::Unauthenticated, "token_expired");
        node.advance(29 * DAY);
        refused(node.accounts.refresh(tokens.refresh_token.expose()).await, Kind::Unauthenticated, "token_expired");
        assert_eq!(node.accounts.sweep().await.expect("sweeps"), 0, "it is kept up to its last moment");
        node.advance(1);
        assert_eq!(node.accounts.sweep().await.expect("sweeps"), 1);
        refused(node.accounts.refresh(tokens.refresh_token.expose()).await, Kind::Unauthenticated, "unauthorized");
    }

    async fn tokens_of_another_server_mean_nothing(database: &TestDatabase) {
        let node = Node::open(database.db());
        node.register("ada").await;
        let tokens = sign_in(&node).await;
        let stranger = Node::with_vault(database.db(), open(), &MASTER_KEY.replace("00", "ff"));
        refused(stranger.accounts.authenticate(tokens.access_token.expose()).await, Kind::Unauthenticated, "unauthorized");
        refused(stranger.accounts.refresh(tokens.refresh_token.expose()).await, Kind::Unauthenticated, "unauthorized");
        let twin = Node::open(database.db());
        assert!(works(&twin, &tokens).await, "a node with the same master key knows them");
    }

    async fn a_suspended_account_has_no_sessions(database: &TestDatabase) {
        let node = Node::open(database.db());
        let (ada, _) = node.register("ada").await;
        let tokens = sign_in(&node).await;
        suspend(database.db(), &ada.account_id).await;
        node.advance(1);
        refused(node.accounts.authenticate(tokens.access_token.expose()).await, Kind::Forbidden, "account_disabled");
        refused(node.accounts.refresh(tokens.refresh_token.expose()).await, Kind::Forbidden, "account_disabled");
    }
}
