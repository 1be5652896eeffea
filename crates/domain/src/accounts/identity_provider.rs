//! Bearer JWTs of an outside identity provider (spec/castari.md 4.2).
//!
//! The provider's public keys are fetched from its JWKS address and kept: fresh for ten minutes, then still usable for
//! an hour while the provider cannot be reached. A token with an unknown `kid` has them fetched again, but at most every
//! 30 seconds, so that nonsense tokens do not become requests to the provider.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, decode, jwk::Jwk};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::unauthenticated;
use crate::{Error, Kind, Timestamp};

/// Signatures that are accepted. Never `none`, never one with a shared key.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
/// How long fetched keys are used without another look.
const FRESH: Duration = Duration::from_secs(10 * 60);
/// How long they are used beyond that while the provider cannot be reached.
const STALE: Duration = Duration::from_secs(60 * 60);
/// The provider is asked at most so often.
const BETWEEN_FETCHES: Duration = Duration::from_secs(30);
/// How long the provider may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a key set.
const LARGEST_SET: usize = 256 * 1024;
/// How far the provider's clock may differ from ours.
const LEEWAY: Duration = Duration::from_secs(60);

/// The identity provider that the operator named.
#[derive(Debug, Clone)]
pub struct IdentityProvider {
    /// Where its public keys are.
    pub jwks_url: String,
    /// What `iss` must be, exactly.
    pub issuer: String,
    /// What `aud` must contain (or `azp` must be), when set.
    pub audience: Option<String>,
    /// How to get there. The operator named the address, so it is not confined like addresses that users name.
    pub http: reqwest::Client,
}

/// Whom a token speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) issuer: String,
    pub(super) subject: String,
    /// Absent when the provider tells none or has not verified it.
    pub(super) email: Option<String>,
    pub(super) expires_at: Timestamp,
}

/// The provider with its keys.
pub(super) struct KeySet {
    provider: IdentityProvider,
    keys: RwLock<Option<Arc<Fetched>>>,
    /// When the provider was last asked, successfully or not. Held while asking, so that one asks for all.
    last_try: Mutex<Option<Timestamp>>,
}

struct Fetched {
    at: Timestamp,
    by_kid: HashMap<String, PublicKey>,
}

#[derive(Clone)]
struct PublicKey {
    algorithm: Algorithm,
    key: DecodingKey,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    exp: f64,
    nbf: Option<f64>,
    iat: Option<f64>,
    aud: Option<Audience>,
    azp: Option<String>,
    email: Option<String>,
    email_verified: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl KeySet {
    pub(super) fn new(provider: IdentityProvider) -> Self {
        Self { provider, keys: RwLock::new(None), last_try: Mutex::new(None) }
    }

    /// Whom a token speaks of, if the provider signed it and it holds now.
    pub(super) async fn verify(&self, token: &str, header: &Header, now: Timestamp) -> Result<Person, Error> {
        let kid = header.kid.as_deref().filter(|_| ALGORITHMS.contains(&header.alg)).ok_or_else(unauthenticated)?;
        let key = self.key(kid, now).await?.ok_or_else(unauthenticated)?;
        if key.algorithm != header.alg {
            return Err(unauthenticated());
        }
        let mut validation = Validation::new(key.algorithm);
        // Judged below: times by our clock, the audience together with `azp`.
        validation.validate_exp = false;
        validation.validate_aud = false;
        let claims = decode::<Claims>(token, &key.key, &validation).map_err(|_| unauthenticated())?.claims;
        self.judge(claims, now)
    }

    fn judge(&self, claims: Claims, now: Timestamp) -> Result<Person, Error> {
        let expires_at = moment(claims.exp).after(LEEWAY);
        let is_early = |time: Option<f64>| time.is_some_and(|time| moment(time) > now.after(LEEWAY));
        if claims.iss != self.provider.issuer
            || claims.sub.is_empty()
            || claims.sub.len() > 255
            || now >= expires_at
            || is_early(claims.nbf)
            || is_early(claims.iat)
            || !self.is_for_us(&claims)
        {
            return Err(unauthenticated());
        }
        let email = claims.email.filter(|_| claims.email_verified != Some(false));
        Ok(Person { issuer: claims.iss, subject: claims.sub, email, expires_at })
    }

    fn is_for_us(&self, claims: &Claims) -> bool {
        let Some(ours) = &self.provider.audience else { return true };
        let is_in_aud = match &claims.aud {
            None => false,
            Some(Audience::One(one)) => one == ours,
            Some(Audience::Many(many)) => many.contains(ours),
        };
        is_in_aud || claims.azp.as_ref() == Some(ours)
    }

    async fn key(&self, kid: &str, now: Timestamp) -> Result<Option<PublicKey>, Error> {
        if let Some(key) = self.kept(FRESH, now).and_then(|keys| keys.by_kid.get(kid).cloned()) {
            return Ok(Some(key));
        }
        let failure = self.fetch_unless_recent(now).await.err();
        match self.kept(FRESH + STALE, now) {
            Some(keys) => Ok(keys.by_kid.get(kid).cloned()),
            None => {
                let error = Error::new(
                    Kind::Unavailable,
                    "identity_provider_unreachable",
                    "The identity provider cannot be reached; try again soon",
                )
                .retry_after(BETWEEN_FETCHES);
                Err(match failure {
                    Some(failure) => error.because(failure),
                    None => error,
                })
            }
        }
    }

    /// The keys at hand, if they are younger than `age`.
    fn kept(&self, age: Duration, now: Timestamp) -> Option<Arc<Fetched>> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.as_ref().filter(|keys| now.since(keys.at) < age).map(Arc::clone)
    }

    async fn fetch_unless_recent(&self, now: Timestamp) -> anyhow::Result<()> {
        let mut last_try = self.last_try.lock().await;
        if last_try.is_some_and(|tried| now.since(tried) < BETWEEN_FETCHES && tried <= now) {
            return Ok(());
        }
        *last_try = Some(now);
        match self.fetch().await {
            Ok(by_kid) => {
                let fetched = Arc::new(Fetched { at: now, by_kid });
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(fetched);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, url = %self.provider.jwks_url, "the identity provider's keys could not be fetched");
                Err(error)
            }
        }
    }

    async fn fetch(&self) -> anyhow::Result<HashMap<String, PublicKey>> {
        let request = self.provider.http.get(&self.provider.jwks_url).timeout(PATIENCE);
        let mut response = request.send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            anyhow::ensure!(body.len() + chunk.len() <= LARGEST_SET, "the key set has more than {LARGEST_SET} bytes");
            body.extend_from_slice(&chunk);
        }
        parse(&body)
    }
}

/// The usable keys of a set. Keys of kinds unknown to us are no error: providers add new ones beside the old.
fn parse(body: &[u8]) -> anyhow::Result<HashMap<String, PublicKey>> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_slice(body)?;
    let keys: HashMap<String, PublicKey> = set.keys.into_iter().filter_map(usable).collect();
    anyhow::ensure!(!keys.is_empty(), "the key set holds no key that signs with RS256, ES256 or EdDSA and has a kid");
    Ok(keys)
}

fn usable(key: serde_json::Value) -> Option<(String, PublicKey)> {
    use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, PublicKeyUse};
    let jwk: Jwk = serde_json::from_value(key).ok()?;
    let kid = jwk.common.key_id.clone()?;
    if jwk.common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
        return None;
    }
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    let named = jwk.common.key_algorithm.map(|named| named.to_string());
    if named.is_some_and(|named| named != format!("{algorithm:?}")) {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some((kid, PublicKey { algorithm, key }))
}

/// A JWT's time: seconds since 1970, possibly with a fraction.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the cast saturates, and what is out of range is far away either way"
)]
fn moment(seconds: f64) -> Timestamp {
    Timestamp((seconds * 1000.0) as i64)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn keys_of_other_kinds_are_passed_over() {
        let set = br#"{"keys": [
            {"kty": "oct", "kid": "shared", "k": "AAAA"},
            {"kty": "OKP", "crv": "X25519", "kid": "exchange", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
            {"kty": "NEW", "kid": "unknown"},
            {"kty": "OKP", "crv": "Ed25519", "kid": "no-signing", "use": "enc", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
            {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
            {"kty": "OKP", "crv": "Ed25519", "kid": "good", "use": "sig", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
        ]}"#;
        let keys = parse(set).expect("has a usable key");
        assert_eq!(keys.keys().collect::<Vec<_>>(), ["good"]);
        assert!(parse(br#"{"keys": []}"#).is_err());
        assert!(parse(b"<html>").is_err());
    }
}
