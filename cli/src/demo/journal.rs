//! What the workers wrote down, and whether it is right. Pure.
//!
//! Invariant: what it finds no fault with dispatched every line that was to be dispatched, those of an invoice in the
//! order in which they were produced, and none that was given up.

use std::collections::{HashMap, HashSet};

/// A place in the log: partition and offset.
pub(super) type Place = (u32, u64);

/// Faults that are told in words.
const TOLD: usize = 10;

/// What the journal of the workers says.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// Dispatched lines in the order of the journal: place, and number of the invoice.
    dispatched: Vec<(Place, String)>,
    /// Tries that failed.
    pub(super) failed_tries: u64,
}

impl Journal {
    /// Reads the text of a journal. A line that is cut short is the last one of a worker that was killed.
    pub(super) fn read(text: &str) -> Self {
        let mut journal = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [what, _worker, partition, offset, invoice, _attempt] = words.as_slice() else { continue };
            let (Ok(partition), Ok(offset)) = (partition.parse(), offset.parse()) else { continue };
            match *what {
                "D" => journal.dispatched.push(((partition, offset), (*invoice).to_owned())),
                _ => journal.failed_tries += 1,
            }
        }
        journal
    }

    /// Lines that were dispatched more than once: those that a killed worker had not acknowledged.
    pub(super) fn repeated(&self) -> u64 {
        let places: HashSet<Place> = self.dispatched.iter().map(|(place, _)| *place).collect();
        (self.dispatched.len() - places.len()) as u64
    }

    /// What is wrong: lines of an invoice out of order, lines of `all` that were not dispatched though not given up,
    /// and lines that were dispatched though given up or unknown.
    pub(super) fn faults(&self, all: &HashSet<Place>, given_up: &HashSet<Place>) -> Vec<String> {
        let mut faults = Vec::new();
        let mut last: HashMap<&str, Place> = HashMap::new();
        for (place, invoice) in &self.dispatched {
            if let Some(before) = last.insert(invoice, *place).filter(|before| before.1 > place.1) {
                faults.push(format!("invoice {invoice}: offset {} was dispatched after {}", place.1, before.1));
            }
        }
        let dispatched: HashSet<Place> = self.dispatched.iter().map(|(place, _)| *place).collect();
        let mut told = |places: Vec<Place>, what: &str| {
            faults.extend(
                places.iter().map(|(partition, offset)| format!("partition {partition} offset {offset} {what}")),
            );
        };
        told(
            all.difference(given_up).filter(|place| !dispatched.contains(place)).copied().collect(),
            "was not dispatched",
        );
        told(dispatched.intersection(given_up).copied().collect(), "was dispatched, and given up");
        told(dispatched.difference(all).copied().collect(), "was dispatched, and never produced");
        faults.truncate(TOLD);
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        Journal::read(text).faults(&HashSet::from([(0, 0), (0, 1), (0, 2)]), &HashSet::from([(0, 2)]))
    }

    #[test]
    fn lines_in_order_with_repeats_of_a_killed_worker_are_right() {
        let text = "F a 0 0 i 1\nD a 0 0 i 2\nD b 0 0 i 1\nD b 0 1 i 1\nF b 0 2 i 1\nD a 0";
        assert!(faults(text).is_empty(), "{:?}", faults(text));
        let journal = Journal::read(text);
        assert_eq!((journal.repeated(), journal.failed_tries), (1, 2));
    }

    #[test]
    fn a_line_lost_out_of_order_given_up_or_invented_is_a_fault() {
        assert!(faults("D a 0 0 i 1\n")[0].contains("offset 1 was not dispatched"));
        assert!(faults("D a 0 1 i 1\nD a 0 0 i 1\n")[0].contains("offset 0 was dispatched after 1"));
        assert!(faults("D a 0 0 i 1\nD a 0 1 i 1\nD a 0 2 i 1\n")[0].contains("given up"));
        assert!(faults("D a 0 0 i 1\nD a 0 1 i 1\nD a 1 7 k 1\n")[0].contains("never produced"));
    }
}
