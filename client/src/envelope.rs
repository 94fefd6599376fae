//! The envelope of an event: what it is called, of what type it is, when it occurred and what it follows from, in
//! headers of fixed names (rule SC-1). The names and forms stand in [`sawlog_proto::envelope`].
//!
//! An event id names the event within its topic and tenant. A topic that finds out repeats appends the first record
//! with an id, and answers every later one with the position of the first: a program that restarts and sends again
//! writes nothing twice.
//!
//! ```
//! use sawlog_client::{Envelope, Record};
//!
//! let record = Record::keyed("invoice-7", "{}").event_id("invoice-7-paid").event_type("invoice.paid").event_version(2);
//! let envelope = record.envelope();
//! assert_eq!(envelope.event_id.as_deref(), Some("invoice-7-paid"));
//! assert_eq!(envelope.event_version, Some(2));
//! assert_eq!(Envelope::of(&record.headers), envelope);
//! ```

use bytes::Bytes;
use sawlog_proto::{envelope as names, v1};

use crate::consumer::ConsumedRecord;
use crate::reader::ReadRecord;
use crate::types::{Header, Record};

/// What a topic does about the envelopes of its records (rule SC-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EnvelopePolicy {
    /// Nothing.
    Off,
    /// Plain records that lack event_id, occurred_at or producer get them from the broker. This client sends ready
    /// batches, which stay as they are.
    Fill,
    /// Records without event_id or event_type are refused.
    Required,
}

/// The event ids that a topic remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventIds {
    /// Number of ids.
    pub ids: u64,
    /// Number of ids at most.
    pub max_ids: u64,
    /// How far back a repeat is found out at present, in milliseconds; `None`: as long as records are kept.
    pub span_ms: Option<u64>,
    /// False while partitions are being recovered.
    pub ready: bool,
}

impl EnvelopePolicy {
    pub(crate) fn to_wire(policy: Option<Self>) -> v1::EnvelopePolicy {
        match policy {
            None => v1::EnvelopePolicy::Unspecified,
            Some(Self::Off) => v1::EnvelopePolicy::Off,
            Some(Self::Fill) => v1::EnvelopePolicy::Fill,
            Some(Self::Required) => v1::EnvelopePolicy::Required,
        }
    }

    pub(crate) fn from_wire(policy: v1::EnvelopePolicy) -> Option<Self> {
        match policy {
            v1::EnvelopePolicy::Unspecified => None,
            v1::EnvelopePolicy::Off => Some(Self::Off),
            v1::EnvelopePolicy::Fill => Some(Self::Fill),
            v1::EnvelopePolicy::Required => Some(Self::Required),
        }
    }
}

/// What the headers of a record say of its event. What is missing, or not of its form, is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Envelope {
    /// Names the event within its topic and tenant: 1 to 255 bytes.
    pub event_id: Option<String>,
    /// What happened.
    pub event_type: Option<String>,
    /// Version of the payload's form.
    pub event_version: Option<u32>,
    /// To whom the event belongs.
    pub tenant_id: Option<String>,
    /// When it happened, in milliseconds since 1970.
    pub occurred_at_ms: Option<i64>,
    /// What it belongs to.
    pub correlation_id: Option<String>,
    /// The event that it follows from.
    pub causation_id: Option<String>,
    /// Who says it.
    pub producer: Option<String>,
}

impl Envelope {
    /// The envelope in these headers. Of several of one name the first counts.
    pub fn of(headers: &[Header]) -> Self {
        let text = |name: &str| {
            let header = headers.iter().find(|header| header.key == name)?;
            std::str::from_utf8(&header.value).ok().map(str::to_owned)
        };
        Self {
            event_id: text(names::EVENT_ID),
            event_type: text(names::EVENT_TYPE),
            event_version: text(names::EVENT_VERSION).and_then(|version| version.parse().ok()),
            tenant_id: text(names::TENANT_ID),
            occurred_at_ms: text(names::OCCURRED_AT).and_then(|time| names::parse_time(&time)),
            correlation_id: text(names::CORRELATION_ID),
            causation_id: text(names::CAUSATION_ID),
            producer: text(names::PRODUCER),
        }
    }

    /// The headers of this envelope, of what it has.
    pub fn headers(&self) -> Vec<Header> {
        let fields = [
            (names::EVENT_ID, self.event_id.clone()),
            (names::EVENT_TYPE, self.event_type.clone()),
            (names::EVENT_VERSION, self.event_version.map(|version| version.to_string())),
            (names::TENANT_ID, self.tenant_id.clone()),
            (names::OCCURRED_AT, self.occurred_at_ms.map(names::time_text)),
            (names::CORRELATION_ID, self.correlation_id.clone()),
            (names::CAUSATION_ID, self.causation_id.clone()),
            (names::PRODUCER, self.producer.clone()),
        ];
        let header =
            |(name, value): (&str, Option<String>)| Some(Header { key: name.to_owned(), value: value?.into() });
        fields.into_iter().filter_map(header).collect()
    }
}

impl Record {
    /// The envelope in the headers.
    pub fn envelope(&self) -> Envelope {
        Envelope::of(&self.headers)
    }

    /// With what this envelope has; headers of the same names go.
    pub fn with_envelope(self, envelope: &Envelope) -> Self {
        envelope.headers().into_iter().fold(self, |record, header| record.only_header(&header.key, header.value))
    }

    /// With this event id, of 1 to 255 bytes.
    pub fn event_id(self, id: impl Into<String>) -> Self {
        self.only_header(names::EVENT_ID, Bytes::from(id.into()))
    }

    /// With this event type.
    pub fn event_type(self, event_type: impl Into<String>) -> Self {
        self.only_header(names::EVENT_TYPE, Bytes::from(event_type.into()))
    }

    /// With this version of the payload's form.
    pub fn event_version(self, version: u32) -> Self {
        self.only_header(names::EVENT_VERSION, Bytes::from(version.to_string()))
    }

    /// With this tenant.
    pub fn tenant_id(self, id: impl Into<String>) -> Self {
        self.only_header(names::TENANT_ID, Bytes::from(id.into()))
    }

    /// With the time at which the event occurred, in milliseconds since 1970.
    pub fn occurred_at_ms(self, ms: i64) -> Self {
        self.only_header(names::OCCURRED_AT, Bytes::from(names::time_text(ms)))
    }

    /// With what the event belongs to.
    pub fn correlation_id(self, id: impl Into<String>) -> Self {
        self.only_header(names::CORRELATION_ID, Bytes::from(id.into()))
    }

    /// With the event that this one follows from.
    pub fn causation_id(self, id: impl Into<String>) -> Self {
        self.only_header(names::CAUSATION_ID, Bytes::from(id.into()))
    }

    /// With who says it.
    pub fn event_producer(self, producer: impl Into<String>) -> Self {
        self.only_header(names::PRODUCER, Bytes::from(producer.into()))
    }

    fn only_header(mut self, name: &str, value: Bytes) -> Self {
        self.headers.retain(|header| header.key != name);
        self.headers.push(Header { key: name.to_owned(), value });
        self
    }
}

impl ReadRecord {
    /// The envelope in the headers.
    pub fn envelope(&self) -> Envelope {
        Envelope::of(&self.headers)
    }
}

impl ConsumedRecord {
    /// The envelope in the headers.
    pub fn envelope(&self) -> Envelope {
        Envelope::of(&self.headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Envelope {
        Envelope {
            event_id: Some("e-1".into()),
            event_type: Some("order.placed".into()),
            event_version: Some(3),
            tenant_id: Some("acme".into()),
            occurred_at_ms: Some(1_322_727_960_123),
            correlation_id: Some("c".into()),
            causation_id: Some("e-0".into()),
            producer: Some("shop".into()),
        }
    }

    #[test]
    fn sc_1_an_envelope_comes_back_as_it_was_by_headers_of_fixed_names() {
        let record = Record::new("x").with_envelope(&full());
        assert_eq!(record.envelope(), full());
        let names: Vec<&str> = record.headers.iter().map(|header| header.key.as_str()).collect();
        let fixed = "event_id event_type event_version tenant_id occurred_at correlation_id causation_id producer";
        assert_eq!(names.join(" "), fixed);
        assert_eq!(record.headers[4].value, "2011-12-01T08:26:00.123Z");
        assert_eq!(Record::new("x").envelope(), Envelope::default());
    }

    #[test]
    fn sc_1_setting_a_field_again_replaces_it_and_what_is_malformed_is_absent() {
        let record = Record::new("x").event_id("a").event_id("b").occurred_at_ms(0).tenant_id("t");
        assert_eq!(record.headers.len(), 3);
        assert_eq!(record.envelope().event_id.as_deref(), Some("b"));
        let odd = Record::new("x").header("event_version", "-1").header("occurred_at", "yesterday");
        assert_eq!(odd.envelope(), Envelope::default());
        let not_text = Record::new("x").header("event_id", vec![0xff]);
        assert_eq!(not_text.envelope().event_id, None);
    }
}
