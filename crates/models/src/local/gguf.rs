//! The description at the head of a GGUF file: which architecture, which sizes, where each tensor lies.
//!
//! The file may come from anywhere (`--from`), so every number is checked before memory is reserved for it.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};

use super::failure;
use crate::{Error, ErrorKind};

/// An opened GGUF file whose head has been read.
pub(super) struct Gguf {
    pub(super) content: Content,
    pub(super) file: BufReader<File>,
}

/// The sizes of a Llama-shaped transformer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Architecture {
    pub(super) layers: usize,
    pub(super) width: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_width: usize,
    pub(super) feed_forward: usize,
    pub(super) vocabulary: usize,
    pub(super) context: usize,
    pub(super) rope_base: f32,
    pub(super) norm_epsilon: f32,
}

impl Gguf {
    /// Opens the file and reads its head (metadata and tensor list, not the weights).
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let unusable = |reason: String| {
            failure(ErrorKind::Unavailable, format!("the local model's weights {} {reason}", path.display()))
        };
        let file = File::open(path)
            .map_err(|error| unusable(format!("cannot be opened: {error}. Fetch them with `backlot models pull`")))?;
        let mut file = BufReader::with_capacity(1 << 16, file);
        let content = Content::read(&mut file).map_err(|error| {
            unusable(format!("are not a readable GGUF file: {error}. Fetch them again with `backlot models pull`"))
        })?;
        Ok(Self { content, file })
    }

    /// The sizes, checked against each other.
    pub(super) fn architecture(&self) -> Result<Architecture, Error> {
        let name = self.text("general.architecture").unwrap_or_default();
        if name != "llama" {
            return Err(unsupported(format!("the architecture is `{name}`; only `llama` is served")));
        }
        let layers = self.count("llama.block_count")?;
        let width = self.count("llama.embedding_length")?;
        let heads = self.count("llama.attention.head_count")?;
        let kv_heads = self.count("llama.attention.head_count_kv").unwrap_or(heads);
        let feed_forward = self.count("llama.feed_forward_length")?;
        let context = self.count("llama.context_length")?;
        let vocabulary = match self.content.metadata.get("tokenizer.ggml.tokens") {
            Some(Value::Array(tokens)) => tokens.len(),
            _ => return Err(unsupported("the file has no vocabulary (`tokenizer.ggml.tokens`)".into())),
        };
        let within = |value: usize, limit: usize| (1..=limit).contains(&value);
        let sound = within(layers, 1024)
            && within(width, 1 << 16)
            && within(heads, 1024)
            && within(kv_heads, heads)
            && within(feed_forward, 1 << 18)
            && within(context, 1 << 24)
            && within(vocabulary, 1 << 24)
            && heads.is_multiple_of(kv_heads)
            && width.is_multiple_of(heads)
            && (width / heads).is_multiple_of(2)
            && width.is_multiple_of(32)
            && feed_forward.is_multiple_of(32);
        if !sound {
            return Err(unsupported(format!(
                "its sizes do not fit together (layers {layers}, width {width}, heads {heads}/{kv_heads}, \
                 feed forward {feed_forward}, context {context}, vocabulary {vocabulary})"
            )));
        }
        let head_width = width / heads;
        if self.count("llama.rope.dimension_count").is_ok_and(|rotated| rotated != head_width) {
            return Err(unsupported("partially rotated heads are not supported".into()));
        }
        if self.content.metadata.keys().any(|key| key.starts_with("llama.rope.scaling")) {
            return Err(unsupported("scaled rotary positions are not supported".into()));
        }
        let norm_epsilon = self.number("llama.attention.layer_norm_rms_epsilon").unwrap_or(1e-5);
        let rope_base = self.number("llama.rope.freq_base").unwrap_or(10_000.0);
        if !(norm_epsilon > 0.0 && norm_epsilon < 1.0 && rope_base >= 1.0 && rope_base.is_finite()) {
            return Err(unsupported(format!("norm epsilon {norm_epsilon} or rotary base {rope_base} is out of range")));
        }
        Ok(Architecture {
            layers,
            width,
            heads,
            kv_heads,
            head_width,
            feed_forward,
            vocabulary,
            context,
            rope_base,
            norm_epsilon,
        })
    }

    /// A metadata text, if it is one.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.content.metadata.get(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// A metadata token id, if it is one.
    pub(super) fn token_id(&self, key: &str) -> Option<u32> {
        self.content.metadata.get(key).and_then(integer).and_then(|id| u32::try_from(id).ok())
    }

    /// The elements of a metadata array; empty if it is absent or no array.
    pub(super) fn array(&self, key: &str) -> &[Value] {
        match self.content.metadata.get(key) {
            Some(Value::Array(values)) => values,
            _ => &[],
        }
    }

    fn count(&self, key: &str) -> Result<usize, Error> {
        self.content
            .metadata
            .get(key)
            .and_then(integer)
            .and_then(|value| usize::try_from(value).ok())
            .ok_or_else(|| unsupported(format!("`{key}` is missing or no whole number")))
    }

    fn number(&self, key: &str) -> Option<f32> {
        match self.content.metadata.get(key) {
            Some(Value::F32(value)) => Some(*value),
            _ => None,
        }
    }
}

/// A whole number of whatever width.
pub(super) fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::U8(value) => Some(i64::from(*value)),
        Value::I8(value) => Some(i64::from(*value)),
        Value::U16(value) => Some(i64::from(*value)),
        Value::I16(value) => Some(i64::from(*value)),
        Value::U32(value) => Some(i64::from(*value)),
        Value::I32(value) => Some(i64::from(*value)),
        Value::U64(value) => i64::try_from(*value).ok(),
        Value::I64(value) => Some(*value),
        _ => None,
    }
}

/// The file is readable but this engine cannot run it.
pub(super) fn unsupported(reason: String) -> Error {
    failure(ErrorKind::Unavailable, format!("this local model cannot be run: {reason}"))
}
