//! Compares what was read with what was produced. Pure.
//!
//! Invariant: what it does not call a difference came back once, unchanged, at the offset that was acknowledged, and
//! after the lines of its invoice that were produced before it.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::orders::OrderLine;

/// Differences that are told in words; the others are counted.
const TOLD: usize = 10;

/// A line as it was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct LineRead<'a> {
    /// Partition.
    pub(super) partition: u32,
    /// Offset.
    pub(super) offset: u64,
    /// Key.
    pub(super) invoice: &'a [u8],
    /// Payload.
    pub(super) text: &'a [u8],
    /// Event time.
    pub(super) time_ms: i64,
}

#[derive(Debug)]
struct Expected {
    line: OrderLine,
    acknowledged: Option<(u32, u64)>,
}

/// The comparison under way.
#[derive(Debug)]
pub(super) struct Check {
    lines: Vec<Expected>,
    /// Per invoice the lines that are still to come, in order.
    to_come: HashMap<Bytes, VecDeque<usize>>,
    told: Vec<String>,
    count: u64,
}

impl Check {
    /// Expects these lines.
    pub(super) fn new(lines: &[OrderLine]) -> Self {
        let mut to_come: HashMap<_, VecDeque<_>> = HashMap::new();
        for (index, line) in lines.iter().enumerate() {
            to_come.entry(line.invoice.clone()).or_default().push_back(index);
        }
        let lines = lines.iter().map(|line| Expected { line: line.clone(), acknowledged: None }).collect();
        Self { lines, to_come, told: Vec::new(), count: 0 }
    }

    /// Notes where a line went.
    pub(super) fn acknowledged(&mut self, index: usize, partition: u32, offset: u64) {
        self.lines[index].acknowledged = Some((partition, offset));
    }

    /// Takes the next line read.
    pub(super) fn read(&mut self, read: &LineRead<'_>) {
        let place = format!("partition {} offset {}", read.partition, read.offset);
        let invoice = String::from_utf8_lossy(read.invoice).into_owned();
        let Some(index) = self.to_come.get_mut(read.invoice).and_then(VecDeque::pop_front) else {
            return self.differ(format!("{place}: a line of invoice {invoice} that was not produced, or came twice"));
        };
        let expected = &self.lines[index];
        let line = index + 2;
        if expected.line.text != read.text {
            let (found, wanted) = (String::from_utf8_lossy(read.text), String::from_utf8_lossy(&expected.line.text));
            self.differ(format!("{place}: invoice {invoice}: found {found:?}, line {line} is next: {wanted:?}"));
        } else if expected.line.time_ms != read.time_ms {
            let wanted = expected.line.time_ms;
            self.differ(format!("{place}: line {line}: time {} ms, produced with {wanted} ms", read.time_ms));
        } else if expected.acknowledged != Some((read.partition, read.offset)) {
            let wanted = expected.acknowledged;
            self.differ(format!("{place}: line {line} was acknowledged at {wanted:?}"));
        }
    }

    /// Takes a gap.
    pub(super) fn gap(&mut self, partition: u32, from: u64, to: u64) {
        self.differ(format!("partition {partition}: offsets {from} to {to} are missing"));
    }

    /// Nothing more was read.
    pub(super) fn end(&mut self) {
        let mut missing: Vec<_> = self.to_come.values().flatten().copied().collect();
        missing.sort_unstable();
        for index in missing {
            let invoice = String::from_utf8_lossy(&self.lines[index].line.invoice).into_owned();
            self.differ(format!("line {} of invoice {invoice} did not come back", index + 2));
        }
    }

    fn differ(&mut self, what: String) {
        self.count += 1;
        if self.told.len() < TOLD {
            self.told.push(what);
        }
    }

    /// The first differences in words.
    pub(super) fn differences(&self) -> &[String] {
        &self.told
    }

    /// Number of differences.
    pub(super) fn difference_count(&self) -> u64 {
        self.count
    }

    /// Number of lines.
    pub(super) fn lines(&self) -> u64 {
        self.lines.len() as u64
    }

    /// Number of invoices.
    pub(super) fn invoices(&self) -> u64 {
        self.to_come.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<OrderLine> {
        let line = |invoice: &'static str, text: &'static str| OrderLine {
            invoice: invoice.into(),
            text: text.into(),
            time_ms: 7,
        };
        vec![line("a", "1"), line("b", "2"), line("a", "3")]
    }

    fn read<'a>(offset: u64, invoice: &'a str, text: &'a str) -> LineRead<'a> {
        LineRead { partition: 0, offset, invoice: invoice.as_bytes(), text: text.as_bytes(), time_ms: 7 }
    }

    fn checked(reads: &[LineRead<'_>]) -> Vec<String> {
        let mut check = Check::new(&lines());
        for index in 0..3 {
            check.acknowledged(index, 0, index as u64);
        }
        reads.iter().for_each(|line| check.read(line));
        check.end();
        assert_eq!(check.difference_count(), check.differences().len() as u64);
        check.differences().to_vec()
    }

    #[test]
    fn what_came_back_in_order_has_no_difference() {
        assert!(checked(&[read(0, "a", "1"), read(1, "b", "2"), read(2, "a", "3")]).is_empty());
        assert!(
            checked(&[read(1, "b", "2"), read(0, "a", "1"), read(2, "a", "3")]).is_empty(),
            "only an invoice has an order"
        );
    }

    #[test]
    fn a_lost_a_doubled_a_swapped_a_changed_and_a_moved_line_are_differences() {
        let found = checked(&[read(0, "a", "1"), read(2, "a", "3")]);
        assert_eq!(found, ["line 3 of invoice b did not come back"]);
        let found = checked(&[read(0, "a", "1"), read(1, "b", "2"), read(2, "a", "3"), read(3, "a", "3")]);
        assert!(found[0].contains("came twice"), "{found:?}");
        let found = checked(&[read(2, "a", "3"), read(1, "b", "2"), read(0, "a", "1")]);
        assert_eq!(found.len(), 2, "{found:?}");
        let found = checked(&[read(0, "a", "1"), read(1, "b", "2 "), read(2, "a", "3")]);
        assert!(found[0].contains("found \"2 \""), "{found:?}");
        let found = checked(&[read(0, "a", "1"), read(5, "b", "2"), read(2, "a", "3")]);
        assert!(found[0].contains("was acknowledged at Some((0, 1))"), "{found:?}");
        let late = LineRead { time_ms: 8, ..read(1, "b", "2") };
        assert_eq!(checked(&[read(0, "a", "1"), late, read(2, "a", "3")]).len(), 1);
    }
}
