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
    collections::{BTreeSet, HashMap, VecDeque},
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
        for &byte in piece.as_bytes() {
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
            let end = mask.end.min(certain);
            self.drop_until(end);
            // A mask that ends where the text does so far may still grow by a tail.
            if self.masks.front().is_some_and(|mask| mask.end <= certain && mask.end < self.seen) {
                self.masks.pop_front();
            } else if end < certain {
                return;
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

#[derive(Default)]
struct Automaton {
    names: Vec<String>,
    forms: Vec<Form>,
    nodes: Vec<Node>,
    /// The root's children by byte, because most bytes of a text are looked up there.
    first: HashMap<u8, u32>,
    /// Whether any form has a tail; without, less needs to be done for each match.
    has_tails: bool,
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
        if self.nodes.is_empty() {
            self.nodes.push(Node { byte: 0, depth: 0, child: 0, sibling: 0, fallback: 0, form: None, output: 0 });
        }
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
            self.first.insert(byte, new);
        }
        new
    }

    fn child(&self, state: u32, byte: u8) -> Option<u32> {
        if state == ROOT {
            return self.first.get(&byte).copied();
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
        let mut queue: VecDeque<u32> = self.first.values().copied().collect();
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
