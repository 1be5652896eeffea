//! Access tokens: short-lived proofs that a session is open, checked without a slow hash.

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};

use super::KeyBytes;
use crate::{Error, Timestamp};

/// The algorithm of our own tokens. No outside token may use it.
pub(super) const ALGORITHM: Algorithm = Algorithm::HS256;
const ISSUER: &str = "backlot";

/// What an access token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    iss: String,
    /// The account.
    pub(super) sub: String,
    /// The session.
    pub(super) sid: String,
    /// Seconds since 1970.
    iat: i64,
    /// Seconds since 1970.
    exp: i64,
}

impl Claims {
    pub(super) fn expires_at(&self) -> Timestamp {
        Timestamp(self.exp.saturating_mul(1000))
    }
}

/// Signs and checks access tokens.
pub(super) struct Signer {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
}

impl Signer {
    pub(super) fn new(key: &KeyBytes) -> Self {
        let mut validation = Validation::new(ALGORITHM);
        // The library reads the machine's clock; ours is passed in, and the caller judges `exp` by it.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.set_issuer(&[ISSUER]);
        Self { encoding: EncodingKey::from_secret(&**key), decoding: DecodingKey::from_secret(&**key), validation }
    }

    pub(super) fn sign(
        &self,
        account: &str,
        session: &str,
        now: Timestamp,
        life: Duration,
    ) -> Result<(String, Timestamp), Error> {
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: account.to_owned(),
            sid: session.to_owned(),
            iat: now.0.div_euclid(1000),
            exp: now.after(life).0.div_euclid(1000),
        };
        let token = encode(&Header::new(ALGORITHM), &claims, &self.encoding).map_err(Error::internal)?;
        Ok((token, claims.expires_at()))
    }

    /// What a token of ours says, expired or not.
    pub(super) fn read(&self, token: &str) -> Option<Claims> {
        decode::<Claims>(token, &self.decoding, &self.validation).ok().map(|data| data.claims)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{KeyBytes, Signer};
    use crate::Timestamp;

    #[test]
    fn a_token_is_read_by_its_own_key_alone() {
        let signer = Signer::new(&KeyBytes::new([7; 32]));
        let (token, expires_at) =
            signer.sign("usr_a", "ses_b", Timestamp(1_700_000_000_123), Duration::from_secs(60)).expect("signs");
        assert_eq!(expires_at, Timestamp(1_700_000_060_000));
        let claims = signer.read(&token).expect("reads");
        assert_eq!((claims.sub.as_str(), claims.sid.as_str()), ("usr_a", "ses_b"));
        assert_eq!(claims.expires_at(), expires_at);
        assert!(Signer::new(&KeyBytes::new([8; 32])).read(&token).is_none());
    }

    #[test]
    fn an_altered_or_unsigned_token_is_refused() {
        let signer = Signer::new(&KeyBytes::new([7; 32]));
        let (token, _) = signer.sign("usr_a", "ses_b", Timestamp(0), Duration::from_secs(60)).expect("signs");
        for index in 0..token.len() {
            let mut altered = token.clone().into_bytes();
            altered[index] = if altered[index] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).expect("is text");
            // The last character of a segment carries bits that mean nothing; what it decodes to must not differ.
            if let Some(claims) = signer.read(&altered) {
                assert_eq!(claims, signer.read(&token).expect("reads"), "at {index}");
            }
        }
        let body = token.split('.').nth(1).expect("has a body");
        // {"alg":"none"}
        assert!(signer.read(&format!("eyJhbGciOiJub25lIn0.{body}.")).is_none());
    }
}
