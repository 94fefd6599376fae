//! Envelopes and event ids between the wire and the model.

use sawlog_proto::v1;

use super::status::{self, Problem};
use crate::partition::admit::EnvelopePolicy;
use crate::partition::events::EventPlace;
use crate::topics::{DedupWindow, EventIdsStatus, EventSettings};

/// Changes what `config` gives.
pub(super) fn merge(settings: &mut EventSettings, config: &v1::TopicConfig) -> Result<(), Problem> {
    settings.envelope = match v1::EnvelopePolicy::try_from(config.envelope) {
        Ok(v1::EnvelopePolicy::Unspecified) => settings.envelope,
        Ok(v1::EnvelopePolicy::Off) => EnvelopePolicy::Off,
        Ok(v1::EnvelopePolicy::Fill) => EnvelopePolicy::Fill,
        Ok(v1::EnvelopePolicy::Required) => EnvelopePolicy::Required,
        Err(_) => {
            return Err(status::invalid_field("config.envelope", config.envelope, "0 to 3"));
        }
    };
    if let Some(window) = config.dedup_window_ms {
        settings.window = Some(match window {
            0 => DedupWindow::Off,
            -1 => DedupWindow::Log,
            ms => DedupWindow::Ms(u64::try_from(ms).map_err(|_| {
                status::invalid_field("config.dedup_window_ms", ms, "0 (off), -1 (log) or at least 1000")
            })?),
        });
    }
    if let Some(max_ids) = config.dedup_max_ids {
        let bounds = "1 to 1000000";
        let found = u32::try_from(max_ids);
        settings.max_ids = found.map_err(|_| status::invalid_field("config.dedup_max_ids", max_ids, bounds))?;
    }
    Ok(())
}

pub(super) fn envelope_to_wire(policy: EnvelopePolicy) -> v1::EnvelopePolicy {
    match policy {
        EnvelopePolicy::Off => v1::EnvelopePolicy::Off,
        EnvelopePolicy::Fill => v1::EnvelopePolicy::Fill,
        EnvelopePolicy::Required => v1::EnvelopePolicy::Required,
    }
}

pub(super) fn window_to_wire(window: DedupWindow) -> i64 {
    match window {
        DedupWindow::Off => 0,
        DedupWindow::Ms(ms) => i64::try_from(ms).unwrap_or(i64::MAX),
        DedupWindow::Log => -1,
    }
}

pub(super) fn status_to_wire(status: EventIdsStatus) -> v1::EventIds {
    v1::EventIds {
        ids: i64::try_from(status.ids).unwrap_or(i64::MAX),
        max_ids: i64::from(status.max_ids),
        span_ms: status.span_ms.map_or(-1, |ms| i64::try_from(ms).unwrap_or(i64::MAX)),
        ready: status.ready,
    }
}

pub(super) fn place_to_wire(place: &EventPlace) -> v1::EventPosition {
    v1::EventPosition {
        partition: place.partition.0,
        offset: place.offset.to_wire(),
        epoch: place.epoch.get(),
        append_time_ms: place.append_time_ms,
    }
}
