//! The inner loops: dot products of Q8_0 rows and of floats.
//!
//! On x86-64 with AVX2 the loops here are used; they read the half-precision scales with the CPU's own instruction
//! and each weight once for several tokens, which makes prompts two to three times faster than candle's. Elsewhere
//! candle's kernels do the work, and so they do in unoptimised builds, where candle is optimised and this crate is not.

use candle_core::quantized::k_quants::{BlockQ8_0, GgmlType, QK8_0};

/// `out[i]` becomes the product of `row` and the `i`-th of the inputs that lie one after the other.
pub(super) fn multiply_row(row: &[BlockQ8_0], inputs: &[BlockQ8_0], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if avx2::is_used() {
        return avx2::multiply_row(row, inputs, out);
    }
    for (out, input) in out.iter_mut().zip(inputs.chunks(row.len())) {
        *out = BlockQ8_0::vec_dot(row.len() * QK8_0, row, input);
    }
}

/// The product of two vectors of the same length.
pub(super) fn dot(left: &[f32], right: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if avx2::is_used() {
        return avx2::dot(left, right);
    }
    f32::vec_dot(left.len().min(right.len()), left, right)
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "instructions that not every CPU has, reached only after asking the CPU")]
mod avx2 {
    use std::arch::x86_64::{
        __m256, __m256i, _mm_add_ps, _mm_add_ss, _mm_cvtph_ps, _mm_cvtss_f32, _mm_movehdup_ps, _mm_movehl_ps,
        _mm_set1_epi16, _mm256_abs_epi8, _mm256_add_ps, _mm256_castps256_ps128, _mm256_cvtepi32_ps,
        _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16,
        _mm256_maddubs_epi16, _mm256_set1_epi16, _mm256_set1_ps, _mm256_setzero_ps, _mm256_sign_epi8,
    };

    use super::{BlockQ8_0, QK8_0};

    /// Tokens that share one reading of a weight: as many sums as fit into registers.
    const TOGETHER: usize = 4;

    /// Whether the functions of this module may and should be called.
    pub(super) fn is_used() -> bool {
        !cfg!(debug_assertions) && is_available()
    }

    pub(super) fn is_available() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
    }

    pub(super) fn multiply_row(row: &[BlockQ8_0], inputs: &[BlockQ8_0], out: &mut [f32]) {
        debug_assert!(is_available());
        let mut inputs = inputs.chunks_exact(row.len());
        let mut out = out.chunks_exact_mut(TOGETHER);
        for out in &mut out {
            if let (Some(a), Some(b), Some(c), Some(d)) = (inputs.next(), inputs.next(), inputs.next(), inputs.next()) {
                // SAFETY: the callers asked `is_available`.
                out.copy_from_slice(&unsafe { products(row, [a, b, c, d]) });
            }
        }
        for (out, input) in out.into_remainder().iter_mut().zip(inputs) {
            // SAFETY: the callers asked `is_available`.
            [*out] = unsafe { products(row, [input]) };
        }
    }

    pub(super) fn dot(left: &[f32], right: &[f32]) -> f32 {
        debug_assert!(is_available());
        // SAFETY: the callers asked `is_available`.
        unsafe { product(left, right) }
    }

    /// The scale of a block and its 32 numbers.
    #[target_feature(enable = "avx2,f16c")]
    #[inline]
    fn open(block: &BlockQ8_0) -> (f32, __m256i) {
        const { assert!(size_of::<BlockQ8_0>() == 2 + QK8_0) }
        let start = std::ptr::from_ref(block).cast::<u8>();
        // SAFETY: the block is `repr(C)`: a half float, then 32 signed bytes, 34 bytes in all (asserted above); both
        // reads lie within it and ask for no alignment.
        unsafe {
            let scale = start.cast::<i16>().read_unaligned();
            let numbers = _mm256_loadu_si256(start.add(2).cast());
            (_mm_cvtss_f32(_mm_cvtph_ps(_mm_set1_epi16(scale))), numbers)
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn products<const N: usize>(row: &[BlockQ8_0], inputs: [&[BlockQ8_0]; N]) -> [f32; N] {
        let mut sums = [_mm256_setzero_ps(); N];
        let ones = _mm256_set1_epi16(1);
        for (index, block) in row.iter().enumerate() {
            let (scale, weights) = open(block);
            let magnitudes = _mm256_abs_epi8(weights);
            for (sum, input) in sums.iter_mut().zip(inputs) {
                let (input_scale, numbers) = open(&input[index]);
                // The multiplication wants one side unsigned, so the weights' signs move over to the input.
                let pairs = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(numbers, weights));
                let quads = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, ones));
                *sum = _mm256_fmadd_ps(_mm256_set1_ps(scale * input_scale), quads, *sum);
            }
        }
        sums.map(|sum| total(sum))
    }

    #[target_feature(enable = "avx2,fma")]
    fn product(left: &[f32], right: &[f32]) -> f32 {
        let mut sums = [_mm256_setzero_ps(); 4];
        let (left_lanes, left_rest) = left.as_chunks::<32>();
        let (right_lanes, right_rest) = right.as_chunks::<32>();
        for (left, right) in left_lanes.iter().zip(right_lanes) {
            for (part, sum) in sums.iter_mut().enumerate() {
                // SAFETY: part < 4, so 8 floats from 8 * part on lie within the 32; no alignment is asked for.
                let (left, right) = unsafe {
                    (_mm256_loadu_ps(left.as_ptr().add(8 * part)), _mm256_loadu_ps(right.as_ptr().add(8 * part)))
                };
                *sum = _mm256_fmadd_ps(left, right, *sum);
            }
        }
        let sum = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
        total(sum) + left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum::<f32>()
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn total(sum: __m256) -> f32 {
        let four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn floats(random: &mut StdRng, count: usize) -> Vec<f32> {
        (0..count).map(|_| random.random_range(-2.0..2.0)).collect()
    }

    fn blocks(floats: &[f32]) -> Vec<BlockQ8_0> {
        let mut blocks = vec![BlockQ8_0::zeros(); floats.len() / QK8_0];
        BlockQ8_0::from_float(floats, &mut blocks);
        blocks
    }

    #[test]
    fn rows_are_multiplied_as_candle_does_it() {
        if !avx2::is_available() {
            return; // candle's own kernels are used on this CPU
        }
        let mut random = StdRng::seed_from_u64(9);
        for (length, tokens) in [(1, 1), (18, 1), (18, 4), (48, 5), (3, 9)] {
            let row = blocks(&floats(&mut random, length * QK8_0));
            let inputs = blocks(&floats(&mut random, length * QK8_0 * tokens));
            let mut out = vec![0.0; tokens];
            avx2::multiply_row(&row, &inputs, &mut out);
            for (out, input) in out.iter().zip(inputs.chunks(length)) {
                let expected = BlockQ8_0::vec_dot_unopt(length * QK8_0, &row, input);
                assert!((out - expected).abs() < 1e-3 * expected.abs().max(1.0), "{length} {tokens}: {out} {expected}");
            }
        }
    }

    #[test]
    fn extreme_numbers_do_not_overflow() {
        if !avx2::is_available() {
            return;
        }
        let (low, high) = (blocks(&[-1.0; 64]), blocks(&[1.0; 64]));
        for (row, input, expected) in [(&low, &low, 64.0), (&low, &high, -64.0), (&high, &high, 64.0)] {
            let mut out = [0.0];
            avx2::multiply_row(row, input, &mut out);
            assert!((out[0] - expected).abs() < 0.1, "{} {expected}", out[0]);
        }
    }

    #[test]
    fn floats_of_any_length_are_multiplied() {
        if !avx2::is_available() {
            return;
        }
        let mut random = StdRng::seed_from_u64(10);
        for length in [0, 1, 7, 31, 32, 33, 64, 1931] {
            let (left, right) = (floats(&mut random, length), floats(&mut random, length));
            let expected: f64 = left.iter().zip(&right).map(|(left, right)| f64::from(*left) * f64::from(*right)).sum();
            assert!((f64::from(avx2::dot(&left, &right)) - expected).abs() < 1e-2, "{length}");
        }
    }
}
