//! One call of the gateway: from a client's request in a provider's format to an answer in the same format.

use std::{pin::Pin, sync::Arc};

use backlot_models::{
    Answer, Error, ErrorKind, Event, EventStream, Model, Request,
    metering::{ChunkFilter, Prepared, UsageReader, prepare_passthrough},
    passthrough::{BodyStream, Response, Upstream},
    wire::{Head, StreamEncoder, Wire},
};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use reqwest::{
    Method,
    header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    CallError, GatewayCaller, Models,
    booking::OpenCall,
    estimate::{Estimate, estimate},
    key_guard::KeyGuard,
    metered_events::MeteredEvents,
    passing_body::{Filters, PassingBody},
    resolve::{Answerer, Resolved},
    surviving::Surviving,
};
use crate::accounts::SecretString;

/// Tells which model answered, as `provider/model-id`.
pub const MODEL_HEADER: HeaderName = HeaderName::from_static("x-backlot-model");
/// Largest answer with an error status that is passed on.
const LARGEST_ERROR: usize = 256 * 1024;

/// Permission to make one call, see [`Models::admit`].
#[derive(Debug)]
pub struct Admission(pub(super) OwnedSemaphorePermit);

/// A request of a client, in a provider's format.
#[derive(Debug)]
pub struct Asked {
    /// The format.
    pub wire: Wire,
    /// The query of the address, without its question mark; passed on to a provider of the same format.
    pub query: Option<String>,
    /// The headers; credentials among them are not passed on.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// An answer for a client, in the format of its request.
pub struct Relayed {
    /// Its HTTP status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: RelayedBody,
}

/// The body of an answer.
pub enum RelayedBody {
    /// All of it.
    Whole(Bytes),
    /// Pieces as they come. An error breaks the answer off.
    Stream(BodyStream),
}

impl Models {
    /// Lets a caller make one call, as soon as fewer than the allowed number are in progress. To be asked before the
    /// body of the request is read.
    ///
    /// # Errors
    /// `budget_exceeded` when no turn comes; an authentication error when the run has ended.
    pub async fn admit(&self, caller: &GatewayCaller) -> Result<Admission, CallError> {
        caller.ledger.admit().await.map(Admission)
    }

    /// Answers a call, from whoever its model's name stands for (see [`Models::resolve`]), and books it.
    ///
    /// Whatever happens to the client, the call is booked; see `booking` for what is written when.
    ///
    /// # Errors
    /// What is wrong with the request, `budget_exceeded`, or why nobody answered. A provider's own answer with an
    /// error status is an answer where the formats agree, and an error where it had to be translated.
    pub async fn relay(
        self: &Arc<Self>,
        caller: &GatewayCaller,
        admission: Admission,
        asked: Asked,
    ) -> Result<Relayed, CallError> {
        let prepared = prepare_passthrough(asked.wire, asked.body.clone())?;
        let Resolved { answerer, place } = self.resolve(&prepared.model, Some(asked.wire), &caller.keys)?;
        let guess = estimate(asked.wire, &asked.body);
        if let Some(upstream) = place.upstream(asked.wire, &self.client) {
            let call = self.open_call(caller, admission, &answerer, guess).await?;
            return pass_through(call, &answerer, upstream, place.key().cloned(), prepared, asked).await;
        }
        let mut incoming = asked.wire.decode_request(&asked.body)?;
        incoming.request.model.clone_from(&answerer.model);
        let call = self.open_call(caller, admission, &answerer, guess).await?;
        let wire = asked.wire;
        let exchange = ask(call, wire, place.model(&self.client), incoming.request, guess.input, place.is_remote());
        let events = exchange.await?;
        let created = u64::try_from(self.clock.now().0 / 1000).unwrap_or(0);
        let head = Head { created, include_usage: incoming.include_usage };
        translated(events, &answerer, wire, incoming.stream, head).await
    }

    pub(super) async fn open_call(
        self: &Arc<Self>,
        caller: &GatewayCaller,
        admission: Admission,
        answerer: &Answerer,
        guess: Estimate,
    ) -> Result<OpenCall, CallError> {
        let most = backlot_models::Usage { input: guess.input, output: guess.output, ..Default::default() };
        let cost = self.cost(answerer, &answerer.model, &most);
        let reservation = caller.ledger.reserve(guess.input.saturating_add(guess.output), cost).await?;
        Ok(OpenCall::begin(self, &caller.ledger, answerer, reservation, admission.0, guess.input))
    }
}

async fn pass_through(
    call: OpenCall,
    answerer: &Answerer,
    upstream: Upstream,
    key: Option<SecretString>,
    mut prepared: Prepared,
    asked: Asked,
) -> Result<Relayed, CallError> {
    if prepared.model != answerer.model {
        prepared.rename_model(&answerer.model);
    }
    let wire = asked.wire;
    let exchange = Surviving::new(call.drain_limit(), async move {
        let cut = call.ledger().cut().clone();
        let path = path_of(wire, asked.query.as_deref());
        let body = prepared.body.clone();
        let answered = tokio::select! {
            answered = upstream.forward(Method::POST, &path, &asked.headers, body) => answered,
            () = cut.cancelled() => Err(Error::new(ErrorKind::TimedOut, "the run has ended before this answer")),
        };
        match answered {
            Ok(response) => Ok(pass_on(call, wire, &prepared, response, key.as_ref()).await),
            Err(error) => {
                call.fail(wire.encode_error(&error, None).0);
                Err(CallError::from(error))
            }
        }
    });
    let mut relayed = exchange.await?;
    name_model(&mut relayed.headers, answerer);
    Ok(relayed)
}

/// Asks a model; what comes back meters itself, also when nobody reads it. `is_remote` says whether it costs then.
pub(super) async fn ask(
    call: OpenCall,
    wire: Wire,
    model: Arc<dyn Model>,
    request: Request,
    guessed_input: u64,
    is_remote: bool,
) -> Result<MeteredEvents, CallError> {
    let limit = call.drain_limit();
    let exchange = async move {
        let cut = call.ledger().cut().clone();
        let answered: Result<EventStream, Error> = tokio::select! {
            answered = model.call(request) => answered,
            () = cut.cancelled() => Err(Error::new(ErrorKind::TimedOut, "the run has ended before this answer")),
        };
        match answered {
            Ok(events) => Ok(MeteredEvents::new(events, call, guessed_input, is_remote)),
            Err(error) => {
                call.fail(error.status.unwrap_or_else(|| wire.encode_error(&error, None).0));
                Err(error.into())
            }
        }
    };
    if is_remote { Surviving::new(limit, exchange).await } else { exchange.await }
}

async fn translated(
    events: MeteredEvents,
    answerer: &Answerer,
    wire: Wire,
    stream: bool,
    head: Head,
) -> Result<Relayed, CallError> {
    let mut headers = HeaderMap::new();
    name_model(&mut headers, answerer);
    if stream {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        let body = RelayedBody::Stream(encoded(events, wire.encoder(head)));
        return Ok(Relayed { status: 200, headers, body });
    }
    let answer = Answer::collect(Box::pin(events)).await?;
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let body = RelayedBody::Whole(wire.encode_answer(&answer, &head).to_string().into());
    Ok(Relayed { status: 200, headers, body })
}

/// Where requests of a format go, below the provider's base address.
fn path_of(wire: Wire, query: Option<&str>) -> String {
    let path = match wire {
        Wire::AnthropicMessages => "/v1/messages",
        Wire::OpenAiChat => "/chat/completions",
        Wire::OpenAiResponses => "/responses",
    };
    match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

pub(super) fn name_model(headers: &mut HeaderMap, answerer: &Answerer) {
    if let Ok(name) = HeaderValue::try_from(answerer.full_name()) {
        headers.insert(MODEL_HEADER, name);
    }
}

async fn pass_on(
    call: OpenCall,
    wire: Wire,
    prepared: &Prepared,
    response: Response,
    key: Option<&SecretString>,
) -> Relayed {
    let is_event_stream = response.is_event_stream();
    let status = response.status.as_u16();
    if !response.status.is_success() {
        call.fail(status);
        return pass_error_on(wire, response, key).await;
    }
    let reader = UsageReader::for_wire(wire, is_event_stream).with_request_bytes(prepared.body.len());
    let filter = (is_event_stream && prepared.swallow_usage_chunk).then(ChunkFilter::new);
    let guard = KeyGuard::new(key);
    let mut headers = response.headers;
    if filter.is_some() {
        headers.remove(CONTENT_LENGTH);
    }
    if let Some(guard) = &guard {
        guard.clean(&mut headers);
    }
    let body =
        PassingBody::new(response.body, reader, Filters { usage: filter, guard }, call, wire, status, is_event_stream);
    Relayed { status, headers, body: RelayedBody::Stream(Box::pin(body)) }
}

/// Passes a provider's complaint on, without the operator's key, which providers quote.
pub(super) async fn pass_error_on(wire: Wire, response: Response, key: Option<&SecretString>) -> Relayed {
    let status = response.status.as_u16();
    let mut headers = response.headers;
    let mut pieces = response.body;
    let mut body = BytesMut::new();
    while let Some(Ok(bytes)) = pieces.next().await {
        body.extend_from_slice(&bytes[..bytes.len().min(LARGEST_ERROR - body.len())]);
        if body.len() >= LARGEST_ERROR {
            break;
        }
    }
    if let Some(guard) = KeyGuard::new(key) {
        guard.overwrite(&mut body);
        guard.clean(&mut headers);
    }
    if matches!(status, 401 | 403) {
        // Providers quote keys in part, too; in the codec's reading everything that looks like a key is blotted out.
        let (_, value) = wire.encode_error(&wire.decode_error(status, &body), None);
        body = BytesMut::from(value.to_string().as_bytes());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    headers.remove(CONTENT_LENGTH);
    Relayed { status, headers, body: RelayedBody::Whole(body.freeze()) }
}

/// Events as the frames of a format's stream. A failure becomes the format's own error event.
fn encoded(events: MeteredEvents, encoder: StreamEncoder) -> BodyStream {
    let stream: Pin<Box<dyn Stream<Item = Result<Event, Error>> + Send>> = Box::pin(events);
    Box::pin(futures::stream::unfold(Some((stream, encoder)), |state| async move {
        let (mut events, mut encoder) = state?;
        let mut out = Vec::new();
        loop {
            match events.next().await {
                Some(Ok(event)) => {
                    encoder.event(&event, &mut out);
                    if matches!(event, Event::Done { .. }) {
                        return Some((Ok(out.into()), None));
                    }
                    if !out.is_empty() {
                        return Some((Ok(out.into()), Some((events, encoder))));
                    }
                }
                Some(Err(error)) => {
                    encoder.error(&error, &mut out);
                    return Some((Ok(out.into()), None));
                }
                None => {
                    let error = Error::new(ErrorKind::Protocol, "the answer ended before it was complete");
                    encoder.error(&error, &mut out);
                    return Some((Ok(out.into()), None));
                }
            }
        }
    }))
}
