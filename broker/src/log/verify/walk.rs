//! Walks over all frames of a log and judges what is bad.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::{Dumped, Finding, Grade, LogReport, SegmentListing, SegmentReport, list_segments};
use crate::log::environment::LogIdentity;
use crate::log::format::{self, FRAME_HEADER_BYTES, FileKind, SEGMENT_HEADER_BYTES};
use crate::log::frame::{FrameContext, FrameHeader};
use crate::log::index::{self, OffsetIndex};
use crate::log::scan::{FrameAt, FrameWalker, SCAN_CHUNK_BYTES};
use crate::log::segment_header::{FoundHeader, SegmentFault, SegmentHeader, read_header};
use crate::log::storage::{OpenMode, Storage, StorageFile};
use crate::log::time_index::{self, TimeIndex};
use crate::model::{FilePosition, Offset, OffsetRange};

/// Most bytes of an index file that are read.
const INDEX_BYTES: u64 = 256 << 20;

/// Bytes that are no good frame, met on the walk and not judged yet.
#[derive(Debug)]
struct Bad {
    file: PathBuf,
    position: FilePosition,
    what: String,
    /// The offsets in them; `to` is not known behind the last good frame.
    from: Offset,
    to: Option<Offset>,
}

/// The walk over one log.
#[derive(Debug)]
struct Walk<'a> {
    storage: &'a dyn Storage,
    identity: Option<LogIdentity>,
    /// Offset that the next record has.
    next: Offset,
    proven_end: Offset,
    last_time_ms: i64,
    last_epoch: u32,
    bad: Vec<Bad>,
    findings: Vec<Finding>,
}

pub(super) fn verify(storage: &dyn Storage, dir: &Path) -> io::Result<LogReport> {
    let listing = list_segments(storage, dir)?;
    let mut walk = Walk {
        storage,
        identity: find_identity(storage, &listing),
        next: listing.first().map_or(Offset::ZERO, |segment| segment.base),
        proven_end: listing.last().map_or(Offset::ZERO, |segment| segment.base),
        last_time_ms: i64::MIN,
        last_epoch: 0,
        bad: Vec::new(),
        findings: Vec::new(),
    };
    let mut segments = Vec::new();
    for (at, segment) in listing.iter().enumerate() {
        let limit = listing.get(at + 1).map(|next| next.base);
        match walk.segment(segment, limit) {
            Ok(report) => segments.push(report),
            Err(error) => {
                let what = format!("cannot be read: {error}");
                let lost = OffsetRange { from: segment.base, to: limit.unwrap_or(walk.proven_end) };
                walk.find(Grade::Damage, &segment.file, None, what, Some(lost).filter(|lost| !lost.is_empty()));
                walk.next = walk.next.max(limit.unwrap_or_default());
            }
        }
    }
    walk.judge(dir);
    let Walk { identity, next, proven_end, mut findings, .. } = walk;
    findings.sort_by(|one, other| one.file.cmp(&other.file).then(one.position.cmp(&other.position)));
    Ok(LogReport { dir: dir.to_path_buf(), identity, segments, end: next, proven_end, findings })
}

/// Whose log it is: what the first good segment header says.
fn find_identity(storage: &dyn Storage, listing: &[SegmentListing]) -> Option<LogIdentity> {
    listing.iter().find_map(|segment| {
        let file = storage.open(&segment.file, OpenMode::Read).ok()?;
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let read = file.read_at(&mut bytes, 0).ok()?;
        Some(SegmentHeader::decode(&bytes[..read]).ok()?.identity)
    })
}

/// Checks that a log lies where its segments say that it belongs.
pub(super) fn check_place(report: &mut LogReport, uuid: Option<[u8; 16]>) {
    let Some(identity) = report.identity else { return };
    let mut wrong = |what: String| {
        let file = report.dir.clone();
        report.findings.push(Finding { grade: Grade::Damage, file, position: None, what, lost: None });
    };
    if uuid.is_some_and(|uuid| uuid != identity.data_dir) {
        wrong("its segments are of another data directory".to_owned());
    }
    let place = Path::new(super::TOPICS_DIR).join(identity.topic_id.to_string()).join(identity.partition.to_string());
    if report.dir.starts_with(super::TOPICS_DIR) && report.dir != place {
        wrong(format!("its segments belong to {}", place.display()));
    }
}

impl Walk<'_> {
    fn find(
        &mut self,
        grade: Grade,
        file: &Path,
        position: Option<FilePosition>,
        what: String,
        lost: Option<OffsetRange>,
    ) {
        self.findings.push(Finding { grade, file: file.to_path_buf(), position, what, lost });
    }

    fn segment(&mut self, listing: &SegmentListing, limit: Option<Offset>) -> io::Result<SegmentReport> {
        let file = self.storage.open(&listing.file, OpenMode::Read)?;
        let mut report = SegmentReport {
            file: listing.file.clone(),
            base: listing.base,
            end: listing.base,
            bytes: listing.log_bytes,
            frames: 0,
            marks: 0,
            records: 0,
            times_ms: None,
            epochs: None,
        };
        if listing.base > self.next {
            let (from, to) = (self.next, Some(listing.base));
            let what = format!("records {from} to {} are in no segment", listing.base);
            self.bad.push(Bad { file: listing.file.clone(), position: FilePosition(0), what, from, to });
        }
        self.next = listing.base;
        let Some(header) = self.header(&*file, listing)? else {
            // Without a salt nothing in it can be told from stale bytes.
            self.next = self.next.max(limit.unwrap_or_default());
            return Ok(report);
        };
        let context = FrameContext::new(&header.identity, header.salt);
        let places = self.frames(&*file, listing, limit, context, &mut report)?;
        report.end = self.next;
        self.index_files(listing, limit, &context, &places);
        Ok(report)
    }

    /// The segment's header, made good from its frames if it must be.
    fn header(&mut self, file: &dyn StorageFile, listing: &SegmentListing) -> io::Result<Option<SegmentHeader>> {
        let start = Some(FilePosition(0));
        let Some(identity) = self.identity else {
            let what = "no segment of the log has a good header".to_owned();
            self.find(Grade::Damage, &listing.file, start, what, None);
            return Ok(None);
        };
        Ok(match read_header(file, &identity, listing.base)? {
            Ok(FoundHeader::Good(header)) => Some(header),
            Ok(FoundHeader::MadeGood(header)) => {
                let what = "the segment header is damaged; its frames make it good".to_owned();
                self.find(Grade::Rebuildable, &listing.file, start, what, None);
                Some(header)
            }
            Ok(FoundHeader::Lost) => {
                let what = "neither a good header nor a good frame".to_owned();
                self.bad.push(Bad {
                    file: listing.file.clone(),
                    position: FilePosition(0),
                    what,
                    from: listing.base,
                    to: None,
                });
                None
            }
            Err(fault @ (SegmentFault::Version { .. } | SegmentFault::Foreign(_) | SegmentFault::Damaged(_))) => {
                self.find(Grade::Damage, &listing.file, start, fault.to_string(), None);
                None
            }
        })
    }

    /// Walks over all frames of a segment; returns where each good one begins.
    fn frames(
        &mut self,
        file: &dyn StorageFile,
        listing: &SegmentListing,
        limit: Option<Offset>,
        context: FrameContext,
        report: &mut SegmentReport,
    ) -> io::Result<HashMap<u64, FrameHeader>> {
        let mut walker = FrameWalker::new(file, context, listing.log_bytes, SCAN_CHUNK_BYTES);
        let mut places = HashMap::new();
        let mut position = SEGMENT_HEADER_BYTES as u64;
        loop {
            let at = walker.frame_at(position)?;
            let (end, what) = match at {
                FrameAt::End => return Ok(places),
                // A segment ends where the next one begins: what follows is never judged (rule D7).
                FrameAt::Good(header) if limit.is_some_and(|limit| header.base_offset >= limit && !header.mark) => {
                    return Ok(places);
                }
                FrameAt::Good(header) => {
                    self.good(&header, listing, position, report);
                    places.insert(position, header);
                    position += header.frame_bytes();
                    continue;
                }
                FrameAt::BadBody(header, fault) => {
                    self.proven_end = self.proven_end.max(header.durable_end);
                    // Only a frame that comes next says where the one after it begins; others may be stale.
                    let bytes = if header.base_offset == self.next { header.frame_bytes() } else { 8 };
                    (position + bytes, fault.to_string())
                }
                FrameAt::BadHeader(fault) => (position + 8, fault.to_string()),
            };
            if walker.end_of_data(position)? <= position {
                // Zeros to the end: space allocated ahead, unless something says that records had been there.
                self.space(listing, position, limit);
                return Ok(places);
            }
            let next = self.next;
            let found = walker.next_header(end, |header| header.base_offset >= next)?;
            let to = found.map(|(_, header)| header.base_offset);
            let file = listing.file.clone();
            self.bad.push(Bad { file, position: FilePosition(position), what, from: next, to });
            let Some((found, header)) = found else { return Ok(places) };
            self.next = header.base_offset;
            position = found;
        }
    }

    /// Notes a good frame and checks that it follows the one before.
    fn good(&mut self, header: &FrameHeader, listing: &SegmentListing, position: u64, report: &mut SegmentReport) {
        let mut wrong = Vec::new();
        if header.base_offset != self.next {
            wrong.push(format!("the frame begins at offset {}, expected {}", header.base_offset, self.next));
        }
        if header.append_time_ms < self.last_time_ms {
            wrong.push(format!("the append time falls from {} to {}", self.last_time_ms, header.append_time_ms));
        }
        if header.epoch.get() < self.last_epoch {
            wrong.push(format!("the epoch falls from {} to {}", self.last_epoch, header.epoch));
        }
        for what in wrong {
            let lost = OffsetRange { from: self.next, to: header.base_offset };
            let lost = Some(lost).filter(|lost| !lost.is_empty());
            self.find(Grade::Damage, &listing.file, Some(FilePosition(position)), what, lost);
        }
        self.next = header.end_offset();
        self.proven_end = self.proven_end.max(header.durable_end);
        self.last_time_ms = header.append_time_ms;
        self.last_epoch = header.epoch.get();
        if header.mark {
            report.marks += 1;
        } else {
            report.frames += 1;
            report.records += u64::from(header.record_count);
        }
        let first = report.times_ms.map_or(header.append_time_ms, |(first, _)| first);
        report.times_ms = Some((first, header.append_time_ms));
        let lowest = report.epochs.map_or(header.epoch, |(lowest, _)| lowest);
        report.epochs = Some((lowest, header.epoch));
    }

    /// Zeros, or nothing, from `position` to the end of a file.
    fn space(&mut self, listing: &SegmentListing, position: u64, limit: Option<Offset>) {
        if limit.is_some_and(|limit| self.next < limit) {
            let (file, position) = (listing.file.clone(), FilePosition(position));
            self.bad.push(Bad { file, position, what: "zeros".to_owned(), from: self.next, to: limit });
        }
    }

    /// Tells damage from a tail that was cut short (rule C3).
    fn judge(&mut self, dir: &Path) {
        for bad in std::mem::take(&mut self.bad) {
            let damage = bad.to.is_some() || bad.from < self.proven_end;
            let grade = if damage { Grade::Damage } else { Grade::TornTail };
            let lost = OffsetRange { from: bad.from, to: bad.to.unwrap_or(self.proven_end) };
            let lost = Some(lost).filter(|lost| damage && !lost.is_empty());
            self.findings.push(Finding { grade, file: bad.file, position: Some(bad.position), what: bad.what, lost });
        }
        let covered = self.findings.iter().filter_map(|finding| finding.lost).any(|lost| lost.to >= self.proven_end);
        if self.next < self.proven_end && !covered {
            let what = format!("the log ends at {}, but {} had been synced", self.next, self.proven_end);
            let lost = OffsetRange { from: self.next, to: self.proven_end };
            self.find(Grade::Damage, dir, None, what, Some(lost));
        }
    }

    /// Checks the indexes of a sealed segment: their checksums, and each entry against the frame it names.
    fn index_files(
        &mut self,
        listing: &SegmentListing,
        limit: Option<Offset>,
        context: &FrameContext,
        places: &HashMap<u64, FrameHeader>,
    ) {
        for kind in [FileKind::Index, FileKind::TimeIndex] {
            let path = listing.file.with_file_name(format::file_name(listing.base, kind));
            let fault = match read_file(self.storage, &path) {
                Ok(Some(bytes)) => index_fault(kind, &bytes, context, listing.base, places),
                // The active segment's are in memory until it is sealed.
                Ok(None) => limit.is_some().then(|| "it is missing".to_owned()),
                Err(error) => Some(format!("cannot be read: {error}")),
            };
            if let Some(what) = fault {
                self.find(Grade::Rebuildable, &path, None, what, None);
            }
        }
    }
}

fn index_fault(
    kind: FileKind,
    bytes: &[u8],
    context: &FrameContext,
    base: Offset,
    places: &HashMap<u64, FrameHeader>,
) -> Option<String> {
    if kind == FileKind::TimeIndex {
        if let Err(fault) = TimeIndex::check(bytes, context, base) {
            return Some(fault.to_string());
        }
        let known = |offset: Offset| places.values().any(|header| header.base_offset == offset && !header.mark);
        return time_index::entries(bytes)
            .find(|entry| !known(entry.offset))
            .map(|entry| format!("an entry names offset {}, where no frame begins", entry.offset));
    }
    if let Err(fault) = OffsetIndex::check(bytes, context, base) {
        return Some(fault.to_string());
    }
    let right = |entry: &index::IndexEntry| {
        places.get(&entry.position.0).is_some_and(|header| header.base_offset == entry.offset)
    };
    index::entries(bytes).find(|entry| !right(entry)).map(|entry| {
        format!("an entry says that offset {} is at byte {}, where it is not", entry.offset, entry.position)
    })
}

fn read_file(storage: &dyn Storage, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match storage.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len()?;
    if len > INDEX_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "an index is never that long"));
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

pub(super) fn dump(
    storage: &dyn Storage,
    path: &Path,
    visit: &mut dyn FnMut(FilePosition, Dumped) -> bool,
) -> io::Result<()> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((base, FileKind::Log)) = format::parse_file_name(name) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a log file"));
    };
    let listing = list_segments(storage, path.parent().unwrap_or(Path::new("")))?;
    let unknown = || io::Error::new(io::ErrorKind::InvalidData, "nothing in the log tells whose it is");
    let identity = find_identity(storage, &listing).ok_or_else(unknown)?;
    let file: Arc<dyn StorageFile> = storage.open(path, OpenMode::Read)?;
    let header = match read_header(&*file, &identity, base)? {
        Ok(FoundHeader::Good(header) | FoundHeader::MadeGood(header)) => header,
        Ok(FoundHeader::Lost) => return Err(unknown()),
        Err(fault) => return Err(io::Error::new(io::ErrorKind::InvalidData, fault)),
    };
    let len = file.len()?;
    let mut walker = FrameWalker::new(&*file, FrameContext::new(&header.identity, header.salt), len, SCAN_CHUNK_BYTES);
    let mut position = SEGMENT_HEADER_BYTES as u64;
    loop {
        let (dumped, next) = match walker.frame_at(position)? {
            FrameAt::End => return Ok(()),
            FrameAt::Good(header) => {
                let (extensions, batch) = body(&*file, position, &header)?;
                (Dumped::Frame { header, extensions, batch }, position + header.frame_bytes())
            }
            FrameAt::BadBody(_, fault) | FrameAt::BadHeader(fault) => {
                if walker.end_of_data(position)? <= position {
                    visit(FilePosition(position), Dumped::Space { bytes: len - position });
                    return Ok(());
                }
                let until = walker.next_header(position + 8, |_| true)?.map_or(len, |(found, _)| found);
                (Dumped::Bad { until: FilePosition(until), fault }, until)
            }
        };
        if !visit(FilePosition(position), dumped) {
            return Ok(());
        }
        position = next;
    }
}

/// Extension block and batch of a good frame.
fn body(file: &dyn StorageFile, position: u64, header: &FrameHeader) -> io::Result<(Bytes, Bytes)> {
    let extensions = header.extension_bytes as usize;
    let mut bytes = vec![0; extensions + header.batch_bytes as usize];
    let read = file.read_at(&mut bytes, position + FRAME_HEADER_BYTES as u64)?;
    if read < bytes.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut bytes = Bytes::from(bytes);
    let batch = bytes.split_off(extensions);
    Ok((bytes, batch))
}
