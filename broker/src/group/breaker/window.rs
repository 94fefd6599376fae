//! The latest first attempt of each key in the breaker's window, in bounded memory.
//!
//! A table of places for keys, four to a bucket; a key's hash names its bucket. A place knows when and how. If a bucket
//! is full of live keys the table doubles, up to [`KEYS_MAX`] places; from there on the oldest of the bucket gives way,
//! so that what is kept is a sample of the keys that chance (their hash) has drawn. Times are kept as numbers of ticks,
//! 30 of them to a window: what leaves the window is subtracted by the tick, without looking at any place.
//!
//! Invariants: the sums are those of the ticks in the window; a tick's sums are those of the places that bear its number.

use std::collections::{HashMap, VecDeque};

use super::{BreakerPolicy, FirstAttempt, TopFailure};
use crate::model::LaneKey;

/// The most keys that are kept.
pub(super) const KEYS_MAX: usize = 16_384;
/// Places at first.
const KEYS_FIRST: usize = 256;
/// Places of a bucket.
const WAYS: usize = 4;
/// Ticks of a window: how finely it moves on.
const TICKS: u64 = 30;
/// Kinds of failure that are told apart in a window, the one for all others included.
const KINDS: usize = 256;
/// Bytes of a class or fingerprint that is kept.
const TEXT_BYTES: usize = 255;

/// Number of a kind of failure; 0 stands for all beyond [`KINDS`].
type Kind = u16;

#[derive(Debug, Clone, Copy)]
struct Place {
    lane: u64,
    /// Tick at which the key was seen; [`NEVER`] if the place is free.
    tick: u64,
    failed: Option<Kind>,
}

const NEVER: u64 = u64::MAX;
const FREE: Place = Place { lane: 0, tick: NEVER, failed: None };

/// Sums of one tick.
#[derive(Debug, Default)]
struct Tick {
    seen: u32,
    failed: u32,
    /// Failed keys by kind.
    kinds: Vec<(Kind, u32)>,
    /// Failed keys of each listed class, and of none.
    classes: Vec<(Option<u8>, u32)>,
}

/// A kind of failure: what people read, and which of the listed classes it is.
#[derive(Debug)]
struct KindText {
    class: String,
    fingerprint: String,
    listed: Option<u8>,
}

/// The window.
#[derive(Debug)]
pub(super) struct Window {
    tick_ms: u64,
    listed: Vec<String>,
    places: Vec<Place>,
    /// Sums of the ticks `first_tick..`.
    ticks: VecDeque<Tick>,
    first_tick: u64,
    seen: u32,
    failed: u32,
    kinds: Vec<KindText>,
    kind_of: HashMap<(String, String), Kind>,
    /// The most frequent failures when it was closed.
    closed_top: Vec<TopFailure>,
}

impl Window {
    pub(super) fn new(policy: &BreakerPolicy) -> Self {
        Self {
            tick_ms: (policy.window_ms / TICKS).max(1),
            listed: policy.poison_classes.clone(),
            places: Vec::new(),
            ticks: VecDeque::new(),
            first_tick: 0,
            seen: 0,
            failed: 0,
            kinds: Vec::new(),
            kind_of: HashMap::new(),
            closed_top: Vec::new(),
        }
    }

    /// Keys in the window.
    pub(super) fn seen(&self) -> u32 {
        self.seen
    }

    /// Keys in the window whose latest first attempt failed.
    pub(super) fn failed(&self) -> u32 {
        self.failed
    }

    /// Forgets all keys, and keeps what is told of their failures.
    pub(super) fn close(&mut self) {
        self.closed_top = self.top(super::TOP_FAILURES);
        (self.places, self.ticks) = (Vec::new(), VecDeque::new());
        (self.seen, self.failed) = (0, 0);
        self.kinds.clear();
        self.kind_of.clear();
    }

    /// Takes in how a key's latest first attempt ended.
    pub(super) fn note(&mut self, lane: LaneKey, outcome: FirstAttempt<'_>, now_ms: u64) {
        self.advance(now_ms);
        // A clock that stands still or steps back counts as the newest tick known.
        let tick = (now_ms / self.tick_ms).max(self.newest_tick());
        let failed = match outcome {
            FirstAttempt::Ok => None,
            FirstAttempt::Failed { class, fingerprint } => Some(self.kind(class, fingerprint)),
        };
        let lane = fold(lane);
        let index = self.place_for(lane);
        let old = self.places[index];
        if self.is_live(&old) {
            self.count(old, false);
        }
        let place = Place { lane, tick, failed };
        self.places[index] = place;
        self.count(place, true);
    }

    /// Moves on to `now_ms`: what left the window is subtracted.
    pub(super) fn advance(&mut self, now_ms: u64) {
        let tick = now_ms / self.tick_ms;
        if self.ticks.is_empty() {
            self.first_tick = tick;
            self.ticks.push_back(Tick::default());
            return;
        }
        let oldest = (tick + 1).saturating_sub(TICKS);
        while self.first_tick < oldest {
            let Some(gone) = self.ticks.pop_front() else { break };
            self.seen -= gone.seen;
            self.failed -= gone.failed;
            self.first_tick += 1;
        }
        if self.ticks.is_empty() {
            self.first_tick = tick;
            // Nothing refers to a kind any more.
            self.kinds.clear();
            self.kind_of.clear();
        }
        while self.newest_tick() < tick || self.ticks.is_empty() {
            self.ticks.push_back(Tick::default());
        }
    }

    /// Whether all failures have one class, and it is a listed one.
    pub(super) fn is_all_one_poison_class(&self) -> bool {
        let mut classes = self.ticks.iter().flat_map(|tick| &tick.classes).filter(|(_, keys)| *keys > 0);
        let Some((Some(first), _)) = classes.next() else { return false };
        classes.all(|(class, _)| *class == Some(*first))
    }

    /// The most frequent failures; of a closed window those that it had.
    pub(super) fn top(&self, most: usize) -> Vec<TopFailure> {
        let mut keys = vec![0_u32; self.kinds.len() + 1];
        for (kind, count) in self.ticks.iter().flat_map(|tick| &tick.kinds) {
            keys[usize::from(*kind)] += count;
        }
        let mut order: Vec<usize> = (0..keys.len()).filter(|&kind| keys[kind] > 0).collect();
        if order.is_empty() {
            return self.closed_top.clone();
        }
        order.sort_by_key(|&kind| (std::cmp::Reverse(keys[kind]), kind));
        let told = order.into_iter().take(most);
        told.map(|kind| match kind.checked_sub(1).and_then(|index| self.kinds.get(index)) {
            Some(text) => {
                TopFailure { class: text.class.clone(), fingerprint: text.fingerprint.clone(), keys: keys[kind] }
            }
            None => TopFailure { class: String::new(), fingerprint: String::new(), keys: keys[kind] },
        })
        .collect()
    }

    fn newest_tick(&self) -> u64 {
        (self.first_tick + self.ticks.len() as u64).saturating_sub(1)
    }

    fn is_live(&self, place: &Place) -> bool {
        place.tick != NEVER && place.tick >= self.first_tick
    }

    fn count(&mut self, place: Place, add: bool) {
        let listed = place.failed.and_then(|kind| self.listed_of(kind));
        let index = usize::try_from(place.tick - self.first_tick).expect("a live tick is one of the window");
        let tick = &mut self.ticks[index];
        step(&mut tick.seen, add);
        step(&mut self.seen, add);
        if let Some(kind) = place.failed {
            step(&mut tick.failed, add);
            step(&mut self.failed, add);
            step(entry(&mut tick.kinds, kind), add);
            step(entry(&mut tick.classes, listed), add);
        }
    }

    fn listed_of(&self, kind: Kind) -> Option<u8> {
        let text = usize::from(kind).checked_sub(1).and_then(|index| self.kinds.get(index));
        text.and_then(|text| text.listed)
    }

    /// The number of a kind of failure. Those of a listed class beyond the bound share one number per class, so that
    /// [`Self::is_all_one_poison_class`] stays right.
    fn kind(&mut self, class: &str, fingerprint: &str) -> Kind {
        let (class, fingerprint) = (cut(class), cut(fingerprint));
        let listed = self.listed.iter().position(|one| one == class);
        let listed = listed.and_then(|index| u8::try_from(index).ok());
        let reserved = self.listed.len();
        if let Some(&kind) = self.kind_of.get(&(class.to_owned(), fingerprint.to_owned())) {
            return kind;
        }
        let fingerprint = if self.kinds.len() + reserved < KINDS - 1 {
            fingerprint
        } else if listed.is_some() {
            ""
        } else {
            return 0;
        };
        let key = (class.to_owned(), fingerprint.to_owned());
        if let Some(&kind) = self.kind_of.get(&key) {
            return kind;
        }
        self.kinds.push(KindText { class: key.0.clone(), fingerprint: key.1.clone(), listed });
        let kind = Kind::try_from(self.kinds.len()).expect("kinds are bounded");
        self.kind_of.insert(key, kind);
        kind
    }

    /// The key's own place, else a free one, else, in a table that cannot grow, the oldest of its bucket.
    fn place_for(&mut self, lane: u64) -> usize {
        loop {
            if self.places.is_empty() {
                self.places = vec![FREE; KEYS_FIRST];
            }
            let start = bucket(lane, self.places.len());
            let bucket = &self.places[start..start + WAYS];
            if let Some(own) = bucket.iter().position(|place| place.lane == lane && place.tick != NEVER) {
                return start + own;
            }
            if let Some(free) = bucket.iter().position(|place| !self.is_live(place)) {
                return start + free;
            }
            if self.places.len() >= KEYS_MAX {
                let oldest = (0..WAYS).min_by_key(|&way| bucket[way].tick).expect("a bucket has places");
                return start + oldest;
            }
            self.grow();
        }
    }

    fn grow(&mut self) {
        let old = std::mem::take(&mut self.places);
        self.places = vec![FREE; old.len() * 2];
        for place in old.into_iter().filter(|place| place.tick != NEVER && place.tick >= self.first_tick) {
            // The keys of a bucket part into two buckets, so each finds a place.
            let start = bucket(place.lane, self.places.len());
            let way = (start..start + WAYS).find(|&at| self.places[at].tick == NEVER);
            self.places[way.expect("a bucket parts into two")] = place;
        }
    }
}

fn bucket(lane: u64, places: usize) -> usize {
    let buckets = (places / WAYS) as u64;
    // The number of buckets is a power of two, so that doubling parts each bucket in two.
    usize::try_from(lane & (buckets - 1)).expect("below the number of places") * WAYS
}

/// A lane's key is a hash already; half of its bits tell keys apart well enough to count them.
fn fold(lane: LaneKey) -> u64 {
    (lane.0 as u64 ^ (lane.0 >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}

fn step(count: &mut u32, add: bool) {
    if add {
        *count += 1;
    } else {
        *count -= 1;
    }
}

fn entry<K: PartialEq>(counts: &mut Vec<(K, u32)>, key: K) -> &mut u32 {
    let index = counts.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
        counts.push((key, 0));
        counts.len() - 1
    });
    &mut counts[index].1
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

const _: () = assert!(KEYS_MAX.is_power_of_two() && KEYS_FIRST.is_power_of_two() && KEYS_FIRST >= WAYS);
