//! Metrics of consumer groups (rules OB-1 to OB-3): counters where things happen, everything that can be asked for at
//! scrape time from a [`GroupSource`].

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GroupLabels {
    group: String,
}

/// The counters of one group; cheap to clone.
#[derive(Debug, Clone)]
pub struct GroupMetrics {
    /// Records delivered for the first time.
    pub delivered_records: Counter,
    /// Records settled.
    pub settled_records: Counter,
    /// Deliveries that failed.
    pub failed_tries: Counter,
    /// Records that went to the dead letters, failed or parked.
    pub dead_letters: Counter,
    /// Records that were spilled to the dead letters (rule KO-7).
    pub spilled_records: Counter,
    /// Lanes that are live again.
    pub lanes_revived: Counter,
    /// Units that changed hands.
    pub moved_units: Counter,
    /// Members lost.
    pub lost_members: Counter,
    /// Offsets that will not come (rule RE-4).
    pub gap_offsets: Counter,
    /// Times that the breaker opened.
    pub breaker_openings: Counter,
    /// Redriven entries that failed again.
    pub redrive_failures: Counter,
    /// Times that a bound of AK-7 was at 80 %.
    pub bounds_near: Counter,
    /// Seconds from append to first delivery.
    pub append_to_delivery: Histogram,
    /// Seconds from append to settle.
    pub append_to_settle: Histogram,
}

/// The counters of all groups.
#[derive(Debug, Clone)]
pub(super) struct GroupFamilies {
    counters: [(&'static str, &'static str, Family<GroupLabels, Counter>); 12],
    append_to_delivery: Family<GroupLabels, Histogram>,
    append_to_settle: Family<GroupLabels, Histogram>,
}

/// 100 us to about an hour.
fn delays() -> Histogram {
    Histogram::new(exponential_buckets(1e-4, 2.0, 26))
}

impl Default for GroupFamilies {
    fn default() -> Self {
        let counter = |name, help| (name, help, Family::default());
        Self {
            counters: [
                counter("group_delivered_records", "Records delivered for the first time"),
                counter("group_settled_records", "Records settled"),
                counter("group_failed_tries", "Deliveries that failed"),
                counter("group_dead_letters", "Records that went to the dead letters"),
                counter("group_spilled_records", "Records spilled to the dead letters"),
                counter("group_lanes_revived", "Keys that are live again"),
                counter("group_moved_units", "Units that changed hands"),
                counter("group_lost_members", "Members lost"),
                counter("group_gap_offsets", "Offsets that will not come"),
                counter("group_breaker_openings", "Times that the breaker opened"),
                counter("group_redrive_failures", "Redriven dead letters that failed again"),
                counter("group_bounds_near", "Times that a bound was at 80 %"),
            ],
            append_to_delivery: Family::new_with_constructor(delays),
            append_to_settle: Family::new_with_constructor(delays),
        }
    }
}

impl GroupFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        for (name, help, family) in &self.counters {
            r.register(*name, *help, family.clone());
        }
        let delivery = self.append_to_delivery.clone();
        r.register_with_unit("group_append_to_delivery", "From append to first delivery", Unit::Seconds, delivery);
        let settle = self.append_to_settle.clone();
        r.register_with_unit("group_append_to_settle", "From append to settle", Unit::Seconds, settle);
    }

    pub(super) fn of(&self, group: &str) -> GroupMetrics {
        let labels = GroupLabels { group: group.to_owned() };
        let [
            delivered_records,
            settled_records,
            failed_tries,
            dead_letters,
            spilled_records,
            lanes_revived,
            moved_units,
            lost_members,
            gap_offsets,
            breaker_openings,
            redrive_failures,
            bounds_near,
        ] = self.counters.each_ref().map(|(_, _, family)| family.get_or_create_owned(&labels));
        GroupMetrics {
            delivered_records,
            settled_records,
            failed_tries,
            dead_letters,
            spilled_records,
            lanes_revived,
            moved_units,
            lost_members,
            gap_offsets,
            breaker_openings,
            redrive_failures,
            bounds_near,
            append_to_delivery: self.append_to_delivery.get_or_create_owned(&labels),
            append_to_settle: self.append_to_settle.get_or_create_owned(&labels),
        }
    }

    pub(super) fn forget(&self, group: &str) {
        let labels = GroupLabels { group: group.to_owned() };
        for (_, _, family) in &self.counters {
            family.remove(&labels);
        }
        self.append_to_delivery.remove(&labels);
        self.append_to_settle.remove(&labels);
    }
}
