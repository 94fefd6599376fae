//! Produce of the null server: counts, passes on to followers, acknowledges.

use std::pin::Pin;

use sawlog_proto::v1::produce_service_server::ProduceService;
use sawlog_proto::v1::{self, AckLevel};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::{NullState, NullTopic, Passing};

/// Place of the record count in a batch, big-endian.
const RECORD_COUNT_AT: usize = 57;

type Responses = Pin<Box<dyn Stream<Item = Result<v1::ProduceStreamResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ProduceService for NullState {
    async fn produce(&self, request: Request<v1::ProduceRequest>) -> Result<Response<v1::ProduceResponse>, Status> {
        self.acknowledge(request.into_inner()).map(Response::new)
    }

    type ProduceStreamStream = Responses;

    async fn produce_stream(
        &self,
        request: Request<Streaming<v1::ProduceStreamRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let state = self.clone();
        let responses = request.into_inner().map(move |request| {
            let request = request?;
            let response = state.acknowledge(request.request.unwrap_or_default())?;
            let outcome = Some(v1::produce_stream_response::Outcome::Response(response));
            Ok(v1::ProduceStreamResponse { request_id: request.request_id, outcome })
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn init_producer(
        &self,
        _request: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        Ok(Response::new(v1::InitProducerResponse { producer_id: 1, producer_epoch: 0 }))
    }
}

impl NullState {
    fn acknowledge(&self, request: v1::ProduceRequest) -> Result<v1::ProduceResponse, Status> {
        let topic = self.topic(&request.topic)?;
        let ack = if request.ack == AckLevel::Unspecified as i32 { AckLevel::Durable as i32 } else { request.ack };
        let (part, records) = match request.payload {
            Some(v1::produce_request::Payload::RecordBatch(ready)) => (take_batch(&topic, ready, ack)?, Vec::new()),
            Some(v1::produce_request::Payload::Records(plain)) => take_records(&topic, &plain.records, ack),
            None => return Err(Status::invalid_argument("no payload")),
        };
        Ok(v1::ProduceResponse { topic_id: topic.described.topic_id.clone(), parts: vec![part], records })
    }
}

fn take_batch(topic: &NullTopic, ready: v1::ReadyBatch, ack: i32) -> Result<v1::PartResult, Status> {
    let count = ready
        .batch
        .get(RECORD_COUNT_AT..)
        .and_then(|rest| rest.first_chunk::<4>())
        .map(|bytes| u32::from_be_bytes(*bytes))
        .ok_or_else(|| Status::invalid_argument("the batch is shorter than its header"))?;
    let base_offset = topic.count(ready.partition, count);
    let info = v1::BatchInfo { base_offset, record_count: count, append_time_ms: 1, epoch: 0 };
    topic.pass_on(&Passing { info, partition: ready.partition, batch: ready.batch });
    Ok(part(ready.partition, info, ack))
}

fn take_records(topic: &NullTopic, records: &[v1::ProduceRecord], ack: i32) -> (v1::PartResult, Vec<v1::RecordResult>) {
    let count = u32::try_from(records.len()).unwrap_or(u32::MAX);
    let partition = records.first().and_then(|record| record.partition).unwrap_or(0);
    let base_offset = topic.count(partition, count);
    let info = v1::BatchInfo { base_offset, record_count: count, append_time_ms: 1, epoch: 0 };
    let results = (base_offset..)
        .take(records.len())
        .map(|offset| v1::RecordResult { partition, offset: Some(offset), duplicate: false })
        .collect();
    (part(partition, info, ack), results)
}

fn part(partition: u32, info: v1::BatchInfo, ack: i32) -> v1::PartResult {
    v1::PartResult {
        partition,
        base_offset: info.base_offset,
        record_count: info.record_count,
        append_time_ms: info.append_time_ms,
        ack,
        ..v1::PartResult::default()
    }
}
