//! `POST /agents/{slug}/deploy`

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use backlot_domain::code_agents::{DeployRequest, Deployed};

use super::{Agent, AgentPath};
use crate::{
    castari::{
        Castari,
        caller::CastariCaller,
        error::ApiError,
        extract::{OptionalBody, Path},
    },
    http::fields::{Boolean, Fields, FromFields, text},
};

/// How long a deployment is waited for: shorter than the released client's 120 s (spec/castari.md 8.9).
const WAIT: Duration = Duration::from_secs(100);

/// What to deploy; every field may be absent, and so may the whole body.
#[derive(Debug, utoipa::ToSchema)]
pub(crate) struct Deploy {
    /// Another branch than the agent's.
    #[schema(min_length = 1, max_length = 255)]
    git_branch: Option<String>,
    /// A commit instead of the branch's newest.
    #[schema(min_length = 1, max_length = 255)]
    git_commit: Option<String>,
    /// `false` answers at once.
    wait: Option<bool>,
}

impl FromFields for Deploy {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            git_branch: fields.optional("git_branch", text(1, 255)),
            git_commit: fields.optional("git_commit", text(1, 255)),
            wait: fields.optional("wait", Boolean),
        }
    }
}

impl Deploy {
    pub(super) fn into_request(self, headers: &HeaderMap, force: bool) -> DeployRequest {
        let waits = self.wait.unwrap_or_else(|| !prefers_async(headers));
        DeployRequest {
            git_branch: self.git_branch,
            git_commit: self.git_commit,
            force,
            wait: if waits { WAIT } else { Duration::ZERO },
        }
    }
}

/// Whether the client would rather not wait (RFC 7240).
pub(super) fn prefers_async(headers: &HeaderMap) -> bool {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ';']))
        .any(|preference| preference.trim().eq_ignore_ascii_case("respond-async"))
}

pub(super) fn answer(deployed: Deployed) -> (StatusCode, Json<Agent>) {
    let status = if deployed.finished { StatusCode::OK } else { StatusCode::ACCEPTED };
    (status, Json(deployed.agent.into()))
}

/// Builds the agent's source and swaps it in.
///
/// Waits up to 100 seconds for the end; `"wait": false` or `Prefer: respond-async` does not wait. A second identical
/// request joins a deployment that is under way.
#[utoipa::path(
    post, path = "/api/v1/agents/{slug}/deploy", operation_id = "deploy_agent", tag = "agents",
    params(AgentPath, ("Prefer" = Option<String>, Header, description = "`respond-async` answers at once")),
    request_body(content = Option<Deploy>),
    responses(
        (status = 200, body = Agent, description = "Deployed"),
        (status = 202, body = Agent, description = "Still building"),
        (status = 400, description = "The source cannot be deployed (`no_source`, `manifest_missing`, `install_failed` …)"),
        (status = 409, description = "Another deployment is under way (`deploy_in_progress`)"),
    ),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    CastariCaller(caller): CastariCaller,
    Path(path): Path<AgentPath>,
    headers: HeaderMap,
    OptionalBody(deploy): OptionalBody<Deploy>,
) -> Result<(StatusCode, Json<Agent>), ApiError> {
    let request = deploy.into_request(&headers, false);
    let deployed = castari.domain.code_agents.deploy(&caller, &path.slug, request).await?;
    Ok(answer(deployed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn async_is_preferred_among_other_preferences() {
        let headers = |value: &'static str| {
            HeaderMap::from_iter([(
                axum::http::HeaderName::from_static("prefer"),
                axum::http::HeaderValue::from_static(value),
            )])
        };
        assert!(prefers_async(&headers("respond-async")));
        assert!(prefers_async(&headers("return=minimal, Respond-Async; wait=10")));
        assert!(!prefers_async(&headers("return=minimal")));
        assert!(!prefers_async(&HeaderMap::new()));
    }
}
