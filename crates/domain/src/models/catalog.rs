//! Which models the gateway answers for.
//!
//! Each provider is asked for its own list, which is kept for a while; a provider that cannot be asked is listed with
//! its default model. Names are written so that they can be used as they stand: bare where the name's family leads to
//! the provider, `provider/model-id` elsewhere.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use backlot_models::{
    local,
    local::catalog as local_catalog,
    passthrough::Upstream,
    wire::{ModelCard, Wire},
};
use futures::StreamExt as _;
use reqwest::{Method, header::HeaderMap};
use serde_json::Value;

use super::{
    CallError, GatewayCaller, Models,
    settings::{Api, Provider},
};
use crate::{Timestamp, accounts::SecretString};

/// How long a provider's list is kept.
const FRESH: Duration = Duration::from_secs(600);
/// How long a provider is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest list that is read, in bytes.
const LARGEST_LIST: usize = 4 * 1024 * 1024;
/// Most models taken over from one provider.
const MOST_MODELS: usize = 1000;

/// A provider's list and when it was read.
pub(super) type Lists = HashMap<String, (Timestamp, Arc<Vec<ModelCard>>)>;

impl Models {
    /// All models, the default one first.
    pub async fn list_models(&self) -> Vec<ModelCard> {
        let lists = self.settings.providers.iter().map(|provider| self.list_of(provider));
        let lists = futures::future::join_all(lists).await;
        let mut cards: Vec<ModelCard> = lists.iter().flat_map(|list| list.iter().cloned()).collect();
        cards.extend(self.local_card());
        if let Some(default) = self.default_model()
            && let Some(place) = cards.iter().position(|card| is_named(card, &default))
        {
            let card = cards.remove(place);
            cards.insert(0, card);
        }
        cards
    }

    /// The model of that name, as `provider/model-id` or as it stands in the list.
    ///
    /// # Errors
    /// Not found, with what to do about it.
    pub async fn find_model(&self, caller: &GatewayCaller, name: &str, wire: Wire) -> Result<ModelCard, CallError> {
        if let Some(card) = self.list_models().await.into_iter().find(|card| is_named(card, name)) {
            return Ok(card);
        }
        // Not listed, but answered for: the caller's own keys, or the default model in its place.
        let answerer = self.resolve(name, Some(wire), &caller.keys)?.answerer;
        let id = if answerer.substituted { answerer.full_name() } else { answerer.model.clone() };
        Ok(ModelCard { display_name: id.clone(), id, owner: answerer.provider, created: 0 })
    }

    async fn list_of(&self, provider: &Provider) -> Arc<Vec<ModelCard>> {
        let now = self.clock.now();
        {
            let lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((read_at, list)) = lists.get(&provider.name)
                && now >= *read_at
                && now < read_at.after(FRESH)
            {
                return Arc::clone(list);
            }
        }
        let read = tokio::time::timeout(PATIENCE, self.read_list(provider)).await;
        let list = match read.unwrap_or_else(|_| Err("it did not answer in time".to_owned())) {
            Ok(list) => list,
            Err(reason) => {
                tracing::warn!(provider = provider.name, reason, "a provider's list of models cannot be read");
                let default = provider.default_model.iter();
                default.map(|id| card(provider, id, None, 0)).collect()
            }
        };
        let list = Arc::new(list);
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.insert(provider.name.clone(), (now, Arc::clone(&list)));
        list
    }

    async fn read_list(&self, provider: &Provider) -> Result<Vec<ModelCard>, String> {
        let (wire, path) = match provider.api {
            Api::Anthropic => (Wire::AnthropicMessages, "/v1/models?limit=1000"),
            Api::OpenAi | Api::Compatible => (Wire::OpenAiChat, "/models"),
        };
        let key = provider.key.as_ref().map_or("", SecretString::expose);
        let upstream = Upstream::new(wire, &provider.base_url, key, self.client.clone());
        let answer = upstream.forward(Method::GET, path, &HeaderMap::new(), bytes::Bytes::new()).await;
        let mut answer = answer.map_err(|error| error.message)?;
        if !answer.status.is_success() {
            return Err(format!("it answered with status {}", answer.status.as_u16()));
        }
        let mut body = Vec::new();
        while let Some(bytes) = answer.body.next().await {
            body.extend_from_slice(&bytes.map_err(|error| error.message)?);
            if body.len() > LARGEST_LIST {
                return Err("its list is too long".to_owned());
            }
        }
        let body: Value = serde_json::from_slice(&body).map_err(|_| "it sent no JSON".to_owned())?;
        let data = body.get("data").and_then(Value::as_array).ok_or("it sent no list")?;
        let cards = data.iter().take(MOST_MODELS).filter_map(|model| {
            let id = model.get("id").and_then(Value::as_str)?;
            // Google writes `models/gemini-…` and accepts the bare name.
            let id = id.strip_prefix("models/").unwrap_or(id);
            let name = model.get("display_name").and_then(Value::as_str);
            let created = model.get("created").and_then(Value::as_u64).or_else(|| {
                let text = model.get("created_at").and_then(Value::as_str)?;
                let time: jiff::Timestamp = text.parse().ok()?;
                u64::try_from(time.as_second()).ok()
            });
            Some(card(provider, id, name, created.unwrap_or(0)))
        });
        Ok(cards.collect())
    }

    /// The local model, once its weights are there.
    fn local_card(&self) -> Option<ModelCard> {
        let local = self.settings.local.as_ref().filter(|local| local.weights.is_file())?;
        let id = format!("{}/{}", local::PROVIDER, local.name);
        let display_name = local_catalog::find(&local.name).map_or(local.name.as_str(), |entry| entry.description);
        Some(ModelCard { id, display_name: display_name.to_owned(), owner: local::PROVIDER.to_owned(), created: 0 })
    }
}

fn card(provider: &Provider, id: &str, display_name: Option<&str>, created: u64) -> ModelCard {
    let leads_there = super::resolve::family(id) == Some(provider.name.as_str());
    let id = if leads_there { id.to_owned() } else { format!("{}/{id}", provider.name) };
    let display_name = display_name.unwrap_or(&id).to_owned();
    ModelCard { display_name, owner: provider.name.clone(), created, id }
}

/// Whether a listed model has this name, with or without its provider.
fn is_named(card: &ModelCard, name: &str) -> bool {
    let without_provider = |text: &str| {
        text.strip_prefix(card.owner.as_str()).and_then(|rest| rest.strip_prefix('/')).unwrap_or(text).to_owned()
    };
    card.id == name || without_provider(&card.id) == without_provider(name)
}
