//! The gRPC services, one file each: decode, call, encode. Everything they do is done by `topics` and `partition`.
//!
//! [`Services`] takes a request of any of them. Before a byte of a message is decoded, `gate.rs` takes it from the
//! budget for bytes in flight; `status.rs` is the only map from errors to codes and reasons; `raw_body.rs` sends
//! stored batches without a copy.
//!
//! It must not know of files, the log, sockets. Invariants: a panic in a request ends that request alone (rule F7);
//! no handler holds a lock over an await.

mod consume;
mod convert;
mod convert_config;
mod convert_events;
mod convert_groups;
mod convert_letters;
mod convert_views;
mod dead_letters;
mod gate;
mod groups;
mod guard;
mod ids;
mod produce;
mod produce_events;
mod produce_stream;
mod raw_body;
mod read;
mod read_driver;
mod read_plan;
mod rebuilds;
mod replays;
mod stalls;
mod status;
mod topics;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use sawlog_proto::v1;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service as _;

#[cfg(feature = "testing")]
pub use self::consume::DeliveryEncoder;
pub use self::raw_body::StreamCut;
pub use self::status::DOMAIN;

use crate::clock::Clock;
use crate::coordinator::Coordinator;
use crate::dead_letter::Letters;
use crate::limits;
use crate::metrics::Metrics;
use crate::partition::InFlight;
use crate::topics::{NewTopic, Topic, TopicConfig, Topics};
use gate::{GatedBody, OverBudget, Permits};
use status::Problem;

/// Full names of the services, for health.
pub const SERVICE_NAMES: [&str; 7] = [
    "sawlog.v1.TopicService",
    "sawlog.v1.ProduceService",
    "sawlog.v1.ReadService",
    "sawlog.v1.ConsumeService",
    "sawlog.v1.GroupService",
    "sawlog.v1.DeadLetterService",
    "sawlog.v1.ReplayService",
];
/// What every path of ours begins with.
pub const PATH_PREFIX: &str = "/sawlog.v1.";

/// What the services work on.
#[derive(Debug)]
pub struct ServiceParts {
    /// All topics.
    pub topics: Arc<Topics>,
    /// All groups.
    pub coordinator: Arc<Coordinator>,
    /// All dead letters.
    pub letters: Arc<Letters>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Wall and monotonic time.
    pub clock: Arc<dyn Clock>,
    /// Settings of new topics where the request says nothing.
    pub topic_defaults: TopicConfig,
    /// Produce bytes in flight, of all connections.
    pub in_flight: InFlight,
    /// Topics are made on first use.
    pub auto_create_topics: bool,
    /// Cancelled when the broker begins to stop: streams end then.
    pub draining: CancellationToken,
}

/// What all handlers share.
#[derive(Debug)]
pub(crate) struct Context {
    parts: ServiceParts,
    stalls: Arc<stalls::Stalls>,
    /// Rises with each request of plain records: spreads those without key.
    spread: AtomicU32,
    /// Bytes that the readings of all streams hold at present.
    reader_bytes: AtomicUsize,
}

impl Context {
    fn now_ms(&self) -> i64 {
        self.parts.clock.wall_ms()
    }

    fn monotonic(&self) -> Duration {
        self.parts.clock.monotonic().0
    }

    fn metrics(&self) -> &Arc<Metrics> {
        &self.parts.metrics
    }

    fn coordinator(&self) -> &Arc<Coordinator> {
        &self.parts.coordinator
    }

    fn letters(&self) -> &Letters {
        &self.parts.letters
    }

    fn fail(&self, problem: impl Into<Problem>) -> tonic::Status {
        problem.into().into_status(self.metrics())
    }

    /// A topic by its name, without waiting.
    fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.parts.topics.get(name)
    }

    /// A topic by its name; made if it does not exist and the settings say so.
    async fn topic_or_create(&self, name: &str) -> Result<Arc<Topic>, Problem> {
        if let Some(topic) = self.topic(name) {
            return Ok(topic);
        }
        if !self.parts.auto_create_topics {
            return Err(status::topic_not_found(name));
        }
        let name = convert::topic_name("topic", name)?;
        let config = self.parts.topic_defaults.clone();
        let new = NewTopic { name, config, notes: crate::topics::TopicNotes::default() };
        let created = self.parts.topics.create(new).await;
        match created {
            Ok((topic, _)) => Ok(topic),
            // Made by another request in between, with settings of its own.
            Err(crate::topics::TopicError::Exists { name, .. }) => {
                self.topic(&name).ok_or_else(|| status::topic_not_found(&name))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What the handlers know of the connection that a request came on.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Bytes in flight of this connection, a part of those of the broker.
    pub in_flight: InFlight,
}

/// All gRPC services of ours. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Services {
    context: Arc<Context>,
    topics: v1::topic_service_server::TopicServiceServer<topics::TopicHandler>,
    produce: v1::produce_service_server::ProduceServiceServer<produce::ProduceHandler>,
    offsets: v1::read_service_server::ReadServiceServer<read::ReadHandler>,
    read: read::ReadHandler,
    consume: consume::ConsumeHandler,
    groups: v1::group_service_server::GroupServiceServer<groups::GroupHandler>,
    letters: v1::dead_letter_service_server::DeadLetterServiceServer<dead_letters::LetterHandler>,
    export: dead_letters::LetterHandler,
    replays: v1::replay_service_server::ReplayServiceServer<replays::ReplayHandler>,
}

/// Which handler a path leads to.
enum Route {
    Topics,
    Produce,
    ProduceStream,
    Consume,
    Read,
    Offsets,
    Groups,
    Letters,
    Export,
    Replays,
    Unknown,
}

impl Route {
    fn of(path: &str) -> Self {
        match path {
            "/sawlog.v1.ProduceService/ProduceStream" => Self::ProduceStream,
            "/sawlog.v1.ConsumeService/Consume" => Self::Consume,
            "/sawlog.v1.ReadService/Read" => Self::Read,
            _ if path.starts_with("/sawlog.v1.ProduceService/") => Self::Produce,
            _ if path.starts_with("/sawlog.v1.ReadService/") => Self::Offsets,
            "/sawlog.v1.DeadLetterService/Export" => Self::Export,
            _ if path.starts_with("/sawlog.v1.DeadLetterService/") => Self::Letters,
            _ if path.starts_with("/sawlog.v1.ReplayService/") => Self::Replays,
            _ if path.starts_with("/sawlog.v1.GroupService/") => Self::Groups,
            _ if path.starts_with("/sawlog.v1.TopicService/") => Self::Topics,
            _ => Self::Unknown,
        }
    }
}

impl Services {
    /// Services over these parts.
    pub fn new(parts: ServiceParts) -> Self {
        let context = Arc::new(Context {
            parts,
            stalls: Arc::default(),
            spread: AtomicU32::new(0),
            reader_bytes: AtomicUsize::new(0),
        });
        let most = limits::GRPC_MESSAGE_BYTES;
        let topics = topics::TopicHandler(Arc::clone(&context));
        let produce = produce::ProduceHandler(Arc::clone(&context));
        let read = read::ReadHandler(Arc::clone(&context));
        let letters = dead_letters::LetterHandler(Arc::clone(&context));
        Self {
            topics: v1::topic_service_server::TopicServiceServer::new(topics)
                .max_decoding_message_size(most)
                .max_encoding_message_size(most),
            produce: v1::produce_service_server::ProduceServiceServer::new(produce)
                .max_decoding_message_size(most)
                .max_encoding_message_size(most),
            offsets: v1::read_service_server::ReadServiceServer::new(read.clone())
                .max_decoding_message_size(most)
                .max_encoding_message_size(most),
            read,
            consume: consume::ConsumeHandler(Arc::clone(&context)),
            letters: v1::dead_letter_service_server::DeadLetterServiceServer::new(letters.clone())
                .max_decoding_message_size(most)
                .max_encoding_message_size(most),
            export: letters,
            replays: v1::replay_service_server::ReplayServiceServer::new(replays::ReplayHandler(Arc::clone(&context)))
                .max_decoding_message_size(most)
                .max_encoding_message_size(most),
            groups: v1::group_service_server::GroupServiceServer::new(groups::GroupHandler(Arc::clone(&context)))
                .max_decoding_message_size(most)
                .max_encoding_message_size(most),
            context,
        }
    }

    /// What is to be known of a new connection.
    pub fn connection(&self) -> Connection {
        Connection { in_flight: self.context.parts.in_flight.part(limits::IN_FLIGHT_CONNECTION_BYTES) }
    }

    /// Cuts readers that do not read; runs until it is dropped, and sleeps while nobody is being waited for.
    pub async fn cut_slow_readers(&self) {
        let context = Arc::clone(&self.context);
        self.context.stalls.watch(move || context.monotonic()).await;
    }

    /// Answers a request whose path begins with [`PATH_PREFIX`].
    pub async fn call<B>(&self, mut request: Request<B>, connection: &Connection) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        let route = Route::of(request.uri().path());
        let permits = Permits::default();
        request.extensions_mut().insert(permits.clone());
        let over = match route {
            Route::ProduceStream | Route::Consume => OverBudget::Wait,
            _ => OverBudget::Refuse(Arc::clone(self.context.metrics())),
        };
        let budget = connection.in_flight.clone();
        let request = request.map(|body| Body::new(GatedBody::new(body, budget, over, permits.clone())));
        let metrics = self.context.metrics();
        let call = self.route(route, request, permits);
        guard::request(metrics, call).await.unwrap_or_else(tonic::Status::into_http)
    }

    async fn route(
        &self,
        route: Route,
        request: Request<Body>,
        permits: Permits,
    ) -> Result<Response<Body>, tonic::Status> {
        let deadline = guard::deadline(request.headers());
        let metrics = self.context.metrics();
        let response = match route {
            Route::ProduceStream => self.produce.clone().call(request).await,
            Route::Read => return self.read.serve(request).await,
            Route::Consume => return self.consume.serve(request, permits),
            Route::Produce => {
                let call = self.produce.clone().call(request);
                guard::within(deadline, call)
                    .await
                    .map_err(|problem| problem.outcome(status::Outcome::Unknown).into_status(metrics))?
            }
            Route::Topics => {
                let call = self.topics.clone().call(request);
                guard::within(deadline, call).await.map_err(|problem| problem.into_status(metrics))?
            }
            Route::Offsets => {
                let call = self.offsets.clone().call(request);
                guard::within(deadline, call).await.map_err(|problem| problem.into_status(metrics))?
            }
            Route::Export => return self.export.serve_export(request).await,
            Route::Letters => {
                let call = self.letters.clone().call(request);
                guard::within(deadline, call).await.map_err(|problem| problem.into_status(metrics))?
            }
            Route::Replays => {
                let call = self.replays.clone().call(request);
                guard::within(deadline, call).await.map_err(|problem| problem.into_status(metrics))?
            }
            Route::Groups => {
                let call = self.groups.clone().call(request);
                guard::within(deadline, call).await.map_err(|problem| problem.into_status(metrics))?
            }
            Route::Unknown => return Err(tonic::Status::unimplemented("there is no such service here")),
        };
        let Ok(response) = response;
        Ok(response)
    }
}
