//! Connects commands with `sawlog-client`, and puts its errors into words, exit codes and a next step.

use sawlog_client::{Client, Error, ErrorKind, ErrorReason, Health};

use crate::arguments::Common;
use crate::failure::{Exit, Failure, Outcome};

/// Runs a command's work with a client of the broker at `--url`.
pub(crate) fn run<T>(common: &Common, work: impl AsyncFnOnce(Client) -> Outcome<T>) -> Outcome<T> {
    let runtime = runtime()?;
    runtime.block_on(async {
        let client = connect(&common.url, common.timeout)?;
        reachable(&client).await?;
        work(client).await
    })
}

/// Asks once, so that a person need not wait while calls are repeated to a broker that is not there.
///
/// # Errors
/// Unavailable: nothing answers at the address.
pub(crate) async fn reachable(client: &Client) -> Outcome<Health> {
    match client.admin().health().await {
        Ok(health) => Ok(health),
        Err(error) if error.kind() == ErrorKind::Unavailable => {
            let what = format!("no broker answers at {}: {}", client.url(), error.message());
            Err(Failure::new(Exit::Unavailable, what, next(&error)))
        }
        Err(error) => Err(failed(error)),
    }
}

/// A runtime whose connections go on while the command's own thread reads files or waits for standard input.
pub(crate) fn runtime() -> Outcome<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(|error| {
        Failure::new(Exit::Failure, format!("no runtime: {error}"), "check the limits on open files and threads")
    })
}

/// A client of the broker at `url`.
pub(crate) fn connect(url: &str, timeout: std::time::Duration) -> Outcome<Client> {
    let client =
        Client::builder(url).connect_timeout(timeout.min(std::time::Duration::from_secs(5))).call_timeout(timeout);
    client.connect_lazy().map_err(|error| {
        Failure::usage(error.message(), "give the address of the broker, such as --url http://127.0.0.1:7070")
    })
}

/// A failed call as a failure of the command.
#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
pub(crate) fn failed(error: Error) -> Failure {
    let mut facts: Vec<_> = error.facts().iter().map(|(name, value)| format!("{name}: {value}")).collect();
    facts.sort();
    Failure { exit: exit(&error), what: error.to_string(), facts, next: next(&error).to_owned() }
}

fn exit(error: &Error) -> Exit {
    match error.kind() {
        ErrorKind::NotFound => Exit::NotFound,
        ErrorKind::Unavailable | ErrorKind::Timeout => Exit::Unavailable,
        _ => match error.reason() {
            Some(ErrorReason::InvalidName | ErrorReason::InvalidField) => Exit::Usage,
            _ => Exit::Failure,
        },
    }
}

/// What to do about it, one line.
fn next(error: &Error) -> &'static str {
    match error.reason() {
        Some(reason) => next_for(reason),
        None => match error.kind() {
            ErrorKind::Unavailable => {
                "start a broker with `sawlog dev`, or give the address of a running one with --url"
            }
            ErrorKind::Timeout => "ask `sawlog health`, or allow more time with --timeout",
            ErrorKind::NotFound => "`sawlog topic list` shows the topics",
            _ => "look at the broker's log lines",
        },
    }
}

fn next_for(reason: ErrorReason) -> &'static str {
    match reason {
        ErrorReason::TopicNotFound => "`sawlog topic list` shows the topics; `sawlog topic create NAME` makes one",
        ErrorReason::GroupNotFound => "`sawlog group list` shows the groups; `sawlog group create NAME` makes one",
        ErrorReason::EntryNotFound => "`sawlog dlq list GROUP` shows the dead letters",
        ErrorReason::JobNotFound => "`sawlog dlq jobs` shows the jobs",
        ErrorReason::PartitionNotFound => "`sawlog topic show TOPIC` shows the partitions; they count from 0",
        ErrorReason::TopicExists => "`sawlog topic show TOPIC` shows its settings; `sawlog topic update` changes them",
        ErrorReason::GroupExists => "`sawlog group show GROUP` shows its settings; `sawlog group update` changes them",
        ErrorReason::GroupMismatch => "`sawlog group show GROUP` shows how it is; ask for the same",
        ErrorReason::DlqNameTaken => "name another topic for its dead letters with --dlq-name TOPIC=NAME",
        ErrorReason::ReservedTopic => "dead letters are changed with `sawlog dlq`, not as a topic",
        ErrorReason::WrongMode => "`sawlog group show GROUP` shows the mode of the group, which decides what it can do",
        ErrorReason::OpenEntries => {
            "look at them with `sawlog dlq list GROUP`; redrive or discard them, or lose them with --force"
        }
        ErrorReason::JobConflict => {
            "`sawlog dlq jobs --running` shows the job; wait for it, or cancel it; a deletion ends it with --force"
        }
        ErrorReason::RebuildNotReady => "`sawlog group rebuild show GROUP --watch` waits until it is ready",
        ErrorReason::GapNotAccepted => "look at what is gone, then repeat it with --accept-gap",
        ErrorReason::EntryClosed => "`sawlog dlq show ID` shows what became of it",
        ErrorReason::JobClosed => "it has ended; start another with `sawlog dlq redrive`",
        ErrorReason::NothingToUndo => "set the positions with `sawlog group reset GROUP --to PLACE`",
        ErrorReason::Fenced | ErrorReason::InstanceReplaced => {
            "another member has taken over; start this one again, with another --member if both are to run"
        }
        ErrorReason::JournalCorrupt | ErrorReason::GroupsStopped => {
            "look at the broker's log lines; `sawlog group recover --dry-run` says what recovery would do"
        }
        ErrorReason::InvalidName | ErrorReason::InvalidField => "mend the value; --help tells what is allowed",
        ErrorReason::KeyRequired => {
            "give keys with -k, -K, --key-column or in the JSON; or make the topic with --unkeyed"
        }
        ErrorReason::RecordTooLarge | ErrorReason::KeyTooLarge | ErrorReason::HeadersTooLarge => {
            "make the record smaller, or allow more with `sawlog topic update TOPIC --max-record-bytes`"
        }
        ErrorReason::InvalidTimestamp => "mend the times of the records",
        ErrorReason::OffsetOutOfRange => "read from within the bounds told above, or with --from earliest",
        ErrorReason::AckBelowFloor => "leave --ack away, or allow it with `sawlog topic update TOPIC --ack written`",
        ErrorReason::StaleRevision => "look at it again with `show`, then repeat the change",
        ErrorReason::LimitReached => "delete what is not needed, or spread it over another broker",
        ErrorReason::DiskLow => "free space on the broker's disk, or shorten the retention of topics",
        ErrorReason::PartitionFenced => "mend the disk, then `sawlog topic reopen TOPIC PARTITION`",
        ErrorReason::CorruptSegment | ErrorReason::Undecodable => {
            "read past the damage with --skip-damaged; `sawlog segment verify` on the stopped broker tells all of it"
        }
        ErrorReason::Recovering => "wait until `sawlog health` says serving",
        ErrorReason::ShuttingDown => "repeat it once the broker runs again",
        ErrorReason::BrokerReadOnly | ErrorReason::WriteFailed | ErrorReason::ReadFailed => {
            "look at the broker's log lines and its disk, then restart it"
        }
        ErrorReason::Bug => "report this with the error id and the broker's log lines",
        _ => "look at the facts above, change the command and repeat it",
    }
}
