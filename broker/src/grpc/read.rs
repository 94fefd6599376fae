//! ReadService: takes a request, resolves where it begins and ends (`read_plan.rs`), and answers with a body that
//! reads while it is sent (`read_driver.rs`, `raw_body.rs`).

use std::sync::Arc;

use http::{HeaderValue, Request, Response, header};
use sawlog_proto::v1::{self, read_service_server::ReadService};
use tonic::body::Body;
use tonic::codec::{Codec as _, Streaming};
use tonic::{Status, codegen::tokio_stream};
use tonic_prost::ProstCodec;

use super::raw_body::{ReadBody, Sink};
use super::read_driver::ReadDriver;
use super::read_plan::{Plan, ensure_open};
use super::status::{self, Problem};
use super::{Context, convert};
use crate::limits::GRPC_MESSAGE_BYTES;

/// The handler.
#[derive(Debug, Clone)]
pub(super) struct ReadHandler(pub(super) Arc<Context>);

impl ReadHandler {
    /// Serves Read itself, in place of the generated service, whose encoder would copy every batch.
    pub(super) async fn serve(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let request = one_message(request).await?;
        let plan = Plan::resolve(&self.0, request).await.map_err(|problem| self.0.fail(problem))?;
        let sink = Sink::default();
        let driver = ReadDriver::new(Arc::clone(&self.0), plan, sink.clone());
        let body = ReadBody::new(Arc::clone(&self.0), sink, Box::pin(driver.run()));
        let mut response = Response::new(Body::new(body));
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(header::CONTENT_TYPE, grpc);
        Ok(response)
    }

    async fn offsets(&self, request: v1::GetOffsetsRequest) -> Result<v1::GetOffsetsResponse, Problem> {
        use v1::get_offsets_request::At;
        // Who asks for offsets is about to read or produce: the first use of a topic.
        let topic = self.0.topic_or_create(&request.topic).await?;
        let at =
            request.at.ok_or_else(|| status::invalid_field("at", "nothing", "earliest, latest or timestamp_ms"))?;
        let mut offsets = Vec::new();
        for id in convert::partitions(&topic, &request.partitions)? {
            let log = topic.partition(id).expect("the partitions were checked");
            ensure_open(&**log, &request.topic, id).await?;
            let offset = match at {
                At::Earliest(_) => log.log_start(),
                At::Latest(_) => log.high_watermark(),
                At::TimestampMs(time) => {
                    let found = log.offset_at_time(time).await;
                    found.map_err(|error| status::read(&request.topic, id.0, 0, &error))?
                }
            };
            let epoch = log.epoch().get();
            offsets.push(v1::OffsetEntry { partition: id.0, offset: offset.to_wire(), epoch });
        }
        Ok(v1::GetOffsetsResponse { topic_id: topic.uuid.to_string(), offsets })
    }
}

/// The one message of the request, within the limit and not compressed.
pub(super) async fn one_message<T>(request: Request<Body>) -> Result<T, Status>
where
    T: prost::Message + Default + Send + Sync + 'static,
{
    if let Some(encoding) = request.headers().get("grpc-encoding")
        && encoding != "identity"
    {
        return Err(Status::unimplemented("requests are not compressed here; batches are, from end to end"));
    }
    let decoder = ProstCodec::<v1::ReadResponse, T>::default().decoder();
    let mut messages = Streaming::new_request(decoder, request.into_body(), None, Some(GRPC_MESSAGE_BYTES));
    messages.message().await?.ok_or_else(|| Status::internal("Missing request message."))
}

#[tonic::async_trait]
impl ReadService for ReadHandler {
    type ReadStream = tokio_stream::Empty<Result<v1::ReadResponse, Status>>;

    async fn read(
        &self,
        _request: tonic::Request<v1::ReadRequest>,
    ) -> Result<tonic::Response<Self::ReadStream>, Status> {
        // Read has a path of its own; see `serve`.
        Err(Status::unimplemented("Read is served elsewhere"))
    }

    async fn get_offsets(
        &self,
        request: tonic::Request<v1::GetOffsetsRequest>,
    ) -> Result<tonic::Response<v1::GetOffsetsResponse>, Status> {
        let offsets = self.offsets(request.into_inner()).await;
        offsets.map(tonic::Response::new).map_err(|problem| self.0.fail(problem))
    }
}
