//! `POST /agents/{slug}/invoke`

use axum::{Json, extract::State, http::HeaderMap};
use backlot_domain::{Error, accounts::Caller, code_agents::Invoke, runs::Position};
use futures::StreamExt as _;

use super::AgentPath;
use crate::{
    castari::{
        Castari,
        caller::InvokingCaller,
        error::{ApiError, Location},
        extract::{Body, Path, Query},
        invocations::InvocationResponse,
    },
    http::{
        Closing,
        fields::{Boolean, Fields, FromFields, Pattern, Problem, text},
    },
};

/// Largest prompt in bytes (spec/castari.md 12.1); the domain counts bytes, characters are at most as many.
const LARGEST_PROMPT: usize = 1 << 20;

/// The grammar of session names (spec/castari.md 13).
const SESSION: Pattern = Pattern { regex: "^[A-Za-z0-9._:-]{1,128}$", fits: is_session };

fn is_session(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-'))
}

/// What to invoke an agent with (seed: SDK types, `InvokeOptions`).
#[derive(Debug, utoipa::ToSchema)]
pub(crate) struct InvokeAgent {
    /// Standard input of the program, at most 1 MiB. May be empty.
    #[schema(max_length = 1_048_576)]
    prompt: String,
    /// The session it belongs to; none means a sandbox that nobody used before.
    #[schema(pattern = "^[A-Za-z0-9._:-]{1,128}$")]
    session_id: Option<String>,
}

impl FromFields for InvokeAgent {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            prompt: fields.required("prompt", text(0, LARGEST_PROMPT).with_nul()),
            session_id: fields.optional("session_id", text(0, usize::MAX).of(SESSION)),
        }
    }
}

impl InvokeAgent {
    pub(super) fn into_command(self, headers: &HeaderMap) -> Result<Invoke, ApiError> {
        Ok(Invoke { prompt: self.prompt, session_id: self.session_id, idempotency_key: idempotency_key(headers)? })
    }
}

/// The header `Idempotency-Key`: 1 to 255 visible ASCII characters.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=255).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => {
            let problem = Problem::Other(String::from("must have 1 to 255 visible ASCII characters"));
            Err(ApiError::field(Location::Header, "Idempotency-Key", problem))
        }
    }
}

/// How an invocation is run and shown.
#[derive(Debug, Clone, Copy, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct InvokeQuery {
    /// `true` shows the end of standard error in the error of a failed invocation.
    #[param(default = false)]
    debug: Option<bool>,
    /// `true` stops the invocation when the client goes away; otherwise it goes on.
    #[param(default = false)]
    cancel_on_disconnect: Option<bool>,
}

impl FromFields for InvokeQuery {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            debug: fields.optional("debug", Boolean),
            cancel_on_disconnect: fields.optional("cancel_on_disconnect", Boolean),
        }
    }
}

/// Runs the agent's program once and waits for its answer.
///
/// What the program caused is status 200 with `"status": "failed"`; an error status means that we could not run it.
/// A client that goes away does not stop the invocation unless it asked for that.
#[utoipa::path(
    post, path = "/api/v1/agents/{slug}/invoke", operation_id = "invoke_agent", tag = "agents",
    params(
        AgentPath, InvokeQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "A repeat within 24 hours returns the first result"),
    ),
    request_body = InvokeAgent,
    responses(
        (status = 200, body = InvocationResponse),
        (status = 400, description = "The agent is not deployed (`agent_not_active`)"),
        (status = 409, description = "The session stayed busy for 30 seconds (`session_busy`)"),
        (status = 503, description = "No sandbox became free within 30 seconds (`capacity`)"),
    ),
)]
pub(crate) async fn handler(
    State(castari): State<Castari>,
    InvokingCaller(caller): InvokingCaller,
    Path(path): Path<AgentPath>,
    Query(query): Query<InvokeQuery>,
    closing: Closing,
    headers: HeaderMap,
    Body(invoke): Body<InvokeAgent>,
) -> Result<Json<InvocationResponse>, ApiError> {
    let command = invoke.into_command(&headers)?;
    let domain = castari.domain.clone();
    let invocation = if query.cancel_on_disconnect == Some(true) {
        let begun = domain.code_agents.begin(&caller, &path.slug, command).await?;
        let guard = CancelOnDrop::new(&castari, &closing, &caller, &begun.id);
        let mut journal = Box::pin(domain.code_agents.follow(&caller, &begun.id, Position::default()).await?);
        while let Some(event) = journal.next().await {
            event?;
        }
        guard.disarm();
        domain.code_agents.invocation(&caller, &begun.id).await?
    } else {
        // In a task of its own: when the client goes away this future is dropped, but a turn of a session must be
        // held until its end.
        let waiting = tokio::spawn(async move { domain.code_agents.invoke(&caller, &path.slug, command).await });
        waiting.await.map_err(Error::internal)??
    };
    Ok(Json(InvocationResponse::new(invocation, query.debug == Some(true))))
}

/// Stops an invocation when it is dropped, which happens when the client goes away.
pub(super) struct CancelOnDrop(Option<(Castari, Closing, Caller, String)>);

impl CancelOnDrop {
    pub(super) fn new(castari: &Castari, closing: &Closing, caller: &Caller, invocation_id: &str) -> Self {
        Self(Some((castari.clone(), closing.clone(), caller.clone(), invocation_id.to_owned())))
    }

    /// The invocation has ended by itself.
    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let Some((castari, closing, caller, id)) = self.0.take() else { return };
        if closing.has_begun() {
            // It is we who go away, not the client.
            return;
        }
        let domain = castari.domain;
        tokio::spawn(async move {
            if let Err(error) = domain.code_agents.cancel(&caller, &id).await {
                tracing::warn!(run.id = id, ?error, "cannot stop an invocation whose client went away");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_names_are_checked() {
        for good in ["a", "desk-42", "A.b_c:d", &"x".repeat(128)] {
            assert!(is_session(good), "{good}");
        }
        for bad in ["", "a b", "ä", "a/b", &"x".repeat(129)] {
            assert!(!is_session(bad), "{bad}");
        }
    }
}
