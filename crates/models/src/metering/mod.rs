//! Reading the usage of a call while its answer passes through untouched (spec/castari.md 15.4).
//!
//! This sits on the gateway's hot path: nothing is buffered, memory is bounded whatever the provider sends, and a
//! byte is looked at once. What the client gets does not depend on it.

mod chunk_filter;
mod prepare;
mod scan;

pub use chunk_filter::ChunkFilter;
pub use prepare::{Prepared, prepare_passthrough};

use crate::Usage;
use crate::wire::{MAX_TOKENS, Wire};
use scan::{Found, Scanner, Slot};

/// What a call took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metered {
    /// The tokens.
    pub usage: Usage,
    /// The model that answered, as the provider names it.
    pub model: Option<String>,
    /// The provider's id of the answer.
    pub response_id: Option<String>,
    /// Whether the answer came to its end.
    pub complete: bool,
    /// Whether some of the usage is guessed, because the provider did not tell it or was not heard out.
    pub estimated: bool,
}

/// Reads usage from an answer's bytes, in whatever pieces they pass.
#[derive(Debug)]
pub struct UsageReader {
    wire: Wire,
    line: Option<Line>,
    scanner: Scanner,
    seen: Seen,
    request_bytes: usize,
}

/// Where in the lines of an event stream the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// So many bytes of the line matched `data:`; no others have come.
    Start(usize),
    Data,
    Other,
}

/// Raw findings; which counts include which others differs by format.
#[derive(Debug, Default)]
struct Seen {
    id: Option<String>,
    model: Option<String>,
    input: Option<u64>,
    output: Option<u64>,
    early_output: u64,
    cache_read: u64,
    cache_write: u64,
    cache_write_long: u64,
    reasoning: u64,
    text_bytes: u64,
    ended: bool,
}

impl UsageReader {
    /// A reader for an answer with status 200 in this format. `streaming` says whether it is an event stream.
    #[must_use]
    pub fn for_wire(wire: Wire, streaming: bool) -> Self {
        Self {
            wire,
            line: streaming.then_some(Line::Start(0)),
            scanner: Scanner::new(wire),
            seen: Seen::default(),
            request_bytes: 0,
        }
    }

    /// Tells the size of the request's body, from which the input is guessed if the provider is never heard on it.
    #[must_use]
    pub fn with_request_bytes(mut self, bytes: usize) -> Self {
        self.request_bytes = bytes;
        self
    }

    /// Looks at the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Self { line, scanner, seen, .. } = self;
        let mut found = |found: Found<'_>| seen.note(found);
        match line {
            None => scanner.feed(bytes, &mut found),
            Some(line) => feed_lines(line, scanner, bytes, &mut found),
        }
    }

    /// What was read, once the answer ended or was broken off.
    #[must_use]
    pub fn finish(self) -> Metered {
        let Self { wire, line, scanner, seen, request_bytes } = self;
        let guessed_input = u64::try_from(request_bytes / 4).unwrap_or(0);
        let input = seen.input.unwrap_or(guessed_input);
        let output = seen.output.unwrap_or_else(|| seen.early_output.max(seen.text_bytes.div_ceil(4)));
        let (cache_read, cache_write, input) = match wire {
            Wire::AnthropicMessages => (seen.cache_read, seen.cache_write, input),
            // The totals of OpenAI's formats include the cached parts.
            Wire::OpenAiChat | Wire::OpenAiResponses => {
                let cache_read = seen.cache_read.min(input);
                let cache_write = seen.cache_write.min(input - cache_read);
                (cache_read, cache_write, input - cache_read - cache_write)
            }
        };
        let cache_write_1h = seen.cache_write_long.min(cache_write);
        let usage = Usage {
            input,
            output,
            cache_read,
            cache_write_5m: cache_write - cache_write_1h,
            cache_write_1h,
            reasoning: seen.reasoning.min(output),
        };
        Metered {
            usage,
            model: seen.model,
            response_id: seen.id,
            complete: if line.is_some() { seen.ended } else { scanner.is_complete() },
            estimated: seen.output.is_none() || seen.input.is_none(),
        }
    }
}

/// Feeds the scanner with what stands behind `data:`; an empty line ends the event.
fn feed_lines(line: &mut Line, scanner: &mut Scanner, mut bytes: &[u8], found: &mut dyn FnMut(Found<'_>)) {
    const FIELD: &[u8] = b"data:";
    while !bytes.is_empty() {
        match *line {
            Line::Start(matched) => {
                let byte = bytes[0];
                bytes = &bytes[1..];
                *line = match byte {
                    b'\n' => {
                        if matched == 0 {
                            scanner.reset();
                        }
                        Line::Start(0)
                    }
                    b'\r' => *line,
                    byte if byte != FIELD[matched] => Line::Other,
                    _ if matched + 1 == FIELD.len() => Line::Data,
                    _ => Line::Start(matched + 1),
                };
            }
            Line::Data | Line::Other => {
                let end = memchr::memchr(b'\n', bytes);
                if *line == Line::Data {
                    scanner.feed(&bytes[..end.unwrap_or(bytes.len())], found);
                }
                let Some(end) = end else { return };
                *line = Line::Start(0);
                bytes = &bytes[end + 1..];
            }
        }
    }
}

impl Seen {
    fn note(&mut self, found: Found<'_>) {
        match found {
            Found::Text(Slot::Id, text) => self.id = Some(text.to_owned()),
            Found::Text(Slot::Model, text) => self.model = Some(text.to_owned()),
            Found::Text(Slot::End, text) => {
                // The status of a Responses answer; in the other formats any word there is an end.
                self.ended |= !matches!(text, "in_progress" | "queued" | "");
            }
            Found::Bytes(count) => self.text_bytes = self.text_bytes.saturating_add(count),
            Found::Number(slot, number) => {
                let number = if number > MAX_TOKENS { 0 } else { number };
                match slot {
                    Slot::Input => self.input = Some(number),
                    Slot::Output => self.output = Some(number),
                    Slot::EarlyOutput => self.early_output = number,
                    Slot::CacheRead => self.cache_read = number,
                    Slot::CacheWrite => self.cache_write = number,
                    Slot::CacheWriteLong => self.cache_write_long = number,
                    Slot::Reasoning => self.reasoning = number,
                    Slot::Id | Slot::Model | Slot::End | Slot::Said => {}
                }
            }
            Found::Text(..) => {}
        }
    }
}
