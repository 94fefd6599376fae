//! A real sawlog broker for tests, and a judge of what clients saw.
//!
//! - [`TestBroker`]: the real engine in this process, on a temporary folder and a free port; it can be stopped, killed
//!   and started again on the same files.
//! - [`process`]: the real `sawlog` binary as a process of its own, for kill -9.
//! - [`checker`]: proves from the clients' histories, kept outside the broker, that nothing acknowledged was lost,
//!   doubled, reordered or made up.

pub mod checker;
pub mod process;
pub mod test_broker;

pub use checker::{Checker, History, Violation};
pub use process::BrokerProcess;
pub use test_broker::{TestBroker, TestBrokerBuilder};
