//! How a partition's log comes up: made, opened after a clean stop or a crash, or led out of its fence.
//!
//! Invariants: a new epoch is durable before the first append after an unclean start (rule D3); what recovery found is
//! durable in the ledger before the partition serves; producers' state is rebuilt before any append (rule PR-12).

use std::sync::Arc;
use std::time::Duration;

use super::append::{Core, Group};
use super::environment::{Birth, PartitionEnvironment, PartitionRef, PartitionSpec};
use super::facts::Facts;
use super::local::{PartitionOpenError, fenced};
use super::store::{LogStore, rebuild};
use super::{AppendFailure, OffsetRange, PartitionEpoch, Truncation};
use crate::log::{LocalLog, RecoveryHint, RecoveryReport};

/// A log that was made or opened, and under which epoch it goes on.
pub(super) struct Opened {
    pub(super) log: LocalLog,
    pub(super) report: RecoveryReport,
    pub(super) epoch: PartitionEpoch,
    pub(super) last_truncation: Option<Truncation>,
    pub(super) quarantined: Vec<OffsetRange>,
    pub(super) clean: bool,
}

/// Makes or opens the log of a partition, and has the ledger keep what was found.
pub(super) fn open_log(
    spec: &PartitionSpec,
    name: PartitionRef,
    environment: &PartitionEnvironment,
) -> Result<Opened, PartitionOpenError> {
    let (mut hint, mut last_truncation) = match &spec.birth {
        Birth::New { epoch } => {
            let log = LocalLog::create(spec.log.clone(), *epoch)?;
            let report = RecoveryReport { end: log.end(), ..RecoveryReport::default() };
            let (last_truncation, quarantined) = (None, Vec::new());
            return Ok(Opened { log, report, epoch: *epoch, last_truncation, quarantined, clean: true });
        }
        Birth::Existing { hint, last_truncation } => (RecoveryHint::clone(hint), *last_truncation),
    };
    let clean = hint.clean_end.is_some();
    let mut epoch = hint.next_epoch;
    if !clean {
        // Before anything is written: a lost unsynced tail may leave no trace (rule D3).
        epoch = environment.ledger.new_epoch(name)?;
        hint.next_epoch = epoch;
    }
    let (log, report) = LocalLog::open(spec.log.clone(), &hint)?;
    if clean && !report.clean {
        // The marker was wrong after all: what came after it may be missing.
        epoch = environment.ledger.new_epoch(name)?;
    }
    let report_clean = report.clean;
    if let Some(last) = report.last_epoch {
        // A repaired metadata log may have forgotten epochs that were given; none is used twice (rule D3).
        let least = if clean && report.clean { last } else { last.next().unwrap_or(last) };
        epoch = epoch.max(least);
    }
    let mut quarantined = hint.quarantined;
    if !report.quarantined.is_empty() {
        environment.ledger.record_quarantine(name, &report.quarantined)?;
        quarantined.extend_from_slice(&report.quarantined);
    }
    if report.dropped_bytes > 0 {
        let time_ms = environment.clock.wall_ms();
        let truncation = Truncation { offset: report.end, epoch, bytes: report.dropped_bytes, time_ms };
        environment.ledger.record_truncation(name, truncation)?;
        last_truncation = Some(truncation);
    }
    Ok(Opened { log, report, epoch, last_truncation, quarantined, clean: report_clean })
}

/// Leaves the fence (rule F1).
pub(super) fn reopen(
    core: &mut Core<LogStore>,
    group: &Arc<Group<LogStore>>,
    facts: &Facts,
    epoch: PartitionEpoch,
    ttl: Duration,
) -> Result<(), AppendFailure> {
    if core.fenced.is_none() {
        return Ok(());
    }
    if epoch <= core.epoch {
        return Err(fenced(core, format!("epoch {epoch} is not above {}: it takes a new one to reopen", core.epoch)));
    }
    // The log has forgotten what it cut; what was published last before the fence has not changed since.
    let bytes = facts.unsynced_bytes();
    core.log.log.reopen(epoch).map_err(|error| fenced(core, error.to_string()))?;
    let place = &core.log.environment;
    let now = (group.clock.monotonic(), group.clock.wall_ms());
    match rebuild(&core.log.log, &*place.storage, &place.dir, ttl, now) {
        Ok((producers, _)) => core.producers = producers,
        Err(error) => {
            // Without the producers' state an append could be a double: stay closed.
            let cause = format!("producer state cannot be rebuilt: {error}");
            core.log.log.fence(&cause);
            return Err(fenced(core, cause));
        }
    }
    core.epoch = epoch;
    core.unfence(group);
    facts.set_epoch(epoch);
    facts.set_fence(None);
    facts.set_truncation(Truncation { offset: core.log.log.end(), epoch, bytes, time_ms: now.1 });
    core.log.publish();
    Ok(())
}
