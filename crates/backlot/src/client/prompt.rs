//! Questions to a person at a terminal. Each has a flag that answers it, which is named when nobody can be asked.
//!
//! Prompts are drawn on standard error, so that a redirected standard output stays clean.

use std::io::{self, IsTerminal as _, Read as _};

use inquire::InquireError;

use super::error::Error;

/// Asks for a line of text.
///
/// # Errors
/// [`Error::Usage`] naming `flag` when standard input is no terminal; [`Error::Interrupted`] on Ctrl-C or Escape.
pub(crate) fn text(question: &str, default: Option<&str>, flag: &str) -> Result<String, Error> {
    needs_terminal(question, flag)?;
    let mut prompt = inquire::Text::new(question);
    if let Some(default) = default {
        prompt = prompt.with_default(default);
    }
    prompt.prompt().map_err(refused)
}

/// Asks for a secret without showing it; twice when it is new.
///
/// # Errors
/// As [`text`].
pub(crate) fn secret(question: &str, is_new: bool, flag: &str) -> Result<String, Error> {
    needs_terminal(question, flag)?;
    let mut prompt = inquire::Password::new(question).with_display_mode(inquire::PasswordDisplayMode::Hidden);
    prompt = if is_new {
        prompt.with_custom_confirmation_message("Once more:").with_custom_confirmation_error_message("These differ.")
    } else {
        prompt.without_confirmation()
    };
    prompt.prompt().map_err(refused)
}

/// Asks yes or no; an empty answer is no.
///
/// # Errors
/// As [`text`].
pub(crate) fn yes(question: &str, flag: &str) -> Result<bool, Error> {
    needs_terminal(question, flag)?;
    inquire::Confirm::new(question).with_default(false).prompt().map_err(refused)
}

/// Lets a person choose one of a few lines and gives its index.
///
/// # Errors
/// As [`text`].
pub(crate) fn choice(question: &str, lines: Vec<String>, flag: &str) -> Result<usize, Error> {
    needs_terminal(question, flag)?;
    inquire::Select::new(question, lines).raw_prompt().map(|o| o.index).map_err(refused)
}

/// Reads all of standard input as text, up to `limit` bytes.
///
/// # Errors
/// When it is longer, or not UTF-8.
pub(crate) fn stdin(limit: usize, what: &str) -> Result<String, Error> {
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::failed(format!("cannot read standard input: {e}")))?;
    if bytes.len() > limit {
        return Err(Error::Usage(format!("{what} on standard input is longer than {limit} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| Error::Usage(format!("{what} on standard input is not UTF-8 text")))
}

/// As [`stdin`], without the line break that `echo` and editors put at the end.
///
/// # Errors
/// As [`stdin`].
pub(crate) fn stdin_line(limit: usize, what: &str) -> Result<String, Error> {
    let mut text = stdin(limit, what)?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// True when a person sits at standard input.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal()
}

fn needs_terminal(question: &str, flag: &str) -> Result<(), Error> {
    if is_interactive() && io::stderr().is_terminal() {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "cannot ask \u{201c}{}\u{201d} without a terminal: {flag}",
        question.trim_end_matches([':', '?'])
    )))
}

fn refused(error: InquireError) -> Error {
    match error {
        InquireError::OperationCanceled | InquireError::OperationInterrupted => Error::Interrupted,
        other => Error::failed(format!("cannot ask at this terminal: {other}")),
    }
}
