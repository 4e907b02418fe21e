//! What the failures of object stores mean: which pass, and what the user can do about the others.
//!
//! The driver tells few of them apart by type; the rest is in the codes that the stores put into
//! their answers, which are part of their documented interfaces.

use std::error::Error as StdError;
use std::io;

use object_store::Error;

use crate::backend::{BackendError, BackendErrorKind};

const CLOCK: [&str; 2] = ["RequestTimeTooSkewed", "RequestExpired"];
const NO_BUCKET: [&str; 4] = [
    "NoSuchBucket",
    "ContainerNotFound",
    "The specified bucket does not exist",
    "InvalidBucketName",
];
/// Where the driver looks for credentials when none are given: the metadata services of clouds.
const NO_CREDENTIALS: [&str; 5] = [
    "169.254.169.254",
    "metadata.google.internal",
    "metadata/identity",
    "latest/api/token",
    "latest/meta-data",
];

/// A failure that another attempt may not meet.
pub(super) fn passing(text: String) -> Error {
    let source = io::Error::new(io::ErrorKind::TimedOut, text);
    Error::Generic { store: "object", source: Box::new(source) }
}

/// The store has put off a create that meets another one.
pub(super) fn conflict() -> Error {
    passing("another request for the same object is under way".to_owned())
}

/// Whether another attempt may do better. Whatever is not known to last is taken to pass.
pub(super) fn is_passing(error: &Error) -> bool {
    let Error::Generic { .. } = error else { return false };
    let text = chain(error);
    let refused = ["status code: 4", "status code: 3", "URL scheme is not allowed"];
    let busy = ["status code: 408", "status code: 409", "status code: 429", "RequestTimeout"];
    let lasting = CLOCK.iter().chain(&NO_BUCKET).chain(&NO_CREDENTIALS).any(|s| text.contains(s))
        || refused.iter().any(|s| text.contains(s)) && !busy.iter().any(|s| text.contains(s));
    !lasting
}

/// The failure as the user should read it.
pub(super) fn explain(action: &'static str, object: String, error: &Error) -> BackendError {
    let text = chain(error);
    let says = |codes: &[&str]| codes.iter().any(|code| text.contains(code));
    let kind = if says(&CLOCK) {
        BackendErrorKind::Clock
    } else if says(&NO_BUCKET) {
        BackendErrorKind::NoBucket
    } else if says(&NO_CREDENTIALS) {
        BackendErrorKind::Credentials
    } else {
        match error {
            Error::NotFound { .. } => BackendErrorKind::NotFound,
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                BackendErrorKind::Credentials
            }
            Error::Generic { .. } if is_passing(error) => BackendErrorKind::Unreachable,
            _ => BackendErrorKind::Io,
        }
    };
    BackendError::new(kind, action, object).caused_by(io::Error::other(said(&text)))
}

/// The messages of an error and its causes, of which the drivers repeat many.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// What the store itself said, where it did: `<Code>` and `<Message>` of its answer.
fn said(text: &str) -> String {
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once("</").map(|(text, _)| text.to_owned())
    };
    match (element("Code"), element("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code,
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::{Failure, Hint as _};

    fn generic(text: &str) -> Error {
        Error::Generic { store: "S3", source: text.into() }
    }

    #[test]
    fn servers_that_are_down_or_busy_are_asked_again_and_refusals_are_not() {
        let status = |status: &str| {
            generic(&format!("Server returned non-2xx status code: {status}: <Error/>"))
        };
        for passes in ["500 Internal Server Error", "503 Slow Down", "429 Too Many", "408 Time"] {
            assert!(is_passing(&status(passes)), "{passes}");
        }
        for lasts in ["400 Bad Request", "301 Moved Permanently", "416 Range"] {
            assert!(!is_passing(&status(lasts)), "{lasts}");
        }
        assert!(is_passing(&generic("connection reset by peer")));
        assert!(is_passing(&conflict()));
        assert!(!is_passing(&generic("Error performing PUT http://169.254.169.254/latest")));
    }

    #[test]
    fn the_store_s_own_words_are_what_the_user_reads() {
        let body = "Server returned non-2xx status code: 403 Forbidden: <?xml?><Error>\
                    <Code>RequestTimeTooSkewed</Code><Message>The difference is too large.\
                    </Message></Error>";
        let source = body.into();
        let error = Error::PermissionDenied { path: "config".to_owned(), source };
        let error = explain("cannot read", "s3://b/config".to_owned(), &error);
        assert_eq!(error.cause(), BackendErrorKind::Clock);
        assert!(error.hint().is_some_and(|hint| hint.contains("clock")));
        assert_eq!(
            Failure::from(error).to_string(),
            "cannot read s3://b/config: RequestTimeTooSkewed: The difference is too large."
        );
    }

    #[test]
    fn a_missing_bucket_is_not_a_missing_object() {
        let missing = |text: &str| {
            let source = text.into();
            let error = Error::NotFound { path: "config".to_owned(), source };
            explain("cannot read", "s3://b/config".to_owned(), &error).cause()
        };
        assert_eq!(missing("404: <Code>NoSuchKey</Code>"), BackendErrorKind::NotFound);
        assert_eq!(missing("404: <Code>NoSuchBucket</Code>"), BackendErrorKind::NoBucket);
    }
}
