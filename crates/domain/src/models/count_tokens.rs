//! Counting the tokens of a request without asking its model (Anthropic's `count_tokens`). Nothing is booked: it is
//! free at the provider, too.

use std::sync::Arc;

use backlot_models::wire::Wire;
use reqwest::{
    Method,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::json;

use super::{
    Admission, Asked, CallError, GatewayCaller, Models, Relayed, RelayedBody,
    relay::{name_model, pass_error_on},
    resolve::{Place, Resolved},
};

/// Says `true` where a count is a guess, because the provider has no way to count.
pub const ESTIMATED_HEADER: HeaderName = HeaderName::from_static("x-backlot-estimated");

impl Models {
    /// Counts the input tokens of a request in Anthropic's format: at Anthropic where that is who answers, exactly for
    /// the local model, and by the length of the request elsewhere.
    ///
    /// # Errors
    /// What is wrong with the request, or why nobody answered.
    pub async fn count_tokens(
        self: &Arc<Self>,
        caller: &GatewayCaller,
        _turn: Admission,
        asked: Asked,
    ) -> Result<Relayed, CallError> {
        let wire = Wire::AnthropicMessages;
        let mut prepared = backlot_models::metering::prepare_passthrough(wire, asked.body.clone())?;
        let Resolved { answerer, place } = self.resolve(&prepared.model, Some(wire), &caller.keys)?;
        let mut relayed = if let Some(upstream) = place.upstream(wire, &self.client) {
            if prepared.model != answerer.model {
                prepared.rename_model(&answerer.model);
            }
            let path = match &asked.query {
                Some(query) => format!("/v1/messages/count_tokens?{query}"),
                None => "/v1/messages/count_tokens".to_owned(),
            };
            let response = upstream.forward(Method::POST, &path, &asked.headers, prepared.body).await?;
            if response.status.is_success() {
                let status = response.status.as_u16();
                Relayed { status, headers: response.headers, body: RelayedBody::Stream(response.body) }
            } else {
                pass_error_on(wire, response, place.key()).await
            }
        } else {
            let incoming = wire.decode_request(&asked.body)?;
            let (tokens, estimated) = match &place {
                Place::Local(model) => (model.count_tokens(&incoming.request).await?, false),
                Place::Remote { .. } => ((asked.body.len() as u64).div_ceil(4), true),
            };
            counted(tokens, estimated)
        };
        name_model(&mut relayed.headers, &answerer);
        Ok(relayed)
    }
}

fn counted(tokens: u64, estimated: bool) -> Relayed {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if estimated {
        headers.insert(ESTIMATED_HEADER, HeaderValue::from_static("true"));
    }
    let body = RelayedBody::Whole(json!({"input_tokens": tokens}).to_string().into());
    Relayed { status: 200, headers, body }
}
