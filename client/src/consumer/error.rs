//! What a handler says when it could not do its work, and what the broker made of a verb.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sawlog_proto::v1;

use crate::payload::PayloadError;

/// Class of a failure of a handler that panicked.
pub const PANIC: &str = "PANIC";
/// Class of a failure to decode a payload: another try meets the same bytes.
pub const DECODE: &str = "DECODE";
/// Class of a delivery that its program dropped without a verdict.
pub const DROPPED: &str = "DROPPED";

/// Longest message that is sent, in bytes; the broker cuts there too.
const MESSAGE_BYTES: usize = 4 << 10;
/// Longest stack that is sent, in bytes.
const STACK_BYTES: usize = 16 << 10;
/// Longest class that is sent, in bytes.
const CLASS_BYTES: usize = 255;

/// What is to become of a record that was not handled. Any `std::error::Error` becomes one by `?`: the record is tried
/// again by the group's policy, with the type of the error as its class; a payload that cannot be decoded goes to the
/// dead letters at once.
#[derive(Clone)]
pub struct HandlerError {
    pub(crate) act: Act,
    pub(crate) class: String,
    pub(crate) message: String,
    // Boxed, so that a `Result` with this error stays small.
    pub(crate) stack: Box<str>,
    pub(crate) fingerprint: Box<str>,
    /// The error itself, for those who must know its type. No part of what is equal.
    cause: Option<Arc<Box<dyn StdError + Send + Sync>>>,
}

impl PartialEq for HandlerError {
    fn eq(&self, other: &Self) -> bool {
        self.act == other.act
            && self.class == other.class
            && self.message == other.message
            && self.stack == other.stack
            && self.fingerprint == other.fingerprint
    }
}

impl Eq for HandlerError {}

/// What to do with the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    Retry { after: Option<Duration> },
    Release { after: Option<Duration>, group: bool },
    Dead,
    Skip { reason: String },
}

impl HandlerError {
    /// It failed: a strike, and another try after the delay of the group's policy.
    pub fn retry(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::failed(Act::Retry { after: None }, error)
    }

    /// It failed: a strike, and another try after this delay (at most 24 h).
    pub fn retry_after(delay: Duration, error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::failed(Act::Retry { after: Some(delay) }, error)
    }

    /// It will never succeed: to the dead letters now.
    pub fn dead(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::failed(Act::Dead, error)
    }

    /// It need not be handled: settled, and the reason is audited.
    pub fn skip(reason: impl Into<String>) -> Self {
        Self::bare(Act::Skip { reason: reason.into() })
    }

    /// It was not tried: given back without a strike, to be delivered again at once.
    pub fn release() -> Self {
        Self::bare(Act::Release { after: None, group: false })
    }

    /// It was not tried: given back without a strike, to be delivered again after this delay.
    pub fn release_after(delay: Duration) -> Self {
        Self::bare(Act::Release { after: Some(delay), group: false })
    }

    /// What the group depends on is down: the record is given back without a strike and the group's circuit breaker
    /// opens for so long (rule CB-5).
    pub fn group_unavailable(delay: Duration, error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::failed(Act::Release { after: Some(delay), group: true }, error)
    }

    /// With this class: stable for programs, as the group's policy and the dead letters name it.
    pub fn class(mut self, class: impl Into<String>) -> Self {
        self.class = class.into();
        self
    }

    /// With this fingerprint, under which like failures are counted.
    pub fn fingerprint(mut self, fingerprint: impl Into<String>) -> Self {
        self.fingerprint = fingerprint.into().into_boxed_str();
        self
    }

    /// The class.
    pub fn class_name(&self) -> &str {
        &self.class
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The error that it was made of, if it is one.
    pub(crate) fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&***self.cause.as_ref()?)
    }

    /// A handler that panicked.
    pub(crate) fn panicked(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let message = text.unwrap_or("the handler panicked").to_owned();
        Self { class: PANIC.to_owned(), message, ..Self::bare(Act::Retry { after: None }) }
    }

    /// A delivery that was dropped without a verdict.
    pub(crate) fn dropped() -> Self {
        let message = "the delivery was dropped without a verdict".to_owned();
        Self { class: DROPPED.to_owned(), message, ..Self::bare(Act::Retry { after: None }) }
    }

    fn bare(act: Act) -> Self {
        let (class, message) = (String::new(), String::new());
        Self { act, class, message, stack: Box::default(), fingerprint: Box::default(), cause: None }
    }

    fn failed(act: Act, error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let error = error.into();
        let class = if error.is::<PayloadError>() { DECODE } else { "ERROR" };
        let told = Self::told(act, &*error);
        Self { class: class.to_owned(), cause: Some(Arc::new(error)), ..told }
    }

    /// With message and causes of an error.
    fn told(act: Act, error: &(dyn StdError + 'static)) -> Self {
        let mut stack = String::new();
        let mut cause = error.source();
        while let Some(error) = cause {
            if stack.len() > STACK_BYTES {
                break;
            }
            stack.push_str("caused by: ");
            stack.push_str(&error.to_string());
            stack.push('\n');
            cause = error.source();
        }
        Self { message: error.to_string(), stack: stack.into(), ..Self::bare(act) }
    }

    /// Whether it counts as a failure of the record.
    pub(crate) fn is_strike(&self) -> bool {
        matches!(self.act, Act::Retry { .. } | Act::Dead)
    }

    pub(crate) fn to_wire(&self) -> Option<v1::HandlerError> {
        if self.class.is_empty() && self.message.is_empty() && self.fingerprint.is_empty() {
            return None;
        }
        Some(v1::HandlerError {
            class: cut(&self.class, CLASS_BYTES),
            message: cut(&self.message, MESSAGE_BYTES),
            stack: cut(&self.stack, STACK_BYTES),
            fingerprint: cut(&self.fingerprint, CLASS_BYTES),
        })
    }
}

/// The beginning of a text, at most so many bytes, cut between characters.
fn cut(text: &str, bytes: usize) -> String {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

impl<E: StdError + Send + Sync + 'static> From<E> for HandlerError {
    fn from(error: E) -> Self {
        if (&error as &dyn Any).is::<PayloadError>() {
            return Self { class: DECODE.to_owned(), ..Self::told(Act::Dead, &error) };
        }
        let told = Self::told(Act::Retry { after: None }, &error);
        Self { class: std::any::type_name::<E>().to_owned(), cause: Some(Arc::new(Box::new(error))), ..told }
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerError")
            .field("act", &self.act)
            .field("class", &self.class)
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let act = match &self.act {
            Act::Retry { .. } => "retry",
            Act::Release { .. } => "release",
            Act::Dead => "dead",
            Act::Skip { reason } => return write!(f, "skip: {reason}"),
        };
        write!(f, "{act}: {} {}", self.class, self.message)
    }
}

/// What became of a verdict (rule AK-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AckOutcome {
    /// Done as asked, and durable.
    Done,
    /// Settled before; counts as success.
    AlreadySettled,
    /// The unit is not the member's any more: another may handle the record again.
    Fenced,
    /// The record is not leased to the member any more, or its turn has not come.
    NotLeased,
    /// The lease was taken back.
    Recalled,
}

impl AckOutcome {
    /// Whether the verdict counts.
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Done | Self::AlreadySettled)
    }

    pub(crate) fn from_wire(outcome: v1::WorkOutcome) -> Self {
        match outcome {
            v1::WorkOutcome::Ok => Self::Done,
            v1::WorkOutcome::AlreadySettled => Self::AlreadySettled,
            v1::WorkOutcome::Fenced => Self::Fenced,
            v1::WorkOutcome::Recalled => Self::Recalled,
            // What this client does not know is not said to be done.
            v1::WorkOutcome::NotLeased | v1::WorkOutcome::LaneLive | v1::WorkOutcome::Unspecified => Self::NotLeased,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Codec as _, Json};

    fn fails() -> Result<u64, HandlerError> {
        Ok("x".parse::<u64>()?)
    }

    fn cannot_decode() -> Result<u64, HandlerError> {
        Ok(Json::<u64>::new().decode(&bytes::Bytes::from_static(b"{"))?)
    }

    #[test]
    fn any_error_becomes_a_retry_with_its_type_as_class() {
        let error = fails().unwrap_err();
        assert_eq!(error.act, Act::Retry { after: None });
        assert_eq!(error.class, "core::num::error::ParseIntError");
        assert!(error.message.contains("invalid digit"), "{error}");
    }

    #[test]
    fn rt_4_a_payload_that_cannot_be_decoded_goes_to_the_dead_letters() {
        let error = cannot_decode().unwrap_err();
        assert_eq!((&error.act, error.class.as_str()), (&Act::Dead, DECODE));
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let error = HandlerError::dead("ä".repeat(5000)).class("é".repeat(200));
        let wire = error.to_wire().unwrap();
        assert!(wire.message.len() <= MESSAGE_BYTES && wire.message.chars().all(|c| c == 'ä'));
        assert_eq!(wire.class.len(), 254);
    }

    #[test]
    fn a_panic_keeps_its_message() {
        let panic = std::panic::catch_unwind(|| panic!("no {}", 1)).unwrap_err();
        let error = HandlerError::panicked(&*panic);
        assert_eq!((error.class.as_str(), error.message.as_str()), (PANIC, "no 1"));
    }
}
