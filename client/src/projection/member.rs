//! The member behind a projection: joins, is given partitions, runs a task for each, leaves. After a cut it resumes, and
//! every partition begins anew from its cursor.
//!
//! Invariant: a task works under one assignment of one stream; what it leaves behind is stopped by the fence alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sawlog_proto::v1::{self, consume_request::Frame as Say, consume_response::Frame as Told};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::inbox::{self, Closed, Inbox, Part};
use super::link::{Answer, Link};
use super::status::{ProjectionStatus, UnitBoard, UnitState};
use super::store::{Step, Store};
use super::swap::{self, Outcome, SwapPlan};
use super::unit::{End, Given, UnitTask};
use super::{Rules, Stop};
use crate::connection::Client;
use crate::consumer::{ConsumedRecord, Source, now};
use crate::error::{Error, ErrorKind, ErrorReason};
use crate::groups::GroupMode;
use crate::retry::Retry;
use crate::types::{TopicId, unsigned};

/// Frames handed to the connection and not yet taken by it.
const QUEUE: usize = 64;
/// How long a stream may take until it is joined.
const JOIN: Duration = Duration::from_secs(15);
/// How long the end of a stream is waited for after `Leave`.
const LEAVE: Duration = Duration::from_secs(2);

/// How a stream came to its end.
enum Ended {
    /// The member has left.
    Left,
    /// Cut: try again.
    Cut(Error),
    /// No use in trying again.
    Fatal(Error),
}

/// A partition that has a task.
#[derive(Debug)]
struct Running {
    source: Arc<Source>,
    assignment_epoch: u64,
    inbox: Arc<Inbox>,
    board: UnitBoard,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Member<S> {
    pub(super) client: Client,
    pub(super) group: String,
    pub(super) store: Arc<S>,
    pub(super) rules: Arc<Rules>,
    pub(super) status: Arc<watch::Sender<ProjectionStatus>>,
    pub(super) stop: Arc<Stop>,
    pub(super) member_id: String,
    pub(super) instance_id: Option<String>,
    pub(super) member_epoch: Option<u64>,
    pub(super) session_timeout: Duration,
}

impl<S> Drop for Member<S> {
    fn drop(&mut self) {
        // Who waits for the end is told, also when the run is dropped.
        self.stop.ended.cancel();
    }
}

/// A stream that is joined.
struct Stream {
    link: Arc<Link>,
    answers: Streaming<v1::ConsumeResponse>,
    joined: v1::Joined,
    sources: HashMap<u32, Arc<Source>>,
    running: HashMap<u32, Running>,
    tasks: JoinSet<(u32, u64, End)>,
    /// Swaps that were asked for: what they began ends with the stream, or is found by its mark.
    swaps: JoinSet<()>,
    last_frame: Instant,
    leaving: Option<Instant>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.link.end();
    }
}

impl<S: Store> Member<S> {
    /// Runs until it is stopped or cannot go on.
    pub(super) async fn run(&mut self) -> Result<(), Error> {
        let mut retry = Retry::new();
        loop {
            let ended = match self.join().await {
                Ok(mut stream) => {
                    retry.reset();
                    self.status.send_modify(|status| status.connected = true);
                    let ended = self.serve(&mut stream).await;
                    stream.link.end();
                    stream.finish().await;
                    self.status.send_modify(|status| {
                        status.connected = false;
                        status.retain(|_, unit| unit.state == UnitState::Stopped);
                    });
                    ended
                }
                Err(ended) => ended,
            };
            let error = match ended {
                Ended::Left => return Ok(()),
                Ended::Fatal(error) => {
                    self.status.send_modify(|status| status.ended = Some(error.clone()));
                    return Err(error);
                }
                Ended::Cut(error) => error,
            };
            tracing::debug!(group = %self.group, %error, "projection stream cut");
            tokio::select! {
                () = tokio::time::sleep(retry.next_wait(error.retry_after())) => {}
                () = self.stop.asked() => return Ok(()),
            }
        }
    }

    async fn join(&mut self) -> Result<Stream, Ended> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let join = v1::ConsumeRequest { frame: Some(Say::Join(self.join_frame())) };
        requests.try_send(join).expect("a new channel has room");
        let mut consume = self.client.consume();
        let joining = async {
            let mut answers = consume.consume(ReceiverStream::new(queue)).await?.into_inner();
            let first = answers.message().await?;
            Ok::<_, tonic::Status>((answers, first))
        };
        let joined = tokio::select! {
            joined = tokio::time::timeout(JOIN, joining) => joined,
            () = self.stop.asked() => return Err(Ended::Left),
        };
        let Ok(joined) = joined else {
            return Err(Ended::Cut(Error::new(ErrorKind::Timeout, "the broker did not answer the join")));
        };
        let (answers, first) = joined.map_err(|status| self.cut_or_fatal(Error::from_status(&status)))?;
        let Some(Told::Joined(joined)) = first.and_then(|first| first.frame) else {
            return Err(Ended::Cut(Error::protocol("the first frame of the broker is not Joined")));
        };
        self.member_epoch = Some(joined.member_epoch);
        self.session_timeout = Duration::from_millis(u64::from(joined.session_timeout_ms).max(1000));
        Ok(Stream {
            link: Arc::new(Link::new(requests, self.rules.credit)),
            answers,
            joined,
            sources: HashMap::new(),
            running: HashMap::new(),
            tasks: JoinSet::new(),
            swaps: JoinSet::new(),
            last_frame: now(),
            leaving: None,
        })
    }

    fn join_frame(&self) -> v1::Join {
        let (records, bytes) = self.rules.credit;
        v1::Join {
            group: self.group.clone(),
            member_id: self.member_id.clone(),
            member_epoch: self.member_epoch,
            instance_id: self.instance_id.clone(),
            expected_mode: GroupMode::to_wire(Some(GroupMode::Offset)),
            credit: Some(v1::Credit { records, bytes }),
            client_version: concat!("sawlog-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            client_id: self.rules.name.clone(),
            form: v1::ReadForm::Batches.into(),
            version: self.rules.version.clone(),
            // What is in work is told to nobody: each partition begins anew from its cursor.
            ..v1::Join::default()
        }
    }

    /// What the status of a stream means.
    fn cut_or_fatal(&mut self, error: Error) -> Ended {
        if error.reason() == Some(ErrorReason::Fenced) {
            // The session is over, but not the member: it joins anew.
            self.member_epoch = None;
            return Ended::Cut(error);
        }
        if error.is_retryable() { Ended::Cut(error) } else { Ended::Fatal(error) }
    }

    async fn serve(&mut self, stream: &mut Stream) -> Ended {
        let every = Duration::from_millis(u64::from(stream.joined.ping_interval_ms).max(100));
        let mut pings = tokio::time::interval(every);
        let lease = Duration::from_millis(u64::from(stream.joined.lease_ms).max(1000));
        let mut extends = tokio::time::interval(lease / 3);
        let mut asked = false;
        loop {
            let silent_at = stream.last_frame + self.session_timeout.max(Duration::from_secs(5));
            let leave_at = if asked { Some(self.stop.deadline()) } else { None };
            let wake_at = [leave_at, stream.leaving].into_iter().flatten().fold(silent_at, Instant::min);
            tokio::select! {
                biased;
                answer = stream.answers.message() => match answer {
                    Ok(Some(answer)) => {
                        stream.last_frame = now();
                        if let Err(error) = self.told(stream, answer) {
                            return Ended::Fatal(error);
                        }
                    }
                    Ok(None) | Err(_) if stream.leaving.is_some() => return Ended::Left,
                    Ok(None) => return Ended::Cut(Error::new(ErrorKind::Unavailable, "the broker ended the stream")),
                    Err(status) => return self.cut_or_fatal(Error::from_status(&status)),
                },
                Some(ended) = stream.tasks.join_next() => {
                    if let Some(error) = stream.ended(ended) {
                        return Ended::Fatal(error);
                    }
                }
                () = self.stop.asked(), if !asked => {
                    asked = true;
                    stream.running.values().for_each(|unit| unit.inbox.close(Closed::Revoked));
                }
                _ = pings.tick() => stream.say(Say::Ping(v1::Ping { nonce: 1 })),
                _ = extends.tick() => stream.extend(),
                () = tokio::time::sleep_until(wake_at) => {}
            }
            let at = now();
            if at >= silent_at {
                return Ended::Cut(Error::new(ErrorKind::Timeout, "the broker is silent"));
            }
            if stream.leaving.is_some_and(|leaving| leaving <= at) {
                return Ended::Left;
            }
            if asked && stream.leaving.is_none() && (stream.tasks.is_empty() || self.stop.deadline() <= at) {
                stream.leaving = Some(at + LEAVE);
                stream.say(Say::Leave(v1::Leave {}));
            }
        }
    }

    /// Takes a frame of the broker.
    fn told(&mut self, stream: &mut Stream, answer: v1::ConsumeResponse) -> Result<(), Error> {
        let Some(frame) = answer.frame else { return Ok(()) };
        match frame {
            Told::Assign(assign) => {
                for unit in assign.units {
                    self.assign(stream, unit)?;
                }
            }
            Told::Revoke(revoke) => {
                let closed = if revoke.lost { Closed::Lost } else { Closed::Revoked };
                if let Some(unit) = stream.running.remove(&revoke.source_id) {
                    unit.inbox.close(closed);
                }
            }
            Told::Batches(batches) => {
                let unit = stream.running.get(&batches.source_id);
                if let Some(unit) = unit.filter(|unit| unit.assignment_epoch == batches.assignment_epoch) {
                    unit.inbox.put(Part::Batches(batches));
                } else {
                    // It was on its way when the partition was let go.
                    let (records, bytes) = inbox::credit_of(&batches);
                    stream.link.dropped(records, bytes);
                }
            }
            Told::Records(records) => {
                let Some(unit) = stream.running.get(&records.source_id) else { return Ok(()) };
                let replay: Option<Arc<str>> = (!records.replay_id.is_empty()).then(|| records.replay_id.into());
                for delivery in records.deliveries.into_iter().filter(|delivery| delivery.entry.is_some()) {
                    let max_attempts = records.max_attempts;
                    let record = ConsumedRecord::from_wire(&unit.source, max_attempts, delivery, replay.as_ref());
                    unit.inbox.put_entry(record);
                }
            }
            Told::ReplayDone(done) => {
                tracing::info!(replay_id = done.replay_id, cancelled = done.cancelled, "a replay has ended");
            }
            Told::CommitResult(result) => {
                let failure = result.failure.as_ref().map(Error::from_failure);
                stream.link.answered(result.sequence, Answer::Report(failure.map_or(Ok(()), Err)));
            }
            Told::DeadLetterResult(result) => stream.link.answered(result.sequence, Answer::Letter(result)),
            Told::CaughtUp(at) => {
                if let Some(unit) = stream.running.get(&at.source_id) {
                    let live = unsigned(at.offset);
                    unit.board.change(|unit| unit.live_offset = Some(live));
                }
            }
            Told::FellBehind(at) => {
                if let Some(unit) = stream.running.get(&at.source_id) {
                    unit.board.change(|unit| unit.live_offset = None);
                }
            }
            Told::Gap(gap) => stream.gap(&gap),
            Told::Swap(swap) => self.swap(stream, swap),
            Told::Recall(_) | Told::AckResult(_) | Told::Joined(_) | Told::Goodbye(_) | Told::Pong(_) => {}
            Told::Notice(notice) => tracing::info!(group = %self.group, ?notice, "the broker says"),
        }
        Ok(())
    }

    /// The broker asks for a swap: it is done beside the stream, and answered on it. Asked again meanwhile, it is done
    /// anew, for its mark is what counts.
    fn swap(&self, stream: &mut Stream, swap: v1::Swap) {
        let (store, link, probe) = (Arc::clone(&self.store), Arc::clone(&stream.link), self.rules.probe.clone());
        let plan = SwapPlan {
            projection: self.rules.name.clone(),
            swap_id: swap.swap_id.clone(),
            version: swap.version,
            replaces: swap.replaces,
            undo: swap.undo,
            probe: probe.clone(),
        };
        stream.swaps.spawn(async move {
            let outcome = match swap::run(store, plan).await {
                Outcome::Done => v1::swapped::Outcome::Done(v1::Unit {}),
                Outcome::Undone(why) => v1::swapped::Outcome::Undone(why),
            };
            if probe.is_some_and(|probe| probe.0(Step::SwapCommitted)) {
                std::future::pending::<()>().await;
            }
            // Asked again on the next stream, if this one is gone.
            let _ = link.send(Say::Swapped(v1::Swapped { swap_id: swap.swap_id, outcome: Some(outcome) })).await;
        });
    }

    /// A partition is this member's, from its cursor on.
    fn assign(&mut self, stream: &mut Stream, unit: v1::Assignment) -> Result<(), Error> {
        let wire = unit.source.ok_or_else(|| Error::protocol("a unit without a source"))?;
        let source_id = wire.source_id;
        let source = Source {
            topic: wire.topic.as_str().into(),
            topic_id: TopicId::from(wire.topic_id.as_str()),
            partition: wire.partition,
        };
        let source = Arc::clone(stream.sources.entry(source_id).or_insert_with(|| Arc::new(source)));
        let max_ms = stream.joined.max_processing_ms;
        let given = Given {
            source: Arc::clone(&source),
            source_id,
            slots: unit.slots.unwrap_or_default(),
            assignment_epoch: unit.assignment_epoch,
            group_start: unsigned(unit.group_start_offset),
            partition_epoch: unit.start_epoch,
            crashes: unit.crash_count,
            group: self.group.clone(),
            letters: match self.rules.version.as_ref().filter(|_| stream.joined.rebuilding) {
                Some(version) => format!("{}@{version}", self.group),
                None => self.group.clone(),
            },
            dead_letters: self.client.dead_letters(),
            group_id: stream.joined.group_id.clone(),
            max_processing: self.rules.max_processing.or((max_ms > 0).then(|| Duration::from_millis(max_ms))),
        };
        if let Some(known) = stream.running.remove(&source_id) {
            // What it has begun in the database fails at the fence.
            known.inbox.close(Closed::Lost);
        }
        if self.stop.is_asked() {
            return Ok(());
        }
        let board = UnitBoard::new(&self.status, &source.topic, source.partition);
        let inbox = Arc::new(Inbox::default());
        let assignment_epoch = given.assignment_epoch;
        let (store, rules, link) = (Arc::clone(&self.store), Arc::clone(&self.rules), Arc::clone(&stream.link));
        let task = UnitTask::new(store, rules, given, link, Arc::clone(&inbox), board.clone());
        stream.tasks.spawn(async move { (source_id, assignment_epoch, task.run().await) });
        stream.running.insert(source_id, Running { source, assignment_epoch, inbox, board });
        Ok(())
    }
}

impl Stream {
    /// Sends what may be lost with the stream, if there is room.
    fn say(&self, frame: Say) {
        if !self.link.try_send(frame) {
            tracing::debug!("the stream takes no more for now");
        }
    }

    /// Leases of what came through entries and waits or is in work go on (rule AK-5).
    fn extend(&self) {
        for (source_id, unit) in &self.running {
            let leased = unit.inbox.leased();
            if leased.is_empty() {
                continue;
            }
            let entry = |id: &Arc<str>| v1::EntryRef { dlq_id: id.to_string(), version: None };
            let work = v1::Work {
                source_id: *source_id,
                assignment_epoch: unit.assignment_epoch,
                offsets: Vec::new(),
                entries: leased.iter().map(entry).collect(),
            };
            self.say(Say::Extend(v1::Extend { sequence: self.link.sequence(), work: vec![work] }));
        }
    }

    fn gap(&mut self, gap: &v1::SourceGap) {
        let Some(unit) = self.running.get(&gap.source_id) else { return };
        let (from, to) = (unsigned(gap.from), unsigned(gap.to));
        tracing::warn!(topic = %unit.source.topic, partition = unit.source.partition, from, to, "gap");
        if gap.stopped {
            let error = format!("offsets {from} to {to} are gone ({:?}): accept the gap, or rebuild", gap.reason());
            unit.board.state(UnitState::AtGap, Some(error));
        } else if gap.reason() != v1::GapReason::Truncated {
            unit.inbox.put(Part::Gap(from, to));
        }
    }

    /// A task has ended; an error that ends the projection with it.
    fn ended(&mut self, ended: Result<(u32, u64, End), tokio::task::JoinError>) -> Option<Error> {
        let (source_id, epoch, end) = match ended {
            Ok(ended) => ended,
            Err(error) => return Some(Error::new(ErrorKind::Internal, format!("a task has ended: {error}"))),
        };
        if self.running.get(&source_id).is_some_and(|unit| unit.assignment_epoch == epoch) {
            self.running.remove(&source_id);
        }
        match end {
            End::Failed(error) => Some(error),
            End::Revoked | End::Lost => None,
        }
    }

    /// Ends the tasks whose stream is gone; what they began in the database is stopped, or fails at the fence.
    async fn finish(&mut self) {
        self.tasks.shutdown().await;
        self.swaps.shutdown().await;
    }
}
