//! `replay start`: what is replayed, from where to where, how fast, and into what.
//!
//! A group gets it from the broker, which keeps the job. A topic or a file gets a copy that this command makes with a
//! reader and a producer: the broker need not know of it, and the file is on this machine.

use std::path::PathBuf;

use clap::Args;
use sawlog_client::groups::TopicOffset;
use sawlog_client::replays::{NewReplay, ReplayInto};
use sawlog_client::{Client, ErrorReason, GroupConfig, GroupMode, GroupPosition};

use super::{Pace, copy, show, watch};
use crate::amounts::{self, Place};
use crate::arguments::Common;
use crate::client::failed;
use crate::clock;
use crate::commands::group::settings::ModeChoice;
use crate::failure::{Failure, Outcome};
use crate::filter::Filter;
use crate::output;

/// Start a replay into a group, or copy a range to a topic or a file.
///
/// A group that is there is set back over what it has handled; another one is made. A copy keeps keys, headers and times;
/// in a topic, headers `replay.*` before its own say where a record came from, and what is there already is not copied
/// again. A file gets lines as `consume --output json` prints them, and has its name once it is whole.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sawlog replay start orders --into audit --from 2026-01-01 --to 2026-02-01\n  \
                        sawlog replay start orders --into billing --from 1200 --to 1300 --rate 50\n  \
                        sawlog replay start orders --into topic:copy --until-group billing --filter header.source=shop\n  \
                        sawlog replay start orders --into file:orders.ndjson --from 2h")]
pub(super) struct Start {
    /// Name of the topic.
    pub(super) topic: String,
    /// A group by its name, topic:NAME, file:PATH, or file:- for standard output.
    #[arg(long, value_name = "WHERE", value_parser = into, required_unless_present = "ephemeral")]
    into: Option<Into>,
    /// Into a group that is made for it and goes with its end.
    #[arg(long, conflicts_with = "into")]
    ephemeral: bool,
    /// How a group that is made shares out its work.
    #[arg(long, value_enum, default_value = "keyed")]
    mode: ModeChoice,
    /// First record: earliest, an offset, a span such as 2h ago, or a time.
    #[arg(long, value_parser = amounts::place, default_value = "earliest", value_name = "PLACE")]
    from: Place,
    /// First record: what this group has not settled yet.
    #[arg(long, value_name = "GROUP", conflicts_with = "from")]
    from_group: Option<String>,
    /// First record after the range; latest: as it is now.
    #[arg(long, value_parser = amounts::place, default_value = "latest", value_name = "PLACE")]
    to: Place,
    /// First record after the range: what this group has not settled yet.
    #[arg(long, value_name = "GROUP", conflicts_with = "to")]
    until_group: Option<String>,
    /// Only records for which this holds, as in `consume --filter`; may be given again.
    #[arg(long, value_parser = Filter::parse)]
    pub(super) filter: Vec<Filter>,
    #[command(flatten)]
    pub(super) pace: Pace,
    /// Why.
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
    /// Follow it to its end; exits with 5 if it pauses or is cancelled.
    #[arg(long)]
    watch: bool,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

/// What a replay goes into.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Into {
    Group(String),
    Topic(String),
    File(PathBuf),
}

fn into(text: &str) -> Result<Into, String> {
    // No name has a colon in it, so nothing is taken for something else.
    match text.split_once(':') {
        None if !text.is_empty() => Ok(Into::Group(text.to_owned())),
        Some(("topic", name)) if !name.is_empty() => Ok(Into::Topic(name.to_owned())),
        Some(("file", path)) if !path.is_empty() => Ok(Into::File(path.into())),
        _ => Err("expected the name of a group, topic:NAME or file:PATH".to_owned()),
    }
}

/// A bound of a range.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bound<'a> {
    /// A place in every partition.
    Place(Place),
    /// The positions of a group.
    Group(&'a str),
}

impl Start {
    pub(super) async fn run(self, client: &Client, common: &Common) -> Outcome {
        match &self.into {
            Some(Into::Topic(name)) => copy::to_topic(&self, name, client, common).await,
            Some(Into::File(path)) => copy::to_file(&self, path, client, common).await,
            Some(Into::Group(name)) => self.to_group(Some(name), client, common).await,
            None => self.to_group(None, client, common).await,
        }
    }

    /// First and last bound.
    pub(super) fn bounds(&self) -> (Bound<'_>, Bound<'_>) {
        fn bound(group: Option<&str>, place: Place) -> Bound<'_> {
            group.map_or(Bound::Place(place), Bound::Group)
        }
        (bound(self.from_group.as_deref(), self.from), bound(self.until_group.as_deref(), self.to))
    }

    async fn to_group(&self, name: Option<&str>, client: &Client, common: &Common) -> Outcome {
        let (from, to) = self.bounds();
        let mut replay = NewReplay::new(&self.topic, self.target(name, client).await?);
        replay.from = Some(self.position(client, from).await?);
        replay.to = Some(self.position(client, to).await?);
        replay.filter = Filter::joined(&self.filter);
        (replay.rate, replay.note) = (self.pace.rate(), self.note.clone());
        if let ReplayInto::Existing(group) = &replay.into {
            output::confirm(&format!("group {group} gets records of {} again", self.topic), self.yes)?;
        }
        let replays = client.replays();
        let started = replays.start(replay).await.map_err(failed)?;
        match self.watch && !started.is_ended() {
            true => watch(&replays, &started.replay_id, common).await,
            false => show(&started, common),
        }
    }

    async fn target(&self, name: Option<&str>, client: &Client) -> Outcome<ReplayInto> {
        let config = Box::new(GroupConfig { mode: Some(GroupMode::from(self.mode)), ..GroupConfig::default() });
        let Some(name) = name else { return Ok(ReplayInto::Ephemeral(config)) };
        match client.groups().get(name).await {
            Ok(_) => Ok(ReplayInto::Existing(name.to_owned())),
            Err(error) if error.reason() == Some(ErrorReason::GroupNotFound) => {
                Ok(ReplayInto::New(name.to_owned(), config))
            }
            Err(error) => Err(failed(error)),
        }
    }

    async fn position(&self, client: &Client, bound: Bound<'_>) -> Outcome<GroupPosition> {
        let place = match bound {
            Bound::Group(group) => return Ok(GroupPosition::FromGroup(group.to_owned())),
            Bound::Place(place) => place,
        };
        let offset = match place.at(clock::wall_ms()) {
            Place::Earliest => return Ok(GroupPosition::Earliest),
            Place::Latest => return Ok(GroupPosition::Latest),
            Place::TimeMs(time) => return Ok(GroupPosition::TimestampMs(time)),
            Place::Offset(offset) => offset.unsigned_abs(),
            Place::Last(_) | Place::Ago(_) => return Err(no_last()),
        };
        let topic = client.admin().get_topic(&self.topic).await.map_err(failed)?;
        let at = |partition| TopicOffset { topic: self.topic.clone(), partition, offset, epoch: None };
        Ok(GroupPosition::Offsets((0..topic.partitions()).map(at).collect()))
    }
}

/// A bound of the last N records, which no replay has.
pub(super) fn no_last() -> Failure {
    let next = "give earliest, latest, an offset, a span or a time";
    Failure::usage("a replay has no bound of the last N records", next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rp_1_what_a_replay_goes_into_is_told_apart() {
        assert_eq!(into("audit"), Ok(Into::Group("audit".to_owned())));
        assert_eq!(into("topic:copy"), Ok(Into::Topic("copy".to_owned())));
        assert_eq!(into("file:a:b"), Ok(Into::File("a:b".into())));
        assert!(into("").is_err() && into("topic:").is_err() && into("file:").is_err() && into("group:a").is_err());
    }
}
