//! Server-sent events on the byte level: a splitter that takes any cut of the stream, and a writer.
//!
//! Only `event` and `data` matter to the providers' streams; `id`, `retry` and comments are read over.
//! There is no reconnecting: repeating a paid POST on one's own would be wrong.

use crate::{Error, ErrorKind};

/// Largest event accepted, in bytes. Final events of the Responses format repeat the whole answer.
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

/// One event of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// The `event` field; empty when the event had none.
    pub event: String,
    /// The `data` fields, joined by line feeds. Bytes that are not UTF-8 are replaced.
    pub data: String,
}

/// Cuts a byte stream into [`Frame`]s, whatever the pieces it arrives in.
#[derive(Debug, Default)]
pub struct Splitter {
    line: Vec<u8>,
    event: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    after_cr: bool,
    past_first_line: bool,
}

impl Splitter {
    /// An empty splitter, at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes and appends the events they complete to `frames`.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] when one event exceeds [`MAX_FRAME_BYTES`]; the splitter is then of no further use.
    pub fn push(&mut self, mut bytes: &[u8], frames: &mut Vec<Frame>) -> Result<(), Error> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) else {
                self.line.extend_from_slice(bytes);
                return self.check_size();
            };
            self.line.extend_from_slice(&bytes[..end]);
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.check_size()?;
            self.end_line(frames);
        }
        Ok(())
    }

    /// The event that the end of the stream left without its closing blank line, if any. Some servers omit it.
    pub fn finish(&mut self) -> Option<Frame> {
        let mut frames = Vec::new();
        if !self.line.is_empty() {
            self.end_line(&mut frames);
        }
        self.dispatch(&mut frames);
        frames.pop()
    }

    fn check_size(&self) -> Result<(), Error> {
        if self.line.len() + self.data.len() + self.event.len() > MAX_FRAME_BYTES {
            return Err(Error::new(
                ErrorKind::Protocol,
                format!("the provider sent one event of more than {} MiB", MAX_FRAME_BYTES / (1024 * 1024)),
            ));
        }
        Ok(())
    }

    fn end_line(&mut self, frames: &mut Vec<Frame>) {
        let mut line = std::mem::take(&mut self.line);
        let mut content = line.as_slice();
        if !std::mem::replace(&mut self.past_first_line, true) {
            content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
        }
        if content.is_empty() {
            self.dispatch(frames);
        } else {
            let (name, value) = match memchr::memchr(b':', content) {
                Some(colon) => (&content[..colon], &content[colon + 1..]),
                None => (content, &[][..]),
            };
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match name {
                b"data" => {
                    if self.has_data {
                        self.data.push(b'\n');
                    }
                    self.has_data = true;
                    self.data.extend_from_slice(value);
                }
                b"event" => {
                    self.event.clear();
                    self.event.extend_from_slice(value);
                }
                _ => {}
            }
        }
        line.clear();
        self.line = line; // keeps the allocation
    }

    fn dispatch(&mut self, frames: &mut Vec<Frame>) {
        if std::mem::take(&mut self.has_data) {
            frames.push(Frame {
                event: String::from_utf8_lossy(&self.event).into_owned(),
                data: String::from_utf8_lossy(&self.data).into_owned(),
            });
        }
        self.event.clear();
        self.data.clear();
    }
}

/// Appends one event to `out`. Line breaks in `data` become further `data` lines.
pub fn write_frame(out: &mut Vec<u8>, event: Option<&str>, data: &str) {
    if let Some(event) = event {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(event.as_bytes());
        out.push(b'\n');
    }
    for line in data.split('\n') {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(pieces: &[&[u8]]) -> Vec<Frame> {
        let mut splitter = Splitter::new();
        let mut frames = Vec::new();
        for piece in pieces {
            splitter.push(piece, &mut frames).expect("small frames");
        }
        frames.extend(splitter.finish());
        frames
    }

    fn frame(event: &str, data: &str) -> Frame {
        Frame { event: event.into(), data: data.into() }
    }

    #[test]
    fn every_line_ending_comments_and_a_byte_order_mark() {
        let stream = "\u{feff}: hello\r\nevent: a\r\ndata: 1\r\n\r\nevent:b\rdata:2\rdata\rdata: 3\r\rid: 7\nretry: 5\ndata:  x\n\nevent: lost\n\n";
        let expected = vec![frame("a", "1"), frame("b", "2\n\n3"), frame("", " x")];
        assert_eq!(split(&[stream.as_bytes()]), expected);
        for cut in 0..=stream.len() {
            let (left, right) = stream.as_bytes().split_at(cut);
            assert_eq!(split(&[left, right]), expected, "cut at {cut}");
        }
        let single: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
        assert_eq!(split(&single), expected);
    }

    #[test]
    fn the_last_event_may_lack_its_blank_line() {
        assert_eq!(split(&[b"data: [DONE]"]), vec![frame("", "[DONE]")]);
        assert_eq!(split(&[b"data: x\n"]), vec![frame("", "x")]);
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut splitter = Splitter::new();
        let megabyte = vec![b'x'; 1024 * 1024];
        let mut frames = Vec::new();
        let failure = (0..20).find_map(|_| splitter.push(&megabyte, &mut frames).err()).expect("a limit");
        assert_eq!(failure.kind, ErrorKind::Protocol);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(events in prop::collection::vec(("[a-z_.]{0,12}", "[^\r]{0,40}"), 0..8), cut in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            for (event, data) in &events {
                write_frame(&mut bytes, (!event.is_empty()).then_some(event.as_str()), data);
            }
            let cut = cut.index(bytes.len() + 1);
            let (left, right) = bytes.split_at(cut);
            let expected: Vec<Frame> = events.iter().map(|(event, data)| frame(event, data)).collect();
            prop_assert_eq!(split(&[left, right]), expected);
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_cuts_do_not_matter(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'd'), any::<u8>()], 0..200), size in 1usize..7) {
            let whole = split(&[&bytes]);
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            prop_assert_eq!(split(&pieces), whole);
        }
    }
}
