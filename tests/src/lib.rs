//! A real sawlog broker for tests, and a judge of what clients saw.
//!
//! - [`TestBroker`]: the real engine in this process, on a temporary folder and a free port; it can be stopped, killed
//!   and started again on the same files.
//! - [`process`]: the real `sawlog` binary as a process of its own, for kill -9.
//! - [`checker`]: proves from the clients' histories, kept outside the broker, that nothing acknowledged was lost,
//!   doubled, reordered or made up.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), sawlog_client::Error> {
//! use sawlog_client::{NewTopic, Record};
//! use sawlog_testing::TestBroker;
//!
//! let mut broker = TestBroker::start().await;
//! let client = broker.client();
//! client.admin().create_topic(NewTopic::new("orders")).await?;
//! let producer = client.producer("orders").build().await?;
//! producer.send_and_wait(Record::keyed("invoice-7", "one teapot")).await?;
//!
//! broker.kill().await; // as a crash would
//! broker.restart().await;
//! assert_eq!(producer.send_and_wait(Record::keyed("invoice-7", "two cups")).await?.offset, 1);
//! # Ok(())
//! # }
//! ```

pub mod checker;
pub mod process;
pub mod test_broker;

pub use checker::{Checker, History, Violation};
pub use process::BrokerProcess;
pub use test_broker::{TestBroker, TestBrokerBuilder};
