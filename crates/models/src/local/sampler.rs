//! Choosing the next token from the scores.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Chooses tokens by temperature and nucleus.
pub(super) struct Sampler {
    temperature: f32,
    top_p: f32,
    random: StdRng,
}

impl Sampler {
    /// Temperature 0 always takes the likeliest token; `top_p` 1 keeps every token in play.
    pub(super) fn new(temperature: f32, top_p: f32, seed: u64) -> Self {
        Self { temperature, top_p, random: StdRng::seed_from_u64(seed) }
    }

    /// The index of the chosen score. `scores` must not be empty.
    pub(super) fn choose(&mut self, scores: &[f32]) -> u32 {
        let best = scores
            .iter()
            .enumerate()
            .filter(|(_, score)| !score.is_nan())
            .max_by(|left, right| left.1.total_cmp(right.1).then(right.0.cmp(&left.0)))
            .map_or(0, |(index, _)| index);
        if self.temperature <= 0.0 {
            return best as u32;
        }
        let highest = scores[best];
        let mut sum = 0.0;
        let weights: Vec<f32> = scores
            .iter()
            .map(|score| {
                let weight = ((score - highest) / self.temperature).exp();
                let weight = if weight.is_nan() { 0.0 } else { weight };
                sum += weight;
                weight
            })
            .collect();
        // A token below this cannot be in the nucleus, so most of the vocabulary needs no sorting.
        let floor = sum * (1.0 - self.top_p) / scores.len().saturating_sub(1).max(1) as f32;
        let mut candidates: Vec<(usize, f32)> =
            weights.into_iter().enumerate().filter(|(_, weight)| *weight > 0.0 && *weight >= floor).collect();
        candidates.sort_unstable_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
        let mut kept = 0.0;
        let mut nucleus = candidates.len();
        for (index, (_, weight)) in candidates.iter().enumerate() {
            kept += weight;
            if kept >= sum * self.top_p {
                nucleus = index + 1;
                break;
            }
        }
        let mut point = self.random.random::<f32>() * kept;
        for (index, weight) in &candidates[..nucleus] {
            point -= weight;
            if point < 0.0 {
                return *index as u32;
            }
        }
        candidates[..nucleus].last().map_or(best as u32, |(index, _)| *index as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_temperature_takes_the_likeliest_and_the_first_of_equals() {
        let mut sampler = Sampler::new(0.0, 1.0, 1);
        assert_eq!(sampler.choose(&[0.1, 3.0, 3.0, -1.0]), 1);
        assert_eq!(sampler.choose(&[f32::NAN, f32::NEG_INFINITY, -4.0]), 2);
        assert_eq!(sampler.choose(&[f32::NAN, f32::NAN]), 0);
    }

    #[test]
    fn a_small_nucleus_leaves_only_the_likeliest() {
        let mut sampler = Sampler::new(1.0, 0.5, 7);
        for _ in 0..200 {
            assert_eq!(sampler.choose(&[5.0, 1.0, 0.0, 4.0]), 0);
        }
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let mut sampler = Sampler::new(1.0, 1.0, 42);
        let scores = [2f32.ln(), 1f32.ln(), 1f32.ln()]; // 1/2, 1/4, 1/4
        let mut counts = [0u32; 3];
        for _ in 0..8000 {
            counts[sampler.choose(&scores) as usize] += 1;
        }
        assert!((3700..4300).contains(&counts[0]), "{counts:?}");
        assert!((1800..2200).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn the_nucleus_cuts_the_tail_but_keeps_what_reaches_the_limit() {
        let mut sampler = Sampler::new(1.0, 0.75, 3);
        let scores = [0.5f32.ln(), 0.3f32.ln(), 0.1f32.ln(), 0.1f32.ln()];
        let mut seen = [false; 4];
        for _ in 0..500 {
            seen[sampler.choose(&scores) as usize] = true;
        }
        assert_eq!(seen, [true, true, false, false]);
    }

    #[test]
    fn the_same_seed_draws_the_same_tokens() {
        let scores: Vec<f32> = (0..50).map(|index| (index % 7) as f32 / 3.0).collect();
        let draw = |seed| {
            let mut sampler = Sampler::new(0.9, 0.95, seed);
            (0..40).map(|_| sampler.choose(&scores)).collect::<Vec<_>>()
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
    }
}
