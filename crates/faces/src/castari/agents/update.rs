//! `PATCH /agents/{slug}`

use axum::{Json, extract::State};
use backlot_domain::code_agents::{self, AgentPatch};

use super::{Agent, AgentConfig, AgentPath};
use crate::{
    castari::{
        Castari,
        caller::CastariCaller,
        error::ApiError,
        extract::{Body, Path},
    },
    http::fields::{Fields, FromFields, integer, object, text, word},
};

/// Changes to an agent; what is absent stays (spec/castari.md 8.6).
#[derive(Debug, utoipa::ToSchema)]
pub(crate) struct UpdateAgent {
    /// New name for people.
    #[schema(min_length = 1, max_length = 200, nullable = false)]
    name: Option<String>,
    /// New description; null removes it.
    #[schema(max_length = 2000, value_type = Option<String>)]
    description: Option<Option<String>>,
    /// New repository; makes the agent a git agent.
    #[schema(nullable = false)]
    git_repo_url: Option<String>,
    /// New branch, deployed from the next deployment on.
    #[schema(nullable = false)]
    git_branch: Option<String>,
    /// New model, from the next invocation on.
    #[schema(min_length = 1, max_length = 200, nullable = false)]
    default_model: Option<String>,
    /// New limit of turns, from the next invocation on.
    #[schema(minimum = 1, maximum = 500, nullable = false)]
    max_turns: Option<u32>,
    /// New time limit, from the next invocation on.
    #[schema(minimum = 1, maximum = 600, nullable = false)]
    timeout_seconds: Option<u32>,
    /// New settings; they replace the old ones whole.
    #[schema(nullable = false)]
    agent_config: Option<AgentConfig>,
    /// New reach of its sandboxes.
    #[schema(value_type = Option<super::NetworkMode>, nullable = false)]
    network: Option<code_agents::NetworkMode>,
}

impl FromFields for UpdateAgent {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            name: fields.change("name", text(1, 200)),
            description: fields.nullable("description", text(0, 2000)),
            git_repo_url: fields.change("git_repo_url", text(1, 2000)),
            git_branch: fields.change("git_branch", text(1, 255)),
            default_model: fields.change("default_model", text(1, 200)),
            max_turns: fields.change("max_turns", integer(1, 500)),
            timeout_seconds: fields.change("timeout_seconds", integer(1, 600)),
            agent_config: fields.change("agent_config", object()),
            network: fields.change("network", word(code_agents::NetworkMode::WORDS, |text| text.parse().ok())),
        }
    }
}

/// Changes an agent's settings. Slug and source type stay for ever.
#[utoipa::path(
    patch, path = "/api/v1/agents/{slug}", operation_id = "update_agent", tag = "agents", params(AgentPath),
    request_body = UpdateAgent, responses((status = 200, body = Agent)),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Path(path): Path<AgentPath>,
    Body(changes): Body<UpdateAgent>,
) -> Result<Json<Agent>, ApiError> {
    let patch = AgentPatch {
        name: changes.name,
        description: changes.description,
        git_repo_url: changes.git_repo_url,
        git_branch: changes.git_branch,
        default_model: changes.default_model,
        max_turns: changes.max_turns,
        timeout_seconds: changes.timeout_seconds,
        config: changes.agent_config.map(Into::into),
        network: changes.network,
    };
    let agent = castari.domain.code_agents.update(&caller, &path.slug, patch).await?;
    Ok(Json(agent.into()))
}
