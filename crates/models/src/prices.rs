//! What tokens cost. Prices are data (`prices.toml`), dated, and can be overridden by the operator.
//!
//! A price that is not known stays unknown: a call without one has no cost, which is not a cost of zero.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::Usage;

/// The list that comes with the program.
const BUILT_IN: &str = include_str!("prices.toml");

/// A price, in millionths of a US dollar per million tokens: exactly as fine as published prices are.
type MicrosPerMillion = u64;

/// Why a price list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PriceError {
    /// It is not a price list.
    #[error("the price list cannot be read: {0}")]
    Syntax(#[from] toml::de::Error),
    /// A price is no amount of money.
    #[error(
        "the price list has a wrong amount for `{model}`: `{field}` must be between 0 and 1000000 US dollars per million tokens"
    )]
    Amount {
        /// The glob of the entry.
        model: String,
        /// Which price.
        field: &'static str,
    },
}

/// Prices by model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prices {
    as_of: Option<String>,
    entries: BTreeMap<String, Price>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Price {
    usual: Rates,
    /// Rates of calls with more input tokens than this.
    long_prompt: Option<(u64, Rates)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rates {
    input: MicrosPerMillion,
    output: MicrosPerMillion,
    cache_read: Option<MicrosPerMillion>,
    cache_write_5m: Option<MicrosPerMillion>,
    cache_write_1h: Option<MicrosPerMillion>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    as_of: Option<toml::Value>,
    #[serde(default)]
    models: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    input: f64,
    output: f64,
    cache_read: Option<f64>,
    cache_write_5m: Option<f64>,
    cache_write_1h: Option<f64>,
    long_prompt: Option<LongPrompt>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LongPrompt {
    above: u64,
    input_times: f64,
    output_times: f64,
}

impl Entry {
    fn rates(&self, model: &str, input_times: f64, output_times: f64) -> Result<Rates, PriceError> {
        let amount = |field: &'static str, dollars: f64| {
            if !dollars.is_finite() || !(0.0..=1e6).contains(&dollars) {
                return Err(PriceError::Amount { model: model.to_owned(), field });
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
            let micros = (dollars * 1e6).round() as u64;
            Ok(micros)
        };
        let optional =
            |field, dollars: Option<f64>| dollars.map(|dollars| amount(field, dollars * input_times)).transpose();
        Ok(Rates {
            input: amount("input", self.input * input_times)?,
            output: amount("output", self.output * output_times)?,
            cache_read: optional("cache_read", self.cache_read)?,
            cache_write_5m: optional("cache_write_5m", self.cache_write_5m)?,
            cache_write_1h: optional("cache_write_1h", self.cache_write_1h)?,
        })
    }
}

impl Prices {
    /// The list that comes with the program.
    ///
    /// # Panics
    /// Never: a test reads the same text.
    #[must_use]
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("a test parses the built-in price list")
    }

    /// Reads a list; `prices.toml` beside this file explains the form.
    ///
    /// # Errors
    /// Names the place in the text, or the entry with a wrong amount.
    pub fn parse(text: &str) -> Result<Self, PriceError> {
        let file: File = toml::from_str(text)?;
        let mut entries = BTreeMap::new();
        for (model, entry) in file.models {
            let usual = entry.rates(&model, 1.0, 1.0)?;
            let long_prompt = match &entry.long_prompt {
                Some(long) => Some((long.above, entry.rates(&model, long.input_times, long.output_times)?)),
                None => None,
            };
            entries.insert(model, Price { usual, long_prompt });
        }
        let as_of = file.as_of.map(|date| date.as_str().map_or_else(|| date.to_string(), str::to_owned));
        Ok(Self { as_of, entries })
    }

    /// Takes over the entries of another list; where both have the same glob, the other's counts.
    pub fn merge(&mut self, other: Self) {
        self.entries.extend(other.entries);
    }

    /// The day the list was made, as its author wrote it.
    #[must_use]
    pub fn as_of(&self) -> Option<&str> {
        self.as_of.as_deref()
    }

    /// What a call of this model cost, in billionths of a US dollar; `None` when a price that is needed is unknown.
    ///
    /// Of several globs that fit the one with the most literal characters counts.
    #[must_use]
    pub fn cost(&self, model: &str, usage: &Usage) -> Option<u64> {
        let price = self.find(model)?;
        let rates = match &price.long_prompt {
            Some((above, rates)) if usage.total_input() > *above => rates,
            _ => &price.usual,
        };
        let mut total: u128 = 0;
        for (tokens, rate) in [
            (usage.input, Some(rates.input)),
            (usage.output, Some(rates.output)),
            (usage.cache_read, rates.cache_read),
            (usage.cache_write_5m, rates.cache_write_5m),
            (usage.cache_write_1h, rates.cache_write_1h),
        ] {
            if tokens > 0 {
                total += u128::from(tokens) * u128::from(rate?);
            }
        }
        // Micro-dollars per million tokens are 10^-12 dollars per token; rounded half up to 10^-9.
        u64::try_from((total + 500) / 1000).ok()
    }

    fn find(&self, model: &str) -> Option<&Price> {
        let fitting = self.entries.iter().filter(|(glob, _)| fits(glob.as_bytes(), model.as_bytes()));
        let literal = |glob: &str| glob.bytes().filter(|byte| !matches!(byte, b'*' | b'?')).count();
        fitting.max_by_key(|(glob, _)| literal(glob)).map(|(_, price)| price)
    }
}

/// Glob matching without recursion: on a mismatch the last star takes one byte more.
fn fits(glob: &[u8], text: &[u8]) -> bool {
    let (mut g, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match glob.get(g) {
            Some(b'*') => {
                star = Some((g, t));
                g += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                g += 1;
                t += 1;
            }
            _ => match star {
                Some((star_g, star_t)) => {
                    star = Some((star_g, star_t + 1));
                    g = star_g + 1;
                    t = star_t + 1;
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn usage(input: u64, output: u64) -> Usage {
        Usage { input, output, cache_read: 0, cache_write_5m: 0, cache_write_1h: 0, reasoning: 0 }
    }

    #[test]
    fn the_built_in_list_is_dated_and_prices_every_class() {
        let prices = Prices::built_in();
        assert!(prices.as_of().is_some_and(|date| date.len() == 10));
        let all = Usage { cache_read: 1000, cache_write_5m: 100, cache_write_1h: 10, ..usage(10_000, 500) };
        // 10000×3 + 500×15 + 1000×0.3 + 100×3.75 + 10×6 = 38235 millionths of a dollar.
        assert_eq!(prices.cost("claude-sonnet-4-5-20250929", &all), Some(38_235_000));
        assert_eq!(prices.cost("gpt-5-nano", &usage(1, 1)), Some(450));
        for (name, price) in &prices.entries {
            assert!(price.usual.output >= price.usual.input || name.contains("embedding"), "{name}");
            for (cheaper, dearer) in [
                (price.usual.cache_read, Some(price.usual.input)),
                (Some(price.usual.input), price.usual.cache_write_5m),
                (price.usual.cache_write_5m, price.usual.cache_write_1h),
            ] {
                assert!(cheaper.zip(dearer).is_none_or(|(cheaper, dearer)| cheaper < dearer), "{name}");
            }
        }
    }

    #[test]
    fn what_is_not_known_has_no_cost() {
        let prices = Prices::built_in();
        assert_eq!(prices.cost("claude-opus-9", &usage(1, 1)), None);
        assert_eq!(prices.cost("gpt-5.4-turbo", &usage(1, 1)), None);
        let cached = Usage { cache_read: 1, ..usage(1, 1) };
        assert_eq!(prices.cost("gpt-4-turbo", &cached), None);
        assert_eq!(prices.cost("gpt-4-turbo", &usage(1, 0)), Some(10_000));
    }

    #[test]
    fn the_most_literal_glob_counts() {
        let prices = Prices::built_in();
        let million = usage(1_000_000, 0);
        assert_eq!(prices.cost("gpt-4o-2024-05-13", &million), Some(5_000_000_000));
        assert_eq!(prices.cost("gpt-4o-2024-08-06", &million), Some(2_500_000_000));
        assert_eq!(prices.cost("gpt-5.2-pro", &million), Some(21_000_000_000));
        assert_eq!(prices.cost("gpt-5.2-2025-12-11", &million), Some(1_750_000_000));
        assert_eq!(prices.cost("claude-opus-5-5", &million), Some(4_000_000_000));
        assert_eq!(prices.cost("claude-opus-5", &million), Some(5_000_000_000));
    }

    #[test]
    fn long_prompts_cost_more() {
        let prices = Prices::built_in();
        assert_eq!(prices.cost("claude-haiku-5-5", &usage(100_000, 1000)), Some(10_000_000 + 500_000));
        let cached = Usage { cache_read: 1, ..usage(100_000, 1000) };
        assert_eq!(prices.cost("claude-haiku-5-5", &cached), Some(50_000_000 + 2_500_000 + 50));
    }

    #[test]
    fn operators_override_single_entries() {
        let mut prices = Prices::built_in();
        let own = "[models]\n\"gpt-4o\" = { input = 1, output = 2 }\n\"my-*\" = { input = 0.0004, output = 0.0005 }";
        prices.merge(Prices::parse(own).expect("a list"));
        assert_eq!(prices.cost("gpt-4o", &usage(1, 1)), Some(3000));
        assert_eq!(prices.cost("gpt-4o-mini", &usage(1, 0)), Some(150));
        // 0.4 and 0.9 of a billionth: rounded half up once, over the sum.
        assert_eq!(prices.cost("my-model", &usage(1, 0)), Some(0));
        assert_eq!(prices.cost("my-model", &usage(1, 1)), Some(1));
    }

    #[test]
    fn wrong_lists_are_refused() {
        for (text, expected) in [
            ("[models.x]\ninput = 1", "missing field"),
            ("[models.x]\ninput = 1\noutput = 1\ncached = 1", "unknown field"),
            ("[models.x]\ninput = -1\noutput = 1", "`input`"),
            ("[models.x]\ninput = 1\noutput = nan", "`output`"),
        ] {
            let error = Prices::parse(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{error}");
        }
        let prices = Prices::parse("[models.x]\ninput = 1000000\noutput = 1").expect("a list");
        assert_eq!(prices.cost("x", &usage(u64::MAX, 0)), None);
    }

    #[test]
    fn globs() {
        for (glob, text, expected) in [
            ("", "", true),
            ("*", "", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("?", "", false),
            ("a?c", "abc", true),
            ("**", "x", true),
            ("a", "ab", false),
            ("*a", "aaab", false),
        ] {
            assert_eq!(fits(glob.as_bytes(), text.as_bytes()), expected, "{glob} {text}");
        }
    }
}
