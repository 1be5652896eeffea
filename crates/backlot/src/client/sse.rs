//! Server-sent events, as a client reads them: bytes in, events out.
//!
//! Follows the event stream grammar of the HTML standard: lines end in LF, CR or CRLF (also when a
//! chunk boundary falls between the two), a leading byte-order mark is dropped, `data` lines are joined
//! by LF, an `id` with a NUL is ignored, an event without data is not delivered, and what has no blank line after it
//! when the stream ends is dropped.

use super::error::Error;

/// Largest event we buffer. A final answer holds at most 8 MiB of output, which JSON may escape to six times that.
const MAX_EVENT_BYTES: usize = 64 << 20;

/// One delivered event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// The `event` field; `message` when the server sent none.
    pub(crate) name: String,
    /// The last `id` seen so far, to resume after it.
    pub(crate) id: Option<String>,
    /// The joined `data` lines.
    pub(crate) data: String,
}

/// Incremental parser; give it chunks as they arrive.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    started: bool,
    skip_lf: bool,
    name: String,
    data: String,
    has_data: bool,
    last_id: Option<String>,
}

impl Parser {
    /// Reads one chunk and returns the events that it completed.
    ///
    /// # Errors
    /// When an event grows past 64 MiB.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        for &byte in chunk {
            if std::mem::take(&mut self.skip_lf) && byte == b'\n' {
                continue;
            }
            match byte {
                b'\n' | b'\r' => {
                    self.skip_lf = byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    events.extend(self.end_line(&line));
                }
                _ => {
                    self.line.push(byte);
                    if self.line.len() + self.data.len() > MAX_EVENT_BYTES {
                        return Err(Error::failed(format!(
                            "the server sent an event of more than {} MiB",
                            MAX_EVENT_BYTES >> 20
                        )));
                    }
                }
            }
        }
        Ok(events)
    }

    fn end_line(&mut self, line: &[u8]) -> Option<Event> {
        let mut line = line;
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch();
        }
        let text = String::from_utf8_lossy(line);
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.has_data = true;
                self.data.push_str(value);
            }
            "id" if !value.contains('\0') => {
                self.last_id = (!value.is_empty()).then(|| value.to_owned());
            }
            // Comments have an empty field name; `retry` and unknown fields change nothing here.
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Event> {
        let name = std::mem::take(&mut self.name);
        let data = std::mem::take(&mut self.data);
        std::mem::take(&mut self.has_data).then(|| Event {
            name: if name.is_empty() { "message".into() } else { name },
            id: self.last_id.clone(),
            data,
        })
    }
}

/// An open event stream over HTTP.
#[derive(Debug)]
pub(crate) struct Stream {
    response: reqwest::Response,
    parser: Parser,
    ready: std::collections::VecDeque<Event>,
}

impl Stream {
    /// Reads events from the body of a successful answer.
    pub(crate) fn new(response: reqwest::Response) -> Self {
        Self { response, parser: Parser::default(), ready: std::collections::VecDeque::new() }
    }

    /// The run that this stream is about, when the server names it in `X-Invocation-Id`.
    pub(crate) fn invocation(&self) -> Option<String> {
        self.response.headers().get("x-invocation-id").and_then(|v| v.to_str().ok()).map(str::to_owned)
    }

    /// The next event, or None when the server ended the stream.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when the connection broke or stood still longer than the read timeout of the client.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let server = self.response.url().origin().ascii_serialization();
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.ready.extend(self.parser.push(&chunk)?),
                Ok(None) => return Ok(None),
                Err(error) => {
                    return Err(Error::Unreachable { server, cause: super::api::deepest_cause(&error), sent: true });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(chunks: &[&[u8]]) -> Vec<Event> {
        let mut parser = Parser::default();
        chunks.iter().flat_map(|c| parser.push(c).expect("small")).collect()
    }

    fn event(name: &str, id: Option<&str>, data: &str) -> Event {
        Event { name: name.into(), id: id.map(str::to_owned), data: data.into() }
    }

    #[test]
    fn reads_the_castari_stream() {
        let text = b"id: 1\nevent: started\ndata: {\"a\":1}\n\n: ping\n\nid: 2\nevent: stdout\ndata: x\n\n";
        assert_eq!(parse(&[text]), [event("started", Some("1"), "{\"a\":1}"), event("stdout", Some("2"), "x")]);
    }

    #[test]
    fn any_split_gives_the_same_events() {
        let text =
            "\u{feff}id: 1\r\nevent: stdout\r\ndata: gr\u{fc}n\r\ndata: two\r\n\r\ndata\rid\r\rdata:  x\n\n".as_bytes();
        let whole = parse(&[text]);
        assert_eq!(
            whole,
            [event("stdout", Some("1"), "gr\u{fc}n\ntwo"), event("message", None, ""), event("message", None, " x")]
        );
        for cut in 0..text.len() {
            assert_eq!(parse(&[&text[..cut], &text[cut..]]), whole, "cut at {cut}");
        }
        let single: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(parse(&single), whole);
    }

    #[test]
    fn an_unfinished_event_and_an_event_without_data_are_dropped() {
        assert_eq!(parse(&[b"event: stdout\ndata: cut off"]), []);
        assert_eq!(parse(&[b"event: stdout\nid: 4\n\ndata: x\n\n"]), [event("message", Some("4"), "x")]);
    }

    #[test]
    fn an_id_with_nul_is_ignored() {
        assert_eq!(parse(&[b"id: 7\ndata: a\n\nid: 8\0\ndata: b\n\n"])[1].id.as_deref(), Some("7"));
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut parser = Parser::default();
        let chunk = vec![b'x'; 1 << 20];
        let failed = (0..70).any(|_| parser.push(&chunk).is_err());
        assert!(failed);
    }
}
