//! Workloads: the same code against the broker and against the null server.
//!
//! - [`wire`]: requests made by hand on the generated stubs, for what the client crate does not do by itself: plain
//!   records, one call at a time, a fixed number of requests in flight.
//! - [`client`]: everything that users do: the client crate's producer and reader.
//! - [`groups`]: members of consumer groups, through the client crate too.
//! - [`paced`]: a replay at a rate, and producers beside it.

pub mod client;
pub mod groups;
pub mod paced;
pub mod wire;

/// Value bytes of a record that looks like data: 100 bytes of it do not compress to nothing.
pub fn payload(bytes: usize) -> bytes::Bytes {
    const WORDS: &[u8] = b"{\"invoice\":536365,\"stock\":\"85123A\",\"quantity\":6,\"price\":2.55,\"country\":\"GB\"},";
    WORDS.iter().copied().cycle().take(bytes).collect()
}
