//! The way to a broker: one lazily opened HTTP/2 connection, shared by everything made from a [`Client`].
//!
//! The transport connects at the first call and again after each cut; what a call does about a cut (repeat, resume,
//! give back) is decided by producer, reader and admin, not here.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sawlog_proto::v1::consume_service_client::ConsumeServiceClient;
use sawlog_proto::v1::dead_letter_service_client::DeadLetterServiceClient;
use sawlog_proto::v1::group_service_client::GroupServiceClient;
use sawlog_proto::v1::produce_service_client::ProduceServiceClient;
use sawlog_proto::v1::read_service_client::ReadServiceClient;
use sawlog_proto::v1::replay_service_client::ReplayServiceClient;
use sawlog_proto::v1::topic_service_client::TopicServiceClient;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::admin::Admin;
use crate::consumer::ConsumerBuilder;
use crate::dead_letter::DeadLetters;
use crate::error::{Error, ErrorKind};
use crate::groups::Groups;
use crate::producer::ProducerBuilder;
use crate::projection::{ProjectionBuilder, Store};
use crate::reader::ReaderBuilder;
use crate::replays::Replays;
use crate::retry::Retry;

/// A unary call that may be made twice, repeated while that may help: `repeated!(self.group_calls, get_group, request)`.
macro_rules! repeated {
    ($self:ident.$calls:ident, $call:ident, $request:expr) => {{
        let request = $request;
        $self
            .client
            .repeat(|| {
                let (mut calls, request) = ($self.client.$calls(), request.clone());
                async move { calls.$call(request).await }
            })
            .await
    }};
}
pub(crate) use repeated;

/// Bytes of a gRPC message, in or out, as the broker has it.
const MESSAGE_BYTES: usize = 8 << 20;
/// HTTP/2 frame size that we announce: a quarter of the CPU per byte of the protocol's default.
const FRAME_BYTES: u32 = 256 << 10;
/// HTTP/2 window of a stream.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// HTTP/2 window of the connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Requests that may wait for the connection's task.
const QUEUE_REQUESTS: usize = 1024;

/// A client of one broker. Cheap to clone; clones share the connection.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) channel: Channel,
    settings: Arc<Settings>,
}

#[derive(Debug)]
struct Settings {
    url: String,
    call_timeout: Duration,
}

/// Chooses how to reach a broker.
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    url: String,
    connect_timeout: Duration,
    call_timeout: Duration,
    keep_alive: Duration,
}

impl Client {
    /// A client of the broker at `url`, such as `http://127.0.0.1:7070`.
    pub fn builder(url: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            url: url.into(),
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(30),
        }
    }

    /// Topics, partitions, offsets, health.
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// A producer of one topic.
    pub fn producer(&self, topic: impl Into<String>) -> ProducerBuilder {
        ProducerBuilder::new(self.clone(), topic.into())
    }

    /// A reader of one topic.
    pub fn reader(&self, topic: impl Into<String>) -> ReaderBuilder {
        ReaderBuilder::new(self.clone(), topic.into())
    }

    /// A consumer: a member of this group.
    pub fn consumer(&self, group: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone(), group.into())
    }

    /// A projection: a read model that this group keeps in the user's own database.
    pub fn projection<S: Store>(&self, group: impl Into<String>, store: S) -> ProjectionBuilder<S> {
        ProjectionBuilder::new(self.clone(), group.into(), store)
    }

    /// Administration of consumer groups.
    pub fn groups(&self) -> Groups {
        Groups::new(self.clone())
    }

    /// The dead letters of consumer groups, and the jobs that deliver them again.
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters::new(self.clone())
    }

    /// Replays: ranges of topics delivered again to a group.
    pub fn replays(&self) -> Replays {
        Replays::new(self.clone())
    }

    /// Where the broker is.
    pub fn url(&self) -> &str {
        &self.settings.url
    }

    /// How long a call may take in all, its repeats included.
    pub(crate) fn call_timeout(&self) -> Duration {
        self.settings.call_timeout
    }

    pub(crate) fn topics(&self) -> TopicServiceClient<Channel> {
        TopicServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    }

    pub(crate) fn produce(&self) -> ProduceServiceClient<Channel> {
        ProduceServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    }

    pub(crate) fn reads(&self) -> ReadServiceClient<Channel> {
        ReadServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    }

    pub(crate) fn consume(&self) -> ConsumeServiceClient<Channel> {
        ConsumeServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    }

    pub(crate) fn group_calls(&self) -> GroupServiceClient<Channel> {
        GroupServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    }

    pub(crate) fn dead_letter_calls(&self) -> DeadLetterServiceClient<Channel> {
        DeadLetterServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    }

    pub(crate) fn replay_calls(&self) -> ReplayServiceClient<Channel> {
        ReplayServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    }

    /// Makes the call once: for calls whose repeat would do more.
    pub(crate) async fn once<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(self.call_timeout(), call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Error::from_status(&status)),
            Err(_) => Err(Error::new(ErrorKind::Timeout, "the broker did not answer in time")),
        }
    }

    /// Makes the call, and again after a wait while a repeat may help and time is left. Only for calls that may be made twice.
    pub(crate) async fn repeat<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let deadline = tokio::time::Instant::now() + self.call_timeout();
        let mut retry = Retry::new();
        loop {
            let Ok(answer) = tokio::time::timeout_at(deadline, call()).await else {
                return Err(Error::new(ErrorKind::Timeout, "the broker did not answer in time"));
            };
            let error = match answer {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => Error::from_status(&status),
            };
            let at = tokio::time::Instant::now() + retry.next_wait(error.retry_after());
            if !error.is_retryable() || at >= deadline {
                return Err(error);
            }
            tokio::time::sleep_until(at).await;
        }
    }
}

impl ClientBuilder {
    /// How long connecting may take. Default 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a call may take in all, repeats after cuts included. Default 30 s. Long streams have no limit; they
    /// resume.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// After how long a silence the broker is pinged; not answered for 10 s, the connection counts as cut. At least
    /// 5 s, default 30 s.
    pub fn keep_alive(mut self, interval: Duration) -> Self {
        self.keep_alive = interval.max(Duration::from_secs(5));
        self
    }

    /// The client. Nothing is sent before the first call. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the URL is none.
    pub fn connect_lazy(self) -> Result<Client, Error> {
        let url = if self.url.contains("://") { self.url.clone() } else { format!("http://{}", self.url) };
        let endpoint = Endpoint::from_shared(url.clone())
            .map_err(|cause| Error::new(ErrorKind::Invalid, format!("{url} is no URL of a broker: {cause}")))?
            .user_agent(concat!("sawlog-client/", env!("CARGO_PKG_VERSION")))
            .map_err(|cause| Error::new(ErrorKind::Invalid, cause.to_string()))?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .max_frame_size(FRAME_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(self.keep_alive)
            .keep_alive_timeout(Duration::from_secs(10))
            .buffer_size(QUEUE_REQUESTS);
        let channel = endpoint.connect_lazy();
        Ok(Client { channel, settings: Arc::new(Settings { url, call_timeout: self.call_timeout }) })
    }
}
