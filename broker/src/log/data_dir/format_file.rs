//! The file `FORMAT`: says that a directory is ours, in which format, and gives it an id.
//!
//! Looking changes nothing (rule S2); [`settle`] writes only what a look has allowed.

use std::io;
use std::path::{Path, PathBuf};

use super::{DataDirError, files};
use crate::log::format::{FORMAT_MAJOR, FORMAT_MINOR, SEGMENT_HEADER_BYTES};
use crate::log::segment_header::{SegmentFault, SegmentHeader};
use crate::log::storage::{OpenMode, Storage};

/// Name of the file.
const NAME: &str = "FORMAT";
const MAGIC: [u8; 8] = *b"SAWLOG\x01F";
const BYTES: usize = 32;
/// Names that a directory of ours may have before it has a `FORMAT`: the lock of a start that was cut short, and what
/// a file system puts at its root.
const BEFORE_FORMAT: [&str; 3] = ["LOCK", "FORMAT.new", "lost+found"];
/// Names that only a directory of ours has behind its `FORMAT`.
const OURS: [&str; 2] = ["meta", "topics"];

/// What a look has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// An empty directory.
    Nothing,
    /// A good `FORMAT`.
    Good { uuid: [u8; 16] },
    /// No good `FORMAT`, but segments that name the directory's id.
    Restorable { uuid: [u8; 16], what: &'static str },
}

/// Why the bytes are no `FORMAT` of ours.
pub(super) enum Fault {
    Damaged(&'static str),
    Unknown { major: u16, minor: u16 },
}

fn encode(uuid: [u8; 16]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&FORMAT_MAJOR.to_le_bytes());
    bytes[10..12].copy_from_slice(&FORMAT_MINOR.to_le_bytes());
    bytes[12..28].copy_from_slice(&uuid);
    let checksum = crc32fast::hash(&bytes[..28]);
    bytes[28..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Result<[u8; 16], Fault> {
    if bytes.len() != BYTES {
        return Err(Fault::Damaged("its length is wrong"));
    }
    if bytes[28..] != crc32fast::hash(&bytes[..28]).to_le_bytes() {
        return Err(Fault::Damaged("its checksum is wrong"));
    }
    if bytes[..8] != MAGIC {
        return Err(Fault::Damaged("its magic is wrong"));
    }
    let major = u16::from_le_bytes([bytes[8], bytes[9]]);
    if major != FORMAT_MAJOR {
        return Err(Fault::Unknown { major, minor: u16::from_le_bytes([bytes[10], bytes[11]]) });
    }
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&bytes[12..28]);
    Ok(uuid)
}

fn unknown(major: u16, minor: u16) -> DataDirError {
    DataDirError::UnknownFormat { major, minor, known: FORMAT_MAJOR }
}

/// Looks what the directory is, and changes nothing.
pub(super) fn look(storage: &dyn Storage) -> Result<Found, DataDirError> {
    let bytes = files::read(storage, NAME, BYTES as u64)?;
    let what = match bytes.as_deref().map(decode) {
        Some(Ok(uuid)) => return Ok(Found::Good { uuid }),
        Some(Err(Fault::Unknown { major, minor })) => return Err(unknown(major, minor)),
        Some(Err(Fault::Damaged(what))) => what,
        None => {
            let entries = storage.list(Path::new("")).map_err(files::io_error("list", "the data directory"))?;
            let other = |name: &str| !BEFORE_FORMAT.contains(&name);
            let Some(stranger) = entries.iter().map(|entry| &entry.name).find(|name| other(name)) else {
                return Ok(Found::Nothing);
            };
            if !entries.iter().any(|entry| entry.is_dir && OURS.contains(&entry.name.as_str())) {
                return Err(DataDirError::Foreign { found: stranger.clone() });
            }
            "it is missing"
        }
    };
    match uuid_of_segments(storage)? {
        Some(uuid) => Ok(Found::Restorable { uuid, what }),
        None => Err(DataDirError::FormatDamaged { what: what.to_owned() }),
    }
}

/// Writes `FORMAT` if it is not there or damaged; returns the directory's id.
pub(super) fn settle(
    storage: &dyn Storage,
    found: Found,
    new_uuid: [u8; 16],
    warnings: &mut Vec<String>,
) -> Result<[u8; 16], DataDirError> {
    match found {
        Found::Good { uuid } => Ok(uuid),
        Found::Nothing => {
            files::replace(storage, NAME, &encode(new_uuid))?;
            Ok(new_uuid)
        }
        Found::Restorable { uuid, what } => {
            warnings.push(format!("FORMAT was damaged ({what}) and was made good from a segment"));
            files::replace(storage, NAME, &encode(uuid))?;
            Ok(uuid)
        }
    }
}

/// The directory's id as a good segment header says it: the metadata log's first, then any partition's.
fn uuid_of_segments(storage: &dyn Storage) -> Result<Option<[u8; 16]>, DataDirError> {
    if let Some(uuid) = uuid_in(storage, Path::new("meta"))? {
        return Ok(Some(uuid));
    }
    for topic in dirs_in(storage, Path::new("topics"))? {
        for partition in dirs_in(storage, &topic)? {
            if let Some(uuid) = uuid_in(storage, &partition)? {
                return Ok(Some(uuid));
            }
        }
    }
    Ok(None)
}

fn list(storage: &dyn Storage, dir: &Path) -> Result<Vec<crate::log::storage::DirEntry>, DataDirError> {
    match storage.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(files::io_error("list", &dir.to_string_lossy())),
    }
}

fn dirs_in(storage: &dyn Storage, dir: &Path) -> Result<Vec<PathBuf>, DataDirError> {
    Ok(list(storage, dir)?.into_iter().filter(|entry| entry.is_dir).map(|entry| dir.join(entry.name)).collect())
}

/// The id in the first good segment header of a log.
fn uuid_in(storage: &dyn Storage, dir: &Path) -> Result<Option<[u8; 16]>, DataDirError> {
    for entry in list(storage, dir)? {
        if entry.is_dir || !entry.name.ends_with(".log") {
            continue;
        }
        let path = dir.join(&entry.name);
        let io_error = files::io_error("read", &path.to_string_lossy());
        let file = storage.open(&path, OpenMode::Read).map_err(&io_error)?;
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let read = file.read_at(&mut bytes, 0).map_err(&io_error)?;
        match SegmentHeader::decode(&bytes[..read]) {
            Ok(header) => return Ok(Some(header.identity.data_dir)),
            Err(SegmentFault::Version { major, minor }) => return Err(unknown(major, minor)),
            Err(_) => {}
        }
    }
    Ok(None)
}
