//! Rate limits: classes, windows, headers (seed: "Rate Limits"; spec/castari.md 6).

use std::{sync::Arc, time::Duration};

use backlot_domain::accounts::RateLimits;
use backlot_testkit::{Answer, Person, Setup, TestClock, TestServer};
use insta::assert_json_snapshot;
use serde_json::json;

use super::api;

async fn limited() -> (TestServer, Arc<TestClock>, Person, Person) {
    let clock = Arc::new(TestClock::new());
    let setup = Setup { clock: Arc::clone(&clock) as _, rate_limits: RateLimits::default(), ..Setup::default() };
    let (server, ada, anonymous) = TestServer::with(setup).await;
    (server, clock, ada, anonymous)
}

fn standing(answer: &Answer) -> (u16, &str, &str, &str) {
    let header = |name| answer.header(name);
    (answer.status, header("x-ratelimit-limit"), header("x-ratelimit-remaining"), header("x-ratelimit-reset"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_eleventh_invocation_in_a_minute_is_refused() {
    let (_server, clock, ada, _) = limited().await;
    let first = ada.invoke("absent", "x").await;
    assert_eq!(standing(&first), (404, "10", "9", "1772366460"));
    clock.advance(Duration::from_millis(500));
    for left in (0..9).rev() {
        let answer = ada.invoke("absent", "x").await;
        assert_eq!(standing(&answer).2, left.to_string(), "{answer:?}");
        clock.advance(Duration::from_secs(1));
    }
    clock.advance(Duration::from_secs(20));
    let refused = ada.invoke("absent", "x").await;
    assert_json_snapshot!(refused.redacted(), @r#"
    {
      "status": 429,
      "body": {
        "detail": "Rate limit exceeded. Try again in 31 seconds.",
        "code": "rate_limited"
      }
    }
    "#);
    assert_eq!(refused.header("retry-after"), "31");
    assert_eq!(standing(&refused), (429, "10", "0", "1772366460"));
    // Streams count as invocations, everything else does not.
    assert_eq!(ada.post(&api("/agents/absent/stream"), json!({"prompt": ""})).await.status, 429);
    assert_eq!(standing(&ada.get(&api("/agents")).await), (200, "100", "99", "1772366490"));
    clock.advance(Duration::from_secs(31));
    assert_eq!(standing(&ada.invoke("absent", "x").await).0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_an_account_share_its_windows_and_accounts_do_not() {
    let (server, _clock, ada, anonymous) = limited().await;
    let eve = server.register("eve@example.com").await;
    let second = ada.post(&api("/api-keys"), json!({})).await;
    let second = anonymous.with_credential(second.body["key"].as_str().unwrap());
    for _ in 0..99 {
        assert_eq!(second.get(&api("/auth/me")).await.status, 200);
    }
    let refused = ada.get(&api("/auth/me")).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.body["detail"], "Rate limit exceeded. Try again in 60 seconds.");
    assert_eq!(eve.get(&api("/auth/me")).await.status, 200);
    // A refused call is refused whatever it asks for: the limit comes before body, field and object.
    assert_eq!(ada.post(&api("/agents"), json!({"name": 5})).await.status, 429);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guessing_credentials_is_limited_by_address() {
    let (_server, _clock, ada, anonymous) = limited().await;
    let guesser = anonymous.with_credential("cast_aaaaaaaa_bbbbbbbbbbbbbbbbbbbb");
    let first = guesser.get(&api("/agents")).await;
    assert_eq!(standing(&first), (401, "30", "29", "1772366460"));
    for _ in 0..29 {
        assert_eq!(anonymous.get(&api("/agents")).await.status, 401);
    }
    assert_eq!(guesser.get(&api("/agents")).await.status, 429);
    // Who has a credential is not held up by guessers behind the same address.
    assert_eq!(ada.get(&api("/agents")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_has_the_headers() {
    let (_server, _clock, ada, anonymous) = limited().await;
    for answer in [
        ada.get(&api("/agents")).await,
        ada.get(&api("/agents/absent")).await,
        ada.get(&api("/agents?limit=0")).await,
        ada.get(&api("/moon")).await,
        ada.patch(&api("/agents"), json!({})).await,
        anonymous.get(&api("/agents")).await,
    ] {
        for name in ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "x-request-id"] {
            assert!(!answer.header(name).is_empty(), "{name} is missing: {answer:?}");
        }
    }
}
