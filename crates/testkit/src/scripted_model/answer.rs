//! Answering over HTTP as the script says.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use backlot_models::answer::AnswerBuilder;
use backlot_models::wire::{Head, Incoming, StreamEncoder, Wire, anthropic};
use backlot_models::{Block, Error, ErrorKind, Event, Request, StopReason, Usage};
use futures::Stream;
use serde_json::Value;

use super::check::check;
use super::turn::{Failure, Step, Turn};
use super::{Recorded, Shared, echo, key};

/// The time that answers claim to be from, in seconds since 1970: scripts are repeatable.
const CREATED: u64 = 1_760_000_000;

/// A cut drops what the server has not written yet, so that what was said before it needs a moment to go out.
const FLUSH: Duration = Duration::from_millis(5);

/// Answers a request for an answer.
pub(super) async fn answer(shared: &Arc<Shared>, wire: Wire, uri: &Uri, headers: HeaderMap, body: Bytes) -> Response {
    let checked = check(wire, &body, false);
    let (turn, number) = {
        let mut script = shared.lock();
        if !script.forgetful {
            let incoming = checked.as_ref().ok();
            script.requests.push(Recorded {
                wire,
                path: uri.to_string(),
                headers: headers.clone(),
                body,
                request: incoming.map(|incoming| incoming.request.clone()),
                stream: incoming.is_some_and(|incoming| incoming.stream),
            });
        }
        if let Some(refusal) = refuse_key(&mut script, wire, &headers) {
            return refusal;
        }
        let incoming = match &checked {
            Ok(incoming) => incoming,
            Err(bad) => {
                script.violations.push(bad.to_string());
                let error = Error::from(bad.clone());
                return error_response(wire, &error, Some(&bad.field));
            }
        };
        script.answered += 1;
        let turn = match (script.turns.pop_front(), &script.responder) {
            (Some(turn), _) => turn,
            (None, Some(responder)) => responder(&incoming.request),
            (None, None) => echo(&incoming.request),
        };
        (turn, script.answered)
    };
    let Ok(incoming) = checked else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    if let Some(raw) = turn.raw {
        let status = StatusCode::from_u16(raw.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let chunks = futures::stream::iter(raw.chunks.into_iter().map(Ok::<_, Infallible>));
        return (status, [(header::CONTENT_TYPE, raw.content_type)], Body::from_stream(chunks)).into_response();
    }
    if let Some(failure) = &turn.failure {
        return failure_response(wire, failure);
    }
    let steps = finish(wire, turn, &incoming, number);
    let head = Head { created: CREATED, include_usage: incoming.include_usage };
    if incoming.stream {
        let content_type = [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")];
        return (content_type, Body::from_stream(stream(steps, wire.encoder(head)))).into_response();
    }
    whole(wire, steps, &head).await
}

/// Completes a turn with its beginning and its end.
fn finish(wire: Wire, turn: Turn, incoming: &Incoming, number: u64) -> Vec<Step> {
    let called = turn.steps.iter().any(|step| matches!(step, Step::Say(Event::ToolCall { .. })));
    let stop = turn.stop.unwrap_or(if called { StopReason::ToolUse } else { StopReason::EndTurn });
    let usage = turn.usage.unwrap_or_else(|| Usage {
        input: words_of(&incoming.request),
        output: turn.steps.iter().map(words_of_step).sum(),
        ..Usage::default()
    });
    let prefix = match wire {
        Wire::AnthropicMessages => "msg",
        Wire::OpenAiChat => "chatcmpl",
        Wire::OpenAiResponses => "resp",
    };
    let started = Event::Started {
        id: format!("{prefix}_{number}"),
        model: incoming.request.model.clone(),
        usage: Usage { output: 0, reasoning: 0, ..usage },
    };
    let mut steps = vec![Step::Say(started)];
    steps.extend(turn.steps);
    steps.push(Step::Say(Event::Done { stop, usage }));
    steps
}

/// The frames of a streamed answer, a chunk per step; an `Err` cuts the connection.
fn stream(steps: Vec<Step>, encoder: StreamEncoder) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    let state = Some((steps.into_iter(), encoder));
    futures::stream::unfold(state, |state| async move {
        let (mut steps, mut encoder) = state?;
        loop {
            let mut bytes = Vec::new();
            match steps.next()? {
                Step::Say(event) => encoder.event(&event, &mut bytes),
                Step::Delay(time) => tokio::time::sleep(time).await,
                Step::Stall => std::future::pending().await,
                Step::Cut => {
                    tokio::time::sleep(FLUSH).await;
                    return Some((Err(std::io::Error::other("cut by the script")), None));
                }
                Step::Fail(failure) => {
                    encoder.error(&failure.to_error(), &mut bytes);
                    return Some((Ok(bytes.into()), None));
                }
            }
            if !bytes.is_empty() {
                return Some((Ok(bytes.into()), Some((steps, encoder))));
            }
        }
    })
}

/// The answer in one body. A cut sends the head and nothing of the body that the head promises.
async fn whole(wire: Wire, steps: Vec<Step>, head: &Head) -> Response {
    let mut builder = AnswerBuilder::default();
    for step in steps {
        match step {
            Step::Say(event) => {
                if let Err(error) = builder.push(&event) {
                    return error_response(wire, &error, None);
                }
            }
            Step::Delay(time) => tokio::time::sleep(time).await,
            Step::Stall => std::future::pending().await,
            Step::Cut => {
                let cut = futures::stream::once(async {
                    tokio::time::sleep(FLUSH).await;
                    Err::<Bytes, _>(std::io::Error::other("cut by the script"))
                });
                return ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(cut)).into_response();
            }
            Step::Fail(failure) => return failure_response(wire, &failure),
        }
    }
    match builder.finish() {
        Some(answer) => json(StatusCode::OK, &wire.encode_answer(&answer, head)),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Answers Anthropic's `count_tokens` with the number of words.
pub(super) fn count_tokens(shared: &Shared, headers: &HeaderMap, body: &[u8]) -> Response {
    let wire = Wire::AnthropicMessages;
    if let Some(refusal) = refuse_key(&mut shared.lock(), wire, headers) {
        return refusal;
    }
    match check(wire, body, true) {
        Ok(incoming) => json(StatusCode::OK, &anthropic::server::encode_token_count(words_of(&incoming.request))),
        Err(bad) => {
            shared.lock().violations.push(bad.to_string());
            error_response(wire, &bad.into(), None)
        }
    }
}

/// Answers about models, in the format that the headers speak.
pub(super) fn listing(shared: &Shared, headers: &HeaderMap, body: impl Fn(Wire) -> Option<Value>) -> Response {
    let anthropic = headers.contains_key("anthropic-version");
    let wire = if anthropic { Wire::AnthropicMessages } else { Wire::OpenAiChat };
    if let Some(refusal) = refuse_key(&mut shared.lock(), wire, headers) {
        return refusal;
    }
    match body(wire) {
        Some(body) => json(StatusCode::OK, &body),
        None => error_response(wire, &Error::new(ErrorKind::NotFound, "no such model"), None),
    }
}

fn refuse_key(script: &mut super::Script, wire: Wire, headers: &HeaderMap) -> Option<Response> {
    let complaint = match (key(headers), &script.key) {
        (None, _) => "no key came with the request",
        (Some(given), Some(wanted)) if given != wanted => "the key is wrong",
        _ => return None,
    };
    script.violations.push(complaint.to_owned());
    Some(error_response(wire, &Error::new(ErrorKind::Authentication, complaint), None))
}

fn failure_response(wire: Wire, failure: &Failure) -> Response {
    let mut response = error_response(wire, &failure.to_error(), None);
    *response.status_mut() = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(value) = failure.retry_after.as_ref().and_then(|value| value.parse().ok()) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

fn error_response(wire: Wire, error: &Error, field: Option<&str>) -> Response {
    let (status, body) = wire.encode_error(error, field);
    json(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &body)
}

fn json(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

impl Failure {
    fn to_error(&self) -> Error {
        let kind = ErrorKind::from_status(self.status);
        Error { status: Some(self.status), ..Error::new(kind, self.message.as_str()) }
    }
}

fn count(text: &str) -> u64 {
    u64::try_from(text.split_whitespace().count()).unwrap_or(u64::MAX)
}

fn words_of_step(step: &Step) -> u64 {
    match step {
        Step::Say(Event::Text { delta } | Event::Thinking { delta } | Event::ToolArguments { delta, .. }) => {
            count(delta)
        }
        _ => 0,
    }
}

fn words_of(request: &Request) -> u64 {
    let blocks = request.messages.iter().flat_map(|message| &message.content);
    count(request.system.as_deref().unwrap_or("")) + blocks.map(words_of_block).sum::<u64>()
}

fn words_of_block(block: &Block) -> u64 {
    match block {
        Block::Text { text } | Block::Thinking { text, .. } => count(text),
        Block::ToolCall { arguments, .. } => count(arguments),
        Block::ToolResult { content, .. } => content.iter().map(words_of_block).sum(),
        Block::Image { .. } => 1,
    }
}
