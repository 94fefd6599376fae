//! What a call can end with: kind, reason, facts, and whether a repeat helps.
//!
//! The same facts arrive in two ways, as `google.rpc` details of a status and as a `Failure` in a response body; both
//! become an [`Error`] here and nowhere else. A reason that this client does not know is treated by its code.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sawlog_proto::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt;

pub use sawlog_proto::v1::ErrorReason;

/// What sort of failure it is; enough to choose what to do when the reason is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The broker cannot be reached, or cannot serve this now.
    Unavailable,
    /// It took too long; the outcome may be unknown.
    Timeout,
    /// Something named does not exist.
    NotFound,
    /// Something of that name exists with other settings.
    AlreadyExists,
    /// The request is wrong in itself; it never succeeds as it is.
    Invalid,
    /// An offset outside the log.
    OutOfRange,
    /// The state of things does not allow it; something else must come first.
    Precondition,
    /// A newer session, epoch or revision exists.
    Conflict,
    /// A limit is reached.
    Exhausted,
    /// Stored bytes are damaged, or received bytes fail their checksum.
    DataLoss,
    /// A defect of the broker, or an answer that the protocol does not allow.
    Internal,
    /// This client, producer or reader was closed.
    Closed,
}

/// Whether a failed produce may have been written all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Nothing of it is in the log.
    NotWritten,
    /// It may be in the log or not.
    Unknown,
}

/// Why a call failed. Cheap to clone.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    code: Code,
    reason: Option<ErrorReason>,
    message: String,
    facts: HashMap<String, String>,
    retry_after: Option<Duration>,
    retryable: bool,
}

impl Error {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The stable reason, if the broker gave one that this client knows.
    pub fn reason(&self) -> Option<ErrorReason> {
        self.0.reason
    }

    /// The canonical gRPC code. For failures found by the client itself, the one that fits best.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// One sentence for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Facts of the reason, such as `topic`, `max` or `earliest`.
    pub fn facts(&self) -> &HashMap<String, String> {
        &self.0.facts
    }

    /// One fact.
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.0.facts.get(name).map(String::as_str)
    }

    /// One fact that is a number.
    pub fn fact_number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.fact(name)?.parse().ok()
    }

    /// How long to wait before the same call, if the broker says that a repeat helps.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the same call may succeed later. The client repeats such calls by itself up to its deadlines.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// Of a failed produce: whether it may have been written all the same.
    pub fn outcome(&self) -> Option<Outcome> {
        match self.fact("outcome")? {
            "not_written" => Some(Outcome::NotWritten),
            "unknown" => Some(Outcome::Unknown),
            _ => None,
        }
    }

    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let retryable = matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout);
        Self(Arc::new(Inner {
            kind,
            code: code_of(kind),
            reason: None,
            message: message.into(),
            facts: HashMap::new(),
            retry_after: None,
            retryable,
        }))
    }

    /// The same error with one fact more.
    pub(crate) fn with_fact(self, name: &str, value: impl Into<String>) -> Self {
        let inner = &self.0;
        let mut facts = inner.facts.clone();
        facts.insert(name.to_owned(), value.into());
        Self(Arc::new(Inner {
            kind: inner.kind,
            code: inner.code,
            reason: inner.reason,
            message: inner.message.clone(),
            facts,
            retry_after: inner.retry_after,
            retryable: inner.retryable,
        }))
    }

    pub(crate) fn with_outcome(self, outcome: Outcome) -> Self {
        self.with_fact(
            "outcome",
            match outcome {
                Outcome::NotWritten => "not_written",
                Outcome::Unknown => "unknown",
            },
        )
    }

    pub(crate) fn closed(what: &str) -> Self {
        Self::new(ErrorKind::Closed, format!("{what} is closed"))
    }

    /// A refusal that the client can foresee: as the broker would say it.
    pub(crate) fn refused(reason: ErrorReason, message: impl Into<String>) -> Self {
        let code = code_of_reason(reason);
        Self(Arc::new(Inner {
            kind: kind_of(code),
            code,
            reason: Some(reason),
            message: message.into(),
            facts: HashMap::from([("outcome".to_owned(), "not_written".to_owned())]),
            retry_after: None,
            retryable: false,
        }))
    }

    /// The broker answered something that the protocol does not allow.
    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// From a status, with its `google.rpc` details.
    pub(crate) fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == "sawlog");
        let reason = info.and_then(|info| reason_of(&info.reason));
        let retry_after = details.retry_info().and_then(|retry| retry.retry_delay);
        let code = status.code();
        Self(Arc::new(Inner {
            kind: kind_of(code),
            code,
            reason,
            message: status.message().to_owned(),
            facts: info.map(|info| info.metadata.clone()).unwrap_or_default(),
            retry_after,
            retryable: retry_after.is_some() || retryable_without_reason(code, reason),
        }))
    }

    /// From a failure inside a response body.
    pub(crate) fn from_failure(failure: &v1::Failure) -> Self {
        let reason = Some(failure.reason()).filter(|reason| *reason != ErrorReason::Unspecified);
        let code = reason.map_or(Code::Unknown, code_of_reason);
        let retry_after = failure.retry_after_ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
        Self(Arc::new(Inner {
            kind: kind_of(code),
            code,
            reason,
            message: failure.message.clone(),
            facts: failure.facts.clone(),
            retry_after,
            retryable: retry_after.is_some() || retryable_without_reason(code, reason),
        }))
    }
}

/// Whether the call ended before there was a connection: then nothing of it was sent.
pub(crate) fn is_unconnected(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Without a told time, only what says "not now" is repeated.
fn retryable_without_reason(code: Code, reason: Option<ErrorReason>) -> bool {
    match reason {
        Some(ErrorReason::RequestTimeout | ErrorReason::SlowReader) => true,
        Some(_) => code == Code::Unavailable,
        // The transport reports cuts as any of these; an INTERNAL of the broker has a reason.
        None => matches!(
            code,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal
        ),
    }
}

fn reason_of(name: &str) -> Option<ErrorReason> {
    ErrorReason::from_str_name(&format!("ERROR_REASON_{name}"))
}

fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::InvalidArgument | Code::Unimplemented => ErrorKind::Invalid,
        Code::OutOfRange => ErrorKind::OutOfRange,
        Code::FailedPrecondition | Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Precondition,
        Code::Aborted => ErrorKind::Conflict,
        Code::ResourceExhausted => ErrorKind::Exhausted,
        Code::DeadlineExceeded => ErrorKind::Timeout,
        Code::DataLoss => ErrorKind::DataLoss,
        Code::Ok | Code::Internal => ErrorKind::Internal,
        // A cut connection ends calls in any of these.
        Code::Unavailable | Code::Cancelled | Code::Unknown => ErrorKind::Unavailable,
    }
}

fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Timeout => Code::DeadlineExceeded,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::OutOfRange => Code::OutOfRange,
        ErrorKind::Precondition => Code::FailedPrecondition,
        ErrorKind::Conflict => Code::Aborted,
        ErrorKind::Exhausted => Code::ResourceExhausted,
        ErrorKind::DataLoss => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
        ErrorKind::Closed => Code::Cancelled,
    }
}

/// The numbers of [`ErrorReason`] are grouped by code, ten apart or more.
fn code_of_reason(reason: ErrorReason) -> Code {
    match reason as i32 {
        1..=9 => Code::NotFound,
        10..=19 => Code::AlreadyExists,
        20..=39 => Code::InvalidArgument,
        40..=49 => Code::OutOfRange,
        50..=69 => Code::FailedPrecondition,
        70..=79 => Code::Aborted,
        80..=89 => Code::ResourceExhausted,
        90..=99 => Code::Unavailable,
        100..=109 => Code::DeadlineExceeded,
        110..=119 => Code::DataLoss,
        120 => Code::Internal,
        _ => Code::Unknown,
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::from_status(&status)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("reason", &self.0.reason)
            .field("message", &self.0.message)
            .field("facts", &self.0.facts)
            .field("retry_after", &self.0.retry_after)
            .finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.reason {
            Some(reason) => {
                let name = reason.as_str_name();
                write!(f, "{}: {}", name.strip_prefix("ERROR_REASON_").unwrap_or(name), self.0.message)
            }
            None => f.write_str(&self.0.message),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::{ErrorDetails, StatusExt};

    #[test]
    fn a_status_with_details_gives_reason_facts_and_retry_time() {
        let mut details = ErrorDetails::new();
        details.set_error_info("DISK_LOW", "sawlog", [("free_bytes".to_owned(), "10".to_owned())]);
        details.set_retry_info(Some(Duration::from_millis(250)));
        let status = Status::with_error_details(Code::ResourceExhausted, "disk low", details);
        let error = Error::from_status(&status);
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert_eq!(error.reason(), Some(ErrorReason::DiskLow));
        assert_eq!(error.fact_number::<u64>("free_bytes"), Some(10));
        assert_eq!(error.retry_after(), Some(Duration::from_millis(250)));
        assert!(error.is_retryable());
        assert_eq!(error.to_string(), "DISK_LOW: disk low");
    }

    #[test]
    fn an_unknown_reason_is_treated_by_its_code() {
        let mut details = ErrorDetails::new();
        details.set_error_info("OF_A_LATER_VERSION", "sawlog", HashMap::<String, String>::new());
        let error = Error::from_status(&Status::with_error_details(Code::Aborted, "later", details));
        assert_eq!((error.reason(), error.kind()), (None, ErrorKind::Conflict));
        assert!(!error.is_retryable());
    }

    #[test]
    fn a_failure_in_a_body_has_the_code_of_its_reason_and_its_outcome() {
        for reason in (0..=120).filter_map(|number| ErrorReason::try_from(number).ok()).skip(1) {
            assert_ne!(code_of_reason(reason), Code::Unknown, "{reason:?} has no code");
        }
        let failure = v1::Failure {
            reason: ErrorReason::PartitionFenced.into(),
            message: "fenced".to_owned(),
            facts: HashMap::from([("outcome".to_owned(), "unknown".to_owned())]),
            retry_after_ms: Some(1000),
        };
        let error = Error::from_failure(&failure);
        assert_eq!((error.code(), error.outcome()), (Code::Unavailable, Some(Outcome::Unknown)));
        assert!(error.is_retryable());
    }

    #[test]
    fn a_wrong_request_is_not_repeated() {
        assert!(!Error::from_status(&Status::invalid_argument("no")).is_retryable());
        assert!(Error::from_status(&Status::unavailable("cut")).is_retryable());
    }
}
