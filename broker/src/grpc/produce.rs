//! ProduceService: one request at a time here, pipelined in `produce_stream.rs`.
//!
//! A request begins ([`begin`]) without an await: its parts are handed to their partitions in the order in which
//! requests come. What is left is a [`Pending`], a future of the answer; dropped, it changes nothing (rule D8). What
//! concerns the whole request is a [`Problem`]; what concerns parts and records stands in the answer (rule PR-3).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll};

use sawlog_proto::batch::Codec;
use sawlog_proto::v1::{self, produce_request::Payload, produce_service_server::ProduceService};
use tonic::{Request, Response, Status, Streaming};

use super::gate::Permits;
use super::produce_events::{self, Answered};
use super::produce_stream::Responses;
use super::status::{self, Outcome, Problem};
use super::{Context, convert};
use crate::model::{AckLevel, PartitionId};
use crate::partition::admit::{self, AdmitError, AdmitRules, EnvelopePolicy, EventRules, PlainRecord};
use crate::partition::{AppendAck, AppendFailure, BoxFuture, CheckedBatch, Permit, RequestStamp};
use crate::topics::{EventAck, Topic, Validation};

/// The handler.
#[derive(Debug, Clone)]
pub(super) struct ProduceHandler(pub(super) Arc<Context>);

#[tonic::async_trait]
impl ProduceService for ProduceHandler {
    async fn produce(&self, request: Request<v1::ProduceRequest>) -> Result<Response<v1::ProduceResponse>, Status> {
        let permit = request.extensions().get::<Permits>().map(Permits::take).unwrap_or_default();
        let request = request.into_inner();
        let refuse = |problem: Problem| self.0.fail(problem);
        let topic = self.0.topic_or_create(&request.topic).await;
        let topic = topic.map_err(|problem| refuse(problem.outcome(Outcome::NotWritten)))?;
        let pending = begin(&self.0, &topic, request, permit).map_err(refuse)?;
        Ok(Response::new(pending.await))
    }

    type ProduceStreamStream = Responses;

    async fn produce_stream(
        &self,
        request: Request<Streaming<v1::ProduceStreamRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let permits = request.extensions().get::<Permits>().cloned().unwrap_or_default();
        Ok(Response::new(Responses::new(Arc::clone(&self.0), request.into_inner(), permits)))
    }

    async fn init_producer(
        &self,
        request: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let registered = self.0.parts.topics.init_producer(&request.get_ref().name).await;
        let (producer_id, epoch) = registered.map_err(|error| self.0.fail(error))?;
        let producer_epoch = u32::try_from(epoch).expect("epochs of producers count from 0");
        Ok(Response::new(v1::InitProducerResponse { producer_id, producer_epoch }))
    }
}

impl PlainRecord for v1::ProduceRecord {
    fn key(&self) -> Option<&[u8]> {
        self.record.as_ref().and_then(|record| record.key.as_deref())
    }

    fn value(&self) -> Option<&[u8]> {
        self.record.as_ref().and_then(|record| record.value.as_deref())
    }

    fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> + Clone {
        let headers = self.record.as_ref().map(|record| record.headers.as_slice()).unwrap_or_default();
        headers.iter().map(|header| (header.key.as_str(), &header.value[..]))
    }

    fn timestamp_ms(&self) -> Option<i64> {
        self.record.as_ref().and_then(|record| record.timestamp_ms)
    }

    fn partition(&self) -> Option<u32> {
        self.partition
    }
}

fn rules_of(topic: &Topic) -> AdmitRules {
    let current = topic.revision();
    AdmitRules {
        partitions: topic.partitions().len() as u32,
        keyed: current.config.keyed,
        hash_version: topic.hash_version,
        revision: current.revision,
        ack_floor: current.config.ack_floor,
        deep: current.config.validation == Validation::Full,
        max_record_bytes: current.config.max_record_bytes,
        events: EventRules { envelope: current.config.events.envelope, dedup: current.config.events.dedup() },
    }
}

/// Hands the parts of a request to their partitions; without an await, so that requests keep their order.
pub(super) fn begin(
    context: &Context,
    topic: &Arc<Topic>,
    request: v1::ProduceRequest,
    permit: Permit,
) -> Result<Pending, Problem> {
    let not_written = |problem: Problem| problem.outcome(Outcome::NotWritten);
    topic.check_not_reserved().map_err(|error| not_written(error.into()))?;
    let rules = rules_of(topic);
    let name = topic.name.as_str();
    let asked = convert::ack_level("ack", request.ack).map_err(not_written)?;
    let level = admit::level(&rules, asked).map_err(|error| status::admit(name, &error))?;
    let mut pending = Pending::new(context, topic, level);
    match request.payload {
        Some(Payload::Records(mut plain)) => {
            let stamp = request.producer.map(request_stamp).transpose().map_err(not_written)?;
            if rules.events.envelope == EnvelopePolicy::Fill {
                let producer = stamp.map(|stamp| context.parts.topics.producer_name(stamp.producer_id));
                produce_events::fill(&mut plain.records, producer.as_deref(), context.now_ms());
            }
            let spread = context.spread.fetch_add(1, Ordering::Relaxed);
            let now = context.now_ms();
            let admitted = admit::admit_records(&rules, &plain.records, stamp, spread, Codec::None, now);
            let admitted = admitted.map_err(|error| status::admit(name, &error))?;
            pending.places = Some(admitted.places);
            let mut permit = permit;
            for part in admitted.parts {
                let own = permit.split(part.batch.as_ref().map_or(0, |batch| batch.bytes.len()));
                pending.add(&rules, part.partition, part.record_count, part.batch, own);
            }
        }
        Some(Payload::RecordBatch(ready)) => {
            let partition = ready.partition;
            let ready = admit::ReadyBatch {
                partition,
                bytes: ready.batch,
                hash_version: ready.hash_version,
                topic_revision: ready.topic_revision,
            };
            let batch = admit::admit_batch(&rules, ready, context.now_ms());
            let count = batch.as_ref().map_or(0, |batch| batch.header.record_count);
            pending.add(&rules, Some(PartitionId(partition)), count, batch, permit);
        }
        None => {
            let problem = status::invalid_field("payload", "nothing", "records or record_batch");
            return Err(not_written(problem));
        }
    }
    Ok(pending)
}

fn request_stamp(producer: v1::ProducerRequest) -> Result<RequestStamp, Problem> {
    let epoch = i16::try_from(producer.producer_epoch)
        .map_err(|_| status::invalid_field("producer.producer_epoch", producer.producer_epoch, "at most 32767"))?;
    if producer.producer_id < 0 {
        return Err(status::invalid_field("producer.producer_id", producer.producer_id, "at least 0"));
    }
    Ok(RequestStamp {
        producer_id: producer.producer_id,
        producer_epoch: epoch,
        request_number: producer.request_number,
    })
}

type Append = BoxFuture<'static, Result<AppendAck, AppendFailure>>;

type AppendEvents = BoxFuture<'static, Result<EventAck, AppendFailure>>;

enum Part {
    Waiting { partition: u32, append: Append },
    Events { partition: u32, record_count: u32, bytes: bytes::Bytes, append: AppendEvents },
    Done(v1::PartResult),
}

/// A request whose parts are with their partitions.
pub(super) struct Pending {
    metrics: Arc<crate::metrics::Metrics>,
    topic: Arc<Topic>,
    level: AckLevel,
    parts: Vec<Part>,
    /// Of plain records: for each its part, and its place in the part.
    places: Option<Vec<(u32, u32)>>,
}

impl Pending {
    fn new(context: &Context, topic: &Arc<Topic>, level: AckLevel) -> Self {
        let (metrics, topic) = (Arc::clone(context.metrics()), Arc::clone(topic));
        Self { metrics, topic, level, parts: Vec::new(), places: None }
    }

    /// Takes up a part: appends its batch, or keeps why it was refused.
    fn add(
        &mut self,
        rules: &AdmitRules,
        partition: Option<PartitionId>,
        record_count: u32,
        batch: Result<CheckedBatch, AdmitError>,
        permit: Permit,
    ) {
        let number = partition.map_or(0, |partition| partition.0);
        let log = partition.and_then(|partition| self.topic.partition(partition));
        let part = match (batch, log) {
            (Ok(batch), Some(_)) if batch.events.is_some() => Part::Events {
                partition: number,
                record_count,
                bytes: batch.bytes.clone(),
                append: self.topic.append_events(PartitionId(number), batch, self.level, permit),
            },
            (Ok(batch), Some(log)) => {
                Part::Waiting { partition: number, append: log.append(batch, self.level, permit) }
            }
            (Ok(_), None) => {
                let error = AdmitError::NoPartition { found: number, partitions: rules.partitions };
                Part::Done(self.refused(rules, number, record_count, &error))
            }
            (Err(error), _) => Part::Done(self.refused(rules, number, record_count, &error)),
        };
        self.parts.push(part);
    }

    fn refused(&self, rules: &AdmitRules, partition: u32, record_count: u32, error: &AdmitError) -> v1::PartResult {
        let name = self.topic.name.as_str();
        let mut record_failures = Vec::new();
        if let AdmitError::Records(refused) = error {
            for (index, refusal) in refused {
                // Of plain records the index in the request, of a ready batch the index in the batch.
                let problem = status::record_refusal(name, *index, rules.hash_version, refusal);
                let failure = Some(problem.into_failure(&self.metrics));
                record_failures.push(v1::RecordFailure { index: *index, failure });
            }
        }
        let failure = Some(status::admit(name, error).into_failure(&self.metrics));
        v1::PartResult { partition, record_count, failure, record_failures, ..v1::PartResult::default() }
    }

    fn done(&self, partition: u32, result: Result<AppendAck, AppendFailure>) -> v1::PartResult {
        match result {
            Ok(ack) => v1::PartResult {
                partition,
                base_offset: ack.base_offset.to_wire(),
                record_count: ack.record_count,
                epoch: ack.epoch.get(),
                append_time_ms: ack.append_time_ms,
                ack: convert::ack_to_wire(ack.level).into(),
                duplicate: ack.duplicate,
                failure: None,
                record_failures: Vec::new(),
                repeats: Vec::new(),
            },
            Err(failure) => {
                let problem = status::append(self.topic.name.as_str(), partition, failure);
                let failure = Some(problem.into_failure(&self.metrics));
                v1::PartResult { partition, failure, ..v1::PartResult::default() }
            }
        }
    }

    /// The result of a part with event ids.
    fn done_events(
        &self,
        part: usize,
        (partition, record_count): (u32, u32),
        bytes: &bytes::Bytes,
        result: Result<EventAck, AppendFailure>,
    ) -> v1::PartResult {
        let ack = match result {
            Ok(ack) => ack,
            Err(failure) => return self.done(partition, Err(failure)),
        };
        if let (Some(written), true) = (ack.written, ack.found.is_empty()) {
            return self.done(partition, Ok(written));
        }
        let own = |places: &Vec<(u32, u32)>| {
            let all = (0..).zip(places).filter(|(_, (of, _))| *of as usize == part);
            all.map(|(index, _)| index).collect()
        };
        let (topic, level, in_request) = (self.topic.name.as_str(), self.level, self.places.as_ref().map(own));
        let answered = Answered { topic, partition, record_count, level, bytes, in_request };
        answered.result(&ack, &self.metrics)
    }

    fn response(&mut self) -> v1::ProduceResponse {
        let part = |part| match part {
            Part::Done(result) => result,
            Part::Waiting { .. } | Part::Events { .. } => unreachable!("every part was waited for"),
        };
        let parts: Vec<v1::PartResult> = std::mem::take(&mut self.parts).into_iter().map(part).collect();
        let records = produce_events::records(&parts, &self.places.take().unwrap_or_default());
        v1::ProduceResponse { topic_id: self.topic.uuid.to_string(), parts, records }
    }
}

impl Future for Pending {
    type Output = v1::ProduceResponse;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<v1::ProduceResponse> {
        let mut waiting = false;
        for index in 0..self.parts.len() {
            let done = match &mut self.parts[index] {
                Part::Done(_) => continue,
                Part::Waiting { partition, append } => {
                    let partition = *partition;
                    append.as_mut().poll(context).map(|result| self.done(partition, result))
                }
                Part::Events { partition, record_count, bytes, append } => {
                    let (part, bytes) = ((*partition, *record_count), bytes.clone());
                    append.as_mut().poll(context).map(|result| self.done_events(index, part, &bytes, result))
                }
            };
            match done {
                Poll::Ready(result) => self.parts[index] = Part::Done(result),
                Poll::Pending => waiting = true,
            }
        }
        if waiting { Poll::Pending } else { Poll::Ready(self.response()) }
    }
}
