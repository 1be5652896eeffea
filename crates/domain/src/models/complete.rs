//! Model calls that the server itself makes for a run.

use std::sync::Arc;

use backlot_models::{EventStream, Request, wire::Wire};

use super::{
    CallError, GatewayCaller, Models,
    estimate::{Estimate, UNLIMITED_OUTPUT},
    relay,
    resolve::Resolved,
};

impl Models {
    /// Asks a model and returns its answer as it comes. Booked, limited and resolved exactly like a call through the
    /// gateway; [`Request::model`] is any name that [`Models::resolve`] knows.
    ///
    /// # Errors
    /// As [`Models::relay`]. Failures after the first event come in the stream.
    pub async fn complete(
        self: &Arc<Self>,
        caller: &GatewayCaller,
        mut request: Request,
    ) -> Result<EventStream, CallError> {
        let admission = self.admit(caller).await?;
        let Resolved { answerer, place } = self.resolve(&request.model, None, &caller.keys)?;
        request.model.clone_from(&answerer.model);
        let bytes = serde_json::to_vec(&request).map_or(0, |body| body.len() as u64);
        let output = request.max_tokens.map_or(UNLIMITED_OUTPUT, u64::from);
        let guess = Estimate { input: bytes / 3, output };
        let call = self.open_call(caller, admission, &answerer, guess).await?;
        // The format only decides which status a failure without one gets in the books.
        let wire = Wire::AnthropicMessages;
        let events = relay::ask(call, wire, place.model(&self.client), request, guess.input, place.is_remote()).await?;
        Ok(Box::pin(events))
    }
}
