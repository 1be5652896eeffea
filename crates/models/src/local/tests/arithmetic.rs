//! The forward pass against a plain one, and against itself in other cuts and on other threads.

use candle_core::Device;

use super::tiny::{FEED_FORWARD, HEADS, KV_HEADS, LAYERS, Tiny, WIDTH};
use crate::local::gguf::Gguf;
use crate::local::transformer::{Attention, Weights};

const TOKENS: [u32; 7] = [5, 40, 200, 3, 77, 77, 129];

fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

fn matrix(gguf: &mut Gguf, name: &str) -> Vec<f32> {
    let tensor = gguf.content.tensor(&mut gguf.file, &format!("{name}.weight"), &Device::Cpu).unwrap();
    tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn times(matrix: &[f32], vector: &[f32]) -> Vec<f32> {
    matrix.chunks(vector.len()).map(|row| row.iter().zip(vector).map(|(a, b)| a * b).sum()).collect()
}

fn norm(vector: &[f32], scale: &[f32]) -> Vec<f32> {
    let mean = vector.iter().map(|value| value * value).sum::<f32>() / vector.len() as f32;
    vector.iter().zip(scale).map(|(value, scale)| value / (mean + 1e-5).sqrt() * scale).collect()
}

fn rotated(vector: &[f32], position: usize) -> Vec<f32> {
    let width = WIDTH / HEADS;
    let mut out = vector.to_vec();
    for (pair, numbers) in out.chunks_mut(2).enumerate() {
        let turn = position as f32 * 10_000f32.powf(-((pair % (width / 2)) as f32) * 2.0 / width as f32);
        let (x, y) = (numbers[0], numbers[1]);
        numbers[0] = x * turn.cos() - y * turn.sin();
        numbers[1] = x * turn.sin() + y * turn.cos();
    }
    out
}

/// The textbook computation in plain floats: every token anew, no cache, no quantised activations.
fn plainly(gguf: &mut Gguf, tokens: &[u32]) -> Vec<f32> {
    let width = WIDTH / HEADS;
    let embedding = matrix(gguf, "token_embd");
    let mut stream: Vec<Vec<f32>> =
        tokens.iter().map(|token| embedding[*token as usize * WIDTH..][..WIDTH].to_vec()).collect();
    for layer in 0..LAYERS {
        let mut part = |name: &str| matrix(gguf, &format!("blk.{layer}.{name}"));
        let (attention_norm, q, k, v) = (part("attn_norm"), part("attn_q"), part("attn_k"), part("attn_v"));
        let (output, ffn_norm) = (part("attn_output"), part("ffn_norm"));
        let (gate, up, down) = (part("ffn_gate"), part("ffn_up"), part("ffn_down"));
        let inputs: Vec<_> = stream.iter().map(|vector| norm(vector, &attention_norm)).collect();
        let keys: Vec<_> = inputs.iter().enumerate().map(|(at, input)| rotated(&times(&k, input), at)).collect();
        let values: Vec<_> = inputs.iter().map(|input| times(&v, input)).collect();
        for (at, vector) in stream.iter_mut().enumerate() {
            let query = rotated(&times(&q, &inputs[at]), at);
            let mut attended = Vec::new();
            for head in 0..HEADS {
                let shared = head / (HEADS / KV_HEADS) * width;
                let weights: Vec<f32> = (0..=at)
                    .map(|past| {
                        let dot: f32 = (0..width).map(|i| query[head * width + i] * keys[past][shared + i]).sum();
                        (dot / (width as f32).sqrt()).exp()
                    })
                    .collect();
                let sum: f32 = weights.iter().sum();
                attended.extend((0..width).map(|i| {
                    weights.iter().enumerate().map(|(past, weight)| weight * values[past][shared + i]).sum::<f32>()
                        / sum
                }));
            }
            for (value, change) in vector.iter_mut().zip(times(&output, &attended)) {
                *value += change;
            }
            let input = norm(vector, &ffn_norm);
            let hidden: Vec<f32> = times(&gate, &input)
                .iter()
                .zip(times(&up, &input))
                .map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up)
                .collect();
            assert_eq!(hidden.len(), FEED_FORWARD);
            for (value, change) in vector.iter_mut().zip(times(&down, &hidden)) {
                *value += change;
            }
        }
    }
    let last = norm(stream.last().unwrap(), &matrix(gguf, "output_norm"));
    times(&embedding, &last)
}

fn similarity(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(left, right) / (dot(left, left) * dot(right, right)).sqrt()
}

#[test]
fn the_scores_are_those_of_the_textbook() {
    let folder = tempfile::tempdir().unwrap();
    let mut gguf = Gguf::open(&Tiny::default().write(folder.path())).unwrap();
    let weights = Weights::load(&mut gguf).unwrap();
    let expected = plainly(&mut gguf, &TOKENS);
    let scores = on_threads(1, || Attention::new(&weights, 16).advance(&TOKENS));
    // The only difference is that activations are rounded to eight bits.
    let similarity = similarity(&scores, &expected);
    assert!(similarity > 0.9995, "{similarity}");
    let magnitude = scores.iter().map(|score| score.abs()).sum::<f32>() / expected.iter().map(|s| s.abs()).sum::<f32>();
    assert!((0.98..1.02).contains(&magnitude), "{magnitude}");
}

#[test]
fn neither_batches_nor_threads_nor_room_change_the_scores() {
    let folder = tempfile::tempdir().unwrap();
    let mut gguf = Gguf::open(&Tiny::default().write(folder.path())).unwrap();
    let weights = Weights::load(&mut gguf).unwrap();
    let at_once = on_threads(1, || Attention::new(&weights, TOKENS.len()).advance(&TOKENS));
    for (threads, cut, capacity) in [(1, 1, 7), (2, 3, 9), (3, 7, 100), (2, 2, 7)] {
        let scores = on_threads(threads, || {
            let mut attention = Attention::new(&weights, capacity);
            TOKENS.chunks(cut).map(|batch| attention.advance(batch)).last().unwrap()
        });
        assert_eq!(scores, at_once, "{threads} threads, batches of {cut}, room for {capacity}");
    }
}

#[test]
fn weights_in_another_format_are_converted_in_memory() {
    use candle_core::quantized::GgmlDType;
    let scores = |dtype| {
        let folder = tempfile::tempdir().unwrap();
        let mut gguf = Gguf::open(&Tiny { dtype, ..Tiny::default() }.write(folder.path())).unwrap();
        let weights = Weights::load(&mut gguf).unwrap();
        on_threads(1, || Attention::new(&weights, 16).advance(&TOKENS))
    };
    assert!(similarity(&scores(GgmlDType::F32), &scores(GgmlDType::Q8_0)) > 0.999);
    assert!(similarity(&scores(GgmlDType::Q4_1), &scores(GgmlDType::Q8_0)) > 0.9);
}
