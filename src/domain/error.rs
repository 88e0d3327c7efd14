//! The closed list of failures a caller can see. Which status each becomes is `transport/error.rs`'s table.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::problems::{Problems, bounded, cut};

/// Bytes of a failure's message. Messages quote what they were sent, and an answer must not be as long as a request.
const MESSAGE_BYTES_MAX: usize = 1000;

/// What went wrong, as far as a client may act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    InvalidRequest,
    Unauthenticated,
    PermissionDenied,
    AdapterNotFound,
    NotFound,
    Conflict,
    PayloadTooLarge,
    UnsupportedEncoding,
    Unprocessable,
    Overloaded,
    Internal,
    Unavailable,
    DeadlineExceeded,
}

impl ErrorKind {
    /// All kinds, in the order of the contract's table.
    pub const ALL: [Self; 13] = [
        Self::InvalidRequest,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::AdapterNotFound,
        Self::NotFound,
        Self::Conflict,
        Self::PayloadTooLarge,
        Self::UnsupportedEncoding,
        Self::Unprocessable,
        Self::Overloaded,
        Self::Internal,
        Self::Unavailable,
        Self::DeadlineExceeded,
    ];

    /// The `code` of the contract.
    pub fn code(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::Unauthenticated => "unauthenticated",
            Self::PermissionDenied => "permission_denied",
            Self::AdapterNotFound => "adapter_not_found",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::PayloadTooLarge => "payload_too_large",
            Self::UnsupportedEncoding => "unsupported_encoding",
            Self::Unprocessable => "unprocessable",
            Self::Overloaded => "overloaded",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::DeadlineExceeded => "deadline_exceeded",
        }
    }
}

/// A failure: the message is for the client (what was got, what is wanted), the source for the log. However much a caller sent,
/// its message has at most 1,000 bytes and its problems are at most [`Problems::MAX`] lines.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    problems: Vec<String>,
    problems_count: usize,
    retry_after: Option<Duration>,
    report: Option<Arc<serde_json::Value>>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// A result whose failure can be shown to a client.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = cut(message.into(), MESSAGE_BYTES_MAX);
        Self { kind, message, problems: Vec::new(), problems_count: 0, retry_after: None, report: None, source: None }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::PayloadTooLarge, message)
    }

    pub fn unsupported_encoding(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::UnsupportedEncoding, message)
    }

    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unprocessable, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    pub fn deadline_exceeded(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::DeadlineExceeded, message)
    }

    /// The queue is full, or the deadline cannot be met; `retry_after` is when it is worth another try.
    pub fn overloaded(message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(ErrorKind::Overloaded, message) }
    }

    /// All that validation found; a client wants the whole list at once. Where there may be many, collect them in [`Problems`]:
    /// it builds no more than are shown.
    #[must_use]
    pub fn with_problems(mut self, problems: impl Into<Problems>) -> Self {
        let problems = problems.into();
        self.problems_count = problems.len();
        self.problems = problems.lines(Problems::MAX);
        self
    }

    /// What was found, in the shape that a success would have answered: for programs, beside the problems in words.
    #[must_use]
    pub fn with_report(mut self, report: serde_json::Value) -> Self {
        self.report = Some(Arc::new(report));
        self
    }

    /// The cause, for the log alone.
    #[must_use]
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// The same failure with `context: ` before its message.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = bounded(format_args!("{context}: {}", self.message), MESSAGE_BYTES_MAX);
        self
    }

    /// The same failure as the operator's to mend, not the caller's: `unavailable`.
    #[must_use]
    pub fn into_unavailable(self) -> Self {
        Self { kind: ErrorKind::Unavailable, ..self }
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// The first ones; if there are more than [`Problems::MAX`], the last line says how many.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// How many validation found, those without a line among them.
    pub fn problems_count(&self) -> usize {
        self.problems_count
    }

    pub fn report(&self) -> Option<&serde_json::Value> {
        self.report.as_deref()
    }

    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n- {problem}"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// A failed system call: the caller adds which file by [`Error::context`].
impl From<std::io::Error> for Error {
    fn from(source: std::io::Error) -> Self {
        Self::internal(source.to_string()).with_source(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_short_however_it_was_made() {
        let long = "語".repeat(100_000);
        let check = |error: Error, ends_with: &str| {
            assert!(error.message().len() <= MESSAGE_BYTES_MAX, "{} bytes", error.message().len());
            assert!(error.message().ends_with(ends_with), "{error}");
        };
        check(Error::invalid(format!("{long:?} is no name")), "is no name");
        check(Error::invalid("3 is no name").context(&long).context("row 7"), "is no name");
        let mut nested = Error::invalid("the innermost");
        for depth in 0..1000 {
            nested = nested.context(depth);
        }
        check(nested, "the innermost");
    }

    #[test]
    fn the_list_of_problems_is_short_and_counts_the_rest() {
        let error = Error::unprocessable("bad").with_problems(vec!["語".repeat(1000); 1000]);
        assert_eq!((error.problems().len(), error.problems_count()), (Problems::MAX, 1000));
        assert!(error.problems().iter().all(|problem| problem.len() <= Problems::BYTES_MAX));
        assert_eq!(error.problems()[Problems::MAX - 1], "… and 901 more");
    }
}
