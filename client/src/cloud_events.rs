//! CloudEvents 1.0 in records: written in the binary mode of the Kafka binding (headers `ce_...` and `content-type`),
//! read in that and in the structured JSON mode.
//!
//! | CloudEvents | Envelope |
//! |---|---|
//! | `source` and `id` | `event_id`, as `source#id`: an id is unique within its source only |
//! | `type` | `event_type` |
//! | `time` | `occurred_at` |
//! | `source` | `producer` |
//! | extensions `tenantid`, `correlationid`, `causationid` | `tenant_id`, `correlation_id`, `causation_id` |
//!
//! A record that is written has both, so that repeats are found out, and the extension `partitionkey` as its key.

use std::collections::BTreeMap;

use bytes::Bytes;
use sawlog_proto::envelope::{parse_time, time_text};
use serde_json::Value;

use crate::envelope::Envelope;
use crate::types::{Header, Record};

const PREFIX: &str = "ce_";
const CONTENT_TYPE: &str = "content-type";
const STRUCTURED: &str = "application/cloudevents+json";
const PARTITION_KEY: &str = "partitionkey";

/// An event in the words of CloudEvents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CloudEvent {
    /// Unique within its source.
    pub id: String,
    /// Where it comes from: a URI reference.
    pub source: String,
    /// What happened.
    pub event_type: String,
    /// When, in milliseconds since 1970.
    pub time_ms: Option<i64>,
    /// What it is about.
    pub subject: Option<String>,
    /// Media type of the data.
    pub data_content_type: Option<String>,
    /// Other attributes, `dataschema` among them; names are lower-case letters and digits.
    pub extensions: BTreeMap<String, String>,
    /// The data.
    pub data: Option<Bytes>,
}

/// Why a record is no CloudEvent, although it says that it is one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloudEventError {
    /// The version is not 1.0.
    #[error("specversion is not 1.0")]
    Version,
    /// A required attribute is missing or empty.
    #[error("attribute {0} is missing")]
    Missing(&'static str),
    /// An attribute has not the form that it must have.
    #[error("attribute {0} is malformed")]
    Malformed(String),
    /// The payload is no JSON object.
    #[error("the payload is no JSON object")]
    Json,
}

impl CloudEvent {
    /// The record of this event, in binary mode, with the envelope that says the same.
    pub fn into_record(self) -> Record {
        let extension = |name: &str| self.extensions.get(name).cloned();
        let envelope = Envelope {
            event_id: Some(format!("{}#{}", self.source, self.id)),
            event_type: Some(self.event_type.clone()),
            tenant_id: extension("tenantid"),
            occurred_at_ms: self.time_ms,
            correlation_id: extension("correlationid"),
            causation_id: extension("causationid"),
            producer: Some(self.source.clone()),
            event_version: None,
        };
        let key = extension(PARTITION_KEY);
        let mut attributes = vec![
            ("specversion".to_owned(), "1.0".to_owned()),
            ("id".to_owned(), self.id),
            ("source".to_owned(), self.source),
            ("type".to_owned(), self.event_type),
        ];
        attributes.extend(self.time_ms.map(|ms| ("time".to_owned(), time_text(ms))));
        attributes.extend(self.subject.map(|subject| ("subject".to_owned(), subject)));
        attributes.extend(self.extensions);
        let header = |(name, value): (String, String)| Header { key: format!("{PREFIX}{name}"), value: value.into() };
        let mut record = Record { key: key.map(Bytes::from), value: self.data, ..Record::default() };
        record.timestamp_ms = self.time_ms;
        record.headers = attributes.into_iter().map(header).collect();
        if let Some(content_type) = self.data_content_type {
            record = record.header(CONTENT_TYPE, content_type);
        }
        record.with_envelope(&envelope)
    }

    /// The event in a record; `None` if the record does not say that it is one.
    ///
    /// # Errors
    /// See [`CloudEventError`].
    pub fn read(headers: &[Header], value: Option<&Bytes>) -> Option<Result<Self, CloudEventError>> {
        let text = |name: &str| {
            let header = headers.iter().find(|header| header.key.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(&header.value).ok()
        };
        if text(CONTENT_TYPE).is_some_and(|kind| kind.to_ascii_lowercase().starts_with(STRUCTURED)) {
            return Some(structured(value));
        }
        text("ce_specversion")?;
        let attributes = headers.iter().filter_map(|header| {
            let name = header.key.strip_prefix(PREFIX)?;
            Some((name.to_owned(), std::str::from_utf8(&header.value).ok()?.to_owned()))
        });
        let mut attributes: BTreeMap<String, String> = attributes.collect();
        if let Some(kind) = text(CONTENT_TYPE) {
            attributes.insert("datacontenttype".to_owned(), kind.to_owned());
        }
        Some(from_attributes(attributes, value.cloned()))
    }
}

fn from_attributes(
    mut attributes: BTreeMap<String, String>,
    data: Option<Bytes>,
) -> Result<CloudEvent, CloudEventError> {
    if attributes.remove("specversion").as_deref() != Some("1.0") {
        return Err(CloudEventError::Version);
    }
    let mut required = |name: &'static str| {
        attributes.remove(name).filter(|value| !value.is_empty()).ok_or(CloudEventError::Missing(name))
    };
    let (id, source, event_type) = (required("id")?, required("source")?, required("type")?);
    let time = attributes.remove("time");
    let time_ms =
        time.map(|time| parse_time(&time).ok_or_else(|| CloudEventError::Malformed("time".to_owned()))).transpose()?;
    let (subject, data_content_type) = (attributes.remove("subject"), attributes.remove("datacontenttype"));
    Ok(CloudEvent { id, source, event_type, time_ms, subject, data_content_type, extensions: attributes, data })
}

/// A JSON object with all attributes, and the data as `data` (JSON) or `data_base64`.
fn structured(payload: Option<&Bytes>) -> Result<CloudEvent, CloudEventError> {
    let object = payload.and_then(|payload| serde_json::from_slice::<serde_json::Map<String, Value>>(payload).ok());
    let mut object = object.ok_or(CloudEventError::Json)?;
    let encoded = object.remove("data_base64");
    let data = match (object.remove("data"), encoded) {
        (_, Some(encoded)) => {
            let bytes = encoded.as_str().and_then(decode_base64);
            Some(bytes.ok_or_else(|| CloudEventError::Malformed("data_base64".to_owned()))?)
        }
        // Text of another media type than JSON stands there as it is.
        (Some(Value::String(text)), None) if !is_json(object.get("datacontenttype")) => Some(Bytes::from(text)),
        (Some(value), None) => Some(Bytes::from(value.to_string())),
        (None, None) => None,
    };
    let mut attributes = BTreeMap::new();
    for (name, value) in object {
        let text = match value {
            Value::String(text) => text,
            Value::Null => continue,
            value @ (Value::Bool(_) | Value::Number(_)) => value.to_string(),
            Value::Array(_) | Value::Object(_) => return Err(CloudEventError::Malformed(name)),
        };
        attributes.insert(name, text);
    }
    from_attributes(attributes, data)
}

/// JSON unless it says otherwise.
fn is_json(content_type: Option<&Value>) -> bool {
    content_type.and_then(Value::as_str).is_none_or(|kind| kind.contains("json"))
}

/// RFC 4648, the standard alphabet, padded.
fn decode_base64(text: &str) -> Option<Bytes> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => Some(u32::from(byte - b'A')),
        b'a'..=b'z' => Some(u32::from(byte - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(byte - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = text.trim_end_matches('=');
    let padding = text.len() - digits.len();
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for group in digits.as_bytes().chunks(4) {
        let sum = group.iter().try_fold(0, |sum, digit| Some(sum << 6 | value(*digit)?))?;
        let whole = (sum << (6 * (4 - group.len() as u32))).to_be_bytes();
        bytes.extend_from_slice(&whole[1..group.len()]);
    }
    (padding <= 2 && digits.len() % 4 != 1).then(|| bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> CloudEvent {
        CloudEvent {
            id: "7".into(),
            source: "/shop".into(),
            event_type: "order.placed".into(),
            time_ms: Some(1_322_727_960_000),
            subject: Some("536365".into()),
            data_content_type: Some("application/json".into()),
            extensions: [("partitionkey".into(), "536365".into()), ("tenantid".into(), "acme".into())].into(),
            data: Some(Bytes::from_static(b"{\"a\":1}")),
        }
    }

    #[test]
    fn a_cloud_event_comes_back_as_it_was_and_has_an_envelope_too() {
        let record = event().into_record();
        assert_eq!(CloudEvent::read(&record.headers, record.value.as_ref()), Some(Ok(event())));
        assert_eq!(record.key.as_deref(), Some(&b"536365"[..]));
        let envelope = record.envelope();
        assert_eq!(envelope.event_id.as_deref(), Some("/shop#7"));
        assert_eq!(envelope.tenant_id.as_deref(), Some("acme"));
        assert_eq!(envelope.occurred_at_ms, Some(1_322_727_960_000));
        let other = CloudEvent { source: "/depot".into(), ..event() }.into_record();
        assert_ne!(other.envelope().event_id, envelope.event_id, "an id is unique within its source only");
    }

    #[test]
    fn structured_mode_is_read_with_json_text_and_binary_data() {
        let read = |json: &str| {
            let headers =
                [Header { key: "content-type".into(), value: "application/cloudevents+json; charset=utf-8".into() }];
            CloudEvent::read(&headers, Some(&Bytes::from(json.to_owned()))).expect("it says that it is one")
        };
        let found = read(
            r#"{"specversion":"1.0","id":"7","source":"/shop","type":"order.placed","time":"2011-12-01T08:26:00Z",
                "subject":"536365","datacontenttype":"application/json","partitionkey":"536365","tenantid":"acme",
                "data":{"a":1}}"#,
        );
        assert_eq!(found, Ok(event()));
        let head = r#""specversion":"1.0","id":"7","source":"s","type":"t""#;
        let data = |rest: &str| read(&format!("{{{head},{rest}}}")).map(|event| event.data);
        assert_eq!(data(r#""data_base64":"AAEC/w==""#), Ok(Some(Bytes::from_static(&[0, 1, 2, 255]))));
        assert_eq!(data(r#""datacontenttype":"text/plain","data":"hi""#), Ok(Some(Bytes::from_static(b"hi"))));
        assert_eq!(data(r#""data":"hi""#), Ok(Some(Bytes::from_static(b"\"hi\""))));
        assert_eq!(data(r#""data_base64":"A===""#), Err(CloudEventError::Malformed("data_base64".into())));
        assert_eq!(data(r#""x":[]"#), Err(CloudEventError::Malformed("x".into())));
        assert_eq!(read("[]"), Err(CloudEventError::Json));
    }

    #[test]
    fn what_is_no_cloud_event_is_none_and_what_is_a_bad_one_says_why() {
        assert_eq!(CloudEvent::read(&[], None), None);
        let without = |name: &str| {
            let mut record = event().into_record();
            record.headers.retain(|header| header.key != name);
            CloudEvent::read(&record.headers, None)
        };
        assert_eq!(without("ce_specversion"), None);
        assert_eq!(without("ce_source"), Some(Err(CloudEventError::Missing("source"))));
        let mut record = event().into_record();
        record.headers[0].value = "0.3".into();
        assert_eq!(CloudEvent::read(&record.headers, None), Some(Err(CloudEventError::Version)));
    }
}
