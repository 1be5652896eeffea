//! Tests of the wire formats, of metering and of the HTTP clients, from the outside.

mod hostile;
mod http_server;
mod passthrough;
mod providers;
mod recorded;
mod requests;
mod round_trip;

use backlot_models::sse::Splitter;
use backlot_models::wire::Wire;
use backlot_models::{Error, Event, Request};

const WIRES: [Wire; 3] = [Wire::AnthropicMessages, Wire::OpenAiChat, Wire::OpenAiResponses];

/// Decodes a stream that arrives in these pieces: its events, and how it ended.
fn decode<'a>(
    wire: Wire,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    request: &Request,
) -> (Vec<Event>, Result<(), Error>) {
    let mut splitter = Splitter::new();
    let mut decoder = wire.decoder(request);
    let mut events = Vec::new();
    let outcome = || {
        let mut frames = Vec::new();
        for piece in pieces {
            splitter.push(piece, &mut frames)?;
        }
        frames.extend(splitter.finish());
        for frame in &frames {
            decoder.frame(frame, &mut events)?;
        }
        decoder.finish(&mut events)
    };
    let outcome = outcome();
    (events, outcome)
}

/// A request for a model of this name.
fn request_for(model: &str) -> Request {
    Request { model: model.to_owned(), ..Request::default() }
}
