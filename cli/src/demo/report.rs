//! What the demonstration tells: steps as they are done, and a short table at the end. Knows no broker.
//!
//! Invariant: a check that failed is an error here, so that nothing is printed as if it were right.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::journal::Journal;
use super::letters::Counts;
use super::revenue::Model;
use super::sales::{Expected, pounds};
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
    /// Revenue in pence, of the model that was rebuilt.
    revenue_pence: i64,
    /// The same by country ...
    by_country: BTreeMap<String, i64>,
    /// ... and by customer.
    by_customer: BTreeMap<String, i64>,
    /// Rows of the model that were compared.
    rows_equal: usize,
    /// How stale the model was when all lines were handled, in seconds.
    lag_seconds: f64,
    /// What the first group parked though it was a sale, and its worth in pence.
    parked_sales: (u64, i64),
    #[serde(skip)]
    json: bool,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self {
            steps: Vec::new(),
            dead_letters: Vec::new(),
            failed_tries: 0,
            dispatched_twice: 0,
            revenue_pence: 0,
            by_country: BTreeMap::new(),
            by_customer: BTreeMap::new(),
            rows_equal: 0,
            lag_seconds: 0.0,
            parked_sales: (0, 0),
            json,
        }
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
        self.parked_sales = (expected.parked_sales, expected.parked_pence);
        self.dead_letters.push((group, counts));
        Ok(())
    }

    /// Notes the rebuilt model, which was compared, and the dead letters that are left.
    ///
    /// # Errors
    /// Some are left.
    pub(super) fn revenue(&mut self, model: &Model, lag_seconds: f64, open: usize) -> Outcome {
        if open > 0 {
            return Err(wrong(format!("{open} dead letters are open after the rebuild")));
        }
        (self.revenue_pence, self.rows_equal, self.lag_seconds) = (model.pence(), model.rows(), lag_seconds);
        (self.by_country, self.by_customer) = (model.by_country.clone(), model.by_customer.clone());
        for (country, pence) in model.countries().into_iter().take(3) {
            self.say(&format!("  {country:<16}{:>14}", pounds(pence)));
        }
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
        rows.print()?;
        let (_, letters) = &self.dead_letters[0];
        let mut facts = Rows::new(&["what", ">value"]);
        facts.add(["tries that failed", &grouped(self.failed_tries)]);
        facts.add(["lines dispatched again after the kill", &grouped(self.dispatched_twice)]);
        facts.add(["dead letters of a group: failed", &grouped(letters.failed.values().sum())]);
        facts.add(["dead letters of a group: parked behind them", &grouped(letters.parked)]);
        facts.add(["dead letters left", "0"]);
        facts.add(["lag, seconds", &format!("{:.3}", self.lag_seconds)]);
        facts.add(["revenue, pounds", &pounds(self.revenue_pence)]);
        facts.add([
            "rows of the rebuilt read model that are equal",
            &format!("all {}", grouped(self.rows_equal as u64)),
        ]);
        output::data_line("")?;
        facts.print()
    }
}

/// A check that failed.
pub(super) fn wrong(what: impl Into<String>) -> Failure {
    Failure::new(Exit::CheckFailed, what, "report this with the lines above; --keep keeps the data")
}
