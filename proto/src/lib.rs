//! The wire of sawlog: what two programs must agree on byte for byte.
//!
//! - [`v1`]: the generated gRPC messages and services of package `sawlog.v1`.
//! - [`batch`]: Kafka's RecordBatch v2, which carries records on the wire and on disk.
//! - [`envelope`]: names and forms of the headers that describe an event.
//! - [`partitioner`]: from a key to its partition and its key slot, by version.
//!
//! It knows no socket, file or clock.

pub mod batch;
pub mod envelope;
pub mod partitioner;

/// Generated messages and services of package `sawlog.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the protos carry the comments"
)]
pub mod v1 {
    tonic::include_proto!("sawlog.v1");

    /// The encoded `FileDescriptorSet` of the package, for reflection.
    pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sawlog_descriptor.bin"));
}
