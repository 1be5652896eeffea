//! Text out of bytes that arrive in pieces.

/// Decodes UTF-8 that may be cut inside a character; what is no UTF-8 becomes U+FFFD.
#[derive(Debug, Default)]
pub(crate) struct Utf8Pieces {
    /// The begin of a character whose end has not arrived: at most three bytes.
    held: Vec<u8>,
}

impl Utf8Pieces {
    /// The text that is complete with these bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let complete = complete_length(&self.held);
        let rest = self.held.split_off(complete);
        let text = String::from_utf8_lossy(&self.held).into_owned();
        self.held = rest;
        text
    }

    /// What is left when nothing more comes.
    pub(crate) fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }
}

/// Bytes before a character that is still incomplete at the end.
fn complete_length(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let Some(&byte) = bytes.get(at) else { break };
        let needed = match byte {
            0b1100_0000..=0b1101_1111 => 2,
            0b1110_0000..=0b1110_1111 => 3,
            0b1111_0000..=0b1111_0111 => 4,
            0b1000_0000..=0b1011_1111 => continue,
            _ => return bytes.len(),
        };
        return if needed > back { at } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::Utf8Pieces;

    proptest::proptest! {
        #[test]
        fn cutting_changes_nothing(text in "\\PC{0,40}", cut in 1_usize..5) {
            let mut pieces = Utf8Pieces::default();
            let mut joined: String = text.as_bytes().chunks(cut).map(|chunk| pieces.push(chunk)).collect();
            joined += &pieces.finish();
            proptest::prop_assert_eq!(joined, text);
        }

        #[test]
        fn nonsense_is_bounded(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64), cut in 1_usize..5) {
            let mut pieces = Utf8Pieces::default();
            for chunk in bytes.chunks(cut) {
                pieces.push(chunk);
                proptest::prop_assert!(pieces.held.len() <= 3);
            }
            let _rest = pieces.finish();
        }
    }
}
