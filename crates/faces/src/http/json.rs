//! Bodies that are JSON objects.

use serde_json::{Map, Value};

/// Why a body is not a JSON object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JsonFault {
    /// There is none.
    Empty,
    /// It is not JSON.
    Malformed {
        /// Bytes before the place where reading failed.
        offset: usize,
        /// What is wrong there.
        message: String,
    },
    /// It is JSON, but no object.
    NotAnObject,
}

/// Reads an object. Depth is bounded by the parser (128 levels).
///
/// # Errors
/// Everything that is not exactly one JSON object.
pub(crate) fn object(body: &[u8]) -> Result<Map<String, Value>, JsonFault> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(JsonFault::Empty);
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(JsonFault::NotAnObject),
        Err(error) => {
            let text = error.to_string();
            let message = text.split(" at line ").next().unwrap_or("invalid JSON").to_owned();
            let offset = if error.is_eof() { body.len() } else { offset_of(body, error.line(), error.column()) };
            Err(JsonFault::Malformed { offset, message })
        }
    }
}

/// The parser counts lines and columns from 1; clients want bytes from 0.
fn offset_of(body: &[u8], line: usize, column: usize) -> usize {
    let line_start: usize =
        body.split_inclusive(|byte| *byte == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    (line_start + column.saturating_sub(1)).min(body.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn malformed(body: &str) -> (usize, String) {
        match object(body.as_bytes()) {
            Err(JsonFault::Malformed { offset, message }) => (offset, message),
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn faults_are_told_with_their_place() {
        assert_eq!(malformed("{x"), (1, "key must be a string".to_owned()));
        assert_eq!(malformed("{\"a\":\n  nope}"), (9, "expected ident".to_owned()));
        assert_eq!(malformed("{\"a\":1} b").0, 8);
        assert_eq!(malformed("{").0, 1);
        assert_eq!(object(b" \n"), Err(JsonFault::Empty));
        assert_eq!(object(b"[1]"), Err(JsonFault::NotAnObject));
        assert_eq!(object(b"null"), Err(JsonFault::NotAnObject));
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_crash() {
        let deep = format!("{{\"a\":{}", "[".repeat(1_000_000));
        assert!(malformed(&deep).1.contains("recursion"));
    }

    #[test]
    fn invalid_utf8_is_malformed() {
        assert!(matches!(object(b"{\"a\":\"\xff\"}"), Err(JsonFault::Malformed { .. })));
    }
}
