//! From the name of a model to whoever answers.
//!
//! `provider/model-id` names both. A bare name belongs to a family (`claude-…` to Anthropic, `gpt-…` to OpenAI). Where
//! the family's provider has no key, the default model answers instead, so that a program written for one provider
//! runs on whatever there is; the answer tells which model that was. A name of no family goes to the provider that
//! speaks the client's own format, who knows best whether it exists.

use std::sync::{Arc, PoisonError};

use backlot_models::{
    ErrorKind, Model,
    local::{self, LocalModel, catalog},
    passthrough::Upstream,
    providers,
    wire::Wire,
};

use super::{
    CallError, Models, ProviderKeys,
    settings::{ANTHROPIC, Api, GEMINI, OPENAI, OPENAI_URL, Provider},
};
use crate::accounts::SecretString;

/// Who answers a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answerer {
    /// The provider.
    pub provider: String,
    /// The model, as its provider names it.
    pub model: String,
    /// Whether this is the default model in place of the one that was asked for.
    pub substituted: bool,
    /// Whether its tokens cost nothing.
    pub(super) is_free: bool,
    /// Whether the vendor's own prices hold.
    pub(super) is_vendor: bool,
}

impl Answerer {
    /// `provider/model-id`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.provider, self.model)
    }
}

/// What a name stands for.
pub struct Resolved {
    /// Who answers.
    pub answerer: Answerer,
    pub(super) place: Place,
}

/// Where a model is.
pub(super) enum Place {
    /// At a provider.
    Remote {
        /// What it speaks.
        api: Api,
        base_url: String,
        key: Option<SecretString>,
    },
    /// In this process.
    Local(Arc<LocalModel>),
}

impl Place {
    /// For requests that go on as they are, because the provider speaks the client's format.
    pub(super) fn upstream(&self, wire: Wire, client: &reqwest::Client) -> Option<Upstream> {
        match self {
            Self::Remote { api, base_url, key } if api.speaks(wire) => {
                let key = key.as_ref().map_or("", SecretString::expose);
                Some(Upstream::new(wire, base_url, key, client.clone()))
            }
            Self::Remote { .. } | Self::Local(_) => None,
        }
    }

    /// For requests in the neutral form.
    pub(super) fn model(&self, client: &reqwest::Client) -> Arc<dyn Model> {
        let (api, url, key) = match self {
            Self::Local(model) => return Arc::clone(model) as Arc<dyn Model>,
            Self::Remote { api, base_url, key } => {
                (*api, base_url.as_str(), key.as_ref().map_or("", SecretString::expose))
            }
        };
        let client = client.clone();
        match api {
            Api::Anthropic => Arc::new(providers::Anthropic::new(url, key, client)),
            // Reasoning survives in Responses only, which servers that imitate OpenAI rarely have.
            Api::OpenAi if url.trim_end_matches('/') == OPENAI_URL => {
                Arc::new(providers::OpenAiResponses::new(url, key, client))
            }
            Api::OpenAi => Arc::new(providers::OpenAiChat::new(url, key, client)),
            Api::Compatible => Arc::new(providers::Compatible::new(url, key, client)),
        }
    }

    /// The key that calls there are made with.
    pub(super) fn key(&self) -> Option<&SecretString> {
        match self {
            Self::Remote { key, .. } => key.as_ref(),
            Self::Local(_) => None,
        }
    }

    /// Whether an answer goes on, and costs, when nobody reads it.
    pub(super) fn is_remote(&self) -> bool {
        matches!(self, Self::Remote { .. })
    }
}

/// The provider whose family a bare name belongs to.
pub(super) fn family(model: &str) -> Option<&'static str> {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| model.starts_with(prefix));
    // `o1`, `o3-mini`, `o4-mini`: an o and a digit.
    let is_o_series = model.strip_prefix('o').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    if starts(&["claude"]) {
        Some(ANTHROPIC)
    } else if is_o_series || starts(&["gpt-", "chatgpt-", "codex-", "computer-use-", "ft:gpt-", "text-embedding-"]) {
        Some(OPENAI)
    } else if starts(&["gemini-"]) {
        Some(GEMINI)
    } else if catalog::find(model).is_some() {
        Some(local::PROVIDER)
    } else {
        None
    }
}

impl Models {
    /// Finds out who answers for a name. `wire` is the format that the client speaks, if it speaks any.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] with what to do when nobody can answer, [`ErrorKind::Invalid`] for an impossible name.
    pub fn resolve(&self, name: &str, wire: Option<Wire>, keys: &ProviderKeys) -> Result<Resolved, CallError> {
        let name = name.trim();
        if name.is_empty() || name.len() > 256 || name.chars().any(char::is_control) {
            let mut error = CallError::new(ErrorKind::Invalid, "model: expected the name of a model");
            error.field = Some("model".to_owned());
            return Err(error);
        }
        let (provider, model) = match name.split_once('/') {
            Some((provider, model)) if !model.is_empty() && self.is_known_provider(provider) => (Some(provider), model),
            _ if self.local_name() == Some(name) => (Some(local::PROVIDER), name),
            _ => (family(name), name),
        };
        if let Some(provider) = provider {
            let reached = self.reach(provider, model, keys)?;
            return reached.map_or_else(|| self.fall_back(name, keys), Ok);
        }
        let speaks = |provider: &&Provider| wire.is_none_or(|wire| provider.api.speaks(wire));
        let mut providers = self.settings.providers.iter().filter(speaks);
        // A provider of the operator's own choosing knows names that no family has.
        let first = providers.clone().find(|provider| !is_vendor(&provider.name)).or_else(|| providers.next());
        match first {
            Some(provider) => Ok(at(provider, name, provider.key.as_ref())),
            None => self.fall_back(name, keys),
        }
    }

    fn is_known_provider(&self, name: &str) -> bool {
        is_vendor(name)
            || name == local::PROVIDER
            || self.settings.providers.iter().any(|provider| provider.name == name)
    }

    /// The model at a provider, if there is a way to the provider.
    fn reach(&self, provider: &str, model: &str, keys: &ProviderKeys) -> Result<Option<Resolved>, CallError> {
        if provider == local::PROVIDER {
            return match self.local_name() {
                Some(name) if name == model => self.local_model().map(|local| Some(at_local(local, name))),
                _ => Ok(None),
            };
        }
        let own_key = match provider {
            ANTHROPIC => keys.anthropic.as_ref(),
            OPENAI => keys.openai.as_ref(),
            _ => None,
        };
        if let Some(configured) = self.settings.providers.iter().find(|candidate| candidate.name == provider) {
            return Ok(Some(at(configured, model, own_key.or(configured.key.as_ref()))));
        }
        let public = match provider {
            ANTHROPIC => Provider::anthropic(None, None),
            _ => Provider::openai(None, None),
        };
        Ok(own_key.map(|key| at(&public, model, Some(key))))
    }

    /// The default model, in place of one that cannot be reached.
    fn fall_back(&self, asked: &str, keys: &ProviderKeys) -> Result<Resolved, CallError> {
        let Some(default) = self.default_model() else {
            return Err(self.nobody_answers(asked));
        };
        let Some((provider, model)) = default.split_once('/') else { return Err(self.nobody_answers(asked)) };
        match self.reach(provider, model, keys)? {
            Some(mut resolved) => {
                resolved.answerer.substituted = true;
                Ok(resolved)
            }
            None => Err(self.nobody_answers(asked)),
        }
    }

    /// The default model as `provider/model-id`: the configured one, else that of the first provider, else the local
    /// one, whether its weights are there or not.
    #[must_use]
    pub fn default_model(&self) -> Option<String> {
        if let Some(default) = &self.settings.default_model {
            return Some(default.clone());
        }
        let of_provider =
            |provider: &Provider| provider.default_model.as_ref().map(|model| format!("{}/{model}", provider.name));
        self.settings
            .providers
            .iter()
            .find_map(of_provider)
            .or_else(|| self.local_name().map(|name| format!("{}/{name}", local::PROVIDER)))
    }

    /// A default model that can never be reached is a mistake of the operator, better told at start.
    pub(super) fn check_default_model(&self) -> Result<(), crate::Error> {
        let Some(default) = &self.settings.default_model else { return Ok(()) };
        match default.split_once('/') {
            Some((provider, model)) if !model.is_empty() && self.is_known_provider(provider) => Ok(()),
            _ => Err(crate::Error::invalid(
                "default-model",
                format!("`{default}` is not `provider/model-id` with a provider that is known here"),
            )),
        }
    }

    pub(super) fn local_name(&self) -> Option<&str> {
        self.settings.local.as_ref().map(|local| local.name.as_str())
    }

    /// The local model; it may be pulled while the server runs.
    pub(super) fn local_model(&self) -> Result<Arc<LocalModel>, CallError> {
        let Some(settings) = &self.settings.local else { return Err(self.nobody_answers(local::PROVIDER)) };
        let mut loaded = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = &*loaded {
            return Ok(Arc::clone(model));
        }
        match LocalModel::load(&settings.weights, settings.name.clone(), settings.options.clone()) {
            Ok(model) => Ok(Arc::clone(loaded.insert(Arc::new(model)))),
            Err(error) if error.kind == ErrorKind::NotFound => Err(self.nobody_answers(&settings.name)),
            Err(error) => Err(error.into()),
        }
    }

    fn nobody_answers(&self, asked: &str) -> CallError {
        let mut shown: String = asked.chars().take(80).collect();
        if shown.len() < asked.len() {
            shown.push('…');
        }
        CallError::new(
            ErrorKind::NotFound,
            format!(
                "no model can answer for `{shown}`: this server has no key for its provider and no local model. Set \
                 ANTHROPIC_API_KEY, OPENAI_API_KEY or GEMINI_API_KEY for the server, or fetch the local model with \
                 `backlot models pull`"
            ),
        )
        .code("model_not_found")
    }

    /// Who answered a call, from the words in the books.
    pub(super) fn answerer_of(&self, provider: &str, model: &str) -> Answerer {
        Answerer {
            provider: provider.to_owned(),
            model: model.to_owned(),
            substituted: false,
            is_free: provider == local::PROVIDER,
            is_vendor: is_vendor(provider),
        }
    }
}

fn is_vendor(provider: &str) -> bool {
    [ANTHROPIC, OPENAI, GEMINI].contains(&provider)
}

fn at(provider: &Provider, model: &str, key: Option<&SecretString>) -> Resolved {
    Resolved {
        answerer: Answerer {
            provider: provider.name.clone(),
            model: model.to_owned(),
            substituted: false,
            is_free: false,
            is_vendor: is_vendor(&provider.name),
        },
        place: Place::Remote { api: provider.api, base_url: provider.base_url.clone(), key: key.cloned() },
    }
}

fn at_local(model: Arc<LocalModel>, name: &str) -> Resolved {
    Resolved {
        answerer: Answerer {
            provider: local::PROVIDER.to_owned(),
            model: name.to_owned(),
            substituted: false,
            is_free: true,
            is_vendor: false,
        },
        place: Place::Local(model),
    }
}
