//! A model small enough to be made in a test, in the same format as the real one.

use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What is different about a tiny model.
#[derive(Clone, Copy)]
pub(in crate::local) struct Tiny {
    /// The token with the id 0. With `says_first` it is all the model says.
    pub(in crate::local) first_token: &'static str,
    /// Makes every token equally likely, so that greedy decoding takes the first.
    pub(in crate::local) says_first: bool,
    /// Most tokens of prompt and answer together.
    pub(in crate::local) context: u32,
    /// Format of the matrices.
    pub(in crate::local) dtype: GgmlDType,
}

impl Default for Tiny {
    fn default() -> Self {
        Self { first_token: "a", says_first: false, context: CONTEXT, dtype: GgmlDType::Q8_0 }
    }
}

pub(in crate::local) const LAYERS: usize = 2;
pub(in crate::local) const WIDTH: usize = 64;
pub(in crate::local) const HEADS: usize = 4;
pub(in crate::local) const KV_HEADS: usize = 2;
pub(in crate::local) const FEED_FORWARD: usize = 96;
pub(in crate::local) const CONTEXT: u32 = 256;
pub(in crate::local) const CONTROL: [&str; 2] = ["<|im_start|>", "<|im_end|>"];

const TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message.role + '\\n' + message.content }}<|im_end|>\n\
                        {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

impl Tiny {
    /// Writes the model and returns its path.
    pub(in crate::local) fn write(self, folder: &Path) -> PathBuf {
        let path = folder.join("tiny.gguf");
        let letters = (0..0x200).filter_map(char::from_u32).filter(|letter| is_byte_letter(*letter));
        let mut tokens: Vec<String> = CONTROL.iter().map(|text| (*text).to_owned()).collect();
        tokens.extend(letters.map(String::from));
        tokens.retain(|token| token != self.first_token);
        tokens.insert(0, self.first_token.to_owned());
        let kinds = tokens.iter().map(|token| Value::I32(if CONTROL.contains(&token.as_str()) { 3 } else { 1 }));
        let end = tokens.iter().position(|token| token == CONTROL[1]).unwrap();
        let text = |text: &str| Value::String(text.to_owned());
        let metadata = [
            ("general.architecture", text("llama")),
            ("general.file_type", Value::U32(3)),
            ("llama.block_count", Value::U32(LAYERS as u32)),
            ("llama.context_length", Value::U32(self.context)),
            ("llama.embedding_length", Value::U32(WIDTH as u32)),
            ("llama.feed_forward_length", Value::U32(FEED_FORWARD as u32)),
            ("llama.attention.head_count", Value::U32(HEADS as u32)),
            ("llama.attention.head_count_kv", Value::U32(KV_HEADS as u32)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("llama.rope.freq_base", Value::F32(10_000.0)),
            ("tokenizer.ggml.model", text("gpt2")),
            ("tokenizer.ggml.pre", text("smollm")),
            ("tokenizer.ggml.token_type", Value::Array(kinds.collect())),
            ("tokenizer.ggml.merges", Value::Array(Vec::new())),
            ("tokenizer.ggml.eos_token_id", Value::U32(end as u32)),
            ("tokenizer.chat_template", text(TEMPLATE)),
        ];
        let vocabulary = tokens.len();
        let tokens = Value::Array(tokens.into_iter().map(Value::String).collect());
        let mut metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
        metadata.push(("tokenizer.ggml.tokens", &tokens));

        let mut random = StdRng::seed_from_u64(11);
        let mut tensors = Vec::new();
        let mut add = |name: String, rows: usize, columns: Option<usize>, constant: Option<f32>| {
            let count = rows * columns.unwrap_or(1);
            let values: Vec<f32> =
                (0..count).map(|_| constant.unwrap_or_else(|| random.random_range(-0.3..0.3))).collect();
            let tensor = match columns {
                Some(columns) => {
                    let tensor = Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap();
                    QTensor::quantize(&tensor, self.dtype).unwrap()
                }
                None => {
                    let tensor = Tensor::from_vec(values, rows, &Device::Cpu).unwrap();
                    QTensor::quantize(&tensor, GgmlDType::F32).unwrap()
                }
            };
            tensors.push((name, tensor));
        };
        let kv_width = WIDTH / HEADS * KV_HEADS;
        add("token_embd.weight".into(), vocabulary, Some(WIDTH), None);
        add("output_norm.weight".into(), WIDTH, None, Some(if self.says_first { 0.0 } else { 1.0 }));
        for layer in 0..LAYERS {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            add(name("attn_norm"), WIDTH, None, None);
            add(name("attn_q"), WIDTH, Some(WIDTH), None);
            add(name("attn_k"), kv_width, Some(WIDTH), None);
            add(name("attn_v"), kv_width, Some(WIDTH), None);
            add(name("attn_output"), WIDTH, Some(WIDTH), None);
            add(name("ffn_norm"), WIDTH, None, None);
            add(name("ffn_gate"), FEED_FORWARD, Some(WIDTH), None);
            add(name("ffn_up"), FEED_FORWARD, Some(WIDTH), None);
            add(name("ffn_down"), WIDTH, Some(FEED_FORWARD), None);
        }
        let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let mut file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
        gguf_file::write(&mut file, &metadata, &tensors).unwrap();
        std::io::Write::flush(&mut file).unwrap();
        path
    }
}

/// The letters that stand for bytes in byte-level vocabularies.
fn is_byte_letter(letter: char) -> bool {
    let code = u32::from(letter);
    matches!(code, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF | 0x100..=0x143)
}
