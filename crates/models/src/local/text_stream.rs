//! From the bytes of tokens to text that may be shown: whole characters, and nothing of a stop sequence.

/// Joins token bytes to text, holding back what could still become part of a character or a stop sequence.
pub(super) struct TextStream {
    stops: Vec<String>,
    bytes: Vec<u8>,
    held: String,
}

/// What a token added.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// This text may be shown; empty if everything is still held back.
    Text(String),
    /// A stop sequence came up; this is the text before it. Nothing may follow.
    Stopped(String),
}

impl TextStream {
    /// Empty stop sequences are ignored.
    pub(super) fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stops, bytes: Vec::new(), held: String::new() }
    }

    /// Takes the bytes of one token.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Added {
        self.bytes.extend_from_slice(bytes);
        self.take_characters(false);
        self.release()
    }

    /// The rest at the end of the answer; an incomplete character becomes U+FFFD.
    pub(super) fn finish(mut self) -> Added {
        self.take_characters(true);
        match self.release() {
            Added::Text(mut text) => {
                text.push_str(&self.held);
                Added::Text(text)
            }
            stopped @ Added::Stopped(_) => stopped,
        }
    }

    /// Moves complete characters from the bytes to the held text.
    fn take_characters(&mut self, at_end: bool) {
        loop {
            match std::str::from_utf8(&self.bytes) {
                Ok(text) => {
                    self.held.push_str(text);
                    self.bytes.clear();
                    return;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    self.held.push_str(&String::from_utf8_lossy(&self.bytes[..valid]));
                    let broken = match error.error_len() {
                        Some(length) => length,
                        None if at_end => self.bytes.len() - valid,
                        None => {
                            self.bytes.drain(..valid);
                            return;
                        }
                    };
                    self.held.push(char::REPLACEMENT_CHARACTER);
                    self.bytes.drain(..valid + broken);
                }
            }
        }
    }

    fn release(&mut self) -> Added {
        if let Some(start) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(start);
            return Added::Stopped(std::mem::take(&mut self.held));
        }
        let kept = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - kept);
        Added::Text(std::mem::replace(&mut self.held, rest))
    }
}

/// Length of the longest end of `text` that begins `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices()
        .map(|(end, _)| end)
        .filter(|end| *end <= text.len() && text.ends_with(&stop[..*end]))
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut stream = TextStream::new(&stops);
        let mut shown = Vec::new();
        for piece in pieces {
            match stream.push(piece) {
                Added::Text(text) => shown.push(text),
                Added::Stopped(text) => {
                    shown.push(text);
                    return (shown, true);
                }
            }
        }
        match stream.finish() {
            Added::Text(text) => {
                shown.push(text);
                (shown, false)
            }
            Added::Stopped(text) => {
                shown.push(text);
                (shown, true)
            }
        }
    }

    #[test]
    fn characters_split_over_tokens_arrive_whole() {
        let (shown, stopped) = run(&[], &[b"caf\xC3", b"\xA9 \xF0\x9F", b"\x8E\x89!"]);
        assert_eq!((shown, stopped), (vec!["caf".into(), "é ".into(), "🎉!".into(), String::new()], false));
    }

    #[test]
    fn broken_bytes_become_replacement_characters_and_do_not_block_what_follows() {
        let (shown, _) = run(&[], &[b"a\xFF", b"b\xC3", b"(", b"\xF0\x9F"]);
        assert_eq!(shown.concat(), "a\u{FFFD}b\u{FFFD}(\u{FFFD}");
    }

    #[test]
    fn a_stop_sequence_over_several_tokens_is_never_shown() {
        let (shown, stopped) = run(&["END."], &[b"one E", b"N", b"D", b". two"]);
        assert_eq!((shown.concat().as_str(), stopped), ("one ", true));
    }

    #[test]
    fn what_only_looked_like_a_stop_sequence_is_shown_after_all() {
        let (shown, stopped) = run(&["END."], &[b"one E", b"N", b"DING"]);
        assert_eq!((shown.concat().as_str(), stopped), ("one ENDING", false));
        let (shown, stopped) = run(&["END."], &[b"EN"]);
        assert_eq!((shown.concat().as_str(), stopped), ("EN", false));
    }

    #[test]
    fn the_earliest_of_several_stop_sequences_wins() {
        let (shown, stopped) = run(&["b", "ab", ""], &[b"xxabb"]);
        assert_eq!((shown.concat().as_str(), stopped), ("xx", true));
    }

    proptest! {
        #[test]
        fn however_the_bytes_are_cut_the_text_is_the_same(text in "\\PC{0,40}", cuts in proptest::collection::vec(0usize..120, 0..8), stop in "[ab✓]{1,3}") {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % (bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut start = 0;
            for cut in cuts { pieces.push(&bytes[start..cut]); start = cut; }
            pieces.push(&bytes[start..]);
            let (shown, stopped) = run(&[&stop], &pieces);
            let expected = text.find(&stop).map_or(text.as_str(), |end| &text[..end]);
            prop_assert_eq!(shown.concat(), expected);
            prop_assert_eq!(stopped, text.contains(&stop));
        }
    }
}
