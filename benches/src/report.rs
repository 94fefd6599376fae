//! Rows of results: each beside its limit and its target, as a table for people and as JSON for programs.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use serde_json::{Value, json};

use crate::environment::Environment;
use crate::stats::Samples;

/// What a row must reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// The ratio to the limit is at least this.
    RatioAtLeast(f64),
    /// The ratio to the limit is at most this.
    RatioAtMost(f64),
    /// The value is at most this, in the unit of the row.
    AtMost(f64),
    /// The value is at least this, in the unit of the row.
    AtLeast(f64),
    /// No target: the row is there to be looked at.
    Shown,
}

/// What became of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was reached.
    Reached,
    /// It was missed.
    Missed,
    /// There was none.
    Shown,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::Missed => "MISSED",
            Self::Shown => "",
        }
    }
}

/// A limit of this machine and this stack, taken in the same rounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    /// Which: `N`, `A`, `S`, `R`, or what it was put together from.
    pub name: String,
    /// One value a round.
    pub samples: Samples,
}

/// One result.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// Unit of value and limit.
    pub unit: &'static str,
    /// One value a round.
    pub value: Samples,
    /// What it is held against.
    pub limit: Option<Limit>,
    /// What it must reach.
    pub target: Target,
    /// What else a reader needs.
    pub note: String,
}

impl Row {
    /// A row without a limit, with nothing to reach.
    pub fn shown(what: impl Into<String>, unit: &'static str, value: Samples) -> Self {
        Self { what: what.into(), unit, value, limit: None, target: Target::Shown, note: String::new() }
    }

    /// The same row with a limit.
    #[must_use]
    pub fn beside(mut self, name: impl Into<String>, samples: &Samples) -> Self {
        self.limit = Some(Limit { name: name.into(), samples: samples.clone() });
        self
    }

    /// The same row with a target.
    #[must_use]
    pub fn with_target(mut self, target: Target) -> Self {
        self.target = target;
        self
    }

    /// The same row with a note.
    #[must_use]
    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// The ratio to the limit, round by round.
    pub fn ratio(&self) -> Option<Samples> {
        self.limit.as_ref().map(|limit| self.value.over(&limit.samples))
    }

    /// Whether the median reaches the target. A row that has a ratio as target and no limit misses it.
    pub fn outcome(&self) -> Outcome {
        let ratio = self.ratio().map_or(f64::NAN, |ratio| ratio.median());
        let reached = match self.target {
            Target::Shown => return Outcome::Shown,
            Target::RatioAtLeast(least) => ratio >= least,
            Target::RatioAtMost(most) => ratio <= most,
            Target::AtMost(most) => self.value.median() <= most,
            Target::AtLeast(least) => self.value.median() >= least,
        };
        if reached { Outcome::Reached } else { Outcome::Missed }
    }
}

/// All rows of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// Where and when.
    pub environment: Environment,
    /// The results so far.
    pub rows: Vec<Row>,
}

impl Report {
    /// The results as a Markdown table.
    pub fn table(&self) -> String {
        let mut out = String::new();
        for (name, value) in self.environment.lines() {
            let _ = writeln!(out, "- {name}: {value}");
        }
        out.push('\n');
        let head = ["what", "median", "unit", "rounds (spread)", "limit", "ratio", "target", "", "note"];
        let mut cells = vec![head.map(str::to_owned)];
        cells.extend(self.rows.iter().map(row_cells));
        let widths: Vec<usize> =
            (0..head.len()).map(|column| cells.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
        for (number, row) in cells.iter().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(out, "| {cell:<width$} ");
            }
            out.push_str("|\n");
            if number == 0 {
                for width in &widths {
                    let _ = write!(out, "|{}", "-".repeat(width + 2));
                }
                out.push_str("|\n");
            }
        }
        out
    }

    /// The results with every single round.
    pub fn to_json(&self) -> Value {
        let environment: serde_json::Map<String, Value> =
            self.environment.lines().into_iter().map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
        json!({ "environment": environment, "rows": self.rows.iter().map(row_json).collect::<Vec<_>>() })
    }
}

/// Writes a line for whoever watches the run.
///
/// # Errors
/// Standard output is closed.
pub fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn row_cells(row: &Row) -> [String; 9] {
    let rounds = format!("{} ({:.0} %)", row.value.len(), row.value.spread() * 100.0);
    let limit = row
        .limit
        .as_ref()
        .map_or_else(String::new, |limit| format!("{} = {}", limit.name, figure(limit.samples.median())));
    let ratio = row
        .ratio()
        .map_or_else(String::new, |ratio| format!("{:.2} ({:.2}..{:.2})", ratio.median(), ratio.min(), ratio.max()));
    let target = match row.target {
        Target::Shown => String::new(),
        Target::RatioAtLeast(least) => format!(">= {least} x"),
        Target::RatioAtMost(most) => format!("<= {most} x"),
        Target::AtMost(most) => format!("<= {}", figure(most)),
        Target::AtLeast(least) => format!(">= {}", figure(least)),
    };
    [
        row.what.clone(),
        figure(row.value.median()),
        row.unit.to_owned(),
        rounds,
        limit,
        ratio,
        target,
        row.outcome().word().to_owned(),
        row.note.clone(),
    ]
}

fn row_json(row: &Row) -> Value {
    let (kind, bound) = match row.target {
        Target::Shown => ("shown", None),
        Target::RatioAtLeast(least) => ("ratio_at_least", Some(least)),
        Target::RatioAtMost(most) => ("ratio_at_most", Some(most)),
        Target::AtMost(most) => ("at_most", Some(most)),
        Target::AtLeast(least) => ("at_least", Some(least)),
    };
    json!({
        "what": row.what,
        "unit": row.unit,
        "median": row.value.median(),
        "rounds": row.value.values(),
        "limit": row.limit.as_ref().map(|limit| json!({
            "name": limit.name, "median": limit.samples.median(), "rounds": limit.samples.values(),
        })),
        "ratio": row.ratio().map(|ratio| ratio.median()),
        "target": { "kind": kind, "bound": bound },
        "outcome": row.outcome().word(),
        "note": row.note,
    })
}

/// Three digits that matter, with a suffix for thousands and millions.
fn figure(value: f64) -> String {
    let (scaled, suffix) = match value.abs() {
        size if size >= 1e6 => (value / 1e6, " M"),
        size if size >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{scaled:.digits$}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Row, Target, figure};
    use crate::stats::Samples;

    fn samples(values: &[f64]) -> Samples {
        values.iter().copied().collect()
    }

    #[test]
    fn the_outcome_is_that_of_the_median_of_the_paired_rounds() {
        let limit = samples(&[10.0, 20.0, 10.0]);
        let row = Row::shown("produce", "records/s", samples(&[7.0, 13.0, 3.0])).beside("N", &limit);
        assert_eq!(row.clone().with_target(Target::RatioAtLeast(0.65)).outcome(), Outcome::Reached);
        assert_eq!(row.clone().with_target(Target::RatioAtLeast(0.66)).outcome(), Outcome::Missed);
        assert_eq!(row.clone().with_target(Target::RatioAtMost(0.65)).outcome(), Outcome::Reached);
        assert_eq!(row.clone().with_target(Target::AtMost(7.0)).outcome(), Outcome::Reached);
        assert_eq!(row.outcome(), Outcome::Shown);
    }

    #[test]
    fn a_ratio_without_its_limit_is_missed() {
        let row = Row::shown("produce", "records/s", samples(&[7.0])).with_target(Target::RatioAtMost(2.0));
        assert_eq!(row.outcome(), Outcome::Missed);
    }

    #[test]
    fn figures_keep_three_digits() {
        assert_eq!(figure(4_567_890.0), "4.57 M");
        assert_eq!(figure(123_456.0), "123 k");
        assert_eq!(figure(2_613.4), "2613");
        assert_eq!(figure(0.1234), "0.123");
    }
}
