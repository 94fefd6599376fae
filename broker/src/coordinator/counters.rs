//! What happens to a group, counted: from what its machine notices to the names of the metrics.

use crate::group::effect::Notice;
use crate::metrics::GroupMetrics;

/// The counters of one group.
#[derive(Debug)]
pub(super) struct Counters(GroupMetrics);

impl Counters {
    pub(super) fn new(metrics: GroupMetrics) -> Self {
        Self(metrics)
    }

    /// Counts what was noticed.
    pub(super) fn note(&self, notices: &[Notice]) {
        let metrics = &self.0;
        for notice in notices {
            match notice {
                Notice::FirstDelivered { records, after_ms } => {
                    metrics.delivered_records.inc_by(*records);
                    metrics.append_to_delivery.observe(seconds(*after_ms));
                }
                Notice::Settled { records, took } => {
                    metrics.settled_records.inc_by(*records);
                    if let Some(took) = took {
                        metrics.append_to_settle.observe(seconds(took.append_ms));
                        metrics.handler.observe(seconds(took.delivery_ms));
                    }
                }
                Notice::Failed => drop(metrics.failed_tries.inc()),
                Notice::DeadLettered { spilled: false, .. } => drop(metrics.dead_letters.inc()),
                Notice::DeadLettered { spilled: true, .. } => drop(metrics.spilled_records.inc()),
                Notice::LaneLive => drop(metrics.lanes_revived.inc()),
                Notice::Moved(_) => drop(metrics.moved_units.inc()),
                Notice::MemberLost(_) => drop(metrics.lost_members.inc()),
                Notice::Gap { range, .. } => {
                    metrics.gap_offsets.inc_by(range.to.distance_from(range.from));
                }
                Notice::Breaker { open: true, .. } => drop(metrics.breaker_openings.inc()),
                Notice::RedriveFailed(_) => drop(metrics.redrive_failures.inc()),
                Notice::BoundNear { bound, .. } => {
                    metrics.bounds_near.inc();
                    tracing::warn!(bound, "a group is near a bound (rule AK-7)");
                }
                _ => {}
            }
        }
    }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}
