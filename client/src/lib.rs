//! Rust client of the sawlog broker.
//!
//! - [`Client`]: one lazily opened connection, cheap to clone.
//! - [`producer`]: records in, batched per partition, idempotent by default; [`Producer::send`] gives a [`Receipt`].
//! - [`reader`]: ranges of a topic, live ends too, as a stream of records or batch by batch.
//! - [`projection`]: read models in the user's own database, each record applied once.
//! - [`admin`]: topics, partitions, offsets, health.
//! - [`payload`]: typed payloads; [`error`]: what went wrong and whether to try again.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = sawlog_testing::TestBroker::start().await;
//! # let url = broker.url();
//! use sawlog_client::{Client, NewTopic, ReadEvent, Record, StreamExt};
//!
//! let client = Client::builder(url).connect_lazy()?;
//! client.admin().create_topic(NewTopic::new("orders").partitions(4)).await?;
//!
//! let producer = client.producer("orders").build().await?;
//! let receipt = producer.send(Record::keyed("invoice-7", "one teapot")).await?;
//! let position = receipt.await?; // durable now
//! println!("partition {} offset {}", position.partition, position.offset);
//! producer.close().await?;
//!
//! let mut reader = client.reader("orders").open().await?;
//! while let Some(event) = reader.next().await {
//!     if let ReadEvent::Record(record) = event? {
//!         assert_eq!(record.value.as_deref(), Some(&b"one teapot"[..]));
//!     }
//! }
//! # broker.shutdown().await;
//! # Ok(())
//! # }
//! ```

pub mod admin;
pub mod cloud_events;
pub mod connection;
pub mod consumer;
pub mod dead_letter;
pub mod envelope;
pub mod error;
pub mod groups;
#[cfg(feature = "postgres")]
pub mod outbox;
pub mod payload;
pub mod producer;
pub mod projection;
pub mod reader;
pub mod replays;
pub mod types;

mod clock;
mod paging;
mod retry;

pub use admin::{Admin, Health, NewTopic, TopicChange};
pub use connection::{Client, ClientBuilder};
pub use consumer::{
    AckOutcome, ConsumedRecord, Consumer, ConsumerBuilder, ConsumerEvent, ConsumerHandle, Delivery, HandlerError,
};
pub use dead_letter::{DeadLetters, EntrySelector};
pub use envelope::Envelope;
pub use error::{Error, ErrorKind, ErrorReason, Outcome};
pub use groups::{GroupConfig, GroupMode, GroupPosition, Groups, NewGroup, RetryPolicy};
pub use producer::{Producer, ProducerBuilder, Receipt};
pub use projection::{OnPoison, Projection, ProjectionBuilder, ProjectionHandle, ProjectionStatus};
pub use reader::{ReadEvent, ReadRecord, Reader, ReaderBuilder, ReaderFrom, ReaderTo};
pub use replays::Replays;
pub use tokio_stream::StreamExt;
pub use types::{
    AckLevel, Codec, DeadLettersOf, EnvelopePolicy, EventIds, HoldGroups, OffsetAt, Partition, Record, RecordPosition,
    Topic, TopicConfig, TopicId,
};
