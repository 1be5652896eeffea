//! The forward pass of a Llama-shaped transformer over Q8_0 weights, on the CPU.
//!
//! Written here instead of taken from `candle-transformers` because that crate dominates the build, keeps a
//! second copy of the embedding as `f32` (113 MB of the 250 MB it needs for this model), copies the whole
//! attention cache for every token, and computes on a pool whose size only environment variables set. The dot
//! products, where nearly all the time goes, are in [`super::kernels`].
//!
//! Everything here runs inside the caller's rayon pool ([`rayon::ThreadPool::install`]).

use std::io::{Read, Seek, SeekFrom};

use candle_core::Device;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::k_quants::{BlockQ8_0, GgmlType, QK8_0};
use rayon::prelude::*;

use super::gguf::{Architecture, Gguf, unsupported};
use super::kernels::{dot, multiply_row};
use crate::Error;

/// How many prompt tokens are computed together: enough to read each weight once for many tokens, few enough
/// to notice quickly that nobody waits for the answer any more.
pub(super) const PROMPT_BATCH: usize = 32;

/// Rows of a weight matrix that one thread takes at a time.
const ROWS_PER_TASK: usize = 64;

/// The weights, ready to compute with.
pub(super) struct Weights {
    pub(super) architecture: Architecture,
    /// All matrices in one allocation, so that unloading gives the memory back to the system whole.
    blocks: Vec<BlockQ8_0>,
    embedding: Matrix,
    output: Matrix,
    output_norm: Vec<f32>,
    layers: Vec<Layer>,
    /// Rotation per position of each pair of a head.
    rope_frequencies: Vec<f32>,
}

struct Layer {
    attention_norm: Vec<f32>,
    query: Matrix,
    key: Matrix,
    value: Matrix,
    attention_output: Matrix,
    feed_forward_norm: Vec<f32>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

/// A matrix inside [`Weights::blocks`], row after row.
#[derive(Clone, Copy)]
struct Matrix {
    start: usize,
    rows: usize,
    blocks_per_row: usize,
}

impl Weights {
    /// Reads the weights. Tensors that are not Q8_0 are converted in memory.
    pub(super) fn load(gguf: &mut Gguf) -> Result<Self, Error> {
        let architecture = gguf.architecture()?;
        let Architecture { width, feed_forward, vocabulary, heads, kv_heads, head_width, .. } = architecture;
        let mut plan = Plan::default();
        let embedding = plan.matrix("token_embd.weight".into(), vocabulary, width);
        let output = if gguf.content.tensor_infos.contains_key("output.weight") {
            plan.matrix("output.weight".into(), vocabulary, width)
        } else {
            embedding // tied: the embedding read backwards
        };
        let mut layers = Vec::with_capacity(architecture.layers);
        for index in 0..architecture.layers {
            let name = |part: &str| format!("blk.{index}.{part}.weight");
            layers.push(Layer {
                attention_norm: vector(gguf, &name("attn_norm"), width)?,
                query: plan.matrix(name("attn_q"), heads * head_width, width),
                key: plan.matrix(name("attn_k"), kv_heads * head_width, width),
                value: plan.matrix(name("attn_v"), kv_heads * head_width, width),
                attention_output: plan.matrix(name("attn_output"), width, heads * head_width),
                feed_forward_norm: vector(gguf, &name("ffn_norm"), width)?,
                gate: plan.matrix(name("ffn_gate"), feed_forward, width),
                up: plan.matrix(name("ffn_up"), feed_forward, width),
                down: plan.matrix(name("ffn_down"), width, feed_forward),
            });
        }
        for (name, matrix) in &plan.matrices {
            check_shape(gguf, name, &[matrix.rows, matrix.blocks_per_row * QK8_0])?;
        }
        let output_norm = vector(gguf, "output_norm.weight", width)?;
        let mut blocks = vec![BlockQ8_0::zeros(); plan.blocks];
        for (name, matrix) in &plan.matrices {
            let range = matrix.start..matrix.start + matrix.rows * matrix.blocks_per_row;
            read_matrix(gguf, name, &mut blocks[range])?;
        }
        let rope_frequencies = (0..head_width / 2)
            .map(|pair| architecture.rope_base.powf(-2.0 * pair as f32 / head_width as f32))
            .collect();
        Ok(Self { architecture, blocks, embedding, output, output_norm, layers, rope_frequencies })
    }

    fn row(&self, matrix: Matrix, row: usize) -> &[BlockQ8_0] {
        let start = matrix.start + row * matrix.blocks_per_row;
        &self.blocks[start..start + matrix.blocks_per_row]
    }

    /// `matrix` times each of the `tokens` input vectors; the result has one row per token.
    fn multiply(&self, matrix: Matrix, input: &[BlockQ8_0], tokens: usize) -> Vec<f32> {
        let mut by_row = vec![0f32; matrix.rows * tokens];
        fill_chunks(&mut by_row, ROWS_PER_TASK * tokens, |task, out| {
            for (offset, out) in out.chunks_mut(tokens).enumerate() {
                multiply_row(self.row(matrix, task * ROWS_PER_TASK + offset), input, out);
            }
        });
        if tokens == 1 {
            return by_row;
        }
        let mut by_token = vec![0f32; by_row.len()];
        for (token, out) in by_token.chunks_mut(matrix.rows).enumerate() {
            for (row, out) in out.iter_mut().enumerate() {
                *out = by_row[row * tokens + token];
            }
        }
        by_token
    }
}

/// Collects which matrices are needed and lays them out one after the other.
#[derive(Default)]
struct Plan {
    matrices: Vec<(String, Matrix)>,
    blocks: usize,
}

impl Plan {
    fn matrix(&mut self, name: String, rows: usize, columns: usize) -> Matrix {
        let matrix = Matrix { start: self.blocks, rows, blocks_per_row: columns / QK8_0 };
        self.blocks += rows * matrix.blocks_per_row;
        self.matrices.push((name, matrix));
        matrix
    }
}

/// One answer in the making: the attention cache of what was read and written so far.
pub(super) struct Attention<'weights> {
    weights: &'weights Weights,
    /// `[layer][kv head][position][head width]`
    keys: Vec<f32>,
    /// `[layer][kv head][head width][position]`: transposed, so that weighing the values is a dot product too.
    values: Vec<f32>,
    capacity: usize,
    position: usize,
}

impl<'weights> Attention<'weights> {
    /// Room for `capacity` tokens, prompt and answer together.
    pub(super) fn new(weights: &'weights Weights, capacity: usize) -> Self {
        let Architecture { layers, kv_heads, head_width, .. } = weights.architecture;
        let size = layers * kv_heads * head_width * capacity;
        // Zeroed pages come from the system untouched: memory is used as the answer grows.
        Self { weights, keys: vec![0.0; size], values: vec![0.0; size], capacity, position: 0 }
    }

    /// Reads `tokens` and returns the scores of every possible next token.
    ///
    /// The caller keeps within the capacity and gives at least one token, each inside the vocabulary.
    pub(super) fn advance(&mut self, tokens: &[u32]) -> Vec<f32> {
        let weights = self.weights;
        let Architecture { width, head_width, heads, kv_heads, norm_epsilon, .. } = weights.architecture;
        let count = tokens.len();
        let mut stream = vec![0f32; count * width];
        for (out, token) in stream.chunks_mut(width).zip(tokens) {
            BlockQ8_0::to_float(weights.row(weights.embedding, *token as usize), out);
        }
        for (index, layer) in weights.layers.iter().enumerate() {
            let input = quantize(&normalize(&stream, &layer.attention_norm, norm_epsilon), width);
            let mut query = weights.multiply(layer.query, &input, count);
            let mut key = weights.multiply(layer.key, &input, count);
            let value = weights.multiply(layer.value, &input, count);
            self.rotate(&mut query, heads * head_width);
            self.rotate(&mut key, kv_heads * head_width);
            self.remember(index, &key, &value);
            let attended = quantize(&self.attend(index, &query), heads * head_width);
            add(&mut stream, &weights.multiply(layer.attention_output, &attended, count));

            let input = quantize(&normalize(&stream, &layer.feed_forward_norm, norm_epsilon), width);
            let mut gate = weights.multiply(layer.gate, &input, count);
            let up = weights.multiply(layer.up, &input, count);
            for (gate, up) in gate.iter_mut().zip(&up) {
                *gate = *gate / (1.0 + (-*gate).exp()) * up;
            }
            let gated = quantize(&gate, weights.architecture.feed_forward);
            add(&mut stream, &weights.multiply(layer.down, &gated, count));
        }
        self.position += count;
        let last = &stream[(count - 1) * width..];
        let input = quantize(&normalize(last, &weights.output_norm, norm_epsilon), width);
        weights.multiply(weights.output, &input, 1)
    }

    /// Turns each pair of numbers of each head by its position (the Llama convention: neighbours are pairs).
    fn rotate(&self, vectors: &mut [f32], width: usize) {
        let frequencies = &self.weights.rope_frequencies;
        for (offset, vector) in vectors.chunks_mut(width).enumerate() {
            let position = (self.position + offset) as f32;
            let turns: Vec<_> = frequencies.iter().map(|frequency| (position * frequency).sin_cos()).collect();
            for head in vector.chunks_mut(frequencies.len() * 2) {
                for (pair, (sin, cos)) in head.chunks_mut(2).zip(&turns) {
                    let (x, y) = (pair[0], pair[1]);
                    pair[0] = x * cos - y * sin;
                    pair[1] = x * sin + y * cos;
                }
            }
        }
    }

    /// Stores the keys and values of the tokens just read.
    fn remember(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        let Architecture { kv_heads, head_width, .. } = self.weights.architecture;
        let (capacity, width) = (self.capacity, kv_heads * head_width);
        for (offset, (key, value)) in keys.chunks(width).zip(values.chunks(width)).enumerate() {
            let position = self.position + offset;
            for head in 0..kv_heads {
                let start = ((layer * kv_heads + head) * capacity + position) * head_width;
                let columns = head * head_width..(head + 1) * head_width;
                self.keys[start..start + head_width].copy_from_slice(&key[columns.clone()]);
                let start = (layer * kv_heads + head) * head_width * capacity + position;
                for (column, value) in value[columns].iter().enumerate() {
                    self.values[start + column * capacity] = *value;
                }
            }
        }
    }

    /// What each head of each token finds in the tokens up to it.
    fn attend(&self, layer: usize, query: &[f32]) -> Vec<f32> {
        let Architecture { heads, kv_heads, head_width, .. } = self.weights.architecture;
        let scale = 1.0 / (head_width as f32).sqrt();
        let width = heads * head_width;
        let tokens = query.len() / width;
        // Head by head, so that its keys and values stay in the CPU's cache for all tokens of the batch.
        let mut by_head = vec![0f32; query.len()];
        fill_chunks(&mut by_head, tokens * head_width, |head, out| {
            let start = (layer * kv_heads + head / (heads / kv_heads)) * head_width * self.capacity;
            let keys = &self.keys[start..start + head_width * self.capacity];
            let values = &self.values[start..start + head_width * self.capacity];
            let mut scores = vec![0f32; self.position + tokens];
            for (token, out) in out.chunks_mut(head_width).enumerate() {
                let query = &query[token * width + head * head_width..][..head_width];
                let scores = &mut scores[..self.position + token + 1];
                for (score, key) in scores.iter_mut().zip(keys.chunks(head_width)) {
                    *score = dot(query, key) * scale;
                }
                softmax(scores);
                for (out, value) in out.iter_mut().zip(values.chunks(self.capacity)) {
                    *out = dot(scores, &value[..scores.len()]);
                }
            }
        });
        if tokens == 1 {
            return by_head;
        }
        let mut by_token = vec![0f32; query.len()];
        for (token, out) in by_token.chunks_mut(width).enumerate() {
            for (head, out) in out.chunks_mut(head_width).enumerate() {
                out.copy_from_slice(&by_head[(head * tokens + token) * head_width..][..head_width]);
            }
        }
        by_token
    }
}

/// Fills `out` chunk by chunk on the threads of the current pool.
fn fill_chunks(out: &mut [f32], chunk: usize, fill: impl Fn(usize, &mut [f32]) + Sync) {
    if rayon::current_num_threads() == 1 || out.len() <= chunk {
        out.chunks_mut(chunk).enumerate().for_each(|(task, out)| fill(task, out));
    } else {
        out.par_chunks_mut(chunk).enumerate().for_each(|(task, out)| fill(task, out));
    }
}

fn normalize(vectors: &[f32], scale: &[f32], epsilon: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(vectors.len());
    for vector in vectors.chunks(scale.len()) {
        let mean_square = dot(vector, vector) / vector.len() as f32;
        let factor = 1.0 / (mean_square + epsilon).sqrt();
        out.extend(vector.iter().zip(scale).map(|(value, scale)| value * factor * scale));
    }
    out
}

fn softmax(scores: &mut [f32]) {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - highest).exp();
        sum += *score;
    }
    for score in scores.iter_mut() {
        *score /= sum;
    }
}

fn add(stream: &mut [f32], change: &[f32]) {
    for (value, change) in stream.iter_mut().zip(change) {
        *value += change;
    }
}

fn quantize(vectors: &[f32], width: usize) -> Vec<BlockQ8_0> {
    let mut blocks = vec![BlockQ8_0::zeros(); vectors.len() / QK8_0];
    for (vector, blocks) in vectors.chunks(width).zip(blocks.chunks_mut(width / QK8_0)) {
        BlockQ8_0::from_float(vector, blocks);
    }
    blocks
}

fn check_shape(gguf: &Gguf, name: &str, expected: &[usize]) -> Result<(), Error> {
    let Some(info) = gguf.content.tensor_infos.get(name) else {
        return Err(unsupported(format!("the tensor `{name}` is missing")));
    };
    if info.shape.dims() != expected {
        return Err(unsupported(format!("`{name}` has the shape {:?} instead of {expected:?}", info.shape.dims())));
    }
    Ok(())
}

fn vector(gguf: &mut Gguf, name: &str, length: usize) -> Result<Vec<f32>, Error> {
    check_shape(gguf, name, &[length])?;
    tensor_as_floats(gguf, name)
}

fn tensor_as_floats(gguf: &mut Gguf, name: &str) -> Result<Vec<f32>, Error> {
    gguf.content
        .tensor(&mut gguf.file, name, &Device::Cpu)
        .and_then(|tensor| tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>())
        .map_err(|error| unsupported(format!("the tensor `{name}` cannot be read: {error}")))
}

fn read_matrix(gguf: &mut Gguf, name: &str, blocks: &mut [BlockQ8_0]) -> Result<(), Error> {
    let (dtype, offset) = match gguf.content.tensor_infos.get(name) {
        Some(info) => (info.ggml_dtype, gguf.content.tensor_data_offset.saturating_add(info.offset)),
        None => return Err(unsupported(format!("the tensor `{name}` is missing"))),
    };
    if dtype != GgmlDType::Q8_0 {
        BlockQ8_0::from_float(&tensor_as_floats(gguf, name)?, blocks);
        return Ok(());
    }
    gguf.file
        .seek(SeekFrom::Start(offset))
        .and_then(|_| gguf.file.read_exact(bytes_of(blocks)))
        .map_err(|error| unsupported(format!("the tensor `{name}` cannot be read: {error}")))
}

/// The blocks as the bytes of a GGUF file.
#[expect(unsafe_code, reason = "candle offers no safe way to read a file into its blocks without a second copy")]
fn bytes_of(blocks: &mut [BlockQ8_0]) -> &mut [u8] {
    const { assert!(size_of::<BlockQ8_0>() == 2 + QK8_0) }
    // SAFETY: the block is `repr(C)` of a half float and 32 signed bytes: 34 bytes without padding (asserted
    // above), and every bit pattern is a value. Bytes have no alignment to violate; the borrow is exclusive.
    unsafe { std::slice::from_raw_parts_mut(blocks.as_mut_ptr().cast::<u8>(), size_of_val(blocks)) }
}
