//! Taking secrets out of text streams: logs, build output, audit records (spec/castari.md 14).
//!
//! [`Redactor`] looks for every value of at least six characters as it is and in the forms in which programs print it by
//! accident: base64 (at each of its three alignments, both alphabets), percent-encoded, escaped as in JSON. What it finds
//! becomes `***NAME***`. Occurrences that overlap become one mask, so that the rest of the second one does not show.
//!
//! The search is an Aho–Corasick automaton: its time depends on the text alone, however the values are chosen. Of very
//! long forms it holds the beginning; when that is found, the text is masked for as long as it goes on like the form.
//! [`RedactedStream`] gives the same result however the text is cut, and holds back no more than what may still become
//! an occurrence.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose};

/// Characters of a value. Shorter ones would mask ordinary text.
const SHORTEST: usize = 6;
/// Bytes of a form that the automaton holds.
const HEAD: usize = 256;
/// The automaton's first state.
const ROOT: u32 = 0;

/// Masks a set of secrets. Cheap to clone.
#[derive(Clone)]
pub struct Redactor {
    automaton: Arc<Automaton>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redactor").field("names", &self.automaton.names).finish_non_exhaustive()
    }
}

impl Redactor {
    /// A redactor for named values.
    #[must_use]
    pub fn new<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut automaton = Automaton::default();
        for (name, value) in secrets {
            automaton.add_secret(name, value);
        }
        automaton.link();
        Self { automaton: Arc::new(automaton) }
    }

    /// Whether there is nothing to mask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.automaton.forms.is_empty()
    }

    /// Masks a whole text.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        let mut stream = self.stream();
        let mut masked = stream.push(text.as_bytes());
        masked.extend(stream.finish());
        // Forms are text and begin and end between characters, so that what remains is text too.
        String::from_utf8(masked).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    /// Begins masking a text that comes in pieces.
    #[must_use]
    pub fn stream(&self) -> RedactedStream {
        RedactedStream {
            automaton: Arc::clone(&self.automaton),
            state: ROOT,
            seen: 0,
            written: 0,
            held: VecDeque::new(),
            masks: VecDeque::new(),
            tails: Vec::new(),
        }
    }
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

    fn add_form(&mut self, secret: usize, form: &[u8]) {
        if self.nodes.is_empty() {
            self.nodes.push(Node { byte: 0, depth: 0, child: 0, sibling: 0, fallback: 0, form: None, output: 0 });
        }
        let head = form.len().min(HEAD);
        let mut state = ROOT;
        for &byte in &form[..head] {
            state = match self.child(state, byte) {
                Some(child) => child,
                None => self.add_child(state, byte),
            };
        }
        let tail = form[head..].to_vec();
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

/// A text that comes in pieces and is masked on the way.
pub struct RedactedStream {
    automaton: Arc<Automaton>,
    state: u32,
    /// Bytes taken in.
    seen: u64,
    /// Bytes of the text that are settled, written or masked.
    written: u64,
    /// The bytes from `written` to `seen`.
    held: VecDeque<u8>,
    /// Not yet settled masks, in order and apart from each other.
    masks: VecDeque<Mask>,
    tails: Vec<Tail>,
}

impl RedactedStream {
    /// Takes the next piece and gives what is certain by now.
    pub fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut output = Vec::with_capacity(piece.len());
        if self.automaton.forms.is_empty() {
            output.extend_from_slice(piece);
            return output;
        }
        let automaton = Arc::clone(&self.automaton);
        for &byte in piece {
            self.held.push_back(byte);
            self.seen += 1;
            self.follow_tails(&automaton, byte);
            self.state = automaton.step(self.state, byte);
            let node = &automaton.nodes[self.state as usize];
            if node.output != 0 {
                self.found(&automaton, node.output);
            }
            self.settle(self.seen - u64::from(node.depth), &mut output);
        }
        output
    }

    /// Ends the text and gives the rest of it.
    pub fn finish(mut self) -> Vec<u8> {
        let mut output = Vec::with_capacity(self.held.len());
        self.settle(self.seen, &mut output);
        output
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
        while self.written < certain || self.masks.front().is_some_and(|mask| mask.start < certain) {
            match self.masks.front_mut() {
                Some(mask) if mask.start <= self.written => {
                    if !mask.is_written {
                        if mask.start >= certain {
                            break;
                        }
                        mask.is_written = true;
                        output.extend_from_slice(b"***");
                        output.extend_from_slice(self.automaton.names[mask.secret].as_bytes());
                        output.extend_from_slice(b"***");
                    }
                    let covered = mask.end.saturating_sub(self.written);
                    self.held.drain(..usize::try_from(covered).unwrap_or(usize::MAX).min(self.held.len()));
                    self.written = self.written.max(mask.end);
                    if mask.end > certain || mask.end == self.seen {
                        // It may still grow.
                        break;
                    }
                    self.masks.pop_front();
                }
                front => {
                    let until = front.map_or(certain, |mask| mask.start.min(certain));
                    let plain = usize::try_from(until - self.written).unwrap_or(usize::MAX).min(self.held.len());
                    output.extend(self.held.drain(..plain));
                    self.written = until;
                }
            }
        }
    }
}

/// The forms in which a value may show up.
fn forms_of(value: &str) -> BTreeSet<Vec<u8>> {
    let mut forms = BTreeSet::from([value.as_bytes().to_vec()]);
    for alignment in 0..3 {
        forms.insert(base64_inside(&general_purpose::STANDARD_NO_PAD, value, alignment));
        forms.insert(base64_inside(&general_purpose::URL_SAFE_NO_PAD, value, alignment));
    }
    let (upper, lower) = (percent_encoded(value, false), percent_encoded(value, true));
    // Forms, as opposed to paths, write a space as a plus sign.
    forms.insert(upper.replace("%20", "+").into_bytes());
    forms.insert(upper.into_bytes());
    forms.insert(lower.replace("%20", "+").into_bytes());
    forms.insert(lower.into_bytes());
    let escaped = json_escaped(value);
    // Many writers escape everything beyond ASCII, and some the slash.
    forms.insert(ascii_only(&escaped).into_bytes());
    forms.insert(escaped.replace('/', "\\/").into_bytes());
    forms.insert(escaped.into_bytes());
    forms.retain(|form| form.len() >= SHORTEST);
    forms
}

/// The characters of a base64 text that the value alone decides when `alignment` bytes precede it.
fn base64_inside(engine: &general_purpose::GeneralPurpose, value: &str, alignment: usize) -> Vec<u8> {
    let bytes = [vec![0; alignment], value.as_bytes().to_vec()].concat();
    let encoded = engine.encode(&bytes).into_bytes();
    // Of n bytes, the characters that hold nothing but their bits.
    let decided = bytes.len() * 8 / 6;
    let foreign = (alignment * 8).div_ceil(6);
    encoded.get(foreign..decided).unwrap_or_default().to_vec()
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
