//! A true history passes; each forged one is flagged by its own violation.

use super::*;

/// Two producers, two partitions, batches of two, one record of unknown outcome that is there, one that is not.
fn true_history() -> History {
    let mut history = History::default();
    let mut offsets = [0_u64; 2];
    let mut run = ReadRun { log_starts: BTreeMap::from([(0, 0), (1, 0)]), ..ReadRun::default() };
    for number in 0..20_u64 {
        for producer in 0..2_u32 {
            let id = RecordId { producer, number };
            let partition = (number / 2 % 2) as u32;
            let digest = u64::from(producer) << 32 | number;
            let unknown_there = number / 2 == 8;
            let unknown_lost = number / 2 == 9;
            let batch = Some(u64::from(producer) << 32 | (number / 2));
            let outcome = if unknown_lost {
                SendOutcome::Unknown
            } else {
                let offset = number / 4 * 4 + number % 2 + u64::from(producer) * 2;
                let place = Place { partition, epoch: 1, offset };
                run.seen.push(Seen { place, id, digest, append_time_ms: 1000 + i64::try_from(number / 2).unwrap() });
                offsets[partition as usize] += 1;
                if unknown_there { SendOutcome::Unknown } else { SendOutcome::Acked(place) }
            };
            history.sent.push(Sent { id, digest, batch, outcome });
        }
    }
    run.seen.sort_by_key(|seen| (seen.place.partition, seen.place.offset));
    history.reads = vec![run.clone(), run];
    history
}

fn violations(history: &History) -> Vec<Violation> {
    Checker::new().check(history).expect_err("a forged history is flagged")
}

fn last(history: &mut History) -> &mut ReadRun {
    history.reads.last_mut().unwrap()
}

#[test]
fn a_true_history_passes_with_its_totals() {
    let totals = Checker::new().check(&true_history()).unwrap();
    assert_eq!(totals, Totals { sent: 40, acked: 32, unknown: 8, unknown_found: 4, read: 36, retired: 0 });
}

#[test]
fn a_history_without_a_read_proves_nothing() {
    let history = History { reads: Vec::new(), ..true_history() };
    assert_eq!(violations(&history), [Violation::NothingRead]);
}

#[test]
fn a_lost_ack_is_flagged() {
    let mut history = true_history();
    // The end of a partition is cut with the offsets of an acknowledged batch; no hole tells of it.
    let run = last(&mut history);
    run.seen.retain(|seen| seen.place.partition != 1 || seen.place.offset < 12);
    assert!(violations(&history).iter().all(|found| matches!(found, Violation::LostAck { .. })));
}

#[test]
fn a_lost_ack_below_the_log_start_is_retention() {
    let mut history = true_history();
    let run = last(&mut history);
    run.seen.retain(|seen| seen.place.partition != 1 || seen.place.offset >= 5);
    run.log_starts.insert(1, 5);
    assert_eq!(Checker::new().check(&history).unwrap().retired, 5);
}

#[test]
fn a_duplicate_is_flagged() {
    let mut history = true_history();
    let run = last(&mut history);
    let end = run.seen.iter().filter(|seen| seen.place.partition == 0).count();
    let mut again = run.seen[end - 1];
    again.place.offset += 1;
    run.seen.insert(end, again);
    assert!(violations(&history).iter().any(|found| matches!(found, Violation::Duplicate { .. })));
    let lenient = Checker { idempotent: false }.check(&history);
    assert!(lenient.is_ok(), "without idempotence a repeat is no violation: {lenient:?}");
}

#[test]
fn a_reorder_is_flagged() {
    let mut history = true_history();
    for run in &mut history.reads {
        let (first, second) = (run.seen[0], run.seen[4]);
        assert_eq!(first.id.producer, second.id.producer);
        (run.seen[0].id, run.seen[0].digest) = (second.id, second.digest);
        (run.seen[4].id, run.seen[4].digest) = (first.id, first.digest);
    }
    assert!(violations(&history).iter().any(|found| matches!(found, Violation::Reordered { .. })));
}

#[test]
fn a_phantom_is_flagged_whether_unsent_refused_or_altered() {
    let forge = |change: &dyn Fn(&mut History)| {
        let mut history = true_history();
        change(&mut history);
        violations(&history).into_iter().find_map(|found| match found {
            Violation::Phantom { why, .. } => Some(why),
            _ => None,
        })
    };
    let unsent = forge(&|history| {
        let run = last(history);
        let mut extra = *run.seen.last().unwrap();
        extra.place.offset += 1;
        extra.id.number = 1000;
        run.seen.push(extra);
    });
    assert_eq!(unsent, Some("it was never sent"));
    let refused = forge(&|history| {
        let there = history.sent.iter_mut().find(|sent| sent.outcome == SendOutcome::Unknown).unwrap();
        there.outcome = SendOutcome::NotWritten;
    });
    assert_eq!(refused, Some("it was refused as not written"));
    let altered = forge(&|history| last(history).seen[3].digest ^= 1);
    assert_eq!(altered, Some("its bytes are not those that were sent"));
}

#[test]
fn a_place_that_changes_its_record_is_flagged_but_not_in_another_epoch() {
    let mut history = true_history();
    // The record of unknown outcome at the end was read once and is another one later.
    let position = history.reads[0].seen.len() - 1;
    let lost = history.sent.iter().rfind(|sent| sent.outcome == SendOutcome::Unknown).copied().unwrap();
    let seen = &mut history.reads[1].seen[position];
    (seen.id, seen.digest) = (lost.id, lost.digest);
    assert!(violations(&history).iter().any(|found| matches!(found, Violation::Changed { .. })));
    history.reads[1].seen[position].place.epoch += 1;
    let after = Checker::new().check(&history);
    let changed = |found: &Vec<Violation>| found.iter().any(|found| matches!(found, Violation::Changed { .. }));
    assert!(!after.is_err_and(|found| changed(&found)));
}

#[test]
fn a_torn_batch_is_flagged() {
    let mut history = true_history();
    // Half of a batch of unknown outcome is missing at the end of its partition.
    for run in &mut history.reads {
        let end = run.seen.iter().rposition(|seen| seen.place.partition == 0).unwrap();
        run.seen.remove(end);
    }
    assert!(matches!(violations(&history)[..], [Violation::TornBatch { sent: 2, found: 1, .. }]));
}

#[test]
fn a_hole_is_flagged_unless_it_was_told() {
    let mut history = true_history();
    for run in &mut history.reads {
        for seen in run.seen.iter_mut().filter(|seen| seen.place.partition == 0 && seen.place.offset >= 16) {
            seen.place.offset += 3;
        }
    }
    assert!(matches!(violations(&history)[..], [Violation::Hole { expected: 16, found: 19, .. }, ..]));
    for run in &mut history.reads {
        run.gaps.push((0, 16, 19));
    }
    assert!(Checker::new().check(&history).is_ok());
}

#[test]
fn an_append_time_that_falls_is_flagged() {
    let mut history = true_history();
    history.reads[0].seen[1].append_time_ms = 0;
    assert!(violations(&history).iter().any(|found| matches!(found, Violation::TimeFell { .. })));
}
