//! Conditions on records, as `--filter` names them. Pure.

use sawlog_client::ReaderBuilder;
use sawlog_client::groups::{HeaderFilter, HeaderValue, RecordFilter};

/// A condition on records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Filter {
    /// Exactly this key.
    Key(String),
    /// A key that begins with this.
    KeyPrefix(String),
    /// A header of this name.
    Header(String),
    /// A header of this name with this value.
    HeaderEquals(String, String),
    /// A header of this name whose value begins with this.
    HeaderPrefix(String, String),
}

impl Filter {
    /// Parses `key=K`, `key^=PREFIX`, `header.NAME`, `header.NAME=V` or `header.NAME^=PREFIX`.
    ///
    /// # Errors
    /// What is allowed.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        const ALLOWED: &str = "expected key=K, key^=PREFIX, header.NAME, header.NAME=V or header.NAME^=PREFIX";
        let (subject, operator, value) = match (text.find("^="), text.find('=')) {
            (Some(at), Some(equals)) if at < equals => (&text[..at], "^=", &text[at + 2..]),
            (_, Some(at)) => (&text[..at], "=", &text[at + 1..]),
            _ => (text, "", ""),
        };
        let value = value.to_owned();
        match (subject, subject.strip_prefix("header."), operator) {
            ("key", _, "=") => Ok(Self::Key(value)),
            ("key", _, "^=") => Ok(Self::KeyPrefix(value)),
            (_, Some(""), _) => Err(ALLOWED.to_owned()),
            (_, Some(name), "") => Ok(Self::Header(name.to_owned())),
            (_, Some(name), "=") => Ok(Self::HeaderEquals(name.to_owned(), value)),
            (_, Some(name), "^=") => Ok(Self::HeaderPrefix(name.to_owned(), value)),
            _ => Err(ALLOWED.to_owned()),
        }
    }

    /// A reader of the records for which all of them hold.
    pub(crate) fn apply(filters: &[Self], reader: ReaderBuilder) -> ReaderBuilder {
        filters.iter().fold(reader, |reader, filter| match filter {
            Self::Key(key) => reader.key(key.clone()),
            Self::KeyPrefix(prefix) => reader.key_prefix(prefix.clone()),
            Self::Header(name) => reader.header(name),
            Self::HeaderEquals(name, value) => reader.header_equals(name, value.clone()),
            Self::HeaderPrefix(name, value) => reader.header_prefix(name, value.clone()),
        })
    }

    /// All of them as the filter of a group or replay; `None` if there is none.
    pub(crate) fn joined(filters: &[Self]) -> Option<RecordFilter> {
        let mut joined = RecordFilter::default();
        let header = |name: &String, value| HeaderFilter { key: name.clone(), value };
        for filter in filters {
            match filter {
                Self::Key(key) => joined.key = Some(key.clone().into()),
                Self::KeyPrefix(prefix) => joined.key_prefix = Some(prefix.clone().into()),
                Self::Header(name) => joined.headers.push(header(name, HeaderValue::Any)),
                Self::HeaderEquals(name, value) => {
                    joined.headers.push(header(name, HeaderValue::Equals(value.clone().into())));
                }
                Self::HeaderPrefix(name, value) => {
                    joined.headers.push(header(name, HeaderValue::Prefix(value.clone().into())));
                }
            }
        }
        (!filters.is_empty()).then_some(joined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_told_apart() {
        assert_eq!(Filter::parse("key=a=b"), Ok(Filter::Key("a=b".to_owned())));
        assert_eq!(Filter::parse("key^=5363"), Ok(Filter::KeyPrefix("5363".to_owned())));
        assert_eq!(Filter::parse("key=a^=b"), Ok(Filter::Key("a^=b".to_owned())));
        assert_eq!(Filter::parse("header.trace"), Ok(Filter::Header("trace".to_owned())));
        assert_eq!(Filter::parse("header.a=1"), Ok(Filter::HeaderEquals("a".to_owned(), "1".to_owned())));
        assert_eq!(Filter::parse("header.a^="), Ok(Filter::HeaderPrefix("a".to_owned(), String::new())));
        assert!(
            Filter::parse("key").is_err() && Filter::parse("header.=1").is_err() && Filter::parse("value=1").is_err()
        );
    }

    #[test]
    fn the_filter_of_a_replay_says_what_that_of_a_reader_says() {
        assert_eq!(Filter::joined(&[]), None);
        let filters = ["key^=A", "header.source=shop"].map(|text| Filter::parse(text).unwrap());
        let header = HeaderFilter { key: "source".to_owned(), value: HeaderValue::Equals("shop".into()) };
        let joined = RecordFilter { key: None, key_prefix: Some("A".into()), headers: vec![header] };
        assert_eq!(Filter::joined(&filters), Some(joined));
    }
}
