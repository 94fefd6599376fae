//! `group reset`: positions set, tried, and taken back.

use clap::Args;
use sawlog_client::groups::{self, TopicOffset};
use sawlog_client::{Client, GroupPosition};

use super::{settings, show};
use crate::amounts::{self, Place};
use crate::arguments::Common;
use crate::client::failed;
use crate::failure::{Failure, Outcome};
use crate::output;

/// See [`super::Verb::Reset`].
#[derive(Debug, Args)]
pub(crate) struct Reset {
    /// Name of the group.
    name: String,
    /// Where to: earliest, latest, an offset, a span such as 2h ago, or a time.
    #[arg(long, value_parser = amounts::place, value_name = "PLACE", required_unless_present_any = ["to_group", "undo"])]
    to: Option<Place>,
    /// To the positions of this group.
    #[arg(long, value_name = "GROUP", conflicts_with = "to")]
    to_group: Option<String>,
    /// Only partitions of this topic.
    #[arg(long)]
    topic: Option<String>,
    /// Only this partition of the topic; may be given again.
    #[arg(long, requires = "topic")]
    partition: Vec<u32>,
    /// Close dead letters from the new position on, so that their records are delivered as new.
    #[arg(long)]
    clear_entries: bool,
    /// Only say what would change.
    #[arg(long, conflicts_with = "undo")]
    dry_run: bool,
    /// Take the last reset back.
    #[arg(long, conflicts_with_all = ["to", "to_group", "topic", "clear_entries"])]
    undo: bool,
    /// Why.
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

impl Reset {
    pub(crate) async fn run(&self, client: &Client, common: &Common) -> Outcome {
        let calls = client.groups();
        if self.undo {
            output::confirm(&format!("the last reset of group {} is taken back", self.name), self.yes)?;
            let (partitions, id) = calls.undo_reset(&self.name, None).await.map_err(failed)?;
            return show::resets(&partitions, id, common);
        }
        let partitions = self.topic.iter().map(|topic| (topic.clone(), self.partition.clone())).collect();
        let mut reset = groups::Reset {
            target: self.target(client).await?,
            partitions,
            clear_entries: self.clear_entries,
            dry_run: true,
            note: self.note.clone(),
        };
        let (changes, _) = calls.reset(&self.name, &reset).await.map_err(failed)?;
        if self.dry_run {
            return show::resets(&changes, 0, common);
        }
        let again: i64 = changes.iter().map(|change| change.records.max(0)).sum();
        let skipped: i64 = changes.iter().map(|change| change.records.min(0).saturating_neg()).sum();
        let what = format!(
            "group {} gets {} records again and skips {} (it can be taken back with --undo)",
            self.name,
            output::grouped(again.unsigned_abs()),
            output::grouped(skipped.unsigned_abs())
        );
        output::confirm(&what, self.yes)?;
        reset.dry_run = false;
        let (changes, id) = calls.reset(&self.name, &reset).await.map_err(failed)?;
        show::resets(&changes, id, common)
    }

    async fn target(&self, client: &Client) -> Outcome<GroupPosition> {
        if let Some(group) = &self.to_group {
            return Ok(GroupPosition::FromGroup(group.clone()));
        }
        let place = self.to.ok_or_else(|| Failure::usage("no place was named", "give --to PLACE"))?;
        if let Some(position) = settings::plain(place) {
            return Ok(position);
        }
        let Place::Offset(offset) = place else {
            return Err(Failure::usage("--to takes earliest, latest, an offset, a span or a time", "see --help"));
        };
        let topics = self.topic.clone().into_iter().collect::<Vec<_>>();
        let lag = client.groups().lag(&self.name, &topics).await.map_err(failed)?;
        let chosen = lag
            .partitions
            .iter()
            .filter(|partition| self.partition.is_empty() || self.partition.contains(&partition.partition));
        let offsets = chosen.map(|partition| TopicOffset {
            topic: partition.topic.clone(),
            partition: partition.partition,
            offset: offset.unsigned_abs(),
            epoch: None,
        });
        Ok(GroupPosition::Offsets(offsets.collect()))
    }
}
