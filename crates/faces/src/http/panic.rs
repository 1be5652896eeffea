//! A net for panics: a handler that panics is a fault of ours and must not take the connection with it.

use std::any::Any;

use axum::response::Response;
use tower_http::catch_panic::{CatchPanicLayer, ResponseForPanic};

/// Answers with `answer` when a handler panics; the log gets the panic's text.
pub(crate) fn catch(answer: fn() -> Response) -> CatchPanicLayer<Answer> {
    CatchPanicLayer::custom(Answer(answer))
}

/// The answer of one face.
#[derive(Clone, Copy)]
pub(crate) struct Answer(fn() -> Response);

impl ResponseForPanic for Answer {
    type ResponseBody = axum::body::Body;

    fn response_for_panic(&mut self, panic: Box<dyn Any + Send + 'static>) -> Response {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("a panic without text");
        tracing::error!(panic = text, "a handler panicked");
        (self.0)()
    }
}
