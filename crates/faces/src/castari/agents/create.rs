//! `POST /agents`

use axum::{Json, extract::State, http::StatusCode};
use backlot_domain::code_agents::{self, NewAgent};

use super::{Agent, AgentConfig, SLUG};
use crate::{
    castari::{Castari, caller::CastariCaller, error::ApiError, extract::Body},
    http::fields::{Fields, FromFields, integer, object, text, word},
};

/// An agent that somebody asks for (seed: SDK types, `CreateAgentOptions`; spec/castari.md 8.4).
#[derive(Debug, utoipa::ToSchema)]
pub(crate) struct CreateAgent {
    /// Name for people.
    #[schema(min_length = 1, max_length = 200)]
    name: String,
    /// Name in addresses; derived from the name when absent.
    #[schema(pattern = "^[a-z0-9](?:[a-z0-9-]{0,98}[a-z0-9])?$")]
    slug: Option<String>,
    /// What it is for.
    #[schema(max_length = 2000)]
    description: Option<String>,
    /// Where its code comes from; `git` when absent.
    #[schema(value_type = Option<super::SourceType>)]
    source_type: Option<code_agents::SourceType>,
    /// The repository, over https. May be set later; deploying needs it.
    git_repo_url: Option<String>,
    /// The branch; `main` when absent.
    git_branch: Option<String>,
    /// The model the program is told to ask for; the server's default when absent.
    #[schema(min_length = 1, max_length = 200)]
    default_model: Option<String>,
    /// Turns the program is told to take at most; 50 when absent.
    #[schema(minimum = 1, maximum = 500)]
    max_turns: Option<u32>,
    /// Wall-clock limit of one invocation; 120 when absent.
    #[schema(minimum = 1, maximum = 600)]
    timeout_seconds: Option<u32>,
    /// Settings handed to the program.
    agent_config: Option<AgentConfig>,
    /// What its sandboxes may reach; `public` when absent.
    #[schema(value_type = Option<super::NetworkMode>)]
    network: Option<code_agents::NetworkMode>,
}

impl FromFields for CreateAgent {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            name: fields.required("name", text(1, 200)),
            slug: fields.optional("slug", text(0, usize::MAX).of(SLUG)),
            description: fields.optional("description", text(0, 2000)),
            source_type: fields.optional("source_type", word(code_agents::SourceType::WORDS, |text| text.parse().ok())),
            git_repo_url: fields.optional("git_repo_url", text(1, 2000)),
            git_branch: fields.optional("git_branch", text(1, 255)),
            default_model: fields.optional("default_model", text(1, 200)),
            max_turns: fields.optional("max_turns", integer(1, 500)),
            timeout_seconds: fields.optional("timeout_seconds", integer(1, 600)),
            agent_config: fields.optional("agent_config", object()),
            network: fields.optional("network", word(code_agents::NetworkMode::WORDS, |text| text.parse().ok())),
        }
    }
}

/// Creates an agent in the status `draft`.
///
/// A git agent without a repository is accepted, as in the imitated service; deploying it then fails with `no_source`.
#[utoipa::path(
    post, path = "/api/v1/agents", operation_id = "create_agent", tag = "agents", request_body = CreateAgent,
    responses((status = 201, body = Agent), (status = 400, description = "The slug is taken (`slug_taken`)")),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Body(new): Body<CreateAgent>,
) -> Result<(StatusCode, Json<Agent>), ApiError> {
    let new = NewAgent {
        name: new.name,
        slug: new.slug,
        description: new.description,
        source_type: new.source_type,
        git_repo_url: new.git_repo_url,
        git_branch: new.git_branch,
        default_model: new.default_model,
        max_turns: new.max_turns,
        timeout_seconds: new.timeout_seconds,
        config: new.agent_config.map(Into::into),
        network: new.network,
    };
    let agent = castari.domain.code_agents.create(&caller, new).await?;
    Ok((StatusCode::CREATED, Json(agent.into())))
}
