//! The group that dispatches: several worker processes, one of which is killed in mid work and started again.
//!
//! Invariant: no worker outlives the demonstration, however that ends.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sawlog_client::groups::{
    Backoff, BreakerConfig, GroupConfig, GroupPosition, NewGroup, ProcessedState, RetryPolicy,
};
use sawlog_client::{Client, RecordPosition};
use tokio::process::{Child, Command};

use super::TOPIC;
use super::sales::{BAD_LINE, NO_DESCRIPTION, NO_PRICE};
use crate::client::failed;
use crate::failure::{Exit, Failure, Outcome};

/// Name of the group.
pub(super) const GROUP: &str = "dispatch";
/// Worker processes.
pub(super) const WORKERS: usize = 3;
/// Tries of a line in all ...
pub(super) const TRIES: u32 = 3;
/// ... and the milliseconds between them.
pub(super) const DELAYS_MS: [u64; 2] = [50, 200];
/// How often the journal is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// How long the group may take with all its lines, and a worker to leave.
const PATIENCE: Duration = Duration::from_secs(60);

/// The policy for lines that fail.
pub(super) fn retry_policy() -> RetryPolicy {
    RetryPolicy {
        max_attempts: Some(TRIES),
        backoff: Some(Backoff::List(DELAYS_MS.to_vec())),
        jitter_percent: Some(0),
        ..RetryPolicy::default()
    }
}

/// Makes the group.
pub(super) async fn create(client: &Client) -> Outcome {
    let mut config = GroupConfig::topics([TOPIC]).start(GroupPosition::Earliest).retry(retry_policy());
    // These say that a line is bad, not that what dispatching depends on is down.
    let poison_classes = [NO_DESCRIPTION, NO_PRICE, BAD_LINE].map(str::to_owned).to_vec();
    config.breaker = Some(BreakerConfig { poison_classes, ..BreakerConfig::default() });
    client.groups().create(NewGroup::new(GROUP, config)).await.map_err(failed)?;
    Ok(())
}

/// The worker processes.
#[derive(Debug)]
pub(super) struct Workers {
    url: String,
    journal: PathBuf,
    children: Vec<Child>,
}

impl Workers {
    /// Starts all of them.
    pub(super) fn start(url: &str, journal: &Path) -> Outcome<Self> {
        let mut workers = Self { url: url.to_owned(), journal: journal.to_owned(), children: Vec::new() };
        for number in 1..=WORKERS {
            let child = workers.spawn(number)?;
            workers.children.push(child);
        }
        Ok(workers)
    }

    fn spawn(&self, number: usize) -> Outcome<Child> {
        let program = std::env::current_exe().map_err(|error| no_process(&error))?;
        let mut command = Command::new(program);
        command.args(["demo-worker", &format!("worker-{number}"), "--url", &self.url, "--journal"]).arg(&self.journal);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true);
        command.spawn().map_err(|error| no_process(&error))
    }

    /// Waits until so many lines were dispatched, then kills a worker (SIGKILL) and starts it again under its name.
    /// Says how many lines were dispatched by then.
    pub(super) async fn kill_one_after(&mut self, lines: usize) -> Outcome<usize> {
        let dispatched = self.wait_for(lines).await?;
        self.children[0].kill().await.map_err(|error| no_process(&error))?;
        self.children[0] = self.spawn(1)?;
        Ok(dispatched)
    }

    async fn wait_for(&mut self, lines: usize) -> Outcome<usize> {
        let waiting = async {
            let mut look = tokio::time::interval(LOOK);
            loop {
                look.tick().await;
                let dispatched = self.read()?.lines().filter(|line| line.starts_with('D')).count();
                if dispatched >= lines {
                    return Ok(dispatched);
                }
                for child in &mut self.children {
                    if let Ok(Some(status)) = child.try_wait() {
                        return Err(Failure::new(Exit::Failure, format!("a worker ended: {status}"), REPORT));
                    }
                }
            }
        };
        let late = || Failure::new(Exit::Failure, format!("{lines} lines were not dispatched in {PATIENCE:?}"), REPORT);
        tokio::time::timeout(PATIENCE, waiting).await.map_err(|_| late())?
    }

    /// The text of the journal so far.
    pub(super) fn read(&self) -> Outcome<String> {
        match std::fs::read(&self.journal) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(Failure::file("read", &self.journal, &error)),
        }
    }

    /// Lets all workers finish and leave.
    pub(super) async fn leave(mut self) -> Outcome {
        for child in &mut self.children {
            drop(child.stdin.take());
        }
        for child in &mut self.children {
            let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
            match ended {
                Ok(Ok(status)) if status.success() => {}
                other => return Err(Failure::new(Exit::Failure, format!("a worker did not leave: {other:?}"), REPORT)),
            }
        }
        Ok(())
    }
}

const REPORT: &str = "report this with the lines above; --keep keeps the data";

fn no_process(error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failure, format!("a worker process: {error}"), "check the limits on processes")
}

/// Waits until a group has decided about all of these: handled, skipped, dead or parked. Counts those that are dead or
/// parked.
pub(super) async fn await_decided(client: &Client, group: &str, places: &[RecordPosition]) -> Outcome<usize> {
    let mut dead = 0;
    for chunk in places.chunks(1_000) {
        let answers = client.groups().await_processed(group, chunk, PATIENCE).await.map_err(failed)?;
        for answer in &answers {
            match answer.state {
                Some(ProcessedState::Acked | ProcessedState::Skipped) => {}
                Some(ProcessedState::Dead | ProcessedState::Parked) => dead += 1,
                other => {
                    let what = format!("group {group} has a line that is {other:?} after {PATIENCE:?}");
                    return Err(Failure::new(Exit::CheckFailed, what, REPORT));
                }
            }
        }
    }
    Ok(dead)
}
