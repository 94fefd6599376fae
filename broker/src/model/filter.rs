//! Which records a reader wants: by key, by the beginning of the key, by headers.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What the value of a header must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeaderValue {
    /// Anything, also absent.
    Any,
    /// Exactly this.
    Equals(Bytes),
    /// Beginning with this.
    Prefix(Bytes),
}

/// A header that must be there; one of several with its name is enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderCondition {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: HeaderValue,
}

/// Conditions that must all hold. The default has none and passes every record.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Filter {
    /// Exactly this key.
    pub key: Option<Bytes>,
    /// Keys that begin with this; a record without key does not.
    pub key_prefix: Option<Bytes>,
    /// Headers.
    pub headers: Vec<HeaderCondition>,
}

impl Filter {
    /// Whether every record passes.
    pub fn is_empty(&self) -> bool {
        self.key.is_none() && self.key_prefix.is_none() && self.headers.is_empty()
    }

    /// Whether a record with this key and these headers, names and values, passes.
    pub fn matches<'a>(
        &self,
        key: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + Clone,
    ) -> bool {
        self.key.as_deref().is_none_or(|wanted| key == Some(wanted))
            && self.key_prefix.as_deref().is_none_or(|prefix| key.is_some_and(|key| key.starts_with(prefix)))
            && self.headers.iter().all(|wanted| headers.clone().any(|(name, value)| wanted.matches(name, value)))
    }
}

impl HeaderCondition {
    /// Whether one of these headers, names and values, meets it.
    pub fn matches_any<'a>(&self, mut headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> bool {
        headers.any(|(name, value)| self.matches(name, value))
    }

    fn matches(&self, name: &[u8], value: Option<&[u8]>) -> bool {
        name == self.key.as_bytes()
            && match &self.value {
                HeaderValue::Any => true,
                HeaderValue::Equals(wanted) => value == Some(wanted),
                HeaderValue::Prefix(prefix) => value.is_some_and(|value| value.starts_with(prefix)),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADERS: [(&[u8], Option<&[u8]>); 3] =
        [(b"type", Some(b"sale")), (b"type", Some(b"refund")), (b"trace", None)];

    fn passes(filter: &Filter, key: Option<&[u8]>) -> bool {
        filter.matches(key, HEADERS.into_iter())
    }

    #[test]
    fn a_filter_without_conditions_passes_everything() {
        assert!(Filter::default().is_empty());
        assert!(passes(&Filter::default(), None));
    }

    #[test]
    fn keys_are_compared_whole_or_by_their_beginning_and_an_absent_key_is_not_an_empty_one() {
        let exact = Filter { key: Some(Bytes::from_static(b"")), ..Filter::default() };
        assert!(passes(&exact, Some(b"")) && !passes(&exact, None) && !passes(&exact, Some(b"a")));
        let prefix = Filter { key_prefix: Some(Bytes::from_static(b"in")), ..Filter::default() };
        assert!(passes(&prefix, Some(b"invoice")) && !passes(&prefix, Some(b"i")) && !passes(&prefix, None));
    }

    #[test]
    fn each_header_condition_needs_one_header_that_meets_it() {
        let with = |conditions: &[(&str, HeaderValue)]| {
            let headers = conditions.iter().cloned();
            let headers = headers.map(|(key, value)| HeaderCondition { key: key.to_owned(), value }).collect();
            passes(&Filter { headers, ..Filter::default() }, None)
        };
        let equals = |value: &'static str| HeaderValue::Equals(Bytes::from_static(value.as_bytes()));
        let prefix = |value: &'static str| HeaderValue::Prefix(Bytes::from_static(value.as_bytes()));
        assert!(with(&[("type", equals("refund")), ("type", equals("sale")), ("trace", HeaderValue::Any)]));
        assert!(with(&[("type", prefix("ref"))]));
        assert!(!with(&[("type", equals("ref"))]));
        assert!(!with(&[("type", equals("sale")), ("other", HeaderValue::Any)]));
        // An absent value is not an empty one.
        assert!(!with(&[("trace", equals(""))]) && !with(&[("trace", prefix(""))]));
    }
}
