//! Which records a group gets, and which headers to look for. Plain data.

use bytes::Bytes;
use sawlog_proto::v1;

/// A header that a record must have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeaderFilter {
    /// Name of the header.
    pub key: String,
    /// What its value must be.
    pub value: HeaderValue,
}

/// What a header's value must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HeaderValue {
    /// Anything.
    Any,
    /// Exactly this.
    Equals(Bytes),
    /// Something that begins with this.
    Prefix(Bytes),
}

impl HeaderFilter {
    pub(crate) fn to_wire(&self) -> v1::HeaderMatch {
        use v1::header_match::Value;
        let value = match &self.value {
            HeaderValue::Any => None,
            HeaderValue::Equals(value) => Some(Value::Equals(value.clone())),
            HeaderValue::Prefix(value) => Some(Value::Prefix(value.clone())),
        };
        v1::HeaderMatch { key: self.key.clone(), value }
    }

    pub(crate) fn from_wire(wire: v1::HeaderMatch) -> Self {
        use v1::header_match::Value;
        let value = match wire.value {
            None => HeaderValue::Any,
            Some(Value::Equals(value)) => HeaderValue::Equals(value),
            Some(Value::Prefix(value)) => HeaderValue::Prefix(value),
        };
        Self { key: wire.key, value }
    }
}

/// Which records a group gets; all conditions must hold (rule FC-7).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordFilter {
    /// Exactly this key.
    pub key: Option<Bytes>,
    /// Keys that begin with this.
    pub key_prefix: Option<Bytes>,
    /// A header each.
    pub headers: Vec<HeaderFilter>,
}

impl RecordFilter {
    pub(crate) fn to_wire(&self) -> v1::ReadFilter {
        v1::ReadFilter {
            key: self.key.clone(),
            key_prefix: self.key_prefix.clone(),
            headers: self.headers.iter().map(HeaderFilter::to_wire).collect(),
        }
    }

    pub(super) fn from_wire(wire: v1::ReadFilter) -> Self {
        let headers = wire.headers.into_iter().map(HeaderFilter::from_wire).collect();
        Self { key: wire.key, key_prefix: wire.key_prefix, headers }
    }
}
