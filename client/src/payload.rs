//! Typed payloads: from a value to the bytes of a record and back. The broker never looks inside them.

use std::fmt::Debug;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a payload could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{format} payload of {bytes} bytes: {cause}")]
pub struct PayloadError {
    /// Name of the format.
    pub format: &'static str,
    /// Length of the payload that was read; 0 when writing.
    pub bytes: usize,
    /// What the format says.
    pub cause: String,
}

/// A way from values to payloads and back.
pub trait Codec {
    /// The values.
    type Value;

    /// The payload of a value.
    ///
    /// # Errors
    /// If the format cannot express the value.
    fn encode(&self, value: &Self::Value) -> Result<Bytes, PayloadError>;

    /// The value of a payload.
    ///
    /// # Errors
    /// If the bytes are none of this format.
    fn decode(&self, payload: &Bytes) -> Result<Self::Value, PayloadError>;
}

/// The bytes themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Raw;

impl Codec for Raw {
    type Value = Bytes;

    fn encode(&self, value: &Bytes) -> Result<Bytes, PayloadError> {
        Ok(value.clone())
    }

    fn decode(&self, payload: &Bytes) -> Result<Bytes, PayloadError> {
        Ok(payload.clone())
    }
}

/// JSON, one value a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<T>(PhantomData<fn() -> T>);

impl<T> Json<T> {
    /// JSON of values of one type.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Default for Json<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Serialize + DeserializeOwned> Codec for Json<T> {
    type Value = T;

    fn encode(&self, value: &T) -> Result<Bytes, PayloadError> {
        serde_json::to_vec(value).map(Bytes::from).map_err(|cause| error("JSON", 0, json_cause(&cause)))
    }

    fn decode(&self, payload: &Bytes) -> Result<T, PayloadError> {
        serde_json::from_slice(payload).map_err(|cause| error("JSON", payload.len(), json_cause(&cause)))
    }
}

/// Protocol Buffers, one message a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prost<T>(PhantomData<fn() -> T>);

impl<T> Prost<T> {
    /// Messages of one type.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Default for Prost<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: prost::Message + Default> Codec for Prost<T> {
    type Value = T;

    fn encode(&self, value: &T) -> Result<Bytes, PayloadError> {
        Ok(Bytes::from(value.encode_to_vec()))
    }

    fn decode(&self, payload: &Bytes) -> Result<T, PayloadError> {
        T::decode(payload.clone()).map_err(|cause| error("protobuf", payload.len(), cause.to_string()))
    }
}

fn error(format: &'static str, bytes: usize, cause: String) -> PayloadError {
    PayloadError { format, bytes, cause }
}

/// What and where, without the content: payloads do not belong into logs.
fn json_cause(cause: &serde_json::Error) -> String {
    format!("{:?} at line {} column {}", cause.classify(), cause.line(), cause.column())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sawlog_proto::v1;

    #[test]
    fn each_codec_gives_back_what_it_was_given() {
        let raw = Bytes::from_static(b"\x00\xffany");
        assert_eq!(Raw.decode(&Raw.encode(&raw).unwrap()).unwrap(), raw);

        let json = Json::<Vec<(String, i64)>>::new();
        let value = vec![("a".to_owned(), -1), (String::new(), i64::MAX)];
        assert_eq!(json.decode(&json.encode(&value).unwrap()).unwrap(), value);

        let prost = Prost::<v1::Header>::new();
        let value = v1::Header { key: "k".to_owned(), value: raw };
        assert_eq!(prost.decode(&prost.encode(&value).unwrap()).unwrap(), value);
    }

    #[test]
    fn bytes_of_another_format_are_an_error_that_names_the_format_and_not_the_content() {
        let secret = Bytes::from_static(b"\"secret\"");
        let error = Json::<u64>::new().decode(&secret).unwrap_err();
        assert!(error.to_string().starts_with("JSON payload of 8 bytes"), "{error}");
        assert!(!error.to_string().contains("secret"));
        assert!(Prost::<v1::Header>::new().decode(&secret).is_err());
    }
}
