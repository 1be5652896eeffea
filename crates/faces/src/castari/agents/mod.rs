//! Agents: manage, deploy, invoke (seed: "Agents").

pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod deploy;
pub(crate) mod get;
pub(crate) mod invoke;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod redeploy;
pub(crate) mod stop;
pub(crate) mod stop_legacy;
pub(crate) mod stream;
pub(crate) mod update;
pub(crate) mod upload_code;
pub(crate) mod upload_legacy;

use backlot_domain::code_agents;
use serde::{Deserialize, Serialize};

use crate::http::fields::{Fields, FromFields, Pattern, integer, text};

/// The variable part of an agent's address.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct AgentPath {
    /// The agent's name in addresses.
    pub(crate) slug: String,
}

/// An agent (seed: SDK types, `Agent`; spec/castari.md 8.1).
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Agent {
    /// `agt_…`
    id: String,
    /// Whose it is.
    user_id: String,
    /// Name for people.
    name: String,
    /// Name in addresses, unique within the account.
    slug: String,
    /// What it is for.
    description: Option<String>,
    /// `git` or `local`.
    source_type: SourceType,
    /// The repository, when the code comes from git.
    git_repo_url: Option<String>,
    /// The branch that is deployed.
    git_branch: String,
    /// Commit or content hash of the deployed code.
    source_hash: Option<String>,
    /// The model the program is told to ask for.
    default_model: String,
    /// Turns the program is told to take at most.
    max_turns: u32,
    /// Wall-clock limit of one invocation.
    timeout_seconds: u32,
    /// How far it has come.
    status: AgentStatus,
    /// The last transition or failure in words.
    status_message: Option<String>,
    /// The prepared sandbox while deployed.
    sandbox_id: Option<String>,
    /// Settings handed to the program.
    agent_config: AgentConfig,
    /// What its sandboxes may reach: `public` or `none`. An addition of ours.
    network: NetworkMode,
    /// ISO 8601 in UTC.
    created_at: String,
    /// ISO 8601 in UTC.
    updated_at: String,
}

/// Where an agent's code comes from.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SourceType {
    /// A git repository.
    Git,
    /// An upload.
    Local,
}

/// How far an agent has come (spec/castari.md 8.2).
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AgentStatus {
    /// Created, not deployed.
    Draft,
    /// A deployment is being built.
    Deploying,
    /// Answers invocations.
    Active,
    /// Stopped by its owner.
    Stopped,
    /// The deployment failed, or its sandboxes do not start.
    Error,
}

/// What an agent's sandboxes may reach besides the model gateway.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NetworkMode {
    /// Every public address.
    Public,
    /// Nothing.
    None,
}

/// Settings that are stored, returned and handed to the program.
#[derive(Debug, Clone, Default, Serialize, utoipa::ToSchema)]
pub(crate) struct AgentConfig {
    /// Overrides the agent's model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 200)]
    model: Option<String>,
    /// Overrides the agent's turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 500)]
    max_turns: Option<u32>,
    /// A system prompt for the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 100_000)]
    system_prompt: Option<String>,
}

impl From<code_agents::SourceType> for SourceType {
    fn from(source: code_agents::SourceType) -> Self {
        match source {
            code_agents::SourceType::Git => Self::Git,
            code_agents::SourceType::Local => Self::Local,
        }
    }
}

impl From<code_agents::AgentStatus> for AgentStatus {
    fn from(status: code_agents::AgentStatus) -> Self {
        match status {
            code_agents::AgentStatus::Draft => Self::Draft,
            code_agents::AgentStatus::Deploying => Self::Deploying,
            code_agents::AgentStatus::Active => Self::Active,
            code_agents::AgentStatus::Stopped => Self::Stopped,
            code_agents::AgentStatus::Error => Self::Error,
        }
    }
}

impl From<code_agents::NetworkMode> for NetworkMode {
    fn from(network: code_agents::NetworkMode) -> Self {
        match network {
            code_agents::NetworkMode::Public => Self::Public,
            code_agents::NetworkMode::None => Self::None,
        }
    }
}

impl From<code_agents::Agent> for Agent {
    fn from(agent: code_agents::Agent) -> Self {
        Self {
            id: agent.id,
            user_id: agent.account_id,
            name: agent.name,
            slug: agent.slug,
            description: agent.description,
            source_type: agent.source_type.into(),
            git_repo_url: agent.git_repo_url,
            git_branch: agent.git_branch,
            source_hash: agent.source_hash,
            default_model: agent.default_model,
            max_turns: agent.max_turns,
            timeout_seconds: agent.timeout_seconds,
            status: agent.status.into(),
            status_message: agent.status_message,
            sandbox_id: agent.sandbox_id,
            agent_config: AgentConfig {
                model: agent.config.model,
                max_turns: agent.config.max_turns,
                system_prompt: agent.config.system_prompt,
            },
            network: agent.network.into(),
            created_at: agent.created_at.to_iso(),
            updated_at: agent.updated_at.to_iso(),
        }
    }
}

impl FromFields for AgentConfig {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            model: fields.optional("model", text(1, 200)),
            max_turns: fields.optional("max_turns", integer(1, 500)),
            system_prompt: fields.optional("system_prompt", text(0, 100_000)),
        }
    }
}

impl From<AgentConfig> for code_agents::AgentConfig {
    fn from(config: AgentConfig) -> Self {
        Self { model: config.model, max_turns: config.max_turns, system_prompt: config.system_prompt }
    }
}

/// The grammar of slugs (spec/castari.md 2).
pub(crate) const SLUG: Pattern = Pattern { regex: "^[a-z0-9](?:[a-z0-9-]{0,98}[a-z0-9])?$", fits: is_slug };

fn is_slug(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !text.starts_with('-')
        && !text.ends_with('-')
}
