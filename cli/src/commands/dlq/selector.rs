//! Which dead letters, on the command line.

use clap::Args;
use sawlog_client::EntrySelector;
use sawlog_client::dead_letter::{DeadReason, EntryKind, EntryState};
use sawlog_client::groups::{HeaderFilter, HeaderValue};

use crate::amounts;
use crate::clock;
use crate::failure::{Failure, Outcome};

/// Conditions on entries; all must hold.
#[derive(Debug, Args)]
pub(super) struct Selector {
    /// The entry with this id; may be given again.
    #[arg(long, value_name = "ID", help_heading = "Which")]
    id: Vec<String>,
    /// Entries of this source topic.
    #[arg(long, help_heading = "Which")]
    topic: Option<String>,
    /// Entries of this partition.
    #[arg(long, help_heading = "Which")]
    partition: Option<u32>,
    /// Entries with this key.
    #[arg(long, help_heading = "Which")]
    key: Option<String>,
    /// Entries in this state; may be given again: open, spilled, redriving, resolved, discarded, moved, cleared, expired.
    #[arg(long, value_parser = state, help_heading = "Which")]
    state: Vec<EntryState>,
    /// Entries of this kind: failed or parked.
    #[arg(long, value_parser = kind, help_heading = "Which")]
    kind: Option<EntryKind>,
    /// Entries with this class of error.
    #[arg(long, value_name = "CLASS", help_heading = "Which")]
    class: Option<String>,
    /// Entries with this fingerprint of their error.
    #[arg(long, help_heading = "Which")]
    fingerprint: Option<String>,
    /// Entries that died at or after this time, or within this span such as 2h.
    #[arg(long, value_parser = when_ms, value_name = "TIME", help_heading = "Which")]
    since: Option<i64>,
    /// Entries that died before this time, or longer ago than this span.
    #[arg(long, value_parser = when_ms, value_name = "TIME", help_heading = "Which")]
    before: Option<i64>,
    /// Entries with this header, of this value if one is given; may be given again.
    #[arg(long, value_name = "NAME[=VALUE]", help_heading = "Which")]
    with_header: Vec<String>,
    /// Entries here for this reason, such as attempts or consumer_crash.
    #[arg(long, value_parser = reason, value_name = "REASON", help_heading = "Which")]
    because: Option<DeadReason>,
}

fn named<T: Copy>(text: &str, all: &[T], name: impl Fn(T) -> &'static str) -> Result<T, String> {
    let found = all.iter().copied().find(|value| name(*value) == text.replace('-', "_"));
    found.ok_or_else(|| {
        format!("expected one of {}", all.iter().map(|value| name(*value)).collect::<Vec<_>>().join(", "))
    })
}

/// A time, or a span that ends now.
fn when_ms(text: &str) -> Result<i64, String> {
    match amounts::span_ms(text) {
        Ok(span) => Ok(clock::wall_ms().saturating_sub(span)),
        Err(_) => amounts::time_ms(text)
            .map_err(|_| "expected a time such as 2026-12-01T08:26:00Z, or a span such as 2h".to_owned()),
    }
}

fn state(text: &str) -> Result<EntryState, String> {
    use EntryState::{Cleared, Discarded, Expired, Moved, Open, Redriving, Resolved, Spilled};
    named(text, &[Open, Spilled, Redriving, Resolved, Discarded, Moved, Cleared, Expired], EntryState::as_str)
}

fn kind(text: &str) -> Result<EntryKind, String> {
    named(text, &[EntryKind::Failed, EntryKind::Parked], EntryKind::as_str)
}

fn reason(text: &str) -> Result<DeadReason, String> {
    use DeadReason::{
        Attempts, ConsumerCrash, ConsumerDeadNack, LeaseExpired, NonRetryable, Parked, Schema, Spill, Undecodable,
    };
    let all =
        [Attempts, NonRetryable, ConsumerDeadNack, LeaseExpired, ConsumerCrash, Schema, Undecodable, Spill, Parked];
    named(text, &all, DeadReason::as_str)
}

impl Selector {
    pub(super) fn selector(&self) -> Outcome<EntrySelector> {
        let header = |text: &String| match text.split_once('=') {
            Some((key, value)) => {
                HeaderFilter { key: key.to_owned(), value: HeaderValue::Equals(value.to_owned().into()) }
            }
            None => HeaderFilter { key: text.clone(), value: HeaderValue::Any },
        };
        Ok(EntrySelector {
            dlq_ids: self.id.clone(),
            topic: self.topic.clone(),
            partition: self.partition,
            key: self.key.clone().map(Into::into),
            states: self.state.clone(),
            kind: self.kind,
            error_class: self.class.clone(),
            fingerprint: self.fingerprint.clone(),
            dead_from_ms: self.since,
            dead_before_ms: self.before,
            headers: self.with_header.iter().map(header).collect(),
            reason: self.because,
        })
    }

    /// For what changes entries: at least one condition, or `--all`.
    pub(super) fn needed(&self, all: bool) -> Outcome<EntrySelector> {
        let mut selector = self.selector()?;
        if selector.is_all() {
            if !all {
                return Err(Failure::usage(
                    "no entries were named",
                    "name them, such as by --id or --class, or give --all",
                ));
            }
            selector.states = vec![EntryState::Open];
            // The broker wants a condition beside the state, so that nothing is changed by a request that says nothing.
            selector.dead_from_ms = Some(0);
        }
        Ok(selector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_answers_with_either_dash() {
        assert_eq!(state("open"), Ok(EntryState::Open));
        assert_eq!(reason("consumer-crash"), Ok(DeadReason::ConsumerCrash));
        assert_eq!(reason("consumer_crash"), Ok(DeadReason::ConsumerCrash));
        assert!(kind("x").unwrap_err().contains("failed, parked"));
    }

    #[test]
    fn times_are_given_as_such_or_as_a_span_ago() {
        assert_eq!(when_ms("1970-01-01T00:00:01Z"), Ok(1_000));
        assert!(when_ms("1h").unwrap() < when_ms("1s").unwrap());
        assert!(when_ms("soon").unwrap_err().contains("a span"));
    }
}
