//! What an operator does with the dead letters of the demonstration: looks at them, gives some up, mends others, and has
//! the rest delivered again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sawlog_client::dead_letter::{
    DeadLetters, Edit, Entry, EntryKind, EntrySelector, EntryState, Job, JobState, Payload, Redrive,
};
use sawlog_client::{Client, StreamExt as _};

use super::TOPIC;
use super::journal::Place;
use super::sales::{Line, NO_PRICE};
use crate::client::failed;
use crate::failure::{Exit, Failure, Outcome};
use crate::output;

/// How often a job is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Ids in one call.
const IDS: usize = 1_000;

/// The open dead letters of a group.
#[derive(Debug)]
pub(super) struct Letters {
    letters: DeadLetters,
    group: &'static str,
    entries: Vec<Entry>,
}

/// How many dead letters there are, by error.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Counts {
    /// Those that failed themselves, by class of error.
    pub(super) failed: BTreeMap<String, u64>,
    /// Those behind them, of the same key.
    pub(super) parked: u64,
}

impl Counts {
    /// Of both kinds.
    pub(super) fn all(&self) -> usize {
        usize::try_from(self.failed.values().sum::<u64>() + self.parked).expect("they were counted one by one")
    }
}

impl Letters {
    /// Reads all open dead letters of a group, with their records.
    pub(super) async fn of(client: &Client, group: &'static str) -> Outcome<Self> {
        let letters = client.dead_letters().actor("demo");
        let mut stream = letters.entries(group, &EntrySelector::default(), true);
        let mut entries = Vec::new();
        while let Some(entry) = stream.next().await {
            entries.push(entry.map_err(failed)?);
        }
        Ok(Self { letters, group, entries })
    }

    /// How many there are, by error.
    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for entry in &self.entries {
            if entry.kind == Some(EntryKind::Parked) {
                counts.parked += 1;
            } else {
                let class = entry.error.as_ref().map(|error| error.class.clone()).unwrap_or_default();
                *counts.failed.entry(class).or_default() += 1;
            }
        }
        counts
    }

    /// Gives up every line that is no sale. Says which.
    pub(super) async fn discard_no_sales(&self) -> Outcome<HashSet<Place>> {
        self.discard(|line| line.pence().is_err(), "no sale: it counts nowhere").await
    }

    /// Gives up the lines without a description, and those that can neither be read nor mended; mends those that only
    /// lack a price with the price list. Says which were given up, and how many were mended.
    pub(super) async fn mend(&self, prices: &HashMap<String, String>) -> Outcome<(HashSet<Place>, u64)> {
        let price = |line: &Line| match line.pence() {
            Err(no_sale) if no_sale.class == NO_PRICE => prices.get(&line.stock_code.to_uppercase()),
            _ => None,
        };
        let hopeless = |line: &Line| line.pence().is_err() && price(line).is_none();
        let given_up = self.discard(hopeless, "a stock correction: there is nothing to dispatch").await?;
        let mut mended = 0;
        for entry in &self.entries {
            let Some(value) = entry.record.as_ref().and_then(|record| record.value.as_ref()) else { continue };
            let Some(price) = Line::parse(value).ok().as_ref().and_then(price) else { continue };
            let mut line: serde_json::Map<String, serde_json::Value> =
                serde_json::from_slice(value).expect("it was parsed as an object");
            line.insert("UnitPrice".to_owned(), price.as_str().into());
            let payload = Payload::Value(output::to_json(&line).into());
            let edit = Edit { payload, note: "price from the list".to_owned(), ..Edit::default() };
            self.letters.edit(&entry.dlq_id, edit).await.map_err(failed)?;
            mended += 1;
        }
        Ok((given_up, mended))
    }

    async fn discard(&self, which: impl Fn(&Line) -> bool, reason: &str) -> Outcome<HashSet<Place>> {
        let chosen: Vec<&Entry> = self.entries.iter().filter(|entry| is_chosen(entry, &which)).collect();
        for chunk in chosen.chunks(IDS) {
            let selector = EntrySelector::ids(chunk.iter().map(|entry| entry.dlq_id.as_str()));
            let (discarded, _) = self.letters.discard(self.group, &selector, reason, false).await.map_err(failed)?;
            if discarded != chunk.len() as u64 {
                let what = format!("{} dead letters were to be discarded, {discarded} were", chunk.len());
                return Err(Failure::new(Exit::CheckFailed, what, "report this with the lines above"));
            }
        }
        Ok(chosen.iter().map(|entry| (entry.partition, entry.offset)).collect())
    }

    /// Has all that are open delivered again, those of a key in order, and waits for the end of that job. Says how many
    /// were resolved.
    pub(super) async fn redrive(&self, told: bool) -> Outcome<u64> {
        let selector = EntrySelector { topic: Some(TOPIC.to_owned()), ..EntrySelector::default() };
        let redrive = Redrive { selector, note: "mended".to_owned(), ..Redrive::default() };
        let job = self.letters.redrive(self.group, &redrive).await.map_err(failed)?;
        let bar =
            if told && output::stderr_is_terminal() { ProgressBar::new(job.selected) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("  {wide_bar} {pos}/{len}");
        bar.set_style(style.expect("the template is right"));
        let each = |job: &Job| bar.set_position(job.resolved + job.failed + job.passed);
        let job = self.letters.watch_job(&job.job_id, LOOK, each).await.map_err(failed)?;
        bar.finish_and_clear();
        if job.state == Some(JobState::Done) && job.failed == 0 {
            return Ok(job.resolved);
        }
        let what = format!("the redrive is {:?}: {} resolved, {} failed", job.state, job.resolved, job.failed);
        Err(Failure::new(Exit::CheckFailed, what, "report this with the lines above; --keep keeps the data"))
    }
}

/// Whether an open entry holds such a line. One whose line cannot be read is chosen: nobody can handle it.
fn is_chosen(entry: &Entry, which: impl Fn(&Line) -> bool) -> bool {
    let value = entry.record.as_ref().and_then(|record| record.value.as_deref()).unwrap_or_default();
    entry.state == Some(EntryState::Open) && Line::parse(value).map_or(true, |line| which(&line))
}
