//! Groups on the real engine, over the simulated disk: sessions without a network, a clock turned by hand.

use std::sync::Arc;
use std::time::Duration;

use sawlog_broker::coordinator::types::{
    AckStatus, Credit, EntryState, ErrorInfo, Frame, GapReason, GroupConfig, GroupNotes, Join, Mode, NackKind, Refusal,
    SourceName, StartAt, Targets, Verb,
};
use sawlog_broker::coordinator::views::{Processed, ResetRequest};
use sawlog_broker::coordinator::{
    Caller, Coordinator, DeliveredRecord, Expect, GroupError, JoinGroup, NewGroup, Session, SessionFrame, UpdateGroup,
};
use sawlog_broker::model::{
    AssignmentEpoch, GroupName, MemberEpoch, MemberId, Offset, OffsetRange, PartitionId, Position, Source,
};
use sawlog_broker::partition::{CheckedBatch, Permit};
use sawlog_broker::topics::TopicError;
use sawlog_proto::batch::{BatchBuilder, BatchHeader, Codec};
use tokio::runtime::Runtime;

use crate::topics::{START_MS, World, config, offset};

mod starts;

/// No wait takes longer.
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Groups {
    pub(crate) world: World,
    pub(crate) runtime: Runtime,
}

pub(crate) fn batch(records: &[(&str, &str)]) -> CheckedBatch {
    let mut builder = BatchBuilder::new(Codec::None);
    for (key, value) in records {
        let headers = [("kind", key.as_bytes())];
        builder.push(START_MS, Some(key.as_bytes()), Some(value.as_bytes()), headers.into_iter());
    }
    let bytes = builder.finish();
    CheckedBatch { header: BatchHeader::decode(&bytes).expect("it is one"), bytes, request: None, events: None }
}

pub(crate) fn run(from: u64, to: u64) -> OffsetRange {
    OffsetRange { from: offset(from), to: offset(to) }
}

pub(crate) fn group_name(name: &str) -> GroupName {
    GroupName::parse(name).expect("a good name")
}

pub(crate) fn caller() -> Caller {
    Caller { actor: "test".into(), note: "because".into() }
}

pub(crate) fn join(group: &str, member: u8) -> JoinGroup {
    let join = Join {
        member: MemberId([member; 16]),
        resume: None,
        instance: None,
        client_id: "test".into(),
        client_version: "1".into(),
        credit: Credit { records: 1_000, bytes: 10 << 20 },
        in_work: Vec::new(),
    };
    let group = group_name(group);
    JoinGroup { group, join, expect: Expect::default(), batches: false, min_bytes: 0, max_wait_ms: 0 }
}

impl Groups {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        Self { world: World::new(), runtime }
    }

    pub(crate) fn coordinator(&self) -> &Arc<Coordinator> {
        self.world.engine().coordinator()
    }

    pub(crate) fn create(&self, name: &str, mode: Mode, topics: &[&str], start: StartAt) {
        let config = GroupConfig::new(mode, topics.iter().map(|topic| (*topic).to_owned()).collect());
        self.create_with(name, config, start).expect("a good group");
    }

    pub(crate) fn create_with(&self, name: &str, config: GroupConfig, start: StartAt) -> Result<bool, GroupError> {
        let new = NewGroup {
            name: group_name(name),
            config,
            start,
            epochs: Vec::new(),
            topic_retry: Default::default(),
            notes: GroupNotes::default(),
        };
        self.runtime.block_on(self.coordinator().create(new)).map(|(_, new)| new)
    }

    pub(crate) fn produce(&self, topic: &str, records: &[(&str, &str)]) {
        let topic = self.world.topic(topic);
        let level = topic.revision().config.ack_floor;
        let ack = topic.partitions()[0].append(batch(records), level, Permit::default());
        self.runtime.block_on(ack).expect("the disk is well");
    }

    pub(crate) fn source(&self, topic: &str) -> Source {
        Source { topic: self.world.topic(topic).uuid, partition: PartitionId(0) }
    }

    pub(crate) fn join(&self, join: JoinGroup) -> Result<Session, GroupError> {
        self.runtime.block_on(self.coordinator().join(join))
    }

    /// The next frame; `None` at the end of the stream.
    pub(crate) fn next(&self, session: &mut Session) -> Option<SessionFrame> {
        let next = async { tokio::time::timeout(LIMIT, session.next()).await };
        self.runtime.block_on(next).expect("a frame in time")
    }

    /// The next frame that `wanted` knows; what comes before is passed.
    pub(crate) fn until<T>(&self, session: &mut Session, mut wanted: impl FnMut(SessionFrame) -> Option<T>) -> T {
        loop {
            let frame = self.next(session).expect("the stream goes on");
            if let Some(found) = wanted(frame) {
                return found;
            }
        }
    }

    pub(crate) fn assigned(&self, session: &mut Session) -> (AssignmentEpoch, Offset) {
        self.until(session, |frame| match frame {
            SessionFrame::Control(Frame::Assign { epoch, start, .. }) => Some((epoch, start)),
            _ => None,
        })
    }

    /// Records until there are `count` of them, with the epoch of the last frame.
    pub(crate) fn records(&self, session: &mut Session, count: usize) -> (AssignmentEpoch, Vec<DeliveredRecord>) {
        let mut all = Vec::new();
        self.until(session, |frame| match frame {
            SessionFrame::Records { epoch, records, .. } => {
                all.extend(records);
                (all.len() >= count).then(|| (epoch, std::mem::take(&mut all)))
            }
            _ => None,
        })
    }

    pub(crate) fn results(&self, session: &mut Session, request: u64) -> Vec<(OffsetRange, AckStatus)> {
        self.until(session, |frame| match frame {
            SessionFrame::Control(Frame::AckResults { request: found, results, .. }) if found == request => {
                Some(results)
            }
            _ => None,
        })
    }

    pub(crate) fn ack(&self, session: &mut Session, epoch: AssignmentEpoch, topic: &str, runs: Vec<OffsetRange>) {
        let targets = Targets { source: self.source(topic), epoch, runs, entries: Vec::new() };
        session.handle(Verb::Ack { request: 1, targets, versions: Vec::new() }).expect("the session lives");
        let results = self.results(session, 1);
        assert!(results.iter().all(|(_, status)| *status == AckStatus::Ok), "{results:?}");
    }

    /// Commits in mode OFFSET.
    pub(crate) fn commit(&self, session: &mut Session, epoch: AssignmentEpoch, topic: &str, next: u64) {
        let (source, metadata) = (self.source(topic), String::new());
        let next = offset(next);
        let verb = Verb::Commit { request: 8, source, epoch, next, record_epoch: None, metadata, force: false };
        session.handle(verb).expect("the session lives");
        let result = self.until(session, |frame| match frame {
            SessionFrame::Control(Frame::CommitResult { result, .. }) => Some(result),
            _ => None,
        });
        assert_eq!(result, Ok(next));
    }

    pub(crate) fn nack(&self, session: &Session, epoch: AssignmentEpoch, topic: &str, at: u64, kind: NackKind) {
        let targets = Targets { source: self.source(topic), epoch, runs: vec![run(at, at + 1)], entries: Vec::new() };
        let error = ErrorInfo { class: "Bad".into(), message: "it is bad".into(), ..ErrorInfo::default() };
        let verb = Verb::Nack {
            request: 9,
            targets,
            kind,
            retry_after_ms: None,
            whole_group: false,
            error: Some(error),
            reason: String::new(),
        };
        session.handle(verb).expect("the session lives");
    }

    pub(crate) fn lag(&self, group: &str) -> sawlog_broker::coordinator::views::PartitionLag {
        let lag = self.runtime.block_on(self.coordinator().lag(group, &[])).expect("the group is there");
        lag.partitions.into_iter().next().expect("a partition")
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.world.clock.advance(by);
        self.coordinator().turn_timers();
    }
}

pub(crate) fn offsets(records: &[DeliveredRecord]) -> Vec<u64> {
    records.iter().map(|record| record.delivery.offset.get()).collect()
}

pub(crate) fn value(record: &DeliveredRecord) -> &[u8] {
    record.payload.value.as_deref().expect("it has a value")
}

#[test]
fn gm_1_a_member_gets_its_unit_and_the_records_as_they_were_produced() {
    let groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    groups.produce("orders", &[("a", "one"), ("b", "two")]);
    let mut session = groups.join(join("billing", 1)).expect("let in");
    let joined = groups.next(&mut session);
    assert!(matches!(joined, Some(SessionFrame::Control(Frame::Joined { resumed: false, .. }))), "{joined:?}");
    let (epoch, start) = groups.assigned(&mut session);
    assert_eq!(start, Offset::ZERO);
    let (delivered_under, records) = groups.records(&mut session, 2);
    assert_eq!(delivered_under, epoch);
    assert_eq!(offsets(&records), [0, 1]);
    assert_eq!((records[1].payload.key.as_deref(), value(&records[1])), (Some(&b"b"[..]), &b"two"[..]));
    assert_eq!(records[1].payload.headers[0].value.as_deref(), Some(&b"b"[..]));
    assert_eq!((records[0].append_ms, records[0].delivery.attempt), (START_MS, 1));
    // What comes later is delivered too, without a join.
    groups.produce("orders", &[("c", "three")]);
    let (_, records) = groups.records(&mut session, 1);
    assert_eq!(offsets(&records), [2]);
    assert_eq!(groups.lag("billing").lag_records, 3);
    groups.ack(&mut session, epoch, "orders", vec![run(0, 3)]);
    let lag = groups.lag("billing");
    assert_eq!((lag.lag_records, lag.floor, lag.high_watermark), (0, offset(3), offset(3)));
}

#[test]
fn ak_10_what_was_acked_does_not_come_again_after_a_kill_and_the_rest_does() {
    let mut groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    groups.produce("orders", &[("a", "0"), ("b", "1"), ("c", "2"), ("d", "3")]);
    let mut session = groups.join(join("billing", 1)).expect("let in");
    let (epoch, _) = groups.records(&mut session, 4);
    groups.ack(&mut session, epoch, "orders", vec![run(0, 1), run(2, 3)]);
    drop(session);
    groups.world.kill_and_start();
    assert_eq!(groups.lag("billing").lag_records, 2);
    // The member of before is remembered: its units are its own until its session timeout has run (rule GM-11).
    let mut session = groups.join(join("billing", 1)).expect("let in");
    let (epoch, records) = groups.records(&mut session, 2);
    assert_eq!(offsets(&records), [1, 3]);
    groups.ack(&mut session, epoch, "orders", vec![run(1, 2), run(3, 4)]);
    assert_eq!(groups.lag("billing").floor, offset(4));
}

#[test]
fn gm_8_a_session_is_resumed_and_a_listed_record_does_not_come_again() {
    let groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    groups.produce("orders", &[("a", "0"), ("b", "1")]);
    let mut session = groups.join(join("billing", 1)).expect("let in");
    let member_epoch = groups.until(&mut session, |frame| match frame {
        SessionFrame::Control(Frame::Joined { epoch, .. }) => Some(epoch),
        _ => None,
    });
    let (epoch, _) = groups.records(&mut session, 2);
    drop(session);
    let mut again = join("billing", 1);
    again.join.resume = Some(member_epoch);
    let source = groups.source("orders");
    let in_work =
        sawlog_broker::coordinator::types::InWork { source, epoch, runs: vec![run(0, 1)], entries: Vec::new() };
    again.join.in_work = vec![in_work];
    let mut session = groups.join(again).expect("let in");
    let joined = groups.next(&mut session);
    assert!(matches!(joined, Some(SessionFrame::Control(Frame::Joined { resumed: true, .. }))), "{joined:?}");
    let (_, records) = groups.records(&mut session, 1);
    assert_eq!(offsets(&records), [1], "what was not listed went back, and came again");
    groups.ack(&mut session, epoch, "orders", vec![run(0, 2)]);
}

#[test]
fn a_newer_stream_of_a_member_ends_the_older_one_and_its_end_does_not_touch_the_newer() {
    let groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    let mut older = groups.join(join("billing", 1)).expect("let in");
    let epoch: MemberEpoch = groups.until(&mut older, |frame| match frame {
        SessionFrame::Control(Frame::Joined { epoch, .. }) => Some(epoch),
        _ => None,
    });
    let mut again = join("billing", 1);
    again.join.resume = Some(epoch);
    let mut newer = groups.join(again).expect("let in");
    while groups.next(&mut older).is_some() {}
    assert!(older.handle(Verb::Ping).is_err());
    drop(older);
    groups.produce("orders", &[("a", "0")]);
    let (_, records) = groups.records(&mut newer, 1);
    assert_eq!(offsets(&records), [0]);
}

#[test]
fn ak_8_in_mode_offset_batches_leave_as_they_were_stored_and_commits_hold() {
    let mut groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.create("copy", Mode::Offset, &["orders"], StartAt::Earliest);
    groups.produce("orders", &[("a", "0"), ("b", "1")]);
    groups.produce("orders", &[("c", "2")]);
    let mut raw = join("copy", 1);
    raw.batches = true;
    let mut session = groups.join(raw).expect("let in");
    let (epoch, _) = groups.assigned(&mut session);
    let mut reached_all = Offset::ZERO;
    let mut stored = 0;
    while reached_all < offset(3) {
        let (frames, from, reached) = groups.until(&mut session, |frame| match frame {
            SessionFrame::Batches { frames, from, reached, .. } => Some((frames, from, reached)),
            _ => None,
        });
        assert_eq!(from, reached_all);
        stored += frames.iter().map(|frame| frame.record_count).sum::<u32>();
        reached_all = reached;
    }
    assert_eq!(stored, 3);
    let commit = |request, next, force| Verb::Commit {
        request,
        source: groups.source("orders"),
        epoch,
        next: offset(next),
        record_epoch: None,
        metadata: "mine".into(),
        force,
    };
    let mut answers = Vec::new();
    for (request, next, force) in [(1, 2, false), (2, 1, false), (3, 9, false), (4, 1, true), (5, 2, false)] {
        session.handle(commit(request, next, force)).expect("the session lives");
        answers.push(groups.until(&mut session, |frame| match frame {
            SessionFrame::Control(Frame::CommitResult { result, .. }) => Some(result),
            _ => None,
        }));
    }
    assert_eq!(answers[0], Ok(offset(2)));
    assert!(matches!(answers[1], Err(Refusal::CommitBackwards { .. })), "{answers:?}");
    assert!(matches!(answers[2], Err(Refusal::OutOfRange { .. })), "{answers:?}");
    assert_eq!(answers[3..], [Ok(offset(1)), Ok(offset(2))]);
    drop(session);
    groups.world.kill_and_start();
    let lag = groups.lag("copy");
    assert_eq!((lag.floor, lag.metadata.as_str()), (offset(2), "mine"));
    let mut session = groups.join(join("copy", 1)).expect("let in");
    let (_, records) = groups.records(&mut session, 1);
    assert_eq!((offsets(&records), value(&records[0])), (vec![2], &b"2"[..]));
}

#[test]
fn of_1_a_group_begins_where_it_was_told_and_keeps_that_place() {
    let groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.produce("orders", &[("a", "0"), ("b", "1")]);
    groups.world.clock.advance(Duration::from_secs(60));
    groups.produce("orders", &[("c", "2")]);
    let name = || SourceName { topic: "orders".into(), partition: 0 };
    groups.create("early", Mode::Keyed, &["orders"], StartAt::Earliest);
    groups.create("late", Mode::Keyed, &["orders"], StartAt::Latest);
    groups.create("time", Mode::Keyed, &["orders"], StartAt::Timestamp(START_MS + 1));
    groups.create("place", Mode::Keyed, &["orders"], StartAt::Offsets(vec![(name(), offset(1))]));
    groups.create("like", Mode::Keyed, &["orders"], StartAt::FromGroup("place".into()));
    groups.produce("orders", &[("d", "3")]);
    let floors = ["early", "late", "time", "place", "like"].map(|group| groups.lag(group).floor.get());
    assert_eq!(floors, [0, 3, 2, 1, 1]);
    let keyed = || GroupConfig::new(Mode::Keyed, vec!["orders".into()]);
    let beyond = groups.create_with("beyond", keyed(), StartAt::Offsets(vec![(name(), offset(5))]));
    assert!(matches!(beyond, Err(GroupError::OutOfRange { .. })), "{beyond:?}");
    let unknown = SourceName { topic: "orders".into(), partition: 4 };
    let unknown = groups.create_with("unknown", keyed(), StartAt::Offsets(vec![(unknown, offset(0))]));
    assert!(matches!(unknown, Err(GroupError::Invalid { field: "offsets", .. })), "{unknown:?}");
}

#[test]
fn a_group_is_created_once_and_another_creation_names_what_differs() {
    let groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    let keyed = || GroupConfig::new(Mode::Keyed, vec!["orders".into()]);
    assert!(groups.create_with("billing", keyed(), StartAt::Latest).expect("a good group"));
    assert!(!groups.create_with("billing", keyed(), StartAt::Latest).expect("the same group"));
    let other = GroupConfig { lease_ms: 5_000, ..keyed() };
    match groups.create_with("billing", other, StartAt::Latest) {
        Err(GroupError::Exists { fields, .. }) => assert_eq!(fields, ["lease_ms"]),
        other => panic!("{other:?}"),
    }
    let missing = groups.create_with("b", GroupConfig::new(Mode::Keyed, vec!["no".into()]), StartAt::Latest);
    assert!(matches!(missing, Err(GroupError::Topic(TopicError::NotFound { .. }))), "{missing:?}");
    let bad = groups.create_with("c", GroupConfig { lease_ms: 1, ..keyed() }, StartAt::Latest);
    assert!(matches!(bad, Err(GroupError::Config(_))), "{bad:?}");
    let mut expecting = join("billing", 1);
    expecting.expect.mode = Some(Mode::Offset);
    let mismatch = groups.join(expecting);
    assert!(matches!(mismatch, Err(GroupError::Mismatch { field: "mode", .. })), "{mismatch:?}");
    assert!(matches!(groups.join(join("nobody", 1)), Err(GroupError::NotFound { .. })));
}

#[test]
fn dl_1_names_of_dead_letters_that_would_collide_are_refused() {
    let groups = Groups::new();
    groups.world.create("a", config(1)).expect("the disk is well");
    groups.world.create("a.b", config(1)).expect("the disk is well");
    groups.create("b.c", Mode::Keyed, &["a"], StartAt::Latest);
    let taken = groups.create_with("c", GroupConfig::new(Mode::Keyed, vec!["a.b".into()]), StartAt::Latest);
    assert!(matches!(taken, Err(GroupError::Topic(TopicError::DeadLetterNameTaken { .. }))), "{taken:?}");
    let mut named = GroupConfig::new(Mode::Keyed, vec!["a.b".into()]);
    named.dlq_names.insert("a.b".into(), "other.dlq".into());
    groups.create_with("c", named, StartAt::Latest).expect("another name is free");
}

#[test]
fn of_3_a_reset_says_what_it_would_do_does_it_with_members_connected_and_is_undone() {
    let groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    groups.produce("orders", &[("a", "0"), ("b", "1"), ("c", "2")]);
    let mut session = groups.join(join("billing", 1)).expect("let in");
    let (epoch, _) = groups.records(&mut session, 3);
    groups.ack(&mut session, epoch, "orders", vec![run(0, 3)]);
    let reset = |dry_run, target| ResetRequest {
        name: group_name("billing"),
        target,
        epochs: Vec::new(),
        partitions: Vec::new(),
        clear: false,
        dry_run,
        caller: caller(),
    };
    let to = |place| StartAt::Offsets(vec![(SourceName { topic: "orders".into(), partition: 0 }, offset(place))]);
    let call = |request| groups.runtime.block_on(groups.coordinator().reset(request));
    let dry = call(reset(true, to(1))).expect("it may");
    assert_eq!((dry.number, dry.partitions.len()), (0, 1));
    let one = &dry.partitions[0];
    assert_eq!((one.old, one.new, one.records, one.entries), (offset(3), offset(1), 2, 0));
    assert_eq!((one.from_time_ms, one.to_time_ms), (START_MS, START_MS));
    assert_eq!(groups.lag("billing").floor, offset(3), "a dry run changes nothing");
    let done = call(reset(false, to(1))).expect("it may");
    assert_eq!(done.partitions, dry.partitions);
    let (_, records) = groups.records(&mut session, 2);
    assert_eq!(offsets(&records), [1, 2]);
    let beyond = call(reset(false, to(4)));
    assert!(matches!(beyond, Err(GroupError::OutOfRange { .. })), "{beyond:?}");
    let undo = |number| groups.runtime.block_on(groups.coordinator().undo_reset("billing", number, &caller()));
    assert!(matches!(undo(Some(7)), Err(GroupError::Invalid { field: "reset_id", .. })));
    assert_eq!(undo(Some(done.number)).expect("the last one").partitions[0].new, offset(3));
    assert_eq!(groups.lag("billing").floor, offset(3));
    assert!(matches!(undo(None), Err(GroupError::Refused(Refusal::NothingToUndo))));
}

#[test]
fn of_6_a_pause_stops_deliveries_durably_until_it_is_ended() {
    let mut groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    let pauses = groups.runtime.block_on(groups.coordinator().pause("billing", None, None, &caller()));
    assert_eq!(pauses.expect("it may").len(), 1);
    let unknown = groups.runtime.block_on(groups.coordinator().pause("billing", Some("other"), None, &caller()));
    assert!(matches!(unknown, Err(GroupError::Topic(TopicError::NotFound { .. }))));
    groups.world.kill_and_start();
    assert_eq!(groups.coordinator().view("billing").expect("it is there").pauses.len(), 1);
    groups.produce("orders", &[("a", "0")]);
    let mut session = groups.join(join("billing", 1)).expect("let in");
    groups.assigned(&mut session);
    let resumed = groups.runtime.block_on(groups.coordinator().resume("billing", None, &caller()));
    assert!(resumed.expect("it may").is_empty());
    let (_, records) = groups.records(&mut session, 1);
    assert_eq!(offsets(&records), [0]);
}

#[test]
fn re_4_a_trim_below_the_group_is_told_as_a_gap_and_stops_it_until_it_is_accepted() {
    let groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    groups.produce("orders", &[("a", "0"), ("b", "1"), ("c", "2")]);
    groups.world.trim("orders", 2).expect("it is in the log");
    let mut session = groups.join(join("billing", 1)).expect("let in");
    let (range, reason, stops) = groups.until(&mut session, |frame| match frame {
        SessionFrame::Control(Frame::Gap { range, reason, stops, .. }) => Some((range, reason, stops)),
        _ => None,
    });
    assert_eq!((range, reason, stops), (run(0, 2), GapReason::Trim, true));
    let caller = caller();
    let accept = groups.coordinator().accept_gap("billing", None, None, &caller);
    let accepted = groups.runtime.block_on(accept).expect("it may");
    assert_eq!((accepted.len(), accepted[0].range, accepted[0].expired), (1, run(0, 2), 2));
    let (_, records) = groups.records(&mut session, 1);
    assert_eq!(offsets(&records), [2]);
}

#[test]
fn re_4_a_trim_is_told_as_one_after_a_restart_too() {
    let mut groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    groups.produce("orders", &[("a", "0"), ("b", "1"), ("c", "2")]);
    groups.world.trim("orders", 2).expect("it is in the log");
    groups.world.kill_and_start();
    let mut session = groups.join(join("billing", 1)).expect("let in");
    let reason = groups.until(&mut session, |frame| match frame {
        SessionFrame::Control(Frame::Gap { reason, .. }) => Some(reason),
        _ => None,
    });
    assert_eq!(reason, GapReason::Trim);
}

#[test]
fn dl_4_a_dead_record_is_copied_told_and_stays_dead_over_a_kill() {
    let mut groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    groups.produce("orders", &[("a", "bad"), ("b", "good"), ("a", "behind")]);
    let mut session = groups.join(join("billing", 1)).expect("let in");
    let (epoch, _) = groups.records(&mut session, 2);
    groups.nack(&session, epoch, "orders", 0, NackKind::Dead);
    let results = groups.results(&mut session, 9);
    assert_eq!(results, [(run(0, 1), AckStatus::Ok)]);
    groups.ack(&mut session, epoch, "orders", vec![run(1, 2)]);
    let position = |at| Position {
        topic: groups.source("orders").topic,
        partition: PartitionId(0),
        epoch: groups.world.topic("orders").partitions()[0].epoch(),
        offset: offset(at),
    };
    let positions = [position(0), position(1), position(2)];
    let wait = groups.coordinator().await_processed("billing", &positions, LIMIT);
    let processed = groups.runtime.block_on(wait).expect("the group is there");
    assert!(matches!(processed[0], Processed::Dead(key) if key.offset == offset(0)), "{processed:?}");
    assert_eq!(processed[1], Processed::Acked);
    assert!(matches!(processed[2], Processed::Parked(key) if key.offset == offset(2)), "{processed:?}");
    let copies = |groups: &Groups| groups.world.topic("orders.billing.dlq").partitions()[0].high_watermark();
    assert_eq!(copies(&groups), offset(2));
    let refused = groups.runtime.block_on(groups.world.engine().topics().delete("orders", false));
    assert!(matches!(refused, Err(TopicError::OpenEntries { open: 2, .. })), "{refused:?}");
    drop(session);
    groups.world.kill_and_start();
    assert_eq!(copies(&groups), offset(2), "nothing is copied twice");
    let lag = groups.lag("billing");
    assert_eq!((lag.floor, lag.dead_lanes, lag.open_entries), (offset(3), 1, 2));
    let handle = groups.coordinator().handle("billing").expect("it is there");
    handle.with_entries(&mut |entries| {
        assert!(entries.iter().all(|(_, entry)| entry.state == EntryState::Open));
    });
    let delete = |force| {
        let caller = caller();
        groups.runtime.block_on(groups.coordinator().delete("billing", force, None, &caller))
    };
    assert!(matches!(delete(false), Err(GroupError::OpenEntries { open: 2, .. })));
    let deleted = delete(true).expect("by force");
    assert_eq!((deleted.entries_lost, deleted.jobs_ended), (2, 0));
    assert!(groups.world.engine().topics().get("orders.billing.dlq").is_none(), "nothing stays behind");
}

#[test]
fn of_8_deleting_a_group_ends_its_sessions_and_a_group_of_its_name_is_another() {
    let mut groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    let mut session = groups.join(join("billing", 1)).expect("let in");
    let first = groups.coordinator().view("billing").expect("it is there").id;
    let caller = caller();
    let other = groups.coordinator().delete("billing", false, Some(sawlog_broker::model::GroupId(99)), &caller);
    assert!(matches!(groups.runtime.block_on(other), Err(GroupError::NotFound { .. })));
    let delete = groups.coordinator().delete("billing", false, Some(first), &caller);
    groups.runtime.block_on(delete).expect("nothing is lost");
    groups.until(&mut session, |frame| match frame {
        SessionFrame::Control(Frame::Ended(Refusal::Deleted)) => Some(()),
        _ => None,
    });
    assert!(groups.next(&mut session).is_none());
    assert!(matches!(session.handle(Verb::Ping), Err(GroupError::NotFound { .. })));
    drop(session);
    assert!(groups.coordinator().view("billing").is_err());
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    let second = groups.coordinator().view("billing").expect("it is there").id;
    assert!(second > first);
    groups.world.kill_and_start();
    assert_eq!(groups.coordinator().view("billing").expect("it is there").id, second);
}

#[test]
fn of_1_a_topic_that_comes_later_is_taken_in_from_its_begin_and_a_deleted_one_goes() {
    let groups = Groups::new();
    groups.create("billing", Mode::Keyed, &["orders.*"], StartAt::Latest);
    let mut session = groups.join(join("billing", 1)).expect("let in");
    groups.world.create("orders.eu", config(1)).expect("the disk is well");
    groups.produce("orders.eu", &[("a", "0")]);
    let (_, records) = groups.records(&mut session, 1);
    assert_eq!(offsets(&records), [0]);
    groups.world.delete("orders.eu");
    groups.until(&mut session, |frame| match frame {
        SessionFrame::Control(Frame::Revoke { .. }) => Some(()),
        _ => None,
    });
    assert!(groups.coordinator().view("billing").expect("it is there").topics.is_empty());
}

#[test]
fn gm_2_topics_and_settings_are_changed_under_a_revision() {
    let groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.world.create("other", config(1)).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    let update = |revision, config| UpdateGroup {
        name: group_name("billing"),
        revision,
        config: Some(config),
        topic_retry: None,
        notes: None,
        force: false,
        caller: caller(),
    };
    let call = |request| groups.runtime.block_on(groups.coordinator().update(request));
    let wanted = GroupConfig { lease_ms: 5_000, ..GroupConfig::new(Mode::Keyed, vec!["other".into()]) };
    let changed = call(update(Some(1), wanted.clone())).expect("it may");
    assert_eq!((changed.revision, changed.config.lease_ms), (2, 5_000));
    assert_eq!(changed.topics.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["other"]);
    assert!(matches!(call(update(Some(1), wanted)), Err(GroupError::StaleRevision { current: 2, .. })));
    let mode = call(update(None, GroupConfig::new(Mode::Offset, vec!["other".into()])));
    assert!(matches!(mode, Err(GroupError::Invalid { field: "mode", .. })), "{mode:?}");
}

#[test]
fn gm_10_a_member_that_leaves_gives_its_records_to_another_at_once() {
    let groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    groups.produce("orders", &[("a", "0")]);
    let mut first = groups.join(join("billing", 1)).expect("let in");
    groups.records(&mut first, 1);
    let mut second = groups.join(join("billing", 2)).expect("let in");
    first.handle(Verb::Leave).expect("the session lives");
    while groups.next(&mut first).is_some() {}
    drop(first);
    let (_, records) = groups.records(&mut second, 1);
    assert_eq!((offsets(&records), records[0].delivery.attempt), (vec![0], 1), "without a strike");
}

#[test]
fn gm_7_a_silent_member_is_lost_after_its_session_timeout_once_its_stream_has_nothing_to_take_in() {
    let groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    groups.produce("orders", &[("a", "0")]);
    let mut silent = groups.join(join("billing", 1)).expect("let in");
    groups.records(&mut silent, 1);
    groups.advance(Duration::from_secs(9));
    let mut second = groups.join(join("billing", 2)).expect("let in");
    let doubt = silent.doubt();
    groups.advance(Duration::from_millis(1_100));
    groups.runtime.block_on(doubt.raised());
    silent.handle(Verb::Ping).expect("what waited to be taken in is in time, whenever that is");
    doubt.confirm();
    groups.until(&mut silent, |frame| matches!(frame, SessionFrame::Control(Frame::Pong)).then_some(()));
    groups.advance(Duration::from_millis(9_000));
    second.handle(Verb::Ping).expect("it lives");
    groups.advance(Duration::from_millis(1_100));
    groups.runtime.block_on(doubt.raised());
    doubt.confirm();
    groups.until(&mut silent, |frame| match frame {
        SessionFrame::Control(Frame::Ended(Refusal::SessionOver)) => Some(()),
        _ => None,
    });
    let (_, records) = groups.records(&mut second, 1);
    assert_eq!(offsets(&records), [0]);
}

#[test]
fn ak_7_records_that_come_again_do_not_hold_the_batches_that_they_stand_in() {
    let groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    groups.produce("orders", &[("a", "0"), ("b", "1"), ("c", "2")]);
    let mut session = groups.join(join("billing", 1)).expect("let in");
    let own = |record: &DeliveredRecord| record.payload.value.as_ref().is_some_and(bytes::Bytes::is_unique);
    let (epoch, records) = groups.records(&mut session, 3);
    assert!(!records.iter().any(own), "first deliveries are not copied");
    // The later one first: they are delivered in the order of their return, and read in that of the log.
    for at in [2, 0] {
        groups.nack(&session, epoch, "orders", at, NackKind::Retry);
    }
    drop(records);
    groups.advance(Duration::from_secs(2));
    let (_, again) = groups.records(&mut session, 2);
    assert!(again.iter().all(own), "a copy of the record alone");
    let seen = |record: &DeliveredRecord| (record.delivery.offset, record.payload.value.clone());
    let mut again: Vec<_> = again.iter().map(seen).collect();
    again.sort();
    assert_eq!(again, [(offset(0), Some("0".into())), (offset(2), Some("2".into()))]);
}

#[test]
fn gm_11_a_broker_that_stops_says_goodbye_and_lets_nobody_in() {
    let mut groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    let mut session = groups.join(join("billing", 1)).expect("let in");
    groups.coordinator().begin_shutdown();
    groups.until(&mut session, |frame| match frame {
        SessionFrame::Control(Frame::Goodbye { .. }) => Some(()),
        _ => None,
    });
    assert!(matches!(groups.join(join("billing", 2)), Err(GroupError::ShuttingDown)));
    drop(session);
    assert!(groups.world.stop());
    groups.world.start_on(groups.world.disk.kill());
    assert_eq!(groups.coordinator().view("billing").expect("it is there").members, 1);
}

#[test]
fn rw_4_a_caller_that_waits_is_woken_by_the_settle() {
    let groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    groups.produce("orders", &[("a", "0")]);
    let topic = groups.world.topic("orders");
    let position = |at| Position {
        topic: topic.uuid,
        partition: PartitionId(0),
        epoch: topic.partitions()[0].epoch(),
        offset: offset(at),
    };
    let coordinator = groups.coordinator();
    let positions = [position(0)];
    let pending = coordinator.await_processed("billing", &positions, Duration::ZERO);
    assert_eq!(groups.runtime.block_on(pending).expect("it is there"), [Processed::Pending]);
    let mut session = groups.join(join("billing", 1)).expect("let in");
    let (epoch, _) = groups.records(&mut session, 1);
    let source = groups.source("orders");
    let both = async {
        let waiting = coordinator.await_processed("billing", &positions, LIMIT);
        tokio::pin!(waiting);
        assert!(futures_poll(&mut waiting).await.is_none(), "not decided yet");
        let targets = Targets { source, epoch, runs: vec![run(0, 1)], entries: Vec::new() };
        session.handle(Verb::Ack { request: 1, targets, versions: Vec::new() }).expect("the session lives");
        waiting.await
    };
    assert_eq!(groups.runtime.block_on(both).expect("it is there"), [Processed::Acked]);
    let foreign = [Position { topic: sawlog_broker::model::TopicUuid([9; 16]), ..position(0) }];
    let foreign = coordinator.await_processed("billing", &foreign, Duration::ZERO);
    assert_eq!(groups.runtime.block_on(foreign).expect("it is there"), [Processed::OtherLog]);
}

/// Looks once whether a future is ready.
async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|task| match std::pin::Pin::new(&mut *future).poll(task) {
        std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}

#[test]
fn fc_3_a_long_poll_gathers_records_until_there_are_enough_bytes() {
    let groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    let mut polling = join("billing", 1);
    (polling.min_bytes, polling.max_wait_ms) = (20, 60_000);
    let mut session = groups.join(polling).expect("let in");
    groups.until(&mut session, |frame| match frame {
        SessionFrame::Control(Frame::CaughtUp { .. }) => Some(()),
        _ => None,
    });
    groups.produce("orders", &[("a", "0123")]);
    let early = async { tokio::time::timeout(Duration::from_millis(50), session.next()).await };
    assert!(groups.runtime.block_on(early).is_err(), "nine bytes are not enough");
    groups.produce("orders", &[("b", "0123456789")]);
    let (_, records) = groups.records(&mut session, 2);
    assert_eq!(offsets(&records), [0, 1]);
}
