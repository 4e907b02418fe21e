//! Failures of the command line itself, and how every failure is shown.

use std::io::{self, Write as _};

use super::output::Format;
use crate::hint::{ErrorKind, Failure, Hint};

/// The user wrote something that cannot be done.
pub fn usage(text: impl Into<String>, hint: impl Into<String>) -> Failure {
    Failure::message(ErrorKind::Usage, text, Some(hint.into()))
}

/// Something outside of the library failed: a file of the command line, a hook.
pub fn failed(text: impl Into<String>) -> Failure {
    Failure::message(ErrorKind::Failed, text, None)
}

/// Nobody reads the output, or it cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the output cannot be written")]
pub struct OutputError(#[from] pub io::Error);

impl Hint for OutputError {}

/// Whether the reader of the output went away, as `head` does: no error worth telling.
pub fn is_broken_pipe(failure: &Failure) -> bool {
    let error = failure.error().downcast_ref::<OutputError>();
    error.is_some_and(|error| error.0.kind() == io::ErrorKind::BrokenPipe)
}

/// Shows a failure on the standard error: the message with its causes, then what to do next.
pub fn show(failure: &Failure, format: Format) {
    let text = if format == Format::Json {
        let message = serde_json::json!({
            "message_type": "exit_error",
            "code": failure.kind().exit_code(),
            "message": failure.to_string(),
            "hint": failure.hint(),
        });
        format!("{message}\n")
    } else {
        let hint = failure.hint().map_or_else(String::new, |hint| format!("hint: {hint}\n"));
        format!("error: {failure}\n{hint}")
    };
    // There is nobody left to tell that the standard error is closed.
    let _ = io::stderr().write_all(text.as_bytes());
}
