//! Entries of a partition in order, in pages of their own size: a tree of entries would leave a third of its room empty.
//!
//! Invariants: a page is never empty and has at most [`PAGE`] entries, in order; its name is not behind its first entry,
//! and the names of later pages are behind its last.

use std::collections::BTreeMap;

use super::packed::At;

/// Entries of a page, at most: pages of entries, and halves of them, are just below 5 KiB and 2.5 KiB, which allocators have.
const PAGE: usize = 58;
/// Entries by which a page grows.
const STEP: usize = 8;

/// A map from places to what stands there.
#[derive(Debug, Clone)]
pub(super) struct Pages<V> {
    pages: BTreeMap<At, Vec<(At, V)>>,
    len: usize,
}

impl<V> Default for Pages<V> {
    fn default() -> Self {
        Self { pages: BTreeMap::new(), len: 0 }
    }
}

impl<V> Pages<V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, at: At) -> Option<&V> {
        let (_, page) = self.pages.range(..=at).next_back()?;
        find(page, at).ok().map(|index| &page[index].1)
    }

    pub(super) fn get_mut(&mut self, at: At) -> Option<&mut V> {
        let (_, page) = self.pages.range_mut(..=at).next_back()?;
        find(page, at).ok().map(|index| &mut page[index].1)
    }

    /// Puts a value in; answers the one that was there.
    pub(super) fn insert(&mut self, at: At, value: V) -> Option<V> {
        if self.pages.range(..=at).next_back().is_none()
            && let Some((_, first)) = self.pages.pop_first()
        {
            self.pages.insert(at, first);
        }
        let last = self.pages.last_key_value().map(|(name, _)| *name);
        let Some((name, page)) = self.pages.range_mut(..=at).next_back() else {
            self.len += 1;
            self.pages.insert(at, page_of(at, value));
            return None;
        };
        let index = match find(page, at) {
            Ok(index) => return Some(std::mem::replace(&mut page[index].1, value)),
            Err(index) => index,
        };
        self.len += 1;
        if page.len() < PAGE {
            put(page, index, (at, value));
        } else if index == PAGE && last == Some(*name) {
            // Most come in order.
            self.pages.insert(at, page_of(at, value));
        } else {
            let mut behind = page.split_off(PAGE / 2);
            page.shrink_to_fit();
            if index <= PAGE / 2 {
                put(page, index, (at, value));
            } else {
                put(&mut behind, index - PAGE / 2, (at, value));
            }
            self.pages.insert(behind[0].0, behind);
        }
        None
    }

    pub(super) fn remove(&mut self, at: At) -> Option<V> {
        let (name, page) = self.pages.range_mut(..=at).next_back()?;
        let (name, index) = (*name, find(page, at).ok()?);
        let (_, value) = page.remove(index);
        self.len -= 1;
        if page.is_empty() {
            self.pages.remove(&name);
        } else if page.len() + 2 * STEP <= page.capacity() {
            page.shrink_to(page.len() + STEP);
        }
        Some(value)
    }

    /// All of them in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (At, &V)> + '_ {
        self.pages.values().flatten().map(|(at, value)| (*at, value))
    }

    /// Those from a place on, in order.
    pub(super) fn at_or_after(&self, from: At) -> impl Iterator<Item = (At, &V)> + '_ {
        let first = self.pages.range(..=from).next_back().map_or(from, |(name, _)| *name);
        let pages = self.pages.range(first..).flat_map(|(_, page)| page);
        pages.skip_while(move |(at, _)| *at < from).map(|(at, value)| (*at, value))
    }

    /// Those from a place on, to be changed.
    pub(super) fn at_or_after_mut(&mut self, from: At) -> impl Iterator<Item = (At, &mut V)> + '_ {
        let first = self.pages.range(..=from).next_back().map_or(from, |(name, _)| *name);
        let pages = self.pages.range_mut(first..).flat_map(|(_, page)| page);
        pages.skip_while(move |(at, _)| *at < from).map(|(at, value)| (*at, value))
    }

    /// The last place.
    pub(super) fn last(&self) -> Option<At> {
        let (_, page) = self.pages.last_key_value()?;
        page.last().map(|(at, _)| *at)
    }
}

fn page_of<V>(at: At, value: V) -> Vec<(At, V)> {
    let mut page = Vec::with_capacity(STEP);
    page.push((at, value));
    page
}

fn find<V>(page: &[(At, V)], at: At) -> Result<usize, usize> {
    page.binary_search_by_key(&at, |(at, _)| *at)
}

fn put<V>(page: &mut Vec<(At, V)>, index: usize, value: (At, V)) {
    if page.len() == page.capacity() {
        page.reserve_exact(STEP.min(PAGE - page.len()));
    }
    page.insert(index, value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Offset, PartitionEpoch};

    fn at(value: u64) -> At {
        At { offset: Offset::new(value / 2).unwrap(), epoch: PartitionEpoch::new((value % 2) as u32).unwrap() }
    }

    fn check(pages: &Pages<u64>) {
        let mut last = None;
        for (name, page) in &pages.pages {
            assert!(!page.is_empty() && page.len() <= PAGE && *name <= page[0].0 && last < Some(*name));
            assert!(page.is_sorted_by(|a, b| a.0 < b.0) && page.capacity() < page.len() + 2 * STEP);
            last = page.last().map(|(at, _)| *at);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

        #[test]
        fn pages_answer_as_a_plain_map_whatever_comes_in_whatever_order(
            steps in proptest::collection::vec((0..600_u64, 0..4_u8), 0..900),
            ascending in 0..400_u64,
        ) {
            let (mut pages, mut model) = (Pages::default(), BTreeMap::new());
            for value in 0..ascending {
                prop_assert_eq!(pages.insert(at(value), value), model.insert(at(value), value));
            }
            for (step, (value, how)) in (1_000..).zip(steps) {
                let place = at(value);
                match how {
                    0 => prop_assert_eq!(pages.remove(place), model.remove(&place)),
                    1 => prop_assert_eq!(pages.get_mut(place).is_some(), model.contains_key(&place)),
                    _ => prop_assert_eq!(pages.insert(place, step), model.insert(place, step)),
                }
                prop_assert_eq!((pages.len(), pages.last()), (model.len(), model.keys().next_back().copied()));
                prop_assert_eq!(pages.get(place), model.get(&place));
            }
            check(&pages);
            prop_assert!(pages.iter().eq(model.iter().map(|(at, value)| (*at, value))));
            for from in [0, 1, 77, 300, 599, 700] {
                prop_assert!(pages.at_or_after(at(from)).eq(model.range(at(from)..).map(|(at, value)| (*at, value))));
                prop_assert!(pages.at_or_after_mut(at(from)).map(|(at, _)| at).eq(model.range(at(from)..).map(|(at, _)| *at)));
            }
        }
    }

    #[test]
    fn pages_that_came_in_order_are_full() {
        let mut pages = Pages::default();
        (0..10_000).for_each(|value| assert_eq!(pages.insert(at(value), value), None));
        let room: usize = pages.pages.values().map(Vec::capacity).sum();
        assert!(room < 10_000 + PAGE, "{room}");
        check(&pages);
    }
}
