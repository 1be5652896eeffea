//! Bearer JWTs of an outside identity provider, which is a small HTTP server here.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use backlot_domain::{
    Clock as _, Kind,
    accounts::{IdentityProvider, Settings, Signup},
};
use backlot_testkit::{TestDatabase, both_engines};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{Node, open, refused};

// Made for these tests and used nowhere else.
const KEYS: &str = include_str!("identity_provider_keys/jwks.json");
const ED: &[u8] = include_bytes!("identity_provider_keys/ed.pem");
const EC: &[u8] = include_bytes!("identity_provider_keys/ec.pem");
const RSA: &[u8] = include_bytes!("identity_provider_keys/rsa.pem");
const ISSUER: &str = "https://id.example.com";

/// The provider's key server.
struct Provider {
    address: SocketAddr,
    /// Status and body of its answers.
    answer: Arc<Mutex<(u16, String)>>,
    asked: Arc<AtomicU64>,
}

impl Provider {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let answer = Arc::new(Mutex::new((200, KEYS.to_owned())));
        let asked = Arc::new(AtomicU64::new(0));
        let (shared, count) = (Arc::clone(&answer), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let _length = stream.read(&mut request).await;
                count.fetch_add(1, Ordering::SeqCst);
                let (status, body) = shared.lock().expect("not poisoned").clone();
                let head =
                    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                let _gone = stream.write_all((head + &body).as_bytes()).await;
            }
        });
        Self { address, answer, asked }
    }

    fn answers(&self, status: u16, body: &str) {
        *self.answer.lock().expect("not poisoned") = (status, body.to_owned());
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    fn settings(&self) -> Settings {
        let http = backlot_models::http::http_client(None).expect("a client");
        let provider = IdentityProvider {
            jwks_url: format!("http://{}/jwks.json", self.address),
            issuer: ISSUER.to_owned(),
            audience: Some("backlot".to_owned()),
            http,
        };
        Settings { identity_provider: Some(provider), ..open() }
    }
}

/// Claims that are fine at the node's present.
fn claims(node: &Node, subject: &str) -> Value {
    let now = node.clock.now().0 / 1000;
    json!({"iss": ISSUER, "sub": subject, "aud": "backlot", "iat": now, "nbf": now, "exp": now + 300,
           "email": format!("{subject}@example.com")})
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

fn without(mut claims: Value, name: &str) -> Value {
    claims.as_object_mut().expect("is an object").remove(name);
    claims
}

fn sign(algorithm: Algorithm, kid: Option<&str>, key: &EncodingKey, claims: &Value) -> String {
    let header = Header { kid: kid.map(ToOwned::to_owned), ..Header::new(algorithm) };
    encode(&header, claims, key).expect("signs")
}

fn by_ed(claims: &Value) -> String {
    sign(Algorithm::EdDSA, Some("ed"), &EncodingKey::from_ed_pem(ED).expect("a key"), claims)
}

both_engines! {
    async fn the_first_sight_makes_an_account_and_the_next_finds_it(database: &TestDatabase) {
        let provider = Provider::start().await;
        let node = Node::new(database.db(), provider.settings());
        let ec = EncodingKey::from_ec_pem(EC).expect("a key");
        let rsa = EncodingKey::from_rsa_pem(RSA).expect("a key");
        let claims = claims(&node, "ada");
        let tokens = [
            by_ed(&claims),
            sign(Algorithm::ES256, Some("ec"), &ec, &claims),
            sign(Algorithm::RS256, Some("rsa"), &rsa, &claims),
        ];
        let mut accounts = std::collections::BTreeSet::new();
        for token in &tokens {
            let caller = node.accounts.authenticate(token).await.expect("is good");
            assert_eq!(caller.key_id, None);
            accounts.insert(caller.account_id.to_string());
            let account = node.accounts.account(&caller).await.expect("exists");
            assert_eq!(account.email.as_deref(), Some("ada@example.com"));
        }
        assert_eq!(accounts.len(), 1);
        assert_eq!(provider.asked(), 1, "the keys are kept");
    }

    async fn many_first_sights_at_once_make_one_account(database: &TestDatabase) {
        let provider = Provider::start().await;
        let node = Arc::new(Node::new(database.db(), provider.settings()));
        let calls: Vec<_> = (0..6)
            .map(|n| {
                let node = Arc::clone(&node);
                let token = by_ed(&with(claims(&node, "ada"), "jti", json!(n)));
                tokio::spawn(async move { node.accounts.authenticate(&token).await })
            })
            .collect();
        let mut accounts = std::collections::BTreeSet::new();
        for call in calls {
            accounts.insert(call.await.expect("no panic").expect("is good").account_id.to_string());
        }
        assert_eq!((accounts.len(), provider.asked()), (1, 1));
    }

    async fn an_address_somebody_registered_is_not_taken_over(database: &TestDatabase) {
        let provider = Provider::start().await;
        let node = Node::new(database.db(), provider.settings());
        let (ada, _) = node.register("ada").await;
        let caller = node.accounts.authenticate(&by_ed(&claims(&node, "ada"))).await.expect("is good");
        assert_ne!(caller.account_id, ada.account_id);
        assert_eq!(node.accounts.account(&caller).await.expect("exists").email, None);
        let unverified = with(claims(&node, "bob"), "email_verified", json!(false));
        let caller = node.accounts.authenticate(&by_ed(&unverified)).await.expect("is good");
        assert_eq!(node.accounts.account(&caller).await.expect("exists").email, None);
        let nameless = without(claims(&node, "eve"), "email");
        let caller = node.accounts.authenticate(&by_ed(&nameless)).await.expect("is good");
        assert_eq!(node.accounts.account(&caller).await.expect("exists").email, None);
    }

    async fn registration_rules_hold_for_the_provider_too(database: &TestDatabase) {
        let provider = Provider::start().await;
        let first = Node::new(database.db(), Settings { signup: Signup::First, ..provider.settings() });
        first.accounts.authenticate(&by_ed(&claims(&first, "ada"))).await.expect("is the first");
        refused(first.accounts.authenticate(&by_ed(&claims(&first, "bob"))).await, Kind::Forbidden, "registration_disabled");
        let closed = Node::new(database.db(), Settings { signup: Signup::Closed, ..provider.settings() });
        closed.accounts.authenticate(&by_ed(&claims(&closed, "ada"))).await.expect("is known");
        refused(closed.accounts.authenticate(&by_ed(&claims(&closed, "bob"))).await, Kind::Forbidden, "registration_disabled");
    }
}

#[tokio::test]
async fn what_the_provider_did_not_sign_for_us_now_is_refused() {
    let database = TestDatabase::sqlite().await;
    let provider = Provider::start().await;
    let node = Node::new(database.db(), provider.settings());
    let now = node.clock.now().0 / 1000;
    let fine = claims(&node, "ada");
    let ed = EncodingKey::from_ed_pem(ED).expect("a key");
    let rsa = EncodingKey::from_rsa_pem(RSA).expect("a key");
    for good in [
        with(fine.clone(), "exp", json!(now - 59)),
        with(fine.clone(), "exp", json!(f64::from(u32::try_from(now).expect("fits")) + 0.5)),
        with(fine.clone(), "nbf", json!(now + 60)),
        with(fine.clone(), "aud", json!(["other", "backlot"])),
        with(without(fine.clone(), "aud"), "azp", json!("backlot")),
    ] {
        node.accounts.authenticate(&by_ed(&good)).await.unwrap_or_else(|error| panic!("{good}: {error:?}"));
    }
    for bad in [
        with(fine.clone(), "exp", json!(now - 60)),
        with(fine.clone(), "nbf", json!(now + 61)),
        with(fine.clone(), "iat", json!(now + 61)),
        with(fine.clone(), "iss", json!("https://id.example.com/")),
        with(fine.clone(), "aud", json!("other")),
        with(fine.clone(), "aud", json!([])),
        with(fine.clone(), "sub", json!("")),
        with(fine.clone(), "sub", json!(7)),
        with(fine.clone(), "sub", json!("x".repeat(300))),
        without(fine.clone(), "aud"),
        without(fine.clone(), "exp"),
        without(fine.clone(), "iss"),
        without(fine.clone(), "sub"),
    ] {
        refused(node.accounts.authenticate(&by_ed(&bad)).await, Kind::Unauthenticated, "unauthorized");
    }
    let body = by_ed(&fine).split('.').nth(1).expect("has a body").to_owned();
    for bad in [
        // {"alg":"none","kid":"ed"}
        format!("eyJhbGciOiJub25lIiwia2lkIjoiZWQifQ.{body}."),
        // The public key as a shared secret.
        sign(Algorithm::HS256, Some("rsa"), &EncodingKey::from_secret(KEYS.as_bytes()), &fine),
        // Another algorithm than the key is for.
        sign(Algorithm::RS512, Some("rsa"), &rsa, &fine),
        sign(Algorithm::PS256, Some("rsa"), &rsa, &fine),
        sign(Algorithm::RS256, Some("ed"), &rsa, &fine),
        // No key named, or another than signed.
        sign(Algorithm::EdDSA, None, &ed, &fine),
        sign(Algorithm::EdDSA, Some("unknown"), &ed, &fine),
        by_ed(&fine) + "A",
    ] {
        refused(node.accounts.authenticate(&bad).await, Kind::Unauthenticated, "unauthorized");
    }
    let without_provider = Node::open(database.db());
    refused(without_provider.accounts.authenticate(&by_ed(&fine)).await, Kind::Unauthenticated, "unauthorized");
}

#[tokio::test]
async fn a_token_is_not_remembered_beyond_its_end() {
    let database = TestDatabase::sqlite().await;
    let provider = Provider::start().await;
    let node = Node::new(database.db(), provider.settings());
    let now = node.clock.now().0 / 1000;
    let token = by_ed(&with(claims(&node, "ada"), "exp", json!(now - 60 + 1)));
    node.accounts.authenticate(&token).await.expect("is good for another second");
    node.clock.advance(std::time::Duration::from_millis(1000));
    refused(node.accounts.authenticate(&token).await, Kind::Unauthenticated, "unauthorized");
}

#[tokio::test]
async fn new_keys_are_fetched_once_and_nonsense_does_not_become_requests() {
    let database = TestDatabase::sqlite().await;
    let provider = Provider::start().await;
    let node = Node::new(database.db(), provider.settings());
    let only = |kid: &str| {
        let mut set: Value = serde_json::from_str(KEYS).expect("is JSON");
        let keys = set["keys"].as_array_mut().expect("is a list");
        keys.retain(|key| key["kid"] == kid);
        set.to_string()
    };
    let ec = EncodingKey::from_ec_pem(EC).expect("a key");
    let by_ec = || sign(Algorithm::ES256, Some("ec"), &ec, &claims(&node, "ada"));
    provider.answers(200, &only("ed"));
    node.accounts.authenticate(&by_ed(&claims(&node, "ada"))).await.expect("is good");
    refused(node.accounts.authenticate(&by_ec()).await, Kind::Unauthenticated, "unauthorized");
    assert_eq!(provider.asked(), 1, "it was asked a moment ago");
    // The provider rotates its keys.
    provider.answers(200, &only("ec"));
    node.advance(30);
    node.accounts.authenticate(&by_ec()).await.expect("its key was fetched");
    assert_eq!(provider.asked(), 2);
    for n in 0..50 {
        let nonsense = sign(Algorithm::ES256, Some(&format!("k{n}")), &ec, &claims(&node, "ada"));
        refused(node.accounts.authenticate(&nonsense).await, Kind::Unauthenticated, "unauthorized");
    }
    assert_eq!(provider.asked(), 2);
    refused(node.accounts.authenticate(&by_ed(&claims(&node, "ada"))).await, Kind::Unauthenticated, "unauthorized");
}

#[tokio::test]
async fn keys_at_hand_bridge_an_hour_without_the_provider() {
    let database = TestDatabase::sqlite().await;
    let provider = Provider::start().await;
    let node = Node::new(database.db(), provider.settings());
    provider.answers(500, "");
    let error = refused(
        node.accounts.authenticate(&by_ed(&claims(&node, "ada"))).await,
        Kind::Unavailable,
        "identity_provider_unreachable",
    );
    assert!(error.retry_after.is_some(), "a client must not throw its token away");
    provider.answers(200, KEYS);
    node.advance(30);
    node.accounts.authenticate(&by_ed(&claims(&node, "ada"))).await.expect("is good");
    for broken in
        [(503, "".to_owned()), (200, "<html>".to_owned()), (200, " ".repeat(300 * 1024)), (200, "{}".to_owned())]
    {
        provider.answers(broken.0, &broken.1);
        node.advance(15 * 60);
        node.accounts.authenticate(&by_ed(&claims(&node, "ada"))).await.expect("the keys at hand are good");
    }
    node.advance(10 * 60);
    refused(
        node.accounts.authenticate(&by_ed(&claims(&node, "ada"))).await,
        Kind::Unavailable,
        "identity_provider_unreachable",
    );
}
