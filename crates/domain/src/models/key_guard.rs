//! Keeps a provider's key out of what passes from the provider to a client.
//!
//! Providers quote the key they were given, and not only in answers with an error status. Found keys are overwritten by
//! as many asterisks, so that announced lengths still hold. A piece is held back only as far as its end could be the
//! beginning of the key.

use bytes::{Bytes, BytesMut};
use memchr::memmem::Finder;
use reqwest::header::HeaderMap;

use crate::accounts::SecretString;

/// Shorter keys are no secrets, and their letters may stand in any text.
const SHORTEST: usize = 8;

/// Overwrites one key in a stream of bytes.
pub(super) struct KeyGuard {
    finder: Finder<'static>,
    /// The end of what has come, if the key may begin there.
    held: BytesMut,
}

impl KeyGuard {
    /// A guard for a key, if there is one to guard.
    pub(super) fn new(key: Option<&SecretString>) -> Option<Self> {
        let key = key.map(|key| key.expose().as_bytes()).filter(|key| key.len() >= SHORTEST)?;
        Some(Self { finder: Finder::new(key).into_owned(), held: BytesMut::new() })
    }

    /// Takes the next bytes; returns what may go on.
    pub(super) fn push(&mut self, bytes: Bytes) -> Bytes {
        let held = self.beginning_at_end(&bytes);
        if self.held.is_empty() && held == 0 && self.finder.find(&bytes).is_none() {
            return bytes; // all but always
        }
        let mut joined = std::mem::take(&mut self.held);
        joined.extend_from_slice(&bytes);
        self.overwrite(&mut joined);
        let held = self.beginning_at_end(&joined);
        self.held = joined.split_off(joined.len() - held);
        joined.freeze()
    }

    /// What is left when nothing more comes.
    pub(super) fn finish(self) -> Bytes {
        self.held.freeze()
    }

    /// The bytes with the key overwritten, for a body that is there as a whole.
    pub(super) fn overwrite(&self, bytes: &mut BytesMut) {
        let key = self.finder.needle().len();
        let mut from = 0;
        // Each search begins after the last find: a key made of asterisks would be found in its own place for ever.
        while let Some(at) = bytes.get(from..).and_then(|rest| self.finder.find(rest)) {
            let begin = from + at;
            bytes[begin..begin + key].fill(b'*');
            from = begin + key;
        }
    }

    /// Removes headers that quote the key.
    pub(super) fn clean(&self, headers: &mut HeaderMap) {
        let quoting = headers.iter().filter(|(_, value)| self.finder.find(value.as_bytes()).is_some());
        let quoting: Vec<_> = quoting.map(|(name, _)| name.clone()).collect();
        for name in quoting {
            headers.remove(name);
        }
    }

    /// How many bytes at the end are a beginning of the key.
    fn beginning_at_end(&self, bytes: &[u8]) -> usize {
        let key = self.finder.needle();
        let longest = bytes.len().min(key.len() - 1);
        (1..=longest).rev().find(|&length| bytes.ends_with(&key[..length])).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use super::*;

    const KEY: &str = "sk-sk-0123";

    #[test]
    fn a_key_of_asterisks_does_not_hold_us_up() {
        let guard = KeyGuard::new(Some(&"**********".into())).unwrap();
        let mut bytes = BytesMut::from(&b"no such key: **********, really *************************"[..]);
        guard.overwrite(&mut bytes);
        assert!(bytes.ends_with(b"*****"));
    }

    fn guard() -> KeyGuard {
        KeyGuard::new(Some(&KEY.into())).unwrap()
    }

    fn through(pieces: &[&[u8]]) -> String {
        let mut guard = guard();
        let mut out = Vec::new();
        for piece in pieces {
            out.extend_from_slice(&guard.push(Bytes::copy_from_slice(piece)));
        }
        out.extend_from_slice(&guard.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_key_is_overwritten_wherever_the_stream_is_cut() {
        let text = "a sk-sk-sk-0123 b sk-sk-012 c sk-sk-0123sk-sk-0123 sk-";
        let expected = "a sk-********** b sk-sk-012 c ******************** sk-";
        for cut in 0..=text.len() {
            let (left, right) = text.as_bytes().split_at(cut);
            assert_eq!(through(&[left, right]), expected, "cut at {cut}");
        }
        let single: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(through(&single), expected);
    }

    #[test]
    fn other_bytes_pass_without_a_copy() {
        let bytes = Bytes::from_static(b"data: {}\n\n");
        assert_eq!(guard().push(bytes.clone()).as_ptr(), bytes.as_ptr());
    }

    #[test]
    fn headers_that_quote_the_key_go() {
        let mut headers = HeaderMap::new();
        headers.insert("x-a", format!("key={KEY}").parse().unwrap());
        headers.insert("x-b", "fine".parse().unwrap());
        guard().clean(&mut headers);
        assert_eq!(headers.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["x-b"]);
    }

    #[test]
    fn there_is_no_guard_without_a_secret() {
        assert!(KeyGuard::new(None).is_none());
        assert!(KeyGuard::new(Some(&"".into())).is_none());
        assert!(KeyGuard::new(Some(&"short".into())).is_none());
    }
}
