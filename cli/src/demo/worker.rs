//! A worker of the demonstration, as a process of its own that can be killed: it dispatches order lines.
//!
//! What it did it writes to a journal that all workers share, a line with one call: lines of one call stay whole and in
//! one order, and a kill loses none that was written. It writes before it acks, so that a line is dispatched at least
//! once:
//!
//! ```text
//! D worker partition offset invoice attempt     dispatched
//! F worker partition offset invoice attempt     failed
//! ```
//!
//! It leaves when its standard input ends.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use sawlog_client::HandlerError;
use sawlog_client::consumer::ConsumedRecord;
use tokio::io::AsyncReadExt as _;

use super::dispatch::GROUP;
use super::sales::Line;
use crate::arguments::Common;
use crate::client::{self, failed};
use crate::failure::{Failure, Outcome};

/// How long it may take to finish what it has in work when it leaves.
const DEADLINE: Duration = Duration::from_secs(10);

/// A worker of `demo`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sawlog demo-worker worker-1 --journal dispatch.log\n  \
                        sawlog demo-worker worker-2 --journal dispatch.log --url http://127.0.0.1:7171")]
pub(crate) struct DemoWorker {
    /// Its name, under which it comes back after a restart.
    name: String,
    /// Journal of all workers.
    #[arg(long, value_name = "FILE")]
    journal: PathBuf,
}

impl DemoWorker {
    pub(crate) fn run(self, common: &Common) -> Outcome {
        let journal = OpenOptions::new().append(true).create(true).open(&self.journal);
        let journal = Arc::new(journal.map_err(|error| Failure::file("open", &self.journal, &error))?);
        client::run(common, async |client| {
            let consumer = client.consumer(GROUP).instance_id(&self.name).client_id(&self.name).concurrency(4);
            let consumer = consumer.open().await.map_err(failed)?;
            let stop = async {
                let mut nothing = [0];
                // Whatever is read or not: the parent is gone or has closed it.
                let _ = tokio::io::stdin().read(&mut nothing).await;
            };
            let name = self.name.clone();
            let handler = move |record: ConsumedRecord| {
                let done = dispatch(&journal, &name, &record);
                async move { done }
            };
            consumer.run_until(stop, DEADLINE, handler).await.map_err(failed)
        })
    }
}

/// Dispatches a line, or says why it cannot.
fn dispatch(mut journal: &File, worker: &str, record: &ConsumedRecord) -> Result<(), HandlerError> {
    let worth = Line::parse(record.value.as_deref().unwrap_or_default()).and_then(|line| line.pence());
    let what = if worth.is_ok() { 'D' } else { 'F' };
    let invoice = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned();
    let line = format!("{what} {worker} {} {} {invoice} {}\n", record.partition(), record.offset, record.attempt);
    journal.write_all(line.as_bytes())?;
    match worth {
        Ok(_) => Ok(()),
        Err(no_sale) => Err(HandlerError::retry(no_sale.message).class(no_sale.class)),
    }
}
