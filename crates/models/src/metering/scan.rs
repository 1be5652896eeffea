//! A scanner over JSON in pieces that keeps nothing but the few values it looks for.
//!
//! Containers off the paths of interest are skipped by counting brackets, so depth costs nothing. Broken JSON
//! silences the scanner until its next [`Scanner::reset`].

use std::sync::LazyLock;

use crate::wire::Wire;

/// What a value means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Id,
    Model,
    /// A word that stands where the answer has ended.
    End,
    /// Text of the answer; only its length counts.
    Said,
    Input,
    Output,
    /// Output told before the answer is complete.
    EarlyOutput,
    CacheRead,
    CacheWrite,
    CacheWriteLong,
    Reasoning,
}

/// A value that was looked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    Number(Slot, u64),
    Text(Slot, &'a str),
    /// So many more bytes of the answer's text.
    Bytes(u64),
}

/// Paths from the root; arrays do not count.
type Paths = &'static [(&'static str, Slot)];

const ANTHROPIC: Paths = &[
    ("delta.text", Slot::Said),
    ("delta.thinking", Slot::Said),
    ("delta.partial_json", Slot::Said),
    ("delta.stop_reason", Slot::End),
    ("message.id", Slot::Id),
    ("message.model", Slot::Model),
    ("message.usage.input_tokens", Slot::Input),
    ("message.usage.output_tokens", Slot::EarlyOutput),
    ("message.usage.cache_read_input_tokens", Slot::CacheRead),
    ("message.usage.cache_creation_input_tokens", Slot::CacheWrite),
    ("message.usage.cache_creation.ephemeral_1h_input_tokens", Slot::CacheWriteLong),
    ("usage.input_tokens", Slot::Input),
    ("usage.output_tokens", Slot::Output),
    ("usage.cache_read_input_tokens", Slot::CacheRead),
    ("usage.cache_creation_input_tokens", Slot::CacheWrite),
    ("usage.cache_creation.ephemeral_1h_input_tokens", Slot::CacheWriteLong),
    ("usage.output_tokens_details.thinking_tokens", Slot::Reasoning),
    ("id", Slot::Id),
    ("model", Slot::Model),
    ("content.text", Slot::Said),
];

const CHAT: Paths = &[
    ("id", Slot::Id),
    ("model", Slot::Model),
    ("choices.delta.content", Slot::Said),
    ("choices.delta.reasoning_content", Slot::Said),
    ("choices.delta.reasoning", Slot::Said),
    ("choices.delta.refusal", Slot::Said),
    ("choices.delta.tool_calls.function.arguments", Slot::Said),
    ("choices.message.content", Slot::Said),
    ("choices.finish_reason", Slot::End),
    ("usage.prompt_tokens", Slot::Input),
    ("usage.completion_tokens", Slot::Output),
    ("usage.prompt_cache_hit_tokens", Slot::CacheRead),
    ("usage.prompt_tokens_details.cached_tokens", Slot::CacheRead),
    ("usage.prompt_tokens_details.cache_write_tokens", Slot::CacheWrite),
    ("usage.prompt_tokens_details.cache_write_tokens_details.ttl_12h_tokens", Slot::CacheWriteLong),
    ("usage.completion_tokens_details.reasoning_tokens", Slot::Reasoning),
];

const RESPONSES: Paths = &[
    ("delta", Slot::Said),
    ("response.id", Slot::Id),
    ("response.model", Slot::Model),
    ("response.status", Slot::End),
    ("response.usage.input_tokens", Slot::Input),
    ("response.usage.output_tokens", Slot::Output),
    ("response.usage.input_tokens_details.cached_tokens", Slot::CacheRead),
    ("response.usage.input_tokens_details.cache_write_tokens", Slot::CacheWrite),
    ("response.usage.input_tokens_details.cache_write_tokens_details.ttl_12h_tokens", Slot::CacheWriteLong),
    ("response.usage.output_tokens_details.reasoning_tokens", Slot::Reasoning),
    ("id", Slot::Id),
    ("model", Slot::Model),
    ("usage.input_tokens", Slot::Input),
    ("usage.output_tokens", Slot::Output),
    ("usage.input_tokens_details.cached_tokens", Slot::CacheRead),
    ("usage.input_tokens_details.cache_write_tokens", Slot::CacheWrite),
    ("usage.input_tokens_details.cache_write_tokens_details.ttl_12h_tokens", Slot::CacheWriteLong),
    ("usage.output_tokens_details.reasoning_tokens", Slot::Reasoning),
    ("output.content.text", Slot::Said),
];

/// The paths as a tree; a node is its index.
#[derive(Debug, Default)]
struct Tree {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    children: Vec<(&'static str, usize)>,
    slot: Option<Slot>,
}

const ROOT: usize = 0;

impl Tree {
    fn of(paths: Paths) -> Self {
        let mut tree = Self { nodes: vec![Node::default()] };
        for (path, slot) in paths {
            let mut at = ROOT;
            for name in path.split('.') {
                at = match tree.child(at, name.as_bytes()) {
                    Some(child) => child,
                    None => {
                        tree.nodes.push(Node::default());
                        let child = tree.nodes.len() - 1;
                        tree.nodes[at].children.push((name, child));
                        child
                    }
                };
            }
            tree.nodes[at].slot = Some(*slot);
        }
        tree
    }

    fn child(&self, at: usize, name: &[u8]) -> Option<usize> {
        self.nodes[at].children.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, child)| *child)
    }
}

static ANTHROPIC_TREE: LazyLock<Tree> = LazyLock::new(|| Tree::of(ANTHROPIC));
static CHAT_TREE: LazyLock<Tree> = LazyLock::new(|| Tree::of(CHAT));
static RESPONSES_TREE: LazyLock<Tree> = LazyLock::new(|| Tree::of(RESPONSES));

/// Longest name or text that is kept, in bytes. Names on our paths and identifiers are far shorter.
const MAX_KEPT: usize = 256;

/// Containers on our paths, arrays included, are never deeper; more is not what it seems to be.
const MAX_DEPTH: usize = 16;

#[derive(Debug)]
pub(super) struct Scanner {
    tree: &'static Tree,
    state: State,
    /// Open containers on the paths of interest: node, and whether it is an object.
    open: Vec<(usize, bool)>,
    /// The node of the value that comes next or is being read, if it is of interest.
    node: Option<usize>,
    kept: Vec<u8>,
    overlong: bool,
    escaped: bool,
    number: u64,
    is_number: bool,
    told_id: bool,
    told_model: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A value, or the end of an empty array.
    Value,
    /// A name, or the end of an object.
    Name,
    InName,
    Colon,
    InText,
    InScalar,
    /// Inside a container of no interest, so many levels deep.
    Skip(u32),
    SkipText(u32),
    /// After a value.
    After,
    Complete,
    Broken,
}

impl Scanner {
    pub(super) fn new(wire: Wire) -> Self {
        let tree = match wire {
            Wire::AnthropicMessages => &*ANTHROPIC_TREE,
            Wire::OpenAiChat => &*CHAT_TREE,
            Wire::OpenAiResponses => &*RESPONSES_TREE,
        };
        Self {
            tree,
            state: State::Value,
            open: Vec::new(),
            node: Some(ROOT),
            kept: Vec::new(),
            overlong: false,
            escaped: false,
            number: 0,
            is_number: false,
            told_id: false,
            told_model: false,
        }
    }

    /// Prepares for another document.
    pub(super) fn reset(&mut self) {
        self.state = State::Value;
        self.open.clear();
        self.node = Some(ROOT);
        self.kept.clear();
        self.escaped = false;
    }

    /// Whether a whole document has been read.
    pub(super) fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    pub(super) fn feed(&mut self, bytes: &[u8], found: &mut dyn FnMut(Found<'_>)) {
        let mut at = 0;
        while at < bytes.len() {
            match self.state {
                State::InName | State::InText | State::SkipText(_) => at += self.text(&bytes[at..], found),
                State::Skip(depth) => at += self.skip(depth, &bytes[at..]),
                State::InScalar => {
                    if matches!(bytes[at], b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r') {
                        self.end_scalar(found); // and look at the byte again
                    } else {
                        self.scalar(bytes[at]);
                        at += 1;
                    }
                }
                State::Complete | State::Broken => return,
                State::Value | State::Name | State::Colon | State::After => {
                    self.structure(bytes[at]);
                    at += 1;
                }
            }
        }
    }

    fn structure(&mut self, byte: u8) {
        let in_object = self.open.last().is_some_and(|(_, is_object)| *is_object);
        self.state = match (self.state, byte) {
            (state, b' ' | b'\t' | b'\n' | b'\r') => state,
            (State::Value, b'"') => {
                self.kept.clear();
                self.overlong = false;
                State::InText
            }
            (State::Value, b'{' | b'[') => self.enter(byte == b'{'),
            (State::Value, b']') if !in_object && !self.open.is_empty() => self.leave(),
            (State::Value, b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
                self.number = 0;
                self.is_number = byte.is_ascii_digit();
                self.scalar(byte);
                State::InScalar
            }
            (State::Name, b'"') => {
                self.kept.clear();
                self.overlong = false;
                State::InName
            }
            (State::Name, b'}') => self.leave(),
            (State::Colon, b':') => State::Value,
            (State::After, b',') if in_object => State::Name,
            (State::After, b',') => {
                self.node = self.open.last().map(|(node, _)| *node);
                State::Value
            }
            (State::After, b'}') if in_object => self.leave(),
            (State::After, b']') if !in_object => self.leave(),
            _ => State::Broken,
        };
    }

    fn enter(&mut self, is_object: bool) -> State {
        // Arrays of arrays are on no path of ours.
        let nested = !is_object && self.open.last().is_some_and(|(_, is_object)| !is_object);
        match self.node.filter(|&node| !nested && !self.tree.nodes[node].children.is_empty()) {
            Some(node) if self.open.len() < MAX_DEPTH => {
                self.open.push((node, is_object));
                if is_object { State::Name } else { State::Value }
            }
            _ => State::Skip(1),
        }
    }

    fn leave(&mut self) -> State {
        self.open.pop();
        self.after()
    }

    fn after(&self) -> State {
        if self.open.is_empty() { State::Complete } else { State::After }
    }

    /// Reads on in a name or a text; returns how many bytes.
    fn text(&mut self, bytes: &[u8], found: &mut dyn FnMut(Found<'_>)) -> usize {
        if std::mem::take(&mut self.escaped) {
            self.keep(&bytes[..1], found);
            return 1;
        }
        let end = end_of_plain(bytes);
        if self.state == State::InName && self.kept.is_empty() && bytes.get(end) == Some(&b'"') {
            self.name(&bytes[..end]); // whole in this piece, so it need not be kept
            return end + 1;
        }
        self.keep(&bytes[..end], found);
        match bytes.get(end) {
            None => end,
            Some(b'\\') => {
                self.escaped = true;
                self.keep(b"\\", found);
                end + 1
            }
            Some(_) => {
                self.end_text(found);
                end + 1
            }
        }
    }

    fn keep(&mut self, bytes: &[u8], found: &mut dyn FnMut(Found<'_>)) {
        match self.state {
            State::SkipText(_) => {}
            State::InText => match self.slot() {
                Some(Slot::Said) => found(Found::Bytes(bytes.len() as u64)),
                Some(slot) if self.wants_text(slot) => self.store(bytes),
                _ => {}
            },
            _ => self.store(bytes),
        }
    }

    fn store(&mut self, bytes: &[u8]) {
        if self.kept.len() + bytes.len() > MAX_KEPT {
            self.overlong = true;
        } else {
            self.kept.extend_from_slice(bytes);
        }
    }

    fn end_text(&mut self, found: &mut dyn FnMut(Found<'_>)) {
        self.state = match self.state {
            State::SkipText(depth) => State::Skip(depth),
            State::InName => {
                let kept = std::mem::take(&mut self.kept);
                self.name(&kept);
                self.kept = kept;
                State::Colon
            }
            _ => {
                if let Some(slot) = self.slot().filter(|&slot| self.wants_text(slot) && !self.overlong) {
                    self.told_id |= slot == Slot::Id;
                    self.told_model |= slot == Slot::Model;
                    self.tell_text(slot, found);
                }
                self.after()
            }
        };
    }

    /// Goes to the member of this name, or off the paths of interest.
    fn name(&mut self, name: &[u8]) {
        let parent = self.open.last().map_or(ROOT, |(node, _)| *node);
        self.node = if self.overlong { None } else { self.tree.child(parent, name) };
        self.state = State::Colon;
    }

    fn tell_text(&self, slot: Slot, found: &mut dyn FnMut(Found<'_>)) {
        if self.kept.contains(&b'\\') {
            let quoted = [b"\"", self.kept.as_slice(), b"\""].concat();
            if let Ok(text) = serde_json::from_slice::<String>(&quoted) {
                found(Found::Text(slot, &text));
            }
        } else {
            found(Found::Text(slot, &String::from_utf8_lossy(&self.kept)));
        }
    }

    /// Chunks repeat identifier and model; once is enough.
    fn wants_text(&self, slot: Slot) -> bool {
        match slot {
            Slot::Id => !self.told_id,
            Slot::Model => !self.told_model,
            Slot::End => true,
            _ => false,
        }
    }

    fn slot(&self) -> Option<Slot> {
        self.node.and_then(|node| self.tree.nodes[node].slot)
    }

    fn scalar(&mut self, byte: u8) {
        match byte {
            b'0'..=b'9' if self.is_number => {
                self.number = self.number.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
            }
            _ => self.is_number = false,
        }
    }

    fn end_scalar(&mut self, found: &mut dyn FnMut(Found<'_>)) {
        if let Some(slot) = self.slot().filter(|_| self.is_number) {
            found(Found::Number(slot, self.number));
        }
        self.state = self.after();
    }

    /// Counts brackets; returns how many bytes were read.
    fn skip(&mut self, mut depth: u32, bytes: &[u8]) -> usize {
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b'"' => {
                    self.state = State::SkipText(depth);
                    return at + 1;
                }
                b'{' | b'[' => depth = depth.saturating_add(1),
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        self.state = self.after();
                        return at + 1;
                    }
                }
                _ => {}
            }
        }
        self.state = State::Skip(depth);
        bytes.len()
    }
}

/// How many bytes stand before the next quote or backslash. Most texts are short, so the first bytes are looked at
/// one by one.
fn end_of_plain(bytes: &[u8]) -> usize {
    const SHORT: usize = 16;
    let is_end = |byte: &u8| matches!(byte, b'"' | b'\\');
    match bytes.iter().take(SHORT).position(is_end) {
        Some(end) => end,
        None if bytes.len() <= SHORT => bytes.len(),
        None => memchr::memchr2(b'"', b'\\', &bytes[SHORT..]).map_or(bytes.len(), |end| SHORT + end),
    }
}
