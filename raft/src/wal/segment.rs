//! A segment file: a header page, then batches, then zeros up to the size that it was made with.
//!
//! It begins as a spare one (`spare`). Header and first batch, which says where the log stands
//! ([`Said`]), are on disk before it gets its name: in a named segment what is wrong with
//! them is damage, never a torn write, and older segments matter for their entries alone. Only the
//! process that began a segment appends to it; each opening of the log begins a new one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;

use super::batch::{self, Found};
use super::files::Files;
use super::record::{self, Kind, Record, Said};
use super::spare;
use crate::error::OpenError;
use crate::keys::Keys;
use crate::seal::{self, DataKey, SALT_BYTES, SegmentSeal, TAG_BYTES};

/// The size of a segment file.
pub(crate) const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
/// Where the first batch begins.
pub(crate) const HEADER_BYTES: u64 = 4096;
/// What the first batch may take on disk: it is a few dozen bytes.
pub(crate) const BASE_BYTES: usize = batch::ALIGN;
const VERSION: u32 = 3;
pub(crate) const MAGIC: [u8; 8] = *b"skep-wal";
/// Header fields: magic, version, number of the data key, number, first sequence, size, salt; then tag, then CRC.
const KEY_AT: usize = 12;
const SALT_AT: usize = 40;
const TAG_AT: usize = SALT_AT + SALT_BYTES;
const CRC_AT: usize = TAG_AT + TAG_BYTES;
const FIELDS_END: usize = CRC_AT + 4;

/// The path of segment `number`.
pub(crate) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("wal-{number:016x}.seg"))
}

/// The numbers of all segments in `dir`, in order.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for file in fs::read_dir(dir)? {
        let name = file?.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix("wal-")).and_then(|n| n.strip_suffix(".seg"));
        if let Some(number) = number.and_then(|n| u64::from_str_radix(n, 16).ok()) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Removes segments, the oldest first.
pub(crate) fn remove(files: &dyn Files, dir: &Path, numbers: &[u64]) -> io::Result<()> {
    for number in numbers {
        files.remove(&path(dir, *number))?;
    }
    if numbers.is_empty() { Ok(()) } else { files.sync_dir(dir) }
}

/// What a segment is made of.
pub(crate) struct Place<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) key: &'a Arc<DataKey>,
    pub(crate) number: u64,
    /// Of its first batch, which says where the log stands.
    pub(crate) first_sequence: u64,
    pub(crate) bytes: u64,
}

/// A segment that is being written.
pub(crate) struct Segment {
    file: File,
    seal: SegmentSeal,
    /// Not forgotten while it is written.
    _key: Arc<DataKey>,
    pub(crate) path: PathBuf,
    pub(crate) number: u64,
    bytes: u64,
    /// Where the next batch begins.
    offset: u64,
}

impl Segment {
    /// Begins a segment under a fresh salt in `file`, which is all zeros and has the name `from`: header and
    /// first batch, and `more` batches of plain text, durable before it has its own name.
    pub(crate) fn begin(
        files: &dyn Files,
        place: &Place<'_>,
        file: File,
        from: &Path,
        said: &Said,
        more: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<Segment, OpenError> {
        let (start, seal) = start(place, said)?;
        let path = path(place.dir, place.number);
        let offset = u64::try_from(start.len()).expect("a length fits in 64 bits");
        files.write(&file, &start, 0).map_err(OpenError::io("write", from))?;
        let mut segment = Segment {
            file,
            seal,
            _key: Arc::clone(place.key),
            path: path.clone(),
            number: place.number,
            bytes: place.bytes,
            offset,
        };
        for (sequence, plain) in (place.first_sequence + 1..).zip(more) {
            segment.write(files, sequence, &plain).map_err(OpenError::io("write", from))?;
        }
        files.sync(&segment.file).map_err(OpenError::io("sync", from))?;
        files.rename(from, &path).map_err(OpenError::io("rename to", &path))?;
        files.sync_dir(place.dir).map_err(OpenError::io("sync", place.dir))?;
        Ok(segment)
    }

    /// Whether a batch with this much plain text still fits.
    pub(crate) fn fits(&self, plain_len: usize) -> bool {
        let len = u64::try_from(batch::disk_len(plain_len)).expect("a length fits in 64 bits");
        self.bytes - self.offset >= len
    }

    /// Writes one batch and makes it durable. After an error the segment is not to be used.
    pub(crate) fn append(&mut self, files: &dyn Files, sequence: u64, plain: &[u8]) -> io::Result<()> {
        self.write(files, sequence, plain)?;
        files.sync(&self.file)
    }

    fn write(&mut self, files: &dyn Files, sequence: u64, plain: &[u8]) -> io::Result<()> {
        assert!(self.fits(plain.len()), "the writer begins a new segment when this one is full");
        let batch = batch::encode(&self.seal, sequence, plain);
        files.write(&self.file, &batch, self.offset)?;
        self.offset += u64::try_from(batch.len()).expect("a length fits in 64 bits");
        Ok(())
    }
}

/// How a segment under a fresh salt begins: its header and its first batch.
pub(crate) fn start(place: &Place<'_>, said: &Said) -> Result<(Vec<u8>, SegmentSeal), OpenError> {
    let salt = seal::random()?;
    let seal = SegmentSeal::new(place.key, &salt, place.number);
    let mut start = header(place, &salt, &seal);
    start.resize(usize::try_from(HEADER_BYTES).expect("a header is small"), 0);
    let base = batch::encode(&seal, place.first_sequence, &said.encode());
    assert!(base.len() <= BASE_BYTES, "what a log says but for its entries is small");
    start.extend_from_slice(&base);
    Ok((start, seal))
}

fn header(place: &Place<'_>, salt: &[u8; SALT_BYTES], seal: &SegmentSeal) -> Vec<u8> {
    let mut header = Vec::with_capacity(FIELDS_END);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&place.key.number.to_le_bytes());
    header.extend_from_slice(&place.number.to_le_bytes());
    header.extend_from_slice(&place.first_sequence.to_le_bytes());
    header.extend_from_slice(&place.bytes.to_le_bytes());
    header.extend_from_slice(salt);
    let tag = seal.header_tag(&header);
    header.extend_from_slice(&tag);
    header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
    header
}

/// A segment as found on disk, its header checked.
pub(crate) struct Loaded {
    pub(crate) path: PathBuf,
    pub(crate) seal: SegmentSeal,
    pub(crate) first_sequence: u64,
    /// What its first batch says.
    pub(crate) base: Vec<Record>,
    /// Where the batch after that begins.
    pub(crate) begins_at: usize,
    /// All of the file; batches begin at `HEADER_BYTES`.
    pub(crate) bytes: Vec<u8>,
}

impl Loaded {
    /// Reads segment `number` whole.
    pub(crate) fn read(dir: &Path, keys: &Keys, number: u64) -> Result<Loaded, OpenError> {
        let path = path(dir, number);
        let bytes = fs::read(&path).map_err(OpenError::io("read", &path))?;
        let damaged = |offset: usize, reason: &str| OpenError::Damaged {
            file: path.clone(),
            offset: u64::try_from(offset).unwrap_or(u64::MAX),
            reason: reason.to_owned(),
        };
        let Some(header) = bytes.first_chunk::<FIELDS_END>() else {
            return Err(damaged(bytes.len(), "the file ends within its header"));
        };
        if header[..8] != MAGIC {
            return Err(damaged(0, "it does not begin as a log segment does"));
        }
        let version = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        if version > VERSION {
            return Err(OpenError::NewerFormat { file: path, version, known: VERSION });
        }
        if version < VERSION {
            return Err(damaged(8, &format!("it has format {version}, which this binary does not read")));
        }
        if crc32fast::hash(&header[..CRC_AT]).to_le_bytes() != header[CRC_AT..] {
            return Err(damaged(0, "its header does not match its checksum"));
        }
        let salt: [u8; SALT_BYTES] = header[SALT_AT..TAG_AT].try_into().expect("the slice has that length");
        let number_of_key =
            u32::from_le_bytes([header[KEY_AT], header[KEY_AT + 1], header[KEY_AT + 2], header[KEY_AT + 3]]);
        let is_ours = |seal: &SegmentSeal| seal.header_tag(&header[..TAG_AT]) == header[TAG_AT..CRC_AT];
        let seal = keys.get(number_of_key).map(|key| SegmentSeal::new(&key, &salt, le_u64(header, 16)));
        let Some(seal) = seal.filter(is_ours) else {
            return Err(OpenError::WrongKey { file: path, key: Keys::path(dir) });
        };
        if le_u64(header, 16) != number {
            return Err(damaged(0, &format!("it is segment {} under another name", le_u64(header, 16))));
        }
        if u64::try_from(bytes.len()) != Ok(le_u64(header, 32)) {
            return Err(damaged(bytes.len(), &format!("it was made with {} bytes", le_u64(header, 32))));
        }
        let first_sequence = le_u64(header, 24);
        let at = usize::try_from(HEADER_BYTES).expect("a header is small");
        if !spare::is_zero(&bytes[FIELDS_END..bytes.len().min(at)]) {
            return Err(damaged(FIELDS_END, "the rest of its header is not empty"));
        }
        let Some((base, len)) = read_base(&seal, first_sequence, bytes.get(at..).unwrap_or_default()) else {
            return Err(damaged(at, "the batch that every segment begins with cannot be read"));
        };
        Ok(Loaded { path, seal, first_sequence, base, begins_at: at + len, bytes })
    }

    /// The index of the next entry as this segment began.
    pub(crate) fn next(&self) -> u64 {
        self.said().next
    }

    /// Whether all entries that counted as it began are in itself.
    pub(crate) fn begins_anew(&self) -> bool {
        let said = self.said();
        said.next == said.first()
    }

    /// What it says of the log as it began.
    pub(crate) fn said(&self) -> Said {
        let mut said = Said::default();
        self.base.iter().for_each(|record| said.take(record));
        said
    }
}

/// The records of a segment's first batch, and how long it is.
fn read_base(seal: &SegmentSeal, first_sequence: u64, bytes: &[u8]) -> Option<(Vec<Record>, usize)> {
    let Found::Batch { sequence, plain, disk_len } = batch::decode(seal, bytes) else { return None };
    let records = record::decode_all(plain).ok()?;
    let is_base = |record: &Record| matches!(record.kind, Some(Kind::Base(_)));
    (sequence == first_sequence && records.first().is_some_and(is_base)).then_some((records, disk_len))
}

fn le_u64(header: &[u8; FIELDS_END], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&header[at..at + 8]);
    u64::from_le_bytes(bytes)
}

/// The end of the log: its last batch, which may be in memory alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tail {
    pub(crate) path: PathBuf,
    /// Where the last batch begins.
    pub(crate) from: u64,
    /// All of it, as found.
    pub(crate) batch: Bytes,
    /// That what follows is not zeros, but what is left of a write that was interrupted.
    pub(crate) is_torn: bool,
}

/// Makes the end of the log durable. The last batch is written again, as an earlier sync of it may have
/// failed, or never have been: it would be read from memory now, and not be there after a power cut. A torn
/// write after it is zeroed, before its sequence number is given out again.
pub(crate) fn settle(files: &dyn Files, tail: &Tail) -> Result<(), OpenError> {
    let file = OpenOptions::new().write(true).open(&tail.path).map_err(OpenError::io("open", &tail.path))?;
    let end = file.metadata().map_err(OpenError::io("inspect", &tail.path))?.len();
    let torn_at = tail.from + u64::try_from(tail.batch.len()).expect("a length fits in 64 bits");
    files
        .write(&file, &tail.batch, tail.from)
        .and_then(|()| files.sync(&file))
        .and_then(|()| match tail.is_torn {
            true => spare::fill(files, &file, torn_at, end, &AtomicBool::new(false)),
            false => Ok(()),
        })
        .map_err(OpenError::io("make durable the end of", &tail.path))
}
