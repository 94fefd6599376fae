//! The whole producer over a real socket, against a made-up broker that cuts streams and loses answers.

use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use sawlog_proto::batch::{self, BatchLimits};
use sawlog_proto::v1::produce_service_server::{ProduceService, ProduceServiceServer};
use sawlog_proto::v1::topic_service_server::{TopicService, TopicServiceServer};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::Request;

use super::*;
use crate::error::Outcome;
use crate::producer::Producer;
use crate::types::Record;

/// One partition of the made-up broker: it takes a batch only with the next sequence, and knows repeats.
#[derive(Debug, Default)]
struct Log {
    values: Vec<Bytes>,
    next: i32,
    written: HashMap<i32, i64>,
}

/// What the made-up broker does wrong, and what it has.
#[derive(Debug, Default)]
struct Fake {
    logs: Mutex<HashMap<u32, Log>>,
    /// Every so many answers the stream is cut instead; 0: never.
    cut_every: usize,
    answers: Mutex<usize>,
    /// The current revision of the topic.
    revision: Mutex<u64>,
    /// A stream that was opened stays silent.
    silent: bool,
    epochs: Mutex<u32>,
    fence: Mutex<bool>,
}

impl Fake {
    fn produce(&self, batch: &v1::ReadyBatch) -> v1::PartResult {
        let failed = |reason: ErrorReason, facts: &[(&str, String)]| {
            let mut facts: HashMap<String, String> =
                facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            facts.insert("outcome".to_owned(), "not_written".to_owned());
            let failure = v1::Failure { reason: reason.into(), message: "no".to_owned(), facts, retry_after_ms: None };
            v1::PartResult { partition: batch.partition, failure: Some(failure), ..v1::PartResult::default() }
        };
        if *self.fence.lock() {
            return failed(ErrorReason::ProducerFenced, &[]);
        }
        let revision = *self.revision.lock();
        if batch.topic_revision != revision {
            return failed(ErrorReason::StaleRevision, &[("current", revision.to_string())]);
        }
        let header = batch::check(&batch.batch, &BatchLimits::DEFAULT, true).expect("whole batches come");
        let mut logs = self.logs.lock();
        let log = logs.entry(batch.partition).or_default();
        let sequence = header.producer.map_or(log.next, |stamp| stamp.base_sequence);
        let (base_offset, duplicate) = match log.written.get(&sequence) {
            Some(offset) if header.producer.is_some() => (*offset, true),
            _ if sequence != log.next => return failed(ErrorReason::SeqGap, &[("expected", log.next.to_string())]),
            _ => {
                let offset = log.values.len() as i64;
                let records = batch::records(&batch.batch, &BatchLimits::DEFAULT).expect("whole batches come");
                log.values.extend(records.map(|record| record.expect("sound records").value.expect("a value")));
                log.written.insert(sequence, offset);
                log.next += header.record_count as i32;
                (offset, false)
            }
        };
        let ack = v1::AckLevel::Durable.into();
        let record_count = header.record_count;
        v1::PartResult { partition: batch.partition, base_offset, record_count, ack, duplicate, ..Default::default() }
    }

    /// Whether the stream is cut in place of this answer.
    fn cuts(&self) -> bool {
        let mut answers = self.answers.lock();
        *answers += 1;
        self.cut_every > 0 && answers.is_multiple_of(self.cut_every)
    }
}

#[derive(Debug, Clone)]
struct Service(Arc<Fake>);

#[tonic::async_trait]
impl ProduceService for Service {
    type ProduceStreamStream = Pin<Box<dyn Stream<Item = Result<v1::ProduceStreamResponse, Status>> + Send>>;

    async fn produce_stream(
        &self,
        requests: Request<Streaming<v1::ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        let fake = Arc::clone(&self.0);
        let answers = requests.into_inner().map(move |request| {
            let request = request?;
            let produce = request.request.unwrap_or_default();
            let Some(v1::produce_request::Payload::RecordBatch(batch)) = produce.payload else {
                return Err(Status::invalid_argument("only ready batches"));
            };
            // The record is written, and in a cut the answer is lost.
            let part = fake.produce(&batch);
            if fake.cuts() {
                return Err(Status::unavailable("cut"));
            }
            let response = v1::ProduceResponse { topic_id: "id".to_owned(), parts: vec![part], records: Vec::new() };
            let outcome = Some(v1::produce_stream_response::Outcome::Response(response));
            Ok(v1::ProduceStreamResponse { request_id: request.request_id, outcome })
        });
        if self.0.silent {
            return Ok(Response::new(Box::pin(answers.filter(|_| false))));
        }
        Ok(Response::new(Box::pin(answers)))
    }

    async fn produce(&self, _: Request<v1::ProduceRequest>) -> Result<Response<v1::ProduceResponse>, Status> {
        Err(Status::unimplemented("no"))
    }

    async fn init_producer(
        &self,
        _: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let mut epochs = self.0.epochs.lock();
        *epochs += 1;
        Ok(Response::new(v1::InitProducerResponse { producer_id: 1, producer_epoch: *epochs - 1 }))
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
impl TopicService for Service {
    async fn get_topic(&self, _: Request<v1::GetTopicRequest>) -> Result<Response<v1::GetTopicResponse>, Status> {
        let config = v1::TopicConfig { partitions: Some(3), keyed: Some(true), ..v1::TopicConfig::default() };
        let revision = *self.0.revision.lock();
        let topic = v1::Topic {
            name: "t".to_owned(),
            topic_id: "id".to_owned(),
            revision,
            config: Some(config),
            hash_version: HASH_VERSION,
            ..v1::Topic::default()
        };
        Ok(Response::new(v1::GetTopicResponse { topic: Some(topic) }))
    }

    unimplemented_calls! {
        create_topic CreateTopicRequest CreateTopicResponse
        list_topics ListTopicsRequest ListTopicsResponse
        update_topic UpdateTopicRequest UpdateTopicResponse
        delete_topic DeleteTopicRequest DeleteTopicResponse
        trim_topic TrimTopicRequest TrimTopicResponse
        describe_partitions DescribePartitionsRequest DescribePartitionsResponse
        reopen_partition ReopenPartitionRequest ReopenPartitionResponse
    }
}

/// Serves the made-up broker until the test ends; returns a client of it.
async fn serve(fake: &Arc<Fake>) -> Client {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let service = Service(Arc::clone(fake));
    let server = tonic::transport::Server::builder()
        .add_service(ProduceServiceServer::new(service.clone()))
        .add_service(TopicServiceServer::new(service))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    Client::builder(url).connect_lazy().unwrap()
}

async fn send_numbers(producer: &Producer, numbers: std::ops::Range<u32>) -> Vec<crate::producer::Receipt> {
    let mut receipts = Vec::new();
    for number in numbers {
        let record = Record::keyed(format!("key-{}", number % 7), number.to_string());
        receipts.push(producer.send(record).await.unwrap());
    }
    receipts
}

#[tokio::test]
async fn pr_7_over_a_stream_that_is_cut_again_and_again_each_record_is_written_once_in_order() {
    let fake = Arc::new(Fake { cut_every: 7, ..Fake::default() });
    let client = serve(&fake).await;
    let producer = client.producer("t").batch_bytes(1024).max_in_flight(8).build().await.unwrap();
    let receipts = send_numbers(&producer, 0..3000).await;
    producer.flush().await.unwrap();
    for (number, receipt) in receipts.into_iter().enumerate() {
        let position = receipt.await.unwrap();
        let logs = fake.logs.lock();
        let value = &logs[&position.partition].values[position.offset as usize];
        assert_eq!(value, number.to_string().as_bytes());
    }
    producer.close().await.unwrap();
    let logs = fake.logs.lock();
    assert_eq!(logs.values().map(|log| log.values.len()).sum::<usize>(), 3000);
    for log in logs.values() {
        let numbers: Vec<u32> =
            log.values.iter().map(|value| std::str::from_utf8(value).unwrap().parse().unwrap()).collect();
        assert!(numbers.is_sorted(), "records of a partition stand in the order of their sending");
    }
    assert!(*fake.answers.lock() > 50, "there were batches enough to be cut between");
}

#[tokio::test]
async fn pr_13_a_stale_revision_is_refreshed_and_the_producer_goes_on() {
    let fake = Arc::new(Fake::default());
    let client = serve(&fake).await;
    let producer = client.producer("t").build().await.unwrap();
    producer.send_and_wait(Record::keyed("k", "1")).await.unwrap();
    *fake.revision.lock() += 1;
    assert_eq!(producer.send_and_wait(Record::keyed("k", "2")).await.unwrap().offset, 1);
    assert_eq!(producer.topic().revision, 1);
}

#[tokio::test]
async fn a_fenced_producer_tells_it_to_its_receipts_and_to_later_sends() {
    let fake = Arc::new(Fake::default());
    let client = serve(&fake).await;
    let producer = client.producer("t").build().await.unwrap();
    *fake.fence.lock() = true;
    let error = producer.send_and_wait(Record::keyed("k", "1")).await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::ProducerFenced));
    producer.shared().ended.cancelled().await;
    let error = producer.send(Record::keyed("k", "2")).await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::ProducerFenced));
}

#[tokio::test]
async fn a_record_without_an_answer_is_given_back_with_an_unknown_outcome_and_frees_its_memory() {
    let fake = Arc::new(Fake { silent: true, ..Fake::default() });
    let client = serve(&fake).await;
    let builder = client.producer("t").buffer_bytes(200).delivery_timeout(Duration::from_millis(200));
    let producer = builder.build().await.unwrap();
    let first = producer.send(Record::keyed("k", vec![0; 150])).await.unwrap();
    let full = Record::keyed("k", vec![0; 150]);
    assert!(matches!(producer.try_send((&full).into()), Err(crate::producer::TrySendError::Full)));
    let error = first.await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Some(Outcome::Unknown)));
    producer.ready().await;
    let second = producer.send(full).await.unwrap();
    drop(producer);
    assert!(second.await.is_err());
}

#[tokio::test]
async fn dropping_the_last_producer_sends_what_is_buffered() {
    let fake = Arc::new(Fake::default());
    let client = serve(&fake).await;
    let producer = client.producer("t").linger(Duration::from_secs(3600)).build().await.unwrap();
    let receipt = producer.send(Record::keyed("k", "last")).await.unwrap();
    drop(producer);
    assert_eq!(receipt.await.unwrap().offset, 0);
}

#[tokio::test]
async fn what_is_buffered_when_the_task_dies_is_settled() {
    let fake = Arc::new(Fake { silent: true, ..Fake::default() });
    let client = serve(&fake).await;
    let topic = client.admin().get_topic("t").await.unwrap();
    let settings = client.producer("t").linger(Duration::from_secs(3600)).settings;
    let batching = crate::producer::accumulator::Batching {
        linger: settings.linger,
        batch_bytes: settings.batch_bytes,
        buffer_bytes: settings.buffer_bytes,
        codec: settings.codec,
    };
    let rules = crate::producer::accumulator::TopicRules::of(&topic);
    let shared = Arc::new(Shared::new(Accumulator::new(rules, batching, 0), topic));
    let sender = Sender::new(client, settings, Arc::clone(&shared), None);
    let record = Record::keyed("k", "1");
    let (receipt, _) = shared.accumulator.lock().push((&record).into(), crate::producer::now).unwrap();
    drop(sender);
    assert_eq!(receipt.await.unwrap_err().kind(), ErrorKind::Closed);
    assert!(shared.ended.is_cancelled());
}
