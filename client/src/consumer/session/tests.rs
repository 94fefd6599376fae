//! The whole consumer over a real socket, against a made-up broker that cuts streams and loses answers.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sawlog_proto::v1::consume_service_server::{ConsumeService, ConsumeServiceServer};
use sawlog_proto::v1::group_service_server::{GroupService, GroupServiceServer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream as TokioStream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::consumer::{AckOutcome, ConsumedRecord, Consumer, HandlerError};

/// A group with one partition, whose record `n` has the key `n % keys`.
#[derive(Debug)]
struct Fake {
    records: i64,
    keys: i64,
    /// Every so many frames of the client the stream is cut, their answers lost; 0: never.
    cut_every: usize,
    /// With this the stream ends when it is joined.
    refuse: Option<Status>,
    /// Acks are answered only on the second stream.
    mute: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    streams: usize,
    frames: usize,
    resumed: usize,
    credit: i64,
    settled: BTreeSet<i64>,
    leased: BTreeSet<i64>,
    attempts: BTreeMap<i64, u32>,
    failures: Vec<v1::HandlerError>,
    said: Vec<&'static str>,
}

impl Fake {
    fn new(records: i64, keys: i64) -> Self {
        Self { records, keys, cut_every: 0, refuse: None, mute: false, state: Mutex::default() }
    }

    fn answer(&self, request: v1::ConsumeRequest) -> Vec<Told> {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.frames += 1;
        let mut told = Vec::new();
        match request.frame.expect("a frame") {
            Say::Join(join) => {
                state.said.push("join");
                state.streams += 1;
                let resumed = join.member_epoch == Some(1);
                state.resumed += usize::from(resumed);
                state.credit = i64::try_from(join.credit.expect("a credit").records).expect("small");
                let in_work: BTreeSet<i64> = join
                    .in_work
                    .iter()
                    .flat_map(|work| &work.offsets)
                    .flat_map(|run| run.from..run.from + i64::from(run.count))
                    .collect();
                let gone: Vec<i64> = in_work.difference(&state.leased).copied().collect();
                // What is leased and not listed goes back.
                state.leased.retain(|offset| in_work.contains(offset));
                state.credit -= i64::try_from(state.leased.len()).expect("small");
                told.push(Told::Joined(joined(resumed, &gone)));
                told.push(Told::Assign(assign()));
            }
            Say::Ack(ack) => {
                state.said.push("ack");
                let results = settle(state, &ack.work, true);
                if !self.mute || state.streams > 1 {
                    told.push(Told::AckResult(v1::AckResult { sequence: ack.sequence, results, failure: None }));
                }
            }
            Say::Nack(nack) => {
                state.said.push("nack");
                state.failures.extend(nack.error.clone());
                let done = matches!(nack.kind(), v1::NackKind::Skip | v1::NackKind::Dead);
                let results = settle(state, &nack.work, done);
                told.push(Told::AckResult(v1::AckResult { sequence: nack.sequence, results, failure: None }));
            }
            Say::Extend(extend) => {
                state.said.push("extend");
                told.push(Told::AckResult(v1::AckResult { sequence: extend.sequence, ..v1::AckResult::default() }));
            }
            Say::Ping(ping) => told.push(Told::Pong(v1::Pong { nonce: ping.nonce })),
            Say::Leave(_) => state.said.push("leave"),
            Say::Started(_) => state.said.push("started"),
            other => panic!("{other:?}"),
        }
        told.extend(self.deliver(state));
        told
    }

    /// The first unsettled record of each key that is not leased, within the credit.
    fn deliver(&self, state: &mut State) -> Option<Told> {
        let mut deliveries = Vec::new();
        for key in 0..self.keys {
            let mut of_key = (key..self.records).step_by(usize::try_from(self.keys).expect("small"));
            let Some(offset) = of_key.find(|offset| !state.settled.contains(offset)) else { continue };
            if state.credit > 0 && state.leased.insert(offset) {
                state.credit -= 1;
                let attempt = state.attempts.entry(offset).or_default();
                *attempt += 1;
                let record = v1::Record {
                    key: Some(key.to_string().into()),
                    value: Some(offset.to_string().into()),
                    ..v1::Record::default()
                };
                deliveries.push(v1::Delivery {
                    offset,
                    record: Some(record),
                    attempt: *attempt,
                    ..v1::Delivery::default()
                });
            }
        }
        let records = v1::Records { source_id: 1, assignment_epoch: 1, deliveries, ..v1::Records::default() };
        (!records.deliveries.is_empty()).then_some(Told::Records(records))
    }
}

fn settle(state: &mut State, work: &[v1::Work], done: bool) -> Vec<v1::WorkResult> {
    let mut results = Vec::new();
    for run in work.iter().flat_map(|work| &work.offsets) {
        for offset in run.from..run.from + i64::from(run.count) {
            let outcome = if state.leased.remove(&offset) {
                state.credit += 1;
                if done {
                    state.settled.insert(offset);
                }
                continue;
            } else if state.settled.contains(&offset) {
                v1::WorkOutcome::AlreadySettled
            } else {
                v1::WorkOutcome::NotLeased
            };
            let offsets = vec![v1::OffsetRun { from: offset, count: 1 }];
            results.push(v1::WorkResult { source_id: 1, offsets, dlq_ids: Vec::new(), outcome: outcome.into() });
        }
    }
    results
}

fn source() -> v1::Source {
    v1::Source { source_id: 1, topic: "t".to_owned(), topic_id: "id".to_owned(), partition: 0 }
}

fn joined(resumed: bool, gone: &[i64]) -> v1::Joined {
    let offsets = gone.iter().map(|offset| v1::OffsetRun { from: *offset, count: 1 }).collect();
    let gone =
        v1::WorkResult { source_id: 1, offsets, dlq_ids: Vec::new(), outcome: v1::WorkOutcome::AlreadySettled.into() };
    v1::Joined {
        member_epoch: 1,
        mode: v1::GroupMode::Keyed.into(),
        ping_interval_ms: 100,
        session_timeout_ms: 10_000,
        lease_ms: 300,
        max_in_flight_per_key: 1,
        resumed,
        sources: vec![source()],
        in_work: vec![gone],
        ..v1::Joined::default()
    }
}

fn assign() -> v1::Assign {
    let slots = Some(v1::Slots { from: 0, to: 4096 });
    let unit = v1::Assignment { source: Some(source()), slots, assignment_epoch: 1, ..v1::Assignment::default() };
    v1::Assign { units: vec![unit] }
}

#[derive(Debug, Clone)]
struct Service(Arc<Fake>);

#[tonic::async_trait]
impl ConsumeService for Service {
    type ConsumeStream = Pin<Box<dyn TokioStream<Item = Result<v1::ConsumeResponse, Status>> + Send>>;

    async fn consume(
        &self,
        requests: Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        if let Some(status) = &self.0.refuse {
            return Err(status.clone());
        }
        let fake = Arc::clone(&self.0);
        let mut requests = requests.into_inner();
        let (answers, queue) = mpsc::channel(1024);
        tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                let leaves = matches!(request.frame, Some(Say::Leave(_)));
                let told = fake.answer(request);
                let frames = fake.state.lock().frames;
                if fake.cut_every > 0 && frames.is_multiple_of(fake.cut_every) {
                    let _ = answers.send(Err(Status::unavailable("cut"))).await;
                    return;
                }
                for frame in told {
                    let _ = answers.send(Ok(v1::ConsumeResponse { frame: Some(frame) })).await;
                }
                if leaves {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }
}

/// Calls that the made-up broker does not have, as `async_trait` would write them.
macro_rules! unimplemented_calls {
    ($($name:ident $request:ident $response:ident)*) => {
        $(fn $name<'life0, 'async_trait>(
            &'life0 self,
            _: Request<v1::$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<v1::$response>, Status>> + Send + 'async_trait>>
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async { Err(Status::unimplemented("no")) })
        })*
    };
}

#[tonic::async_trait]
impl GroupService for Service {
    async fn get_group(&self, request: Request<v1::GetGroupRequest>) -> Result<Response<v1::GetGroupResponse>, Status> {
        let group = v1::Group { name: request.into_inner().name, ..v1::Group::default() };
        Ok(Response::new(v1::GetGroupResponse { group: Some(group) }))
    }

    unimplemented_calls! {
        create_group CreateGroupRequest CreateGroupResponse
        list_groups ListGroupsRequest ListGroupsResponse
        update_group UpdateGroupRequest UpdateGroupResponse
        delete_group DeleteGroupRequest DeleteGroupResponse
        list_members ListMembersRequest ListMembersResponse
        get_lag GetLagRequest GetLagResponse
        reset_positions ResetPositionsRequest ResetPositionsResponse
        undo_reset UndoResetRequest UndoResetResponse
        pause_group PauseGroupRequest PauseGroupResponse
        resume_group ResumeGroupRequest ResumeGroupResponse
        accept_gap AcceptGapRequest AcceptGapResponse
        set_breaker SetBreakerRequest SetBreakerResponse
        recover_groups RecoverGroupsRequest RecoverGroupsResponse
        await_processed AwaitProcessedRequest AwaitProcessedResponse
    }
}

/// Serves the made-up broker until the test ends; returns a client of it.
async fn serve(fake: &Arc<Fake>) -> Client {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let service = Service(Arc::clone(fake));
    let server = tonic::transport::Server::builder()
        .add_service(ConsumeServiceServer::new(service.clone()))
        .add_service(GroupServiceServer::new(service))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    Client::builder(url).connect_lazy().unwrap()
}

async fn open(fake: &Arc<Fake>) -> Consumer {
    serve(fake).await.consumer("g").concurrency(4).open().await.unwrap()
}

/// What handlers saw, and when they have seen enough.
#[derive(Debug, Clone)]
struct Seen {
    offsets: Arc<Mutex<Vec<(u64, u32)>>>,
    enough: tokio_util::sync::CancellationToken,
}

impl Seen {
    fn new() -> Self {
        Self { offsets: Arc::default(), enough: tokio_util::sync::CancellationToken::new() }
    }

    fn see(&self, record: &ConsumedRecord) {
        self.offsets.lock().push((record.offset, record.attempt));
    }
}

#[tokio::test]
async fn gm_8_over_a_stream_that_is_cut_again_and_again_each_record_is_settled_and_keys_keep_their_order() {
    let fake = Arc::new(Fake { cut_every: 23, ..Fake::new(2000, 50) });
    let consumer = open(&fake).await;
    let seen = Seen::new();
    let stop = seen.enough.clone();
    let handler = {
        let seen = seen.clone();
        move |record: ConsumedRecord| {
            let seen = seen.clone();
            async move {
                seen.see(&record);
                tokio::task::yield_now().await;
                let distinct: BTreeSet<u64> = match record.offset {
                    1950.. => seen.offsets.lock().iter().map(|(offset, _)| *offset).collect(),
                    _ => BTreeSet::new(),
                };
                if distinct.len() == 2000 {
                    seen.enough.cancel();
                }
                Ok(())
            }
        }
    };
    consumer.run_until(stop.cancelled_owned(), Duration::from_secs(20), handler).await.unwrap();
    let state = fake.state.lock();
    assert!(state.resumed > 3, "{} of {} streams were resumed", state.resumed, state.streams);
    assert_eq!(state.settled.len(), 2000, "the member left when every verdict was answered");
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    for (offset, _) in seen.offsets.lock().iter() {
        let before = last.insert(offset % 50, *offset);
        assert!(before.is_none_or(|before| before <= *offset), "{before:?} before {offset}");
    }
    assert_eq!(state.said.last(), Some(&"leave"));
    assert!(state.leased.is_empty(), "what was handed out was acked before the member left");
}

#[tokio::test]
async fn ak_3_an_ack_resolves_when_it_is_answered_also_if_that_takes_another_stream() {
    let fake = Arc::new(Fake { mute: true, cut_every: 3, ..Fake::new(1, 1) });
    let mut consumer = open(&fake).await;
    let delivery = consumer.next_delivery().await.unwrap().unwrap();
    assert_eq!((delivery.topic(), delivery.partition(), delivery.offset), ("t", 0, 0));
    let outcome = delivery.ack().await.unwrap();
    assert!(matches!(outcome, AckOutcome::Done | AckOutcome::AlreadySettled), "{outcome:?}");
    consumer.shutdown(Duration::from_secs(5)).await.unwrap();
    assert!(fake.state.lock().streams >= 2);
}

#[tokio::test]
async fn a_handler_says_what_becomes_of_its_record_and_a_panic_is_a_failure_that_the_consumer_survives() {
    let fake = Arc::new(Fake::new(6, 6));
    let consumer = open(&fake).await;
    let seen = Seen::new();
    let stop = seen.enough.clone();
    let handler = {
        let seen = seen.clone();
        move |record: ConsumedRecord| {
            let seen = seen.clone();
            async move {
                seen.see(&record);
                match (record.offset, record.attempt) {
                    (0, 1) => panic!("handler of record 0"),
                    (1, 1) => Err(HandlerError::retry("not yet").class("LATER")),
                    (2, 1) => Ok(record.decode::<crate::payload::Json<String>>().map(drop)?),
                    (3, 1) => Err(HandlerError::skip("not ours")),
                    (4, 1) => Err(HandlerError::release()),
                    _ => {
                        if seen.offsets.lock().len() >= 9 {
                            seen.enough.cancel();
                        }
                        Ok(())
                    }
                }
            }
        }
    };
    consumer.run_until(stop.cancelled_owned(), Duration::from_secs(20), handler).await.unwrap();
    let state = fake.state.lock();
    let mut classes: Vec<_> = state.failures.iter().map(|failure| failure.class.as_str()).collect();
    classes.sort_unstable();
    assert_eq!(classes, ["DECODE", "LATER", "PANIC"]);
    assert!(state.failures.iter().any(|failure| failure.message.contains("handler of record 0")));
    assert_eq!(state.settled.len(), 6);
    let again = seen.offsets.lock().iter().filter(|(_, attempt)| *attempt == 2).count();
    assert_eq!(again, 3, "0, 1 and 4 came again, 2 went to the dead letters");
}

#[tokio::test]
async fn ak_5_leases_are_extended_while_a_handler_runs() {
    let fake = Arc::new(Fake::new(1, 1));
    let mut consumer = open(&fake).await;
    let delivery = consumer.next_delivery().await.unwrap().unwrap();
    // The lease has 300 ms. The event that is waited for is the third extension.
    let extended = async {
        while fake.state.lock().said.iter().filter(|said| **said == "extend").count() < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), extended).await.expect("leases are extended");
    assert_eq!(delivery.ack().await.unwrap(), AckOutcome::Done);
}

#[tokio::test]
async fn a_delivery_that_is_dropped_without_a_verdict_counts_as_failed() {
    let fake = Arc::new(Fake::new(1, 1));
    let mut consumer = open(&fake).await;
    drop(consumer.next_delivery().await.unwrap().unwrap());
    let again = consumer.next_delivery().await.unwrap().unwrap();
    assert_eq!(again.attempt, 2);
    assert_eq!(fake.state.lock().failures[0].class, crate::consumer::DROPPED);
    again.ack().await.unwrap();
}

#[tokio::test]
async fn gm_10_a_consumer_that_is_dropped_leaves() {
    let fake = Arc::new(Fake::new(1, 1));
    let consumer = open(&fake).await;
    let handle = consumer.handle();
    drop(consumer);
    handle.shutdown(Duration::ZERO).await;
    assert_eq!(fake.state.lock().said.last(), Some(&"leave"));
}

#[tokio::test]
async fn what_cannot_be_mended_is_told_at_the_opening() {
    let fake = Arc::new(Fake { refuse: Some(Status::failed_precondition("no")), ..Fake::new(1, 1) });
    let client = serve(&fake).await;
    let error = client.consumer("g").open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
}
