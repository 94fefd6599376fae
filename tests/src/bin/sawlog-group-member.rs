//! A member of a group as a process of its own, that writes down what it sees, for tests that kill it.
//!
//! `sawlog-group-member URL GROUP` joins, handles every record at once (one whose value begins with `poison` fails), and
//! writes a line to standard output before it goes on, so that a kill loses no line of what had happened:
//!
//! ```text
//! D time_us partition epoch offset key attempt     it came
//! A time_us partition epoch offset                 an acknowledgement is about to be sent
//! S time_us partition epoch offset                 the broker said that it is settled
//! ```
//!
//! It leaves when its standard input ends.

use std::error::Error;
use std::io::Write as _;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use sawlog_client::Client;
use sawlog_client::consumer::{AckOutcome, Consumer, Delivery, HandlerError};
use tokio::io::AsyncReadExt as _;

/// Microseconds of the machine's monotonic clock, the same for all processes.
fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000
}

/// One line, with one call, before anything else happens.
fn write_down(what: char, place: (u32, u32, u64), rest: &str) -> std::io::Result<()> {
    let line = format!("{what} {} {} {} {}{rest}\n", now_us(), place.0, place.1, place.2);
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, group] = arguments.as_slice() else { return Err("usage: sawlog-group-member URL GROUP".into()) };
    let client = Client::builder(url).connect_lazy()?;
    let mut consumer = open(&client, group).await?;
    let mut input = tokio::io::stdin();
    let mut nothing = [0];
    loop {
        tokio::select! {
            _ = input.read(&mut nothing) => break,
            delivery = consumer.next_delivery() => match delivery {
                Some(delivery) => take(delivery?)?,
                None => break,
            },
        }
    }
    consumer.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

/// The broker may be down just now; each try waits for it as long as the client is patient.
async fn open(client: &Client, group: &str) -> Result<Consumer, Box<dyn Error>> {
    let mut last = None;
    for _ in 0..10 {
        match client.consumer(group).credit(64, 1 << 20).open().await {
            Ok(consumer) => return Ok(consumer),
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(|| "no try was made".into(), Into::into))
}

/// Writes a delivery down and settles it in a task of its own.
fn take(delivery: Delivery) -> Result<(), Box<dyn Error>> {
    let place = (delivery.partition(), delivery.epoch, delivery.offset);
    let key = delivery.key.as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
    write_down('D', place, &format!(" {key} {}", delivery.attempt))?;
    let poison = delivery.value.as_deref().is_some_and(|value| value.starts_with(b"poison"));
    tokio::spawn(async move {
        if poison {
            // Whatever becomes of it, the record comes again or is dead.
            let _ = delivery.nack(HandlerError::retry("a poison record")).await;
            return;
        }
        // A line that cannot be written ends the test that reads them.
        let _ = write_down('A', place, "");
        if matches!(delivery.ack().await, Ok(AckOutcome::Done | AckOutcome::AlreadySettled)) {
            let _ = write_down('S', place, "");
        }
    });
    Ok(())
}
