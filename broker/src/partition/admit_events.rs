//! Checks of envelopes before an append, and which records have event ids (rules SC-1, PR-8). Pure.
//!
//! On topics without a policy nothing here is called for a record.

use bytes::Bytes;
use sawlog_proto::batch::{self, BatchLimits, RecordView};
use sawlog_proto::envelope::{self, Identity};

use super::admit::{AdmitError, AdmitRules, PlainRecord, RecordRefusal};
use super::events::{EventBatch, EventRef, content_hash, event_key};
use super::limits;

/// What a topic does about the envelopes of its records (rule SC-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EnvelopePolicy {
    /// Nothing.
    #[default]
    Off,
    /// What is missing of event_id, occurred_at and producer is added to plain records, before they come here.
    Fill,
    /// Records without event_id or event_type are refused.
    Required,
}

/// What a topic asks of the headers of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EventRules {
    /// About envelopes.
    pub envelope: EnvelopePolicy,
    /// Whether repeats of event ids are found out.
    pub dedup: bool,
}

impl EventRules {
    /// Whether headers have to be looked at.
    pub(super) fn any(self) -> bool {
        self.dedup || self.envelope == EnvelopePolicy::Required
    }

    /// Checks the headers of a record; the event id and tenant if it has an id.
    fn check<'a>(
        self,
        headers: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    ) -> Result<Option<Identity<'a>>, RecordRefusal> {
        let identity = envelope::identity(headers.clone());
        if self.envelope == EnvelopePolicy::Required {
            let typed =
                headers.clone().any(|(name, value)| name == envelope::EVENT_TYPE.as_bytes() && !value.is_empty());
            if identity.is_none() {
                return Err(RecordRefusal::Envelope { header: envelope::EVENT_ID, found: "nothing".into() });
            }
            if !typed {
                return Err(RecordRefusal::Envelope { header: envelope::EVENT_TYPE, found: "nothing".into() });
            }
        }
        if let Some((id, _)) = identity
            && !(1..=envelope::EVENT_ID_BYTES).contains(&id.len())
        {
            let found = format!("{} bytes", id.len());
            return Err(RecordRefusal::Envelope { header: envelope::EVENT_ID, found });
        }
        Ok(identity)
    }
}

/// The event of a plain record that would be the one at `index` of its batch; `None` if it has no id.
pub(super) fn of_plain<R: PlainRecord>(
    rules: &AdmitRules,
    record: &R,
    index: u32,
) -> Result<Option<EventRef>, RecordRefusal> {
    let headers = record.headers().map(|(name, value)| (name.as_bytes(), value));
    let identity = rules.events.check(headers)?;
    Ok(identity.filter(|_| rules.events.dedup).map(|(id, tenant)| EventRef {
        index,
        id: event_key(tenant, id),
        content: content_hash(record.key(), record.value()),
    }))
}

fn of_view(rules: &AdmitRules, record: &RecordView<'_>) -> Result<Option<EventRef>, RecordRefusal> {
    let headers = record.headers.map(|(name, value)| (name, value.unwrap_or_default()));
    let identity = rules.events.check(headers)?;
    Ok(identity.filter(|_| rules.events.dedup).map(|(id, tenant)| EventRef {
        index: record.index,
        id: event_key(tenant, id),
        content: content_hash(record.key, record.value),
    }))
}

/// The events of a ready batch, compressed or not; `None` if it has none.
pub(super) fn of_batch(rules: &AdmitRules, bytes: &Bytes) -> Result<Option<EventBatch>, AdmitError> {
    if !rules.events.any() {
        return Ok(None);
    }
    let bounds = BatchLimits {
        records: limits::BATCH_RECORDS,
        decompressed_bytes: limits::BATCH_DECOMPRESSED_BYTES,
        ..BatchLimits::DEFAULT
    };
    let records = batch::records(bytes, &bounds).map_err(AdmitError::Batch)?;
    let (mut refs, mut refused) = (Vec::new(), Vec::new());
    for view in records.views() {
        let view = view.map_err(AdmitError::Batch)?;
        match of_view(rules, &view) {
            Ok(event) => refs.extend(event),
            Err(refusal) => refused.push((view.index, refusal)),
        }
    }
    if !refused.is_empty() {
        return Err(AdmitError::Records(refused));
    }
    Ok((!refs.is_empty()).then(|| EventBatch::new(refs, true)))
}
