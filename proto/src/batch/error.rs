//! What can be wrong with a batch, with its facts.

use std::fmt;

/// Which part of a batch is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// The bytes are fewer or more than the batch says, or too few for a header.
    Length,
    /// The format version is not 2.
    Magic,
    /// The bytes are not those that were sealed.
    Crc,
    /// The count of records is not positive or not the last offset delta plus one.
    Count,
    /// A control batch, which only brokers of Kafka write.
    Control,
    /// A batch of a transaction.
    Transaction,
    /// Another attribute that is not allowed: timestamp type, delete horizon or an unknown bit.
    Attributes,
    /// Producer id, epoch and sequence do not go together.
    Producer,
    /// A record does not parse: lengths, varints, offset deltas, bytes left over.
    Records,
    /// The compressed records cannot be decompressed.
    Compression,
}

impl Flaw {
    /// The name that the fact `what` carries.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Magic => "magic",
            Self::Crc => "crc-32c",
            Self::Count => "count",
            Self::Control => "control bit",
            Self::Transaction => "transaction bit",
            Self::Attributes => "attributes",
            Self::Producer => "producer",
            Self::Records => "records",
            Self::Compression => "compression",
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which bound of a whole batch was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BatchBound {
    /// [`super::BatchLimits::batch_bytes`].
    Bytes,
    /// [`super::BatchLimits::records`].
    Records,
    /// [`super::BatchLimits::decompressed_bytes`].
    DecompressedBytes,
}

impl fmt::Display for BatchBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes",
            Self::Records => "records",
            Self::DecompressedBytes => "decompressed bytes",
        })
    }
}

/// Why a batch was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// It is malformed.
    #[error("{what}: expected {expected}, found {found}{}", At(*.index))]
    Invalid {
        /// Which part.
        what: Flaw,
        /// Index of the record, from 0, if it concerns one.
        index: Option<u32>,
        /// What was expected.
        expected: i64,
        /// What stood there.
        found: i64,
    },
    /// It is compressed in a way that is not known here.
    #[error("codec {codec} is not one of {known}", known = super::Codec::KNOWN)]
    UnsupportedCodec {
        /// Number of the codec in the attributes, 0 to 7.
        codec: u8,
    },
    /// It is too large as a whole.
    #[error("{found} {bound}, at most {max}")]
    TooLarge {
        /// Which bound.
        bound: BatchBound,
        /// What was found; of decompressed bytes only that it is more than allowed.
        found: u64,
        /// What is allowed.
        max: u64,
    },
    /// A record is too large.
    #[error("record {index} has {found} bytes, at most {max}")]
    RecordTooLarge {
        /// Index of the record, from 0.
        index: u32,
        /// Its bytes.
        found: u64,
        /// What is allowed.
        max: u64,
    },
    /// A key is too large.
    #[error("the key of record {index} has {found} bytes, at most {max}")]
    KeyTooLarge {
        /// Index of the record, from 0.
        index: u32,
        /// Bytes of the key.
        found: u64,
        /// What is allowed.
        max: u64,
    },
    /// The headers of a record are too many.
    #[error("record {index} has {found} headers, at most {max}")]
    TooManyHeaders {
        /// Index of the record, from 0.
        index: u32,
        /// Number of headers.
        found: u64,
        /// What is allowed.
        max: u64,
    },
    /// The headers of a record are too large.
    #[error("the headers of record {index} have {found} bytes, at most {max}")]
    HeadersTooLarge {
        /// Index of the record, from 0.
        index: u32,
        /// Bytes of all names and values.
        found: u64,
        /// What is allowed.
        max: u64,
    },
}

impl BatchError {
    pub(super) const fn flaw(what: Flaw, expected: i64, found: i64) -> Self {
        Self::Invalid { what, index: None, expected, found }
    }

    #[cold]
    pub(super) const fn record(index: u32, expected: i64, found: i64) -> Self {
        Self::Invalid { what: Flaw::Records, index: Some(index), expected, found }
    }
}

struct At(Option<u32>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(index) => write!(f, " in record {index}"),
            None => Ok(()),
        }
    }
}
