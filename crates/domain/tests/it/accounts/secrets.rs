//! Secrets of the things that accounts own.

use backlot_db::args;
use backlot_domain::{Error, Kind, accounts::delete_secrets_of, page::Window};
use backlot_testkit::{TestDatabase, both_engines};

use super::{MASTER_KEY, Node, open, refused};

const AGENT: &str = "agt_1";
const ALL: Window = Window { limit: 100, offset: 0 };

both_engines! {
    async fn a_secret_is_set_replaced_listed_opened_and_deleted(database: &TestDatabase) {
        let node = Node::open(database.db());
        let (ada, _) = node.register("ada").await;
        let (accounts, account) = (&node.accounts, &*ada.account_id);
        assert!(accounts.set_secret(account, AGENT, "TOKEN", "one", 100).await.expect("is set"));
        node.advance(1);
        assert!(!accounts.set_secret(account, AGENT, "TOKEN", "two", 100).await.expect("is replaced"));
        assert!(accounts.set_secret(account, AGENT, "OTHER", "", 100).await.expect("may be empty"));
        let page = accounts.list_secrets(account, AGENT, ALL).await.expect("lists");
        assert_eq!((page.total, page.items[0].name.as_str(), page.items[1].name.as_str()), (2, "OTHER", "TOKEN"));
        assert_eq!(page.items[1].updated_at.0 - page.items[1].created_at.0, 1000);
        let opened: Vec<_> = accounts.open_secrets(account, AGENT).await.expect("opens")
            .into_iter().map(|(name, value)| (name, value.expose().to_owned())).collect();
        assert_eq!(opened, [("OTHER".to_owned(), String::new()), ("TOKEN".to_owned(), "two".to_owned())]);
        let one = accounts.open_secret(account, AGENT, "TOKEN").await.expect("opens").expect("is set");
        assert_eq!(one.expose(), "two");
        assert!(accounts.delete_secret(account, AGENT, "TOKEN").await.expect("is deleted"));
        assert!(!accounts.delete_secret(account, AGENT, "TOKEN").await.expect("is gone"));
        assert!(accounts.open_secret(account, AGENT, "TOKEN").await.expect("answers").is_none());
    }

    async fn a_secret_belongs_to_one_thing_of_one_account(database: &TestDatabase) {
        let node = Node::open(database.db());
        let (ada, _) = node.register("ada").await;
        let (bob, _) = node.register("bob").await;
        node.accounts.set_secret(&ada.account_id, AGENT, "TOKEN", "ada's", 100).await.expect("is set");
        for (account, owner) in [(&bob.account_id, AGENT), (&ada.account_id, "agt_2")] {
            assert!(node.accounts.open_secrets(account, owner).await.expect("opens").is_empty());
            assert_eq!(node.accounts.list_secrets(account, owner, ALL).await.expect("lists").total, 0);
            assert!(!node.accounts.delete_secret(account, owner, "TOKEN").await.expect("answers"));
        }
        assert_eq!(node.accounts.open_secrets(&ada.account_id, AGENT).await.expect("opens").len(), 1);
    }

    async fn there_are_limits(database: &TestDatabase) {
        let node = Node::open(database.db());
        let (ada, _) = node.register("ada").await;
        let set = async |name: &str, value: &str| node.accounts.set_secret(&ada.account_id, AGENT, name, value, 2).await;
        set("ONE", "1").await.expect("is set");
        set("TWO", "2").await.expect("is set");
        refused(set("THREE", "3").await, Kind::LimitReached, "too_many_secrets");
        set("TWO", "still fits").await.expect("is replaced");
        refused(set("", "x").await, Kind::Invalid, "validation_error");
        refused(set("A\nB", "x").await, Kind::Invalid, "validation_error");
        refused(set(&"N".repeat(257), "x").await, Kind::Invalid, "validation_error");
        refused(set("TWO", &"x".repeat(1024 * 1024 + 1)).await, Kind::Invalid, "validation_error");
        refused(
            node.accounts.set_secret("usr_absent", AGENT, "ONE", "1", 2).await, Kind::NotFound, "account_not_found",
        );
    }

    async fn secrets_go_with_their_owner_in_its_transaction(database: &TestDatabase) {
        let node = Node::open(database.db());
        let (ada, _) = node.register("ada").await;
        for owner in [AGENT, "agt_2"] {
            for name in ["A", "B"] {
                node.accounts.set_secret(&ada.account_id, owner, name, "value", 100).await.expect("is set");
            }
        }
        for succeed in [false, true] {
            let account = ada.account_id.clone();
            let _undone_the_first_time = database.db().write(move |tx| Box::pin(async move {
                assert_eq!(delete_secrets_of(tx, &account, AGENT).await?, 2);
                if succeed { Ok(()) } else { Err(Error::new(Kind::Conflict, "undone", "undone")) }
            })).await;
            let left = node.accounts.open_secrets(&ada.account_id, AGENT).await.expect("opens").len();
            assert_eq!(left, if succeed { 0 } else { 2 });
        }
        assert_eq!(node.accounts.open_secrets(&ada.account_id, "agt_2").await.expect("opens").len(), 2);
    }

    async fn values_are_unreadable_at_rest_and_open_in_their_row_alone(database: &TestDatabase) {
        let node = Node::open(database.db());
        let (ada, _) = node.register("ada").await;
        node.accounts.set_secret(&ada.account_id, AGENT, "TOKEN", "hunter2-hunter2", 100).await.expect("is set");
        let row = database.db().read().await.expect("connects")
            .first("SELECT ciphertext, data_key FROM secrets", vec![]).await.expect("reads").expect("a row");
        for column in ["ciphertext", "data_key"] {
            let bytes = row.bytes(column).expect("is set");
            assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
        }
        // Somebody with access to the database gives the secret to a thing of their own.
        database.db().write(|tx| Box::pin(async move {
            tx.execute("UPDATE secrets SET owner = $1", args!["agt_mallory"]).await
        })).await.expect("is moved");
        let error = refused(node.accounts.open_secrets(&ada.account_id, "agt_mallory").await, Kind::Internal, "internal");
        assert_eq!(error.public, "Internal server error");
        let log = format!("{error:?}");
        assert!(log.contains("`agt_mallory` `TOKEN`") && !log.contains("hunter2"), "{log}");
    }

    async fn rotation_wraps_everything_anew(database: &TestDatabase) {
        let old = Node::open(database.db());
        let (ada, key) = old.register("ada").await;
        for n in 0..250 {
            old.accounts.set_secret(&ada.account_id, AGENT, &format!("S{n}"), &format!("value {n}"), 1000).await.expect("is set");
        }
        let keys = format!("1:{MASTER_KEY} 2:{}", MASTER_KEY.replace("00", "ff"));
        let new = Node::with_vault(database.db(), open(), &keys);
        assert_eq!(new.accounts.open_secrets(&ada.account_id, AGENT).await.expect("opens").len(), 250);
        assert_eq!(new.accounts.rewrap_secrets().await.expect("rewraps"), 250);
        assert_eq!(new.accounts.rewrap_secrets().await.expect("rewraps"), 0);
        let opened = new.accounts.open_secrets(&ada.account_id, AGENT).await.expect("opens");
        assert!(opened.iter().all(|(name, value)| value.expose() == format!("value {}", &name[1..])));
        new.accounts.authenticate(key.expose()).await.expect("API keys outlive the rotation");
        refused(old.accounts.open_secrets(&ada.account_id, AGENT).await, Kind::Internal, "internal");
    }
}
