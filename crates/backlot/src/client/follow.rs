//! Following a run over server-sent events, through broken connections.
//!
//! Once the invocation is named, by the header `X-Invocation-Id` or the `started` event, a lost connection is taken up
//! again with `GET /invocations/{id}/events` and `Last-Event-ID`; what a server sends twice then is dropped by its
//! place. When the server no longer has the events, the stored result ends the wait.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::api::{Answer, Api, Invocation};
use super::error::Error;
use super::sse::{Event, Stream};

/// The server says something every 15 s, so a longer silence is a dead connection.
const SILENCE: Duration = Duration::from_secs(45);
/// Attempts without any event between them, after which we give up: about half a minute.
pub(crate) const ATTEMPTS: u32 = 10;

/// Reads a run's events to its end, giving each new one to `each`.
///
/// # Errors
/// When the deadline passes, the server cannot be reached again, or `each` fails. The run itself goes on in all these cases.
pub(crate) async fn to_end(
    api: &Api,
    first: Stream,
    deadline: Instant,
    mut each: impl FnMut(&Event) -> Result<(), Error>,
) -> Result<Answer<Invocation>, Error> {
    let mut run: Option<String> = first.invocation();
    let mut stream = Some(first);
    let mut last: Option<String> = None;
    // Where we took up again: what lies before has been seen.
    let mut resumed: Option<String> = None;
    let mut attempts = 0;
    loop {
        let broken = match &mut stream {
            Some(open) => match next(open, deadline, run.as_deref()).await? {
                Ok(event) if event.name == "error" => {
                    // The server breaks off and can be asked again after the last event.
                    let message = text_field(&event.data, "detail").or_else(|| text_field(&event.data, "message"));
                    Error::failed(message.unwrap_or_else(|| "the server ended the stream".into()))
                }
                Ok(event) => {
                    if is_before(event.id.as_deref(), resumed.as_deref()) {
                        continue;
                    }
                    attempts = 0;
                    if event.id.is_some() {
                        last.clone_from(&event.id);
                    }
                    if event.name == "started" {
                        run = text_field(&event.data, "invocation_id").or(run);
                    }
                    each(&event)?;
                    if matches!(event.name.as_str(), "completed" | "failed") {
                        let raw = serde_json::from_str(&event.data)
                            .map_err(|_| Error::failed("the server's last event is not JSON"))?;
                        return Answer::read(raw);
                    }
                    continue;
                }
                Err(why) => why,
            },
            None => Error::failed("the connection is lost"),
        };
        let Some(id) = run.clone() else {
            return Err(Error::failed_with(
                format!("the connection broke before the run was named ({broken})"),
                "it may have started all the same: see `backlot invocations list <slug>`",
            ));
        };
        attempts += 1;
        if attempts > ATTEMPTS {
            return Err(goes_on(&format!("lost the connection to the run: {broken}"), Some(&id)));
        }
        if Instant::now() + pause(attempts) >= deadline {
            return Err(goes_on("no answer within the time given", Some(&id)));
        }
        tokio::time::sleep(pause(attempts)).await;
        resumed.clone_from(&last);
        stream = match api.follow(&id, last.as_deref()).await {
            Ok(open) => Some(open),
            // The events are gone, or the server is of a kind that keeps none: the record is left.
            Err(error) if matches!(error.status(), Some(404 | 405 | 410)) => {
                let record = api.invocation(&id).await?;
                if record.status != "running" && record.status != "queued" {
                    return Ok(record);
                }
                None
            }
            Err(error @ Error::Refused { status: 400..=428, .. }) => return Err(error),
            Err(_) => None,
        };
    }
}

/// One event; the inner error is a broken connection, the outer one ends the wait.
async fn next(stream: &mut Stream, deadline: Instant, run: Option<&str>) -> Result<Result<Event, Error>, Error> {
    let silence = Instant::now() + SILENCE;
    match tokio::time::timeout_at(deadline.min(silence), stream.next()).await {
        Ok(Ok(Some(event))) => Ok(Ok(event)),
        Ok(Ok(None)) => Ok(Err(Error::failed("the stream ended early"))),
        Ok(Err(error @ Error::Unreachable { .. })) => Ok(Err(error)),
        Ok(Err(error)) => Err(error),
        Err(_) if silence < deadline => Ok(Err(Error::failed("the server fell silent"))),
        Err(_) => Err(goes_on("no answer within the time given", run)),
    }
}

/// The error for a run that we stop waiting for.
pub(crate) fn goes_on(what: &str, run: Option<&str>) -> Error {
    match run {
        Some(id) => Error::failed_with(what, format!("the run goes on: see `backlot invocations get {id}`")),
        None => Error::failed_with(what, "the run goes on: see `backlot invocations list <slug>`"),
    }
}

/// How long to wait before the n-th attempt, from 1: 0.2 s, doubling up to 4 s.
pub(crate) fn pause(attempts: u32) -> Duration {
    Duration::from_millis(100 << attempts.min(6)).min(Duration::from_secs(4))
}

/// True for an event at or before a place. Places are numbers, `12`, or `12.345` within the text after event 12;
/// others cannot be compared.
fn is_before(id: Option<&str>, place: Option<&str>) -> bool {
    let read = |text: &str| -> Option<(u64, u64)> {
        let (event, within) = text.split_once('.').unwrap_or((text, "0"));
        Some((event.parse().ok()?, within.parse().ok()?))
    };
    match (id.and_then(read), place.and_then(read)) {
        (Some(id), Some(place)) => id <= place,
        _ => false,
    }
}

fn text_field(data: &str, name: &str) -> Option<String> {
    serde_json::from_str::<Value>(data).ok()?.get(name)?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_compared_as_numbers() {
        assert!(is_before(Some("4"), Some("4")));
        assert!(is_before(Some("9"), Some("10")));
        assert!(!is_before(Some("10"), Some("9")));
        assert!(is_before(Some("9.200"), Some("9.1000")));
        assert!(is_before(Some("9"), Some("9.1")));
        assert!(!is_before(Some("10"), Some("9.1000")));
        assert!(!is_before(Some("1"), None));
        assert!(!is_before(Some("a"), Some("a")));
        assert!(!is_before(None, Some("3")));
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        assert_eq!(pause(1), Duration::from_millis(200));
        assert_eq!(pause(3), Duration::from_millis(800));
        assert_eq!(pause(1000), Duration::from_secs(4));
    }
}
