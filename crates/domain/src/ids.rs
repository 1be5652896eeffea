//! Identifiers and randomness as an argument.

use rand::{RngCore as _, TryRngCore as _, rngs::OsRng};

use crate::Timestamp;

/// Where identifiers and secrets come from.
pub trait Ids: Send + Sync {
    /// A fresh identifier: `prefix`, an underscore and a lower-case ULID, so that identifiers sort by age
    /// (spec/castari.md 2).
    fn next(&self, prefix: &str, now: Timestamp) -> String;

    /// Fills `bytes` with randomness fit for keys.
    fn fill(&self, bytes: &mut [u8]);

    /// `length` random characters out of `0-9A-Za-z`.
    fn base62(&self, length: usize) -> String {
        const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut text = String::with_capacity(length);
        let mut bytes = [0_u8; 64];
        while text.len() < length {
            self.fill(&mut bytes);
            // Values of 248 and above are left out, so that every character is equally likely.
            text.extend(
                bytes
                    .iter()
                    .filter(|byte| **byte < 248)
                    .take(length - text.len())
                    .map(|byte| char::from(ALPHABET[usize::from(*byte % 62)])),
            );
        }
        text
    }
}

/// Identifiers from the operating system's randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomIds;

impl Ids for RandomIds {
    fn next(&self, prefix: &str, now: Timestamp) -> String {
        let mut random = [0_u8; 16];
        self.fill(&mut random);
        let millis = u64::try_from(now.0).unwrap_or(0);
        let ulid = ulid::Ulid::from_parts(millis, u128::from_be_bytes(random));
        format!("{prefix}_{}", ulid.to_string().to_lowercase())
    }

    fn fill(&self, bytes: &mut [u8]) {
        OsRng.unwrap_err().fill_bytes(bytes);
    }
}
