//! Read of the null server: made-up batches, or what producers send, through a body made by hand.

use std::sync::Arc;
use std::task::{Context, Poll};

use http_body_util::BodyExt as _;
use prost::Message as _;
use sawlog_proto::v1;
use sawlog_proto::v1::read_service_server::{ReadService, ReadServiceServer};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::{Request, Response, Status};

use super::body::{FollowBody, ReplayBody};
use super::{NullState, NullTopic};

const READ_PATH: &str = "/sawlog.v1.ReadService/Read";
/// Flag and length before each message of gRPC.
const PREFIX_BYTES: usize = 5;

#[tonic::async_trait]
impl ReadService for NullState {
    type ReadStream = tokio_stream::Empty<Result<v1::ReadResponse, Status>>;

    /// Never called: [`NullRead`] answers this path.
    async fn read(&self, _request: Request<v1::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        Err(Status::internal("reads are answered by hand"))
    }

    async fn get_offsets(
        &self,
        request: Request<v1::GetOffsetsRequest>,
    ) -> Result<Response<v1::GetOffsetsResponse>, Status> {
        let request = request.into_inner();
        let topic = self.topic(&request.topic)?;
        let earliest = matches!(request.at, Some(v1::get_offsets_request::At::Earliest(_)));
        let offsets = chosen(&topic, &request.partitions)
            .into_iter()
            .map(|partition| v1::OffsetEntry {
                partition,
                offset: if earliest { 0 } else { topic.end(partition) },
                epoch: 0,
            })
            .collect();
        Ok(Response::new(v1::GetOffsetsResponse { topic_id: topic.described.topic_id.clone(), offsets }))
    }
}

/// The read service: `Read` by hand, everything else as generated.
#[derive(Debug, Clone)]
pub(super) struct NullRead {
    state: NullState,
    generated: ReadServiceServer<NullState>,
}

impl NullRead {
    pub(super) fn new(state: NullState) -> Self {
        Self { generated: ReadServiceServer::new(state.clone()), state }
    }
}

impl NamedService for NullRead {
    const NAME: &'static str = "sawlog.v1.ReadService";
}

impl Service<http::Request<Body>> for NullRead {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != READ_PATH {
            return self.generated.call(request);
        }
        let state = self.state.clone();
        Box::pin(async move { Ok(answer(&state, request.into_body()).await.unwrap_or_else(Status::into_http)) })
    }
}

async fn answer(state: &NullState, body: Body) -> Result<http::Response<Body>, Status> {
    let message = body.collect().await?.to_bytes();
    let message = message.get(PREFIX_BYTES..).ok_or_else(|| Status::invalid_argument("no message"))?;
    let request = v1::ReadRequest::decode(message).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let topic = state.topic(&request.topic)?;
    let partitions = match request.start.and_then(|start| start.at) {
        Some(v1::read_start::At::Partitions(places)) => places.starts.iter().map(|start| start.partition).collect(),
        _ => chosen(&topic, &request.partitions),
    };
    let body = match &topic.replay {
        Some(replay) => Body::new(ReplayBody::new(Arc::clone(replay), partitions)),
        None if request.follow => Body::new(FollowBody::new(topic.follow(), partitions)),
        None => return Err(Status::unimplemented("nothing is stored here")),
    };
    http::Response::builder()
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .body(body)
        .map_err(|error| Status::internal(error.to_string()))
}

fn chosen(topic: &NullTopic, asked: &[u32]) -> Vec<u32> {
    if asked.is_empty() { (0..topic.partitions()).collect() } else { asked.to_vec() }
}
