//! What the demonstration tells: steps as they are done, and a short table at the end. Knows no broker.
//!
//! Invariant: a check that failed is an error here, so that nothing is printed as if it were right.

use std::time::Duration;

use serde::Serialize;

use super::journal::Journal;
use super::letters::Counts;
use super::sales::Expected;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, Rows, grouped};

/// A step that was done.
#[derive(Debug, Serialize)]
struct Step {
    step: &'static str,
    records: Option<usize>,
    seconds: f64,
    records_per_second: Option<f64>,
}

/// What is told of the demonstration.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    steps: Vec<Step>,
    /// Dead letters by group, before anything was done about them.
    dead_letters: Vec<(&'static str, Counts)>,
    /// Tries that failed.
    failed_tries: u64,
    /// Lines dispatched again because their worker was killed before it had acked them.
    dispatched_twice: u64,
    #[serde(skip)]
    json: bool,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self { steps: Vec::new(), dead_letters: Vec::new(), failed_tries: 0, dispatched_twice: 0, json }
    }

    /// Whether steps are told as they are done.
    pub(super) fn is_told(&self) -> bool {
        !self.json
    }

    /// Tells what happens.
    pub(super) fn say(&self, what: &str) {
        if !self.json {
            output::talk(&format!("  {what}"));
        }
    }

    /// Notes a step.
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 50 bits")]
    pub(super) fn step(&mut self, step: &'static str, records: Option<usize>, time: Duration) {
        let seconds = time.as_secs_f64().max(1e-9);
        self.say(&format!("{step}: {:.0} ms", seconds * 1e3));
        self.steps.push(Step {
            step,
            records,
            seconds,
            records_per_second: records.map(|records| records as f64 / seconds),
        });
    }

    /// Notes the dead letters of a group, and compares them with what they should be.
    ///
    /// # Errors
    /// They differ.
    pub(super) fn letters(&mut self, group: &'static str, expected: &Expected, counts: Counts) -> Outcome {
        self.say(&format!("dead letters of {group}, by error:"));
        for (class, count) in &counts.failed {
            self.say(&format!("  {class:<16}{count:>6}"));
        }
        self.say(&format!("  {:<16}{:>6}", "parked behind", counts.parked));
        let wanted = Counts {
            failed: expected.failed.iter().map(|(class, count)| ((*class).to_owned(), *count)).collect(),
            parked: expected.parked,
        };
        if counts != wanted {
            let what = format!("group {group} has other dead letters than it should");
            return Err(wrong(what).fact(format!("found: {counts:?}")).fact(format!("should be: {wanted:?}")));
        }
        self.dead_letters.push((group, counts));
        Ok(())
    }

    /// Notes what the workers did.
    ///
    /// # Errors
    /// There are faults.
    pub(super) fn dispatched(&mut self, journal: &Journal, faults: &[String]) -> Outcome {
        if !faults.is_empty() {
            let failure = wrong("not every line was dispatched once and in the order of its invoice");
            return Err(faults.iter().fold(failure, Failure::fact));
        }
        (self.failed_tries, self.dispatched_twice) = (journal.failed_tries, journal.repeated());
        self.say("every line was dispatched, each invoice in order");
        Ok(())
    }

    /// Prints the table, or the object.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are shown as whole numbers")]
    pub(super) fn print(&self) -> Outcome {
        if self.json {
            return output::json_line(self);
        }
        let mut rows = Rows::new(&["step", ">records", ">ms", ">records/s"]);
        for step in &self.steps {
            let records = step.records.map(|records| grouped(records as u64)).unwrap_or_default();
            let rate = step.records_per_second.map(|rate| grouped(rate as u64)).unwrap_or_default();
            rows.add([step.step.to_owned(), records, format!("{:.0}", step.seconds * 1e3), rate]);
        }
        rows.print()
    }
}

/// A check that failed.
pub(super) fn wrong(what: impl Into<String>) -> Failure {
    Failure::new(Exit::CheckFailed, what, "report this with the lines above; --keep keeps the data")
}
