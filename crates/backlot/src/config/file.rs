//! `backlot.toml`: the same settings as the flags, and what does not fit into flags.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::Deserialize;

/// The file's keys are the flags' names with underscores.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) listen: Option<String>,
    pub(super) data: Option<PathBuf>,
    pub(super) database_url: Option<String>,
    pub(super) blobs_url: Option<String>,
    pub(super) public_url: Option<String>,
    #[expect(dead_code, reason = "accepted already, so that a file need not change when sites arrive")]
    sites_domain: Option<String>,
    #[expect(dead_code, reason = "accepted already, so that a file need not change when sites arrive")]
    ssh_listen: Option<String>,
    pub(super) sandbox: Option<String>,
    pub(super) signup: Option<String>,
    pub(super) anonymous: Option<String>,
    pub(super) allow_networks: Option<Vec<String>>,
    pub(super) extra_ca: Option<PathBuf>,
    pub(super) build_env: Option<Vec<String>>,
    pub(super) rate_limits: Option<String>,
    pub(super) default_model: Option<String>,
    pub(super) prices: Option<PathBuf>,
    /// Host names and browser origins of the API faces.
    #[serde(default)]
    pub(super) faces: Faces,
    /// Servers that speak the OpenAI format, by a name of the operator's choice.
    #[serde(default)]
    pub(super) providers: BTreeMap<String, CompatibleProvider>,
}

/// `[faces]`: a face with a host name of its own has its paths start at `/` there.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Faces {
    pub(super) castari: Option<String>,
    pub(super) caster: Option<String>,
    /// Origins of web pages that may call the API from a browser; `*` for all.
    #[serde(default)]
    pub(super) cors_origins: Vec<String>,
}

/// A server that speaks OpenAI's Chat Completions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CompatibleProvider {
    pub(super) base_url: String,
    /// Name of the variable that holds the key, so that no key stands in the file.
    pub(super) api_key_env: Option<String>,
    pub(super) default_model: Option<String>,
}

impl File {
    /// Reads the file named, or `./backlot.toml` if it exists, or nothing.
    pub(super) fn load(named: Option<&Path>) -> anyhow::Result<Self> {
        let (path, must_exist) = named.map_or((Path::new("backlot.toml"), false), |path| (path, true));
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).with_context(|| format!("in {}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}
