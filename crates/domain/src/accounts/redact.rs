//! Taking secrets out of text streams: logs, build output, audit records (spec/castari.md 14).
//!
//! [`Redactor`] looks for every value of at least six characters as it is and in the forms in which programs print it by
//! accident: base64 (at each of its three alignments, both alphabets), percent-encoded, escaped as in JSON. What it finds
//! becomes `***NAME***`. Occurrences that overlap become one mask, so that the rest of the second one does not show.
//!
//! The search is an Aho–Corasick automaton: its time depends on the text alone, however the values are chosen. Of very
//! long forms it holds the beginning; when that is found, the text is masked for as long as it goes on like the form.
//! The result is the same however the text is cut into pieces, and no more is held back than what may still become an
//! occurrence.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose};

use super::SecretString;

/// Characters of a value. Shorter ones would mask ordinary text.
const SHORTEST: usize = 6;
/// Bytes of a form that the automaton holds.
const HEAD: usize = 256;
/// The automaton's first state.
const ROOT: u32 = 0;

/// Masks a set of secrets in a text, whole or in pieces. A clone begins with the state of the original.
#[derive(Clone)]
pub struct Redactor {
    automaton: Arc<Automaton>,
    state: u32,
    /// Bytes taken in.
    seen: u64,
    /// Bytes of the text that are settled: written or masked.
    settled: u64,
    /// The bytes from `settled` to `seen`.
    held: VecDeque<u8>,
    /// Masks that may still grow or are not written yet, in order and apart from each other.
    masks: VecDeque<Mask>,
    tails: Vec<Tail>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redactor").field("names", &self.automaton.names).finish_non_exhaustive()
    }
}

impl Redactor {
    /// A redactor for named values.
    #[must_use]
    pub fn new(secrets: &[(String, SecretString)]) -> Self {
        let mut automaton = Automaton::default();
        for (name, value) in secrets {
            automaton.add_secret(name, value.expose());
        }
        automaton.link();
        Self {
            automaton: Arc::new(automaton),
            state: ROOT,
            seen: 0,
            settled: 0,
            held: VecDeque::new(),
            masks: VecDeque::new(),
            tails: Vec::new(),
        }
    }

    /// Masks a whole text.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        let mut fresh = self.clone();
        fresh.restart();
        let mut masked = fresh.push(text);
        masked.push_str(&fresh.finish());
        masked
    }

    /// Takes the next piece of a text and gives what is certain by now.
    #[must_use]
    pub fn push(&mut self, piece: &str) -> String {
        if self.automaton.forms.is_empty() {
            return piece.to_owned();
        }
        let automaton = Arc::clone(&self.automaton);
        let mut output = Vec::with_capacity(piece.len());
        let mut rest = piece.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            if self.is_idle() {
                // Most of a text: bytes with which nothing begins.
                let plain = rest.iter().take_while(|byte| automaton.first[usize::from(**byte)] == ROOT).count();
                if plain > 0 {
                    output.extend_from_slice(&rest[..plain]);
                    self.seen += plain as u64;
                    self.settled = self.seen;
                    rest = &rest[plain..];
                    continue;
                }
            }
            rest = after;
            self.held.push_back(byte);
            self.seen += 1;
            self.follow_tails(&automaton, byte);
            self.state = automaton.step(self.state, byte);
            let node = &automaton.nodes[self.state as usize];
            if node.output != ROOT {
                self.found(&automaton, node.output);
            }
            self.settle(self.seen - u64::from(node.depth), &mut output);
        }
        text(output)
    }

    /// Ends the text and gives the rest of it. The next piece begins a new text.
    #[must_use]
    pub fn finish(&mut self) -> String {
        let mut output = Vec::with_capacity(self.held.len());
        self.settle(self.seen, &mut output);
        self.restart();
        text(output)
    }

    /// Whether nothing of the text so far matters any more.
    fn is_idle(&self) -> bool {
        self.state == ROOT && self.held.is_empty() && self.masks.is_empty() && self.tails.is_empty()
    }

    fn restart(&mut self) {
        self.state = ROOT;
        (self.seen, self.settled) = (0, 0);
        self.held.clear();
        self.masks.clear();
        self.tails.clear();
    }

    /// Extends the masks of long forms while the text goes on like them.
    fn follow_tails(&mut self, automaton: &Automaton, byte: u8) {
        if self.tails.is_empty() {
            return;
        }
        let mut tails = std::mem::take(&mut self.tails);
        tails.retain_mut(|tail| {
            let form = &automaton.forms[tail.form as usize];
            if form.tail.get(tail.matched) != Some(&byte) {
                return false;
            }
            tail.matched += 1;
            let length = form.head + tail.matched;
            self.mask(length, form.secret);
            tail.matched < form.tail.len()
        });
        self.tails = tails;
    }

    /// A form ends at the last byte. The longest is enough for the mask; shorter ones matter where they have a tail.
    fn found(&mut self, automaton: &Automaton, output: u32) {
        let mut state = output;
        let mut is_longest = true;
        while state != ROOT {
            let node = &automaton.nodes[state as usize];
            if let Some(index) = node.form {
                let form = &automaton.forms[index as usize];
                if is_longest {
                    self.mask(form.head, form.secret);
                    is_longest = false;
                }
                let is_followed = self.tails.iter().any(|tail| tail.form == index);
                if !form.tail.is_empty() && !is_followed {
                    self.tails.push(Tail { form: index, matched: 0 });
                }
            }
            if !automaton.has_tails {
                return;
            }
            state = automaton.nodes[node.fallback as usize].output;
        }
    }

    /// Masks the last `length` bytes.
    fn mask(&mut self, length: usize, secret: usize) {
        let end = self.seen;
        let mut mask = Mask { start: end - length as u64, end, longest: length, secret, is_written: false };
        while let Some(last) = self.masks.back().copied() {
            if last.end <= mask.start {
                break;
            }
            self.masks.pop_back();
            let decides = if last.longest >= mask.longest || last.is_written { last } else { mask };
            mask = Mask {
                start: last.start.min(mask.start),
                end,
                longest: decides.longest,
                secret: decides.secret,
                is_written: last.is_written,
            };
        }
        self.masks.push_back(mask);
    }

    /// Writes what lies before `certain`: no occurrence that is still to come begins there.
    fn settle(&mut self, certain: u64, output: &mut Vec<u8>) {
        while self.settled < certain {
            let Some(mask) = self.masks.front_mut() else {
                self.write_until(certain, output);
                return;
            };
            if self.settled < mask.start {
                let until = mask.start.min(certain);
                self.write_until(until, output);
                continue;
            }
            if !mask.is_written {
                mask.is_written = true;
                output.extend_from_slice(b"***");
                output.extend_from_slice(self.automaton.names[mask.secret].as_bytes());
                output.extend_from_slice(b"***");
            }
            // A mask that ends where the text does so far may still grow by a tail.
            let is_done = mask.end <= certain && mask.end < self.seen;
            let end = mask.end.min(certain);
            self.drop_until(end);
            if is_done {
                self.masks.pop_front();
            }
        }
    }

    fn write_until(&mut self, position: u64, output: &mut Vec<u8>) {
        let count = self.count_until(position);
        output.extend(self.held.drain(..count));
        self.settled = position;
    }

    fn drop_until(&mut self, position: u64) {
        let count = self.count_until(position);
        self.held.drain(..count);
        self.settled = self.settled.max(position);
    }

    fn count_until(&self, position: u64) -> usize {
        usize::try_from(position.saturating_sub(self.settled)).unwrap_or(usize::MAX).min(self.held.len())
    }
}

/// Pieces begin and end between characters, and so do forms. Only a tail that parts from the text inside a character
/// leaves the rest of that character behind.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// A form of a secret.
struct Form {
    /// Which secret, as an index into the names.
    secret: usize,
    /// Bytes of the part in the automaton.
    head: usize,
    /// What follows after that part.
    tail: Vec<u8>,
}

/// A state: the path from the root to it is the beginning of a form.
struct Node {
    byte: u8,
    depth: u32,
    /// The first of the states one byte further; zero for none.
    child: u32,
    /// The next state with the same parent; zero for none.
    sibling: u32,
    /// The state of the longest proper suffix of this path that begins a form too.
    fallback: u32,
    /// The form that ends here.
    form: Option<u32>,
    /// The nearest state along the fallbacks where a form ends, this one included; zero for none.
    output: u32,
}

struct Automaton {
    names: Vec<String>,
    forms: Vec<Form>,
    nodes: Vec<Node>,
    /// The root's children by byte, because most bytes of a text are looked up there; zero for none.
    first: [u32; 256],
    /// Whether any form has a tail; without, less needs to be done for each match.
    has_tails: bool,
}

impl Default for Automaton {
    fn default() -> Self {
        let root = Node { byte: 0, depth: 0, child: 0, sibling: 0, fallback: ROOT, form: None, output: ROOT };
        Self { names: Vec::new(), forms: Vec::new(), nodes: vec![root], first: [ROOT; 256], has_tails: false }
    }
}

impl Automaton {
    fn add_secret(&mut self, name: &str, value: &str) {
        if value.chars().count() < SHORTEST {
            return;
        }
        let secret = self.names.len();
        self.names.push(name.to_owned());
        for form in forms_of(value) {
            self.add_form(secret, &form);
        }
    }

    fn add_form(&mut self, secret: usize, form: &str) {
        let head = form.floor_char_boundary(HEAD);
        let mut state = ROOT;
        for byte in form[..head].bytes() {
            state = match self.child(state, byte) {
                Some(child) => child,
                None => self.add_child(state, byte),
            };
        }
        let tail = form.as_bytes()[head..].to_vec();
        let node = &mut self.nodes[state as usize];
        match node.form {
            None => node.form = Some(self.forms.len() as u32),
            // The same form of another secret, or two long forms with the same beginning: the first name stays, and
            // the longer tail is masked as far as the text goes along with it.
            Some(known) => {
                let known = &mut self.forms[known as usize];
                if known.tail.len() < tail.len() {
                    known.tail = tail;
                    self.has_tails = true;
                }
                return;
            }
        }
        self.has_tails |= !tail.is_empty();
        self.forms.push(Form { secret, head, tail });
    }

    fn add_child(&mut self, parent: u32, byte: u8) -> u32 {
        let new = self.nodes.len() as u32;
        let Node { depth, child, .. } = self.nodes[parent as usize];
        self.nodes.push(Node {
            byte,
            depth: depth + 1,
            child: 0,
            sibling: child,
            fallback: ROOT,
            form: None,
            output: 0,
        });
        self.nodes[parent as usize].child = new;
        if parent == ROOT {
            self.first[usize::from(byte)] = new;
        }
        new
    }

    fn child(&self, state: u32, byte: u8) -> Option<u32> {
        if state == ROOT {
            return Some(self.first[usize::from(byte)]).filter(|child| *child != ROOT);
        }
        let mut child = self.nodes[state as usize].child;
        while child != 0 {
            let node = &self.nodes[child as usize];
            if node.byte == byte {
                return Some(child);
            }
            child = node.sibling;
        }
        None
    }

    /// Computes fallbacks and outputs, nearest states first.
    fn link(&mut self) {
        let mut queue: VecDeque<u32> = self.first.iter().copied().filter(|child| *child != ROOT).collect();
        while let Some(state) = queue.pop_front() {
            let fallback = self.nodes[state as usize].fallback;
            let output = match self.nodes[state as usize].form {
                Some(_) => state,
                None => self.nodes[fallback as usize].output,
            };
            self.nodes[state as usize].output = output;
            let mut child = self.nodes[state as usize].child;
            while child != 0 {
                let Node { byte, sibling, .. } = self.nodes[child as usize];
                self.nodes[child as usize].fallback = self.step(fallback, byte);
                queue.push_back(child);
                child = sibling;
            }
        }
    }

    fn step(&self, mut state: u32, byte: u8) -> u32 {
        loop {
            match self.child(state, byte) {
                Some(next) => return next,
                None if state == ROOT => return ROOT,
                None => state = self.nodes[state as usize].fallback,
            }
        }
    }
}

/// A stretch of the text that is masked.
#[derive(Debug, Clone, Copy)]
struct Mask {
    start: u64,
    end: u64,
    /// The longest form found in it decides the name.
    longest: usize,
    secret: usize,
    /// Whether the mask is in the output already; then only its end can still move.
    is_written: bool,
}

/// A long form whose beginning was found and whose rest is awaited.
#[derive(Debug, Clone, Copy)]
struct Tail {
    form: u32,
    matched: usize,
}

/// The forms in which a value may show up.
fn forms_of(value: &str) -> BTreeSet<String> {
    let mut forms = BTreeSet::from([value.to_owned()]);
    for alignment in 0..3 {
        forms.insert(base64_inside(&general_purpose::STANDARD_NO_PAD, value, alignment));
        forms.insert(base64_inside(&general_purpose::URL_SAFE_NO_PAD, value, alignment));
    }
    let (upper, lower) = (percent_encoded(value, false), percent_encoded(value, true));
    // Forms, as opposed to paths, write a space as a plus sign.
    forms.insert(upper.replace("%20", "+"));
    forms.insert(upper);
    forms.insert(lower.replace("%20", "+"));
    forms.insert(lower);
    let escaped = json_escaped(value);
    // Many writers escape everything beyond ASCII, and some the slash.
    forms.insert(ascii_only(&escaped));
    forms.insert(escaped.replace('/', "\\/"));
    forms.insert(escaped);
    forms.retain(|form| form.len() >= SHORTEST);
    forms
}

/// The characters of a base64 text that the value alone decides when `alignment` bytes precede it.
fn base64_inside(engine: &general_purpose::GeneralPurpose, value: &str, alignment: usize) -> String {
    let bytes = [vec![0; alignment], value.as_bytes().to_vec()].concat();
    let encoded = engine.encode(&bytes);
    // Of n bytes, the characters that hold nothing but their bits.
    let decided = bytes.len() * 8 / 6;
    let foreign = (alignment * 8).div_ceil(6);
    encoded.get(foreign..decided).unwrap_or_default().to_owned()
}

fn percent_encoded(value: &str, is_lower_case: bool) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ if is_lower_case => encoded.push_str(&format!("%{byte:02x}")),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn json_escaped(value: &str) -> String {
    let quoted = serde_json::Value::from(value).to_string();
    quoted.get(1..quoted.len() - 1).unwrap_or_default().to_owned()
}

fn ascii_only(escaped: &str) -> String {
    let mut text = String::with_capacity(escaped.len());
    let mut units = [0; 2];
    for character in escaped.chars() {
        if character.is_ascii() {
            text.push(character);
        } else {
            for unit in character.encode_utf16(&mut units) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose};
    use proptest::prelude::*;

    use super::{HEAD, Redactor, forms_of};
    use crate::accounts::SecretString;

    fn redactor(secrets: &[(&str, &str)]) -> Redactor {
        let secrets: Vec<_> =
            secrets.iter().map(|(name, value)| ((*name).to_owned(), SecretString::from(*value))).collect();
        Redactor::new(&secrets)
    }

    /// The text in pieces that end at the given places.
    fn in_pieces(redactor: &Redactor, text: &str, cuts: &[usize]) -> String {
        let mut redactor = redactor.clone();
        let mut masked = String::new();
        let mut from = 0;
        for cut in cuts.iter().map(|cut| text.floor_char_boundary(*cut)).chain([text.len()]) {
            let cut = cut.max(from);
            masked.push_str(&redactor.push(&text[from..cut]));
            from = cut;
        }
        masked + &redactor.finish()
    }

    /// What should come out, by trying every form at every place.
    fn expected(secrets: &[(&str, &str)], text: &str) -> String {
        let mut found: Vec<(usize, usize, &str)> = Vec::new();
        for (name, value) in secrets.iter().filter(|(_, value)| value.chars().count() >= super::SHORTEST) {
            for form in forms_of(value) {
                for start in 0..text.len() {
                    if text.as_bytes()[start..].starts_with(form.as_bytes()) {
                        found.push((start, start + form.len(), name));
                    }
                }
            }
        }
        found.sort_unstable();
        let mut merged: Vec<(usize, usize, &str)> = Vec::new();
        for (start, end, name) in found {
            match merged.last_mut() {
                Some(last) if start < last.1 => last.1 = last.1.max(end),
                _ => merged.push((start, end, name)),
            }
        }
        let mut masked = String::new();
        let mut from = 0;
        for (start, end, name) in merged {
            masked.push_str(&text[from..start]);
            masked.push_str(&format!("***{name}***"));
            from = end;
        }
        masked + &text[from..]
    }

    #[test]
    fn values_are_masked_by_name() {
        let redactor = redactor(&[("API_KEY", "sk-12345"), ("SHORT", "12345"), ("PASSWORD", "pa ss/wö\"rd")]);
        assert_eq!(redactor.redact("key sk-12345, then 12345."), "key ***API_KEY***, then 12345.");
        assert_eq!(redactor.redact("sk-12345sk-12345"), "***API_KEY******API_KEY***");
        assert_eq!(redactor.redact(""), "");
        for form in [
            "pa ss/wö\"rd",
            "pa ss/wö\\\"rd",
            "pa ss\\/wö\\\"rd",
            "pa ss/w\\u00f6\\\"rd",
            "pa%20ss%2Fw%C3%B6%22rd",
            "pa+ss%2fw%c3%b6%22rd",
        ] {
            assert_eq!(redactor.redact(&format!("<{form}>")), "<***PASSWORD***>", "{form}");
        }
    }

    #[test]
    fn base64_is_found_wherever_the_value_lies_in_it() {
        let redactor = redactor(&[("TOKEN", "s3cr3t-t0k3n?>")]);
        for around in ["", "a", "ab", "abc", "user:", "long prefix of the token "] {
            for engine in [general_purpose::STANDARD, general_purpose::URL_SAFE] {
                let encoded = engine.encode(format!("{around}s3cr3t-t0k3n?>{around}"));
                let masked = redactor.redact(&encoded);
                assert!(masked.contains("***TOKEN***"), "{around}: {encoded} became {masked}");
                // At most the characters that also hold bits of what is around it remain.
                assert!(masked.len() <= encoded.len() - 17 + "***TOKEN***".len(), "{encoded} became {masked}");
            }
        }
    }

    #[test]
    fn overlapping_secrets_leave_no_rest() {
        let redactor = redactor(&[("A", "abcdef1"), ("B", "def1xyz"), ("LONG", "abcdef1-and-more")]);
        assert_eq!(redactor.redact("<abcdef1xyz>"), "<***A***>");
        assert_eq!(redactor.redact("<abcdef1-and-more>"), "<***LONG***>");
        assert_eq!(redactor.redact("<abcdef1-and-less>"), "<***A***-and-less>");
    }

    #[test]
    fn ordinary_text_is_not_held_back() {
        let mut redactor = redactor(&[("KEY", "sk-12345")]);
        assert_eq!(redactor.push("no secret here\n"), "no secret here\n");
        assert_eq!(redactor.push("is this s"), "is this ");
        assert_eq!(redactor.push("k-1"), "");
        assert_eq!(redactor.push("x"), "sk-1x");
        assert_eq!(redactor.push("sk-1234"), "");
        assert_eq!(redactor.finish(), "sk-1234");
        assert_eq!(redactor.push("5 and sk-12345"), "5 and ", "a new text begins");
        assert_eq!(redactor.finish(), "***KEY***");
    }

    #[test]
    fn a_long_value_is_masked_to_its_end_and_as_far_as_it_is_printed() {
        let value: String = (0..2000).map(|n| format!("{n:x}ö")).collect();
        let redactor = redactor(&[("PEM", &value), ("OTHER", "sk-12345")]);
        let text = format!("before {value} sk-12345 after");
        let masked = "before ***PEM*** ***OTHER*** after";
        assert_eq!(redactor.redact(&text), masked);
        for step in [1, 7, HEAD, 1000] {
            let cuts: Vec<_> = (0..text.len()).step_by(step).collect();
            assert_eq!(in_pieces(&redactor, &text, &cuts), masked, "{step}");
        }
        let part = &value[..value.floor_char_boundary(3000)];
        assert_eq!(redactor.redact(&format!("{part}!")), "***PEM***!");
        let encoded = general_purpose::STANDARD.encode(&value);
        assert!(redactor.redact(&encoded).len() < 20);
    }

    #[test]
    fn a_hostile_value_does_not_make_the_search_slow() {
        // Quadratic searches would take hours here.
        let value = "a".repeat(60_000) + "b";
        let redactor = redactor(&[("A", &value), ("B", &"a".repeat(5_000))]);
        let text = "a".repeat(2_000_000);
        assert_eq!(redactor.redact(&text), "***A***");
    }

    #[test]
    fn it_does_not_print_what_it_hides() {
        let text = format!("{:?}", redactor(&[("KEY", "sk-12345")]));
        assert!(text.contains("KEY") && !text.contains("12345"), "{text}");
    }

    fn secrets() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec("[ab\"/ ö]{5,9}", 1..4)
    }

    proptest! {
        #[test]
        fn every_split_gives_what_a_search_by_hand_gives(
            values in secrets(),
            pieces in proptest::collection::vec((0..8_usize, "[ab\"/ ö]{0,4}"), 0..12),
            cuts in proptest::collection::vec(0..200_usize, 0..12),
        ) {
            let named: Vec<_> = values.iter().map(|value| ("S", value.as_str())).collect();
            let mut text = String::new();
            for (which, filler) in &pieces {
                let forms: Vec<String> = values.iter().flat_map(|value| forms_of(value)).collect();
                text.push_str(&forms[which * 7 % forms.len()]);
                text.push_str(filler);
            }
            let redactor = redactor(&named);
            let masked = expected(&named, &text);
            prop_assert_eq!(redactor.redact(&text), masked.clone());
            let mut cuts = cuts;
            cuts.sort_unstable();
            prop_assert_eq!(in_pieces(&redactor, &text, &cuts.iter().map(|cut| (*cut).min(text.len())).collect::<Vec<_>>()), masked);
        }

        #[test]
        fn no_value_survives(values in secrets(), text in "[ab\"/ ö]{0,120}", at in 0..120_usize) {
            let named: Vec<_> = values.iter().map(|value| ("S", value.as_str())).collect();
            let at = text.floor_char_boundary(at.min(text.len()));
            let text = format!("{}{}{}", &text[..at], values[0], &text[at..]);
            let masked = redactor(&named).redact(&text);
            for value in values.iter().filter(|value| value.chars().count() >= 6) {
                prop_assert!(!masked.contains(value.as_str()), "{} in {}", value, masked);
            }
        }
    }
}
