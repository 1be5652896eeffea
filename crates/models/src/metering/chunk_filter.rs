//! Takes the usage chunk out of a Chat Completions stream whose client had not asked for it.

use bytes::{Bytes, BytesMut};

/// Largest event held back while its end is awaited; longer ones are no usage chunks and pass.
const MAX_HELD: usize = 64 * 1024;

/// Passes a Chat Completions stream on without its usage chunk: the one with empty `choices` that the gateway,
/// not the client, had asked for (spec/castari.md 15.4). Everything else keeps its bytes.
#[derive(Debug, Default)]
pub struct ChunkFilter {
    held: BytesMut,
    /// Inside an event that is too long to be held.
    passing: bool,
}

impl ChunkFilter {
    /// A filter at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes; returns what may go on now, possibly nothing. An event is held until its end has come.
    #[must_use]
    pub fn push(&mut self, bytes: Bytes) -> Bytes {
        if self.held.is_empty() && !self.passing && ends_event(&bytes) && !may_hold_usage_chunk(&bytes) {
            return bytes; // the usual case: whole events, none of them of interest
        }
        self.held.extend_from_slice(&bytes);
        let mut out = BytesMut::new();
        while let Some(end) = event_end(&self.held) {
            let event = self.held.split_to(end);
            if std::mem::take(&mut self.passing) || !is_usage_chunk(&event) {
                out.extend_from_slice(&event);
            }
        }
        if self.passing || self.held.len() > MAX_HELD {
            // The last three bytes may begin the blank line that ends the event.
            let safe = self.held.len().saturating_sub(3);
            out.extend_from_slice(&self.held.split_to(safe));
            self.passing = true;
        }
        out.freeze()
    }

    /// What is left when the stream ends.
    #[must_use]
    pub fn finish(self) -> Bytes {
        if !self.passing && is_usage_chunk(&self.held) { Bytes::new() } else { self.held.freeze() }
    }
}

fn ends_event(bytes: &[u8]) -> bool {
    bytes.ends_with(b"\n\n") || bytes.ends_with(b"\n\r\n")
}

/// Where the first event ends, its blank line included.
fn event_end(bytes: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', bytes).find_map(|at| match bytes.get(at + 1..) {
        Some([b'\n', ..]) => Some(at + 2),
        Some([b'\r', b'\n', ..]) => Some(at + 3),
        _ => None,
    })
}

fn may_hold_usage_chunk(bytes: &[u8]) -> bool {
    has_member(bytes, b"\"choices\"", b"[]")
}

/// Inside JSON texts quotes are escaped, so what is searched for can only be a name.
fn is_usage_chunk(event: &[u8]) -> bool {
    may_hold_usage_chunk(event) && has_member(event, b"\"usage\"", b"{")
}

/// Whether a member of this (quoted) name has a value that begins with these bytes, blanks aside.
fn has_member(bytes: &[u8], name: &[u8], value: &[u8]) -> bool {
    memchr::memmem::find_iter(bytes, name).any(|at| {
        let mut rest = bytes[at + name.len()..].iter().filter(|byte| !byte.is_ascii_whitespace());
        rest.next() == Some(&b':') && value.iter().all(|expected| rest.next() == Some(expected))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = concat!(
        "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n",
        "data: {\"id\":\"1\",\"choices\":[{\"delta\":{\"content\":\"\\\"choices\\\":[] \\\"usage\\\":{}\"}}],\"usage\":null}\n\n",
        ": a comment\r\n\r\n",
        "data: {\"id\":\"1\",\"choices\": [ ],\"usage\": {\"prompt_tokens\":3}}\n\n",
        "data: [DONE]\n\n",
    );

    fn expected() -> String {
        let usage = STREAM.find("data: {\"id\":\"1\",\"choices\": [ ]").expect("there");
        let done = STREAM.find("data: [DONE]").expect("there");
        format!("{}{}", &STREAM[..usage], &STREAM[done..])
    }

    fn filter(pieces: &[&[u8]]) -> String {
        let mut filter = ChunkFilter::new();
        let mut out = Vec::new();
        for piece in pieces {
            out.extend_from_slice(&filter.push(Bytes::copy_from_slice(piece)));
        }
        out.extend_from_slice(&filter.finish());
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn only_the_usage_chunk_goes_wherever_the_stream_is_cut() {
        for cut in 0..=STREAM.len() {
            let (left, right) = STREAM.as_bytes().split_at(cut);
            assert_eq!(filter(&[left, right]), expected(), "cut at {cut}");
        }
        let single: Vec<&[u8]> = STREAM.as_bytes().chunks(1).collect();
        assert_eq!(filter(&single), expected());
    }

    #[test]
    fn whole_events_pass_without_a_copy() {
        let bytes = Bytes::from_static(b"data: {\"choices\":[{}]}\n\n");
        assert_eq!(ChunkFilter::new().push(bytes.clone()).as_ptr(), bytes.as_ptr());
    }

    #[test]
    fn endless_events_are_not_held() {
        let mut filter = ChunkFilter::new();
        let mut passed = 0;
        for _ in 0..100 {
            passed += filter.push(Bytes::from(vec![b'x'; 10_000])).len();
            assert!(filter.held.len() <= MAX_HELD);
        }
        passed += filter.push(Bytes::from_static(b"\n\ndata: {\"choices\":[],\"usage\":{}}\n\n")).len();
        passed += filter.finish().len();
        assert_eq!(passed, 1_000_002);
    }

    #[test]
    fn a_usage_chunk_without_its_blank_line_goes_too() {
        assert_eq!(filter(&[b"data: {\"choices\":[],\"usage\":{}}"]), "");
        assert_eq!(filter(&[b"data: [DONE]"]), "data: [DONE]");
    }
}
