//! Model providers and outside identities, as their vendors' variables name them.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use backlot_domain::{
    DataFolder,
    accounts::{IdentityProvider, SecretString},
    models::{Local, Provider},
};
use backlot_models::local::{self, catalog};

use super::{file::CompatibleProvider, variable};

/// The local model that is the default where no provider is configured.
pub(crate) const LOCAL_MODEL: &str = "smollm2-135m-instruct";

/// Providers that have a key or an address, the preferred one first.
pub(super) fn configured(compatible: &BTreeMap<String, CompatibleProvider>) -> anyhow::Result<Vec<Provider>> {
    let key = |name: &str| variable(name).map(|text| SecretString::from(text.as_str()));
    let mut providers = Vec::new();
    let (anthropic_key, anthropic_url) = (key("ANTHROPIC_API_KEY"), variable("ANTHROPIC_BASE_URL"));
    if anthropic_key.is_some() || anthropic_url.is_some() {
        providers.push(Provider::anthropic(anthropic_url.as_deref(), anthropic_key));
    }
    let (openai_key, openai_url) = (key("OPENAI_API_KEY"), variable("OPENAI_BASE_URL"));
    if openai_key.is_some() || openai_url.is_some() {
        providers.push(Provider::openai(openai_url.as_deref(), openai_key));
    }
    let (gemini_key, gemini_url) = (key("GEMINI_API_KEY"), variable("GEMINI_BASE_URL"));
    if gemini_key.is_some() || gemini_url.is_some() {
        providers.push(Provider::gemini(gemini_url.as_deref(), gemini_key));
    }
    for (name, provider) in compatible {
        let is_name =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !is_name || ["anthropic", "openai", "gemini", local::PROVIDER].contains(&name.as_str()) {
            bail!("[providers.{name}]: the name must be of a-z, 0-9 and -, and not one of the built-in providers");
        }
        let key = match &provider.api_key_env {
            Some(env) => {
                let text = variable(env);
                let text = text.with_context(|| format!("[providers.{name}]: the variable {env} is not set"))?;
                Some(SecretString::from(text.as_str()))
            }
            None => None,
        };
        providers.push(Provider::compatible(name, &provider.base_url, key, provider.default_model.clone()));
    }
    Ok(providers)
}

/// The embedded model, whether its weights are there yet or not.
pub(super) fn local_model(data: &DataFolder) -> Local {
    let weights = catalog::find(LOCAL_MODEL)
        .map_or_else(|| data.models().join(LOCAL_MODEL), |entry| entry.path_in(&data.models()));
    Local { name: LOCAL_MODEL.to_owned(), weights, options: local::Options::default() }
}

/// The outside identity provider whose bearer tokens are accepted.
pub(super) fn identity(extra_ca: Option<&[u8]>) -> anyhow::Result<Option<IdentityProvider>> {
    let Some(jwks_url) = variable("BACKLOT_JWKS_URL") else { return Ok(None) };
    let Some(issuer) = variable("BACKLOT_JWT_ISSUER") else {
        bail!("BACKLOT_JWKS_URL is set, but BACKLOT_JWT_ISSUER is not: tokens of any issuer would be accepted");
    };
    let http = backlot_models::http::http_client(extra_ca)?;
    Ok(Some(IdentityProvider { jwks_url, issuer, audience: variable("BACKLOT_JWT_AUDIENCE"), http }))
}
