//! What an agent is, and which settings are allowed.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, FieldError, Kind, Timestamp};

/// An agent (seed: SDK types; spec/castari.md 8.1).
#[derive(Debug, Clone, PartialEq)]
pub struct Agent {
    /// `agt_…`
    pub id: String,
    /// Whose it is.
    pub account_id: String,
    /// Name for people, 1 to 200 characters.
    pub name: String,
    /// Name in addresses, unique within the account.
    pub slug: String,
    /// What it is for, at most 2,000 characters.
    pub description: Option<String>,
    /// Where its code comes from.
    pub source_type: SourceType,
    /// The repository, when the code comes from git.
    pub git_repo_url: Option<String>,
    /// The branch that is deployed.
    pub git_branch: String,
    /// Commit or content hash of the deployed code.
    pub source_hash: Option<String>,
    /// The model the program is told to ask for.
    pub default_model: String,
    /// Turns the program is told to take at most.
    pub max_turns: u32,
    /// Wall-clock limit of one invocation, 1 to 600 seconds.
    pub timeout_seconds: u32,
    /// Further settings handed to the program.
    pub config: AgentConfig,
    /// What its sandboxes may reach.
    pub network: NetworkMode,
    /// How far it has come.
    pub status: AgentStatus,
    /// The last transition or failure in words.
    pub status_message: Option<String>,
    /// The prepared sandbox.
    pub sandbox_id: Option<String>,
    /// The release that answers.
    pub release_id: Option<String>,
    /// Blob of uploaded code that is not deployed yet.
    pub pending_source: Option<String>,
    /// Consecutive failures to start a sandbox.
    pub start_failures: u32,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// Settings that are stored, returned and exported to the program (spec/castari.md 8.1 `agent_config`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentConfig {
    /// Overrides the agent's default model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Overrides the agent's turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_turns: Option<u32>,
    /// A system prompt for the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant),* }

        impl $name {
            /// Every word, in order.
            pub const WORDS: &[&str] = &[$($word),*];

            /// The word on the wire and in the database.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self, Error> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(Error::new(
                        Kind::Invalid,
                        "validation_error",
                        format!("`{text}` is none of {}", Self::WORDS.join(", ")),
                    )),
                }
            }
        }
    };
}

words!(
    /// Where an agent's code comes from.
    SourceType {
        /// A git repository.
        Git = "git",
        /// An upload.
        Local = "local",
    }
);

words!(
    /// How far an agent has come (spec/castari.md 8.2).
    AgentStatus {
        /// Created, not deployed.
        Draft = "draft",
        /// A first deployment is being built.
        Deploying = "deploying",
        /// Answers invocations.
        Active = "active",
        /// Stopped by its owner.
        Stopped = "stopped",
        /// The deployment failed, or its sandboxes do not start.
        Error = "error",
    }
);

words!(
    /// What an agent's sandboxes may reach besides the model gateway.
    NetworkMode {
        /// Everything public.
        Public = "public",
        /// Nothing.
        None = "none",
    }
);

/// An agent that somebody asks for.
#[derive(Debug, Clone, Default)]
pub struct NewAgent {
    /// Name for people.
    pub name: String,
    /// Name in addresses; derived from the name when absent.
    pub slug: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// Where its code comes from; git when absent.
    pub source_type: Option<SourceType>,
    /// The repository.
    pub git_repo_url: Option<String>,
    /// The branch; `main` when absent.
    pub git_branch: Option<String>,
    /// The model; the server's default when absent.
    pub default_model: Option<String>,
    /// Turns; 50 when absent.
    pub max_turns: Option<u32>,
    /// Seconds; 120 when absent.
    pub timeout_seconds: Option<u32>,
    /// Further settings.
    pub config: Option<AgentConfig>,
    /// Reach of its sandboxes; public when absent.
    pub network: Option<NetworkMode>,
}

/// Changes to an agent; what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct AgentPatch {
    /// New name.
    pub name: Option<String>,
    /// New description; `Some(None)` removes it.
    pub description: Option<Option<String>>,
    /// New repository; makes the agent a git agent.
    pub git_repo_url: Option<String>,
    /// New branch.
    pub git_branch: Option<String>,
    /// New model.
    pub default_model: Option<String>,
    /// New limit of turns.
    pub max_turns: Option<u32>,
    /// New time limit.
    pub timeout_seconds: Option<u32>,
    /// New settings.
    pub config: Option<AgentConfig>,
    /// New reach.
    pub network: Option<NetworkMode>,
}

/// Words that cannot be slugs, because addresses need them (spec/castari.md 2).
const RESERVED_SLUGS: &[&str] = &[
    "agents",
    "files",
    "buckets",
    "usage",
    "api-keys",
    "auth",
    "invocations",
    "sandbox",
    "sandboxes",
    "gateway",
    "health",
    "openapi",
];
/// Longest slug.
const SLUG_LENGTH: usize = 100;

/// Collects what is wrong, so that everything is told at once.
#[derive(Default)]
pub(super) struct Faults(Vec<FieldError>);

impl Faults {
    pub(super) fn add(&mut self, field: &str, message: impl Into<String>) {
        self.0.push(FieldError { path: vec![field.to_owned()], message: message.into() });
    }

    fn length(&mut self, field: &str, text: &str, least: usize, most: usize) {
        let length = text.chars().count();
        if length < least {
            self.add(field, format!("ensure this value has at least {least} characters"));
        } else if length > most {
            self.add(field, format!("ensure this value has at most {most} characters"));
        }
    }

    fn range(&mut self, field: &str, value: u32, least: u32, most: u32) {
        if value < least {
            self.add(field, format!("ensure this value is greater than or equal to {least}"));
        } else if value > most {
            self.add(field, format!("ensure this value is less than or equal to {most}"));
        }
    }

    pub(super) fn into_result(self) -> Result<(), Error> {
        let Some(first) = self.0.first() else { return Ok(()) };
        let mut error =
            Error::new(Kind::Invalid, "validation_error", format!("{}: {}", first.path.join("."), first.message));
        error.fields = self.0;
        Err(error)
    }
}

/// Checks the settings that creating and changing have in common.
#[derive(Default)]
pub(super) struct Candidate<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) slug: Option<&'a str>,
    pub(super) description: Option<&'a str>,
    pub(super) git_repo_url: Option<&'a str>,
    pub(super) git_branch: Option<&'a str>,
    pub(super) default_model: Option<&'a str>,
    pub(super) max_turns: Option<u32>,
    pub(super) timeout_seconds: Option<u32>,
    pub(super) config: Option<&'a AgentConfig>,
}

impl Candidate<'_> {
    /// Tells everything that is wrong at once.
    pub(super) fn check(&self) -> Result<(), Error> {
        let mut faults = Faults::default();
        if let Some(name) = self.name {
            faults.length("name", name.trim(), 1, 200);
        }
        if let Some(slug) = self.slug
            && let Err(reason) = check_slug(slug)
        {
            faults.add("slug", reason);
        }
        if let Some(description) = self.description {
            faults.length("description", description, 0, 2000);
        }
        if let Some(url) = self.git_repo_url
            && let Err(reason) = check_git_url(url)
        {
            faults.add("git_repo_url", reason);
        }
        if let Some(branch) = self.git_branch
            && !is_git_ref(branch)
        {
            faults.add("git_branch", "is not a valid branch name");
        }
        if let Some(model) = self.default_model {
            faults.length("default_model", model, 1, 200);
        }
        if let Some(turns) = self.max_turns {
            faults.range("max_turns", turns, 1, 500);
        }
        if let Some(seconds) = self.timeout_seconds {
            faults.range("timeout_seconds", seconds, 1, 600);
        }
        if let Some(config) = self.config {
            if let Some(turns) = config.max_turns {
                faults.range("agent_config.max_turns", turns, 1, 500);
            }
            if let Some(prompt) = &config.system_prompt {
                faults.length("agent_config.system_prompt", prompt, 0, 100_000);
            }
        }
        faults.into_result()
    }
}

fn check_slug(slug: &str) -> Result<(), String> {
    let fits = !slug.is_empty()
        && slug.len() <= SLUG_LENGTH
        && slug.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !slug.starts_with('-')
        && !slug.ends_with('-');
    if !fits {
        return Err(String::from("string does not match regex \"^[a-z0-9](?:[a-z0-9-]{0,98}[a-z0-9])?$\""));
    }
    if RESERVED_SLUGS.contains(&slug) {
        return Err(format!("`{slug}` is reserved"));
    }
    Ok(())
}

/// Only addresses that git can fetch without touching this machine; the host itself is checked when it is resolved.
pub(super) fn check_git_url(url: &str) -> Result<(), String> {
    let parsed = url::Url::parse(url).map_err(|_| String::from("invalid or missing URL scheme"))?;
    if parsed.scheme() != "https" && parsed.scheme() != "http" {
        return Err(String::from("invalid or missing URL scheme; https is supported"));
    }
    // The parser forgives what git, which gets the text as it is, understands in ways of its own.
    let is_forgiven = url.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\');
    let after_scheme = url.split_once("://").map(|(_, rest)| rest);
    if is_forgiven || after_scheme.is_none_or(|rest| rest.is_empty() || rest.starts_with('/')) {
        return Err(String::from("invalid URL: the host is missing or the address is malformed"));
    }
    if parsed.host_str().is_none_or(str::is_empty) {
        return Err(String::from("invalid URL: the host is missing"));
    }
    if parsed.password().is_some() || !parsed.username().is_empty() {
        return Err(String::from("must not contain credentials; set the secret CASTARI_GIT_TOKEN instead"));
    }
    Ok(())
}

/// The rules of `git check-ref-format` that matter, and nothing that looks like an option.
pub(super) fn is_git_ref(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with(['-', '/', '.'])
        && !name.ends_with(['/', '.'])
        && !name.contains("..")
        && !name.contains("//")
        && !name.contains("@{")
        && !name.split('/').any(|part| part.ends_with(".lock") || part.starts_with('.'))
        && name.chars().all(|c| !c.is_control() && !matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\'))
}

/// The slug that a name suggests; empty when the name has no usable character (spec/castari.md 2).
pub(super) fn slug_of(name: &str) -> String {
    let mut slug = String::new();
    for c in name.to_lowercase().chars() {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(SLUG_LENGTH);
    slug.trim_end_matches('-').to_owned()
}

/// Whether a derived slug may be used as it is.
pub(super) fn is_reserved(slug: &str) -> bool {
    RESERVED_SLUGS.contains(&slug)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_follow_from_names() {
        assert_eq!(slug_of("My Agent"), "my-agent");
        assert_eq!(slug_of("  Ünïcode & Co. 2 "), "n-code-co-2");
        assert_eq!(slug_of("→→"), "");
        assert_eq!(slug_of(&"x-".repeat(200)).len(), 99);
    }

    #[test]
    fn slugs_are_checked() {
        for good in ["a", "a-b", "0", &"x".repeat(100)] {
            assert_eq!(check_slug(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "ä", "agents", &"x".repeat(101)] {
            assert!(check_slug(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn refs_that_could_be_options_or_escape_are_refused() {
        for good in ["main", "feature/x", "v1.2"] {
            assert!(is_git_ref(good), "{good}");
        }
        for bad in ["", "-x", "--upload-pack=x", "a..b", "a b", "/a", "a/", "a.lock", "x/.y", "a@{1}", "a\n", "a^"] {
            assert!(!is_git_ref(bad), "{bad}");
        }
    }

    #[test]
    fn addresses_that_could_touch_this_machine_are_refused() {
        assert_eq!(check_git_url("https://git.example.org/acme/x"), Ok(()));
        for bad in ["file:///etc", "ext::sh -c id", "ssh://x/y", "git@x:y", "/etc", "https://u:p@x/y", "https://"] {
            assert!(check_git_url(bad).is_err(), "{bad}");
        }
        for bad in ["https:///x", "https:x", "https:\\\\x/y", "https://x/y z", " https://x/y", "https://x/\ny"] {
            assert!(check_git_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let candidate =
            Candidate { name: Some(""), slug: Some("A"), timeout_seconds: Some(900), ..Candidate::default() };
        let error = candidate.check().expect_err("three faults");
        let fields: Vec<_> = error.fields.iter().map(|field| field.path.join(".")).collect();
        assert_eq!(fields, ["name", "slug", "timeout_seconds"]);
    }
}
