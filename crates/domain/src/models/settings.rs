//! What the operator decides about models.

use std::{path::PathBuf, time::Duration};

use backlot_models::{local, prices::Prices, wire::Wire};

use crate::accounts::SecretString;

/// Everything the operator decides about models, read once at start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The providers that have a key or an address, the preferred one first.
    pub providers: Vec<Provider>,
    /// `provider/model-id`; none means the default of the first provider, else the local model.
    pub default_model: Option<String>,
    /// The local model, whether its weights are there yet or not.
    pub local: Option<Local>,
    /// What tokens cost.
    pub prices: Prices,
    /// Limits of runs and of the gateway.
    pub limits: Limits,
    /// Certificate authorities trusted besides the host's: content of a PEM file.
    pub extra_ca: Option<Vec<u8>>,
}

impl Default for Settings {
    /// No provider, no local model, the built-in prices and limits.
    fn default() -> Self {
        Self {
            providers: Vec::new(),
            default_model: None,
            local: None,
            prices: Prices::built_in(),
            limits: Limits::default(),
            extra_ca: None,
        }
    }
}

/// What a provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// Anthropic's Messages.
    Anthropic,
    /// OpenAI's Chat Completions and Responses.
    OpenAi,
    /// Chat Completions alone, as most other servers speak it.
    Compatible,
}

impl Api {
    pub(super) fn speaks(self, wire: Wire) -> bool {
        match wire {
            Wire::AnthropicMessages => self == Self::Anthropic,
            Wire::OpenAiChat => matches!(self, Self::OpenAi | Self::Compatible),
            Wire::OpenAiResponses => self == Self::OpenAi,
        }
    }
}

/// Keys that an agent brings itself, used instead of the operator's (spec/castari.md 14).
#[derive(Debug, Clone, Default)]
pub struct ProviderKeys {
    /// The agent's secret `ANTHROPIC_API_KEY`.
    pub anthropic: Option<SecretString>,
    /// The agent's secret `OPENAI_API_KEY`.
    pub openai: Option<SecretString>,
}

/// A provider that calls are sent to.
#[derive(Debug, Clone)]
pub struct Provider {
    /// The word before the slash in `provider/model-id`.
    pub name: String,
    /// What it speaks.
    pub api: Api,
    /// Its address, written as the vendor's SDKs want it: Anthropic's without `/v1`, all others' with it.
    pub base_url: String,
    /// The operator's key; none sends none.
    pub key: Option<SecretString>,
    /// The model that answers when this provider is the default.
    pub default_model: Option<String>,
}

pub(super) const ANTHROPIC: &str = "anthropic";
pub(super) const OPENAI: &str = "openai";
pub(super) const GEMINI: &str = "gemini";

/// Anthropic's public address.
const ANTHROPIC_URL: &str = "https://api.anthropic.com";
/// OpenAI's public address.
pub(super) const OPENAI_URL: &str = "https://api.openai.com/v1";
/// Google's public address of Gemini, without the part that speaks Chat Completions.
const GEMINI_URL: &str = "https://generativelanguage.googleapis.com";

impl Provider {
    /// Anthropic: `ANTHROPIC_API_KEY` and `ANTHROPIC_BASE_URL`.
    #[must_use]
    pub fn anthropic(base_url: Option<&str>, key: Option<SecretString>) -> Self {
        Self {
            name: ANTHROPIC.to_owned(),
            api: Api::Anthropic,
            base_url: base_url.unwrap_or(ANTHROPIC_URL).to_owned(),
            key,
            default_model: Some("claude-sonnet-5-5".to_owned()),
        }
    }

    /// OpenAI: `OPENAI_API_KEY` and `OPENAI_BASE_URL`.
    #[must_use]
    pub fn openai(base_url: Option<&str>, key: Option<SecretString>) -> Self {
        Self {
            name: OPENAI.to_owned(),
            api: Api::OpenAi,
            base_url: base_url.unwrap_or(OPENAI_URL).to_owned(),
            key,
            default_model: Some("gpt-6.2-sol".to_owned()),
        }
    }

    /// Gemini through its Chat Completions address: `GEMINI_API_KEY` and `GEMINI_BASE_URL`.
    #[must_use]
    pub fn gemini(base_url: Option<&str>, key: Option<SecretString>) -> Self {
        let base_url = base_url.unwrap_or(GEMINI_URL).trim_end_matches('/');
        Self {
            name: GEMINI.to_owned(),
            api: Api::Compatible,
            base_url: format!("{base_url}/v1beta/openai"),
            key,
            default_model: Some("gemini-2.5-pro".to_owned()),
        }
    }

    /// Any server that speaks Chat Completions, under a name of the operator's choice.
    #[must_use]
    pub fn compatible(name: &str, base_url: &str, key: Option<SecretString>, default_model: Option<String>) -> Self {
        Self { name: name.to_owned(), api: Api::Compatible, base_url: base_url.to_owned(), key, default_model }
    }
}

/// The local model.
#[derive(Debug, Clone)]
pub struct Local {
    /// Name of the model, without the provider.
    pub name: String,
    /// Where its weights lie, or will lie once they are pulled.
    pub weights: PathBuf,
    /// How it is run.
    pub options: local::Options,
}

/// Limits of runs (spec/castari.md 15.6) and of the gateway. A limit of none is no limit.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Cost of one run in thousand-millionths of a US dollar. Calls of unknown price do not count towards it.
    pub run_cost_nano_usd: Option<u64>,
    /// Input and output tokens of one run.
    pub run_tokens: Option<u64>,
    /// Model calls of one run.
    pub run_calls: Option<u64>,
    /// Calls of one run at the same time; further ones wait.
    pub run_parallel: usize,
    /// Calls with an account's API keys at the same time; further ones wait.
    pub account_parallel: usize,
    /// How long a call waits for its turn or for the budget that other calls hold.
    pub patience: Duration,
    /// How long an answer is still read after its client has gone, to learn what it took.
    pub drain: Duration,
    /// How long the end of a run waits for answers that nobody reads; then what they took is estimated.
    pub settle: Duration,
}

impl Default for Limits {
    /// 5 US dollars, 20 million tokens and 2,000 calls per run, 16 calls at a time.
    fn default() -> Self {
        Self {
            run_cost_nano_usd: Some(5_000_000_000),
            run_tokens: Some(20_000_000),
            run_calls: Some(2_000),
            run_parallel: 16,
            account_parallel: 64,
            patience: Duration::from_secs(30),
            drain: Duration::from_secs(120),
            settle: Duration::from_secs(10),
        }
    }
}
