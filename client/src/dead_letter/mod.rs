//! The dead letters of consumer groups: look at them, edit them, give them up, deliver them again.
//!
//! Calls whose repeat would do more are made once; the others are repeated while the broker says that a repeat helps.

use std::time::Duration;

use bytes::Bytes;
use sawlog_proto::v1;

use crate::connection::{Client, repeated};
use crate::error::Error;
use crate::paging;
use crate::types::{Header, signed, unsigned};

mod stream;
mod types;

pub use stream::{Entries, Export};
pub use types::{
    DeadReason, Entry, EntryEvent, EntryKind, EntryRecord, EntrySelector, EntryState, EntryVersion, Failure, Job,
    JobState, RedriveOrder, RedrivePreview,
};

/// The dead letters of consumer groups, and the jobs that deliver them again.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    client: Client,
    actor: String,
}

/// An entry with all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryDetails {
    /// The entry, with its record.
    pub entry: Entry,
    /// All versions, the original first.
    pub versions: Vec<EntryVersion>,
    /// What happened to it, the newest last.
    pub history: Vec<EntryEvent>,
}

/// What an edit does to the payload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Payload {
    /// It stays.
    #[default]
    Unchanged,
    /// These bytes take its place.
    Value(Bytes),
    /// None takes its place.
    Tombstone,
}

/// A new version of an open entry's record (rule RD-6). The key cannot be edited.
#[derive(Debug, Clone, Default)]
pub struct Edit {
    /// New payload.
    pub payload: Payload,
    /// New headers, all of them; `None`: as they were.
    pub headers: Option<Vec<Header>>,
    /// Why; needed.
    pub note: String,
    /// The number of versions that must be current.
    pub if_versions: Option<u32>,
}

/// The first record that blocks a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaneHead {
    /// That of the key of this entry.
    Entry(String),
    /// That of a key.
    Key {
        /// Source topic.
        topic: String,
        /// Its partition, needed on topics without keys.
        partition: Option<u32>,
        /// The key.
        key: Bytes,
    },
    /// That of the key of the record at an offset; also for records without key.
    Offset {
        /// Source topic.
        topic: String,
        /// Partition.
        partition: u32,
        /// Offset.
        offset: u64,
    },
}

/// The record at the head of a key, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadDone {
    /// Partition, from 0.
    pub partition: u32,
    /// Offset.
    pub offset: u64,
    /// Its entry; `None` if it blocked its key in the source.
    pub dlq_id: Option<String>,
    /// The job that redrives it, if one does.
    pub job_id: Option<String>,
}

/// A redrive to start (rules RD-1 to RD-4).
#[derive(Debug, Clone, Default)]
pub struct Redrive {
    /// Which open entries; an entry of a dead key selects the key from its head. At least one condition.
    pub selector: EntrySelector,
    /// At most so many entries a second; 0: no limit.
    pub rate: u64,
    /// Which keys come first.
    pub order: Option<RedriveOrder>,
    /// Pause the job after so many failures; `None`: 10; 0: never.
    pub abort_after_failures: Option<u32>,
    /// Why.
    pub note: String,
    /// Append to this topic instead, where every group sees them; empty: the source topic. `None`: deliver to the group.
    pub to_topic: Option<String>,
}

impl DeadLetters {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, actor: String::new() }
    }

    /// Says who decides, for the history of entries and jobs; at most 255 bytes.
    pub fn actor(mut self, actor: impl Into<String>) -> Self {
        self.actor = actor.into();
        self
    }

    /// Entries of a group in order of topic, partition and position, page after page; by default those not closed.
    pub fn entries(&self, group: &str, selector: &EntrySelector, with_records: bool) -> Entries {
        let request = v1::ListEntriesRequest {
            group: group.to_owned(),
            selector: (!selector.is_all()).then(|| selector.to_wire()),
            page_size: 0,
            page_token: String::new(),
            with_records,
        };
        Entries::new(self.client.clone(), request)
    }

    /// One page of at most `page_size` entries (0: 100) and the token of the next, empty at the end.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`; `INVALID_FIELD` for a token that no page gave.
    pub async fn list_page(
        &self,
        group: &str,
        selector: &EntrySelector,
        page_size: u32,
        page_token: &str,
        with_records: bool,
    ) -> Result<(Vec<Entry>, String), Error> {
        let request = v1::ListEntriesRequest {
            group: group.to_owned(),
            selector: (!selector.is_all()).then(|| selector.to_wire()),
            page_size,
            page_token: page_token.to_owned(),
            with_records,
        };
        let response = repeated!(self.dead_letter_calls, list_entries, request)?;
        Ok((response.entries.into_iter().map(Entry::from_wire).collect(), response.next_page_token))
    }

    /// One entry with its versions and history.
    ///
    /// # Errors
    /// `ENTRY_NOT_FOUND`.
    pub async fn get(&self, dlq_id: &str) -> Result<EntryDetails, Error> {
        let response = repeated!(self.dead_letter_calls, get_entry, v1::GetEntryRequest { dlq_id: dlq_id.to_owned() })?;
        Ok(EntryDetails {
            entry: entry(response.entry)?,
            versions: response.versions.into_iter().map(EntryVersion::from_wire).collect(),
            history: response.history.into_iter().map(EntryEvent::from_wire).collect(),
        })
    }

    /// Stores a new version of an open entry; the original stays. Returns the entry and the number of the version.
    ///
    /// # Errors
    /// `ENTRY_NOT_FOUND`, `ENTRY_CLOSED`, `JOB_CONFLICT`, `STALE_REVISION`, `INVALID_FIELD`, `RECORD_TOO_LARGE`.
    pub async fn edit(&self, dlq_id: &str, edit: Edit) -> Result<(Entry, u32), Error> {
        use v1::edit_entry_request::Payload as Wire;
        let header = |header: Header| v1::Header { key: header.key, value: header.value };
        let request = v1::EditEntryRequest {
            dlq_id: dlq_id.to_owned(),
            payload: match edit.payload {
                Payload::Unchanged => None,
                Payload::Value(value) => Some(Wire::Value(value)),
                Payload::Tombstone => Some(Wire::Tombstone(v1::Unit {})),
            },
            headers: edit.headers.map(|headers| v1::Headers { headers: headers.into_iter().map(header).collect() }),
            note: edit.note,
            key: None,
            versions: edit.if_versions,
            actor: self.actor.clone(),
        };
        let response = self.client.once(self.client.dead_letter_calls().edit_entry(request)).await?;
        Ok((entry(response.entry)?, response.version))
    }

    /// Gives up the first record that blocks a key, with a reason.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`, `TOPIC_NOT_FOUND`, `ENTRY_NOT_FOUND` if nothing blocks it, `JOB_CONFLICT`, `INVALID_FIELD`.
    pub async fn skip_head(&self, group: &str, head: &LaneHead, reason: &str) -> Result<HeadDone, Error> {
        let request = v1::SkipHeadRequest {
            group: group.to_owned(),
            head: Some(lane_head(head)),
            reason: reason.to_owned(),
            actor: self.actor.clone(),
        };
        let response = self.client.once(self.client.dead_letter_calls().skip_head(request)).await?;
        Ok(head_done(response.head, response.dlq_id, String::new()))
    }

    /// Tries the first record that blocks a key again, its attempts counted anew.
    ///
    /// # Errors
    /// As [`DeadLetters::skip_head`].
    pub async fn retry_head(&self, group: &str, head: &LaneHead) -> Result<HeadDone, Error> {
        let request =
            v1::RetryHeadRequest { group: group.to_owned(), head: Some(lane_head(head)), actor: self.actor.clone() };
        let response = self.client.once(self.client.dead_letter_calls().retry_head(request)).await?;
        Ok(head_done(response.head, response.dlq_id, response.job_id))
    }

    /// Gives open entries up, with a reason; returns how many, and how many keys became live by it. A dry run only
    /// counts.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`, `JOB_CONFLICT`, `INVALID_FIELD` without a condition or a reason.
    pub async fn discard(
        &self,
        group: &str,
        selector: &EntrySelector,
        reason: &str,
        dry_run: bool,
    ) -> Result<(u64, u64), Error> {
        let request = v1::DiscardRequest {
            group: group.to_owned(),
            selector: Some(selector.to_wire()),
            reason: reason.to_owned(),
            actor: self.actor.clone(),
            dry_run,
        };
        let response = self.client.once(self.client.dead_letter_calls().discard(request)).await?;
        Ok((response.discarded, response.keys_live))
    }

    /// Entries with their records, in order of position; by default all, closed ones too.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`.
    pub async fn export(&self, group: &str, selector: &EntrySelector) -> Result<Export, Error> {
        let selector = (!selector.is_all()).then(|| selector.to_wire());
        let request = v1::ExportRequest { group: group.to_owned(), selector };
        let stream = self.client.once(self.client.dead_letter_calls().export(request)).await?;
        Ok(Export::new(stream))
    }

    /// Starts a job that delivers open entries again.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`, `JOB_CONFLICT`, `LIMIT_REACHED`, `TOPIC_NOT_FOUND`, `INVALID_FIELD` without a condition.
    pub async fn redrive(&self, group: &str, redrive: &Redrive) -> Result<Job, Error> {
        use v1::start_redrive_response::Result as Wire;
        match self.start(group, redrive, false).await? {
            Wire::Job(job) => Ok(Job::from_wire(job)),
            Wire::Preview(_) => Err(Error::protocol("a preview in place of a job")),
        }
    }

    /// What a redrive would do; nothing changes.
    ///
    /// # Errors
    /// As [`DeadLetters::redrive`].
    pub async fn redrive_preview(&self, group: &str, redrive: &Redrive) -> Result<RedrivePreview, Error> {
        use v1::start_redrive_response::Result as Wire;
        match self.start(group, redrive, true).await? {
            Wire::Preview(preview) => Ok(RedrivePreview::from_wire(preview)),
            Wire::Job(_) => Err(Error::protocol("a job in place of a preview")),
        }
    }

    async fn start(
        &self,
        group: &str,
        redrive: &Redrive,
        dry_run: bool,
    ) -> Result<v1::start_redrive_response::Result, Error> {
        let target = if redrive.to_topic.is_some() { v1::RedriveTarget::Topic } else { v1::RedriveTarget::Group };
        let request = v1::StartRedriveRequest {
            group: group.to_owned(),
            selector: Some(redrive.selector.to_wire()),
            rate: redrive.rate,
            order: RedriveOrder::to_wire(redrive.order),
            dry_run,
            abort_after_failures: redrive.abort_after_failures,
            note: redrive.note.clone(),
            target: target.into(),
            target_topic: redrive.to_topic.clone().unwrap_or_default(),
            actor: self.actor.clone(),
        };
        let response = self.client.once(self.client.dead_letter_calls().start_redrive(request)).await?;
        response.result.ok_or_else(|| Error::protocol("nothing in the answer to a redrive"))
    }

    /// One job.
    ///
    /// # Errors
    /// `JOB_NOT_FOUND`.
    pub async fn job(&self, job_id: &str) -> Result<Job, Error> {
        job(repeated!(self.dead_letter_calls, get_job, v1::GetJobRequest { job_id: job_id.to_owned() })?.job)
    }

    /// Jobs of a group, or of all, the newest first; with `running` those that have not ended.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`.
    pub async fn jobs(&self, group: Option<&str>, running: bool) -> Result<Vec<Job>, Error> {
        paging::all(|page_token| async move {
            let group = group.unwrap_or_default().to_owned();
            let request = v1::ListJobsRequest { group, running, page_size: paging::PAGE, page_token };
            let response = repeated!(self.dead_letter_calls, list_jobs, request)?;
            Ok((response.jobs.into_iter().map(Job::from_wire).collect(), response.next_page_token))
        })
        .await
    }

    /// Stops a job for a while.
    ///
    /// # Errors
    /// `JOB_NOT_FOUND`, `JOB_CLOSED`.
    pub async fn pause_job(&self, job_id: &str) -> Result<Job, Error> {
        job(repeated!(self.dead_letter_calls, pause_job, v1::PauseJobRequest { job_id: job_id.to_owned() })?.job)
    }

    /// Goes on with a paused job.
    ///
    /// # Errors
    /// `JOB_NOT_FOUND`, `JOB_CLOSED`.
    pub async fn resume_job(&self, job_id: &str) -> Result<Job, Error> {
        job(repeated!(self.dead_letter_calls, resume_job, v1::ResumeJobRequest { job_id: job_id.to_owned() })?.job)
    }

    /// Ends a job; what it has not resolved is open again.
    ///
    /// # Errors
    /// `JOB_NOT_FOUND`, `JOB_CLOSED`.
    pub async fn cancel_job(&self, job_id: &str) -> Result<Job, Error> {
        job(repeated!(self.dead_letter_calls, cancel_job, v1::CancelJobRequest { job_id: job_id.to_owned() })?.job)
    }

    /// Looks at a job every so often, gives each look to `each`, and returns the job once it has ended or is paused.
    ///
    /// # Errors
    /// As [`DeadLetters::job`].
    pub async fn watch_job(&self, job_id: &str, every: Duration, mut each: impl FnMut(&Job)) -> Result<Job, Error> {
        loop {
            let job = self.job(job_id).await?;
            each(&job);
            if job.is_ended() || job.state == Some(JobState::Paused) {
                return Ok(job);
            }
            tokio::time::sleep(every).await;
        }
    }
}

fn entry(wire: Option<v1::Entry>) -> Result<Entry, Error> {
    wire.map(Entry::from_wire).ok_or_else(|| Error::protocol("no entry in the answer"))
}

fn job(wire: Option<v1::Job>) -> Result<Job, Error> {
    wire.map(Job::from_wire).ok_or_else(|| Error::protocol("no job in the answer"))
}

fn lane_head(head: &LaneHead) -> v1::LaneHead {
    use v1::lane_head::Lane;
    let (lane, topic, partition) = match head {
        LaneHead::Entry(dlq_id) => (Lane::DlqId(dlq_id.clone()), String::new(), None),
        LaneHead::Key { topic, partition, key } => (Lane::Key(key.clone()), topic.clone(), *partition),
        LaneHead::Offset { topic, partition, offset } => {
            (Lane::Offset(signed(*offset)), topic.clone(), Some(*partition))
        }
    };
    v1::LaneHead { lane: Some(lane), topic, partition }
}

fn head_done(head: Option<v1::Position>, dlq_id: String, job_id: String) -> HeadDone {
    let head = head.unwrap_or_default();
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    HeadDone { partition: head.partition, offset: unsigned(head.offset), dlq_id: some(dlq_id), job_id: some(job_id) }
}
