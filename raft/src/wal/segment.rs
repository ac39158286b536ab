//! A segment file: a header page, then batches, then zeros up to the size that it was made with.
//!
//! The zeros are written and synced before the file gets its name, so that an append overwrites blocks
//! that are there already (half the latency of a growing file), and so that a named segment always has
//! a whole header: a broken one is damage, never a torn write. Only the process that made a segment
//! appends to it; each opening of the log begins a new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::batch;
use super::record::{self, Kind};
use super::seal::{self, DataKey, SALT_BYTES, SegmentSeal, TAG_BYTES};
use crate::error::OpenError;

/// The size of a segment file.
pub(crate) const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
/// Where the first batch begins.
pub(crate) const HEADER_BYTES: u64 = 4096;
const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"skep-wal";
/// Header fields: magic, version, 4 zeros, number, first sequence, size, salt; then tag, then CRC.
const SALT_AT: usize = 40;
const TAG_AT: usize = SALT_AT + SALT_BYTES;
const CRC_AT: usize = TAG_AT + TAG_BYTES;
const FIELDS_END: usize = CRC_AT + 4;
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// How a segment's data is made durable; tests put a failing one in its place.
pub(crate) type SyncFile = Arc<dyn Fn(&File) -> io::Result<()> + Send + Sync>;

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

/// Where segment `number` is until it is whole.
pub(crate) fn new_path(dir: &Path, number: u64) -> PathBuf {
    path(dir, number).with_extension("seg.new")
}

/// Removes the segments before `number`, the oldest first.
pub(crate) fn remove_before(dir: &Path, number: u64) -> io::Result<()> {
    let old: Vec<u64> = list(dir)?.into_iter().filter(|old| *old < number).collect();
    for old in &old {
        fs::remove_file(path(dir, *old))?;
    }
    if old.is_empty() { Ok(()) } else { seal::sync_dir(dir) }
}

/// A segment that is being written.
pub(crate) struct Segment {
    file: File,
    seal: SegmentSeal,
    pub(crate) path: PathBuf,
    pub(crate) number: u64,
    bytes: u64,
    /// Where the next batch begins.
    offset: u64,
}

impl Segment {
    /// Makes segment `number` with a fresh salt, durable before it has its name.
    pub(crate) fn create(
        dir: &Path,
        key: &DataKey,
        number: u64,
        first_sequence: u64,
        bytes: u64,
    ) -> Result<Segment, OpenError> {
        let path = path(dir, number);
        let salt = seal::random()?;
        let seal = SegmentSeal::new(key, &salt, number);
        let mut header = Vec::with_capacity(FIELDS_END);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        header.extend_from_slice(&number.to_le_bytes());
        header.extend_from_slice(&first_sequence.to_le_bytes());
        header.extend_from_slice(&bytes.to_le_bytes());
        header.extend_from_slice(&salt);
        let tag = seal.header_tag(&header);
        header.extend_from_slice(&tag);
        header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
        let file = write_new(dir, number, &header, bytes)?;
        Ok(Segment { file, seal, path, number, bytes, offset: HEADER_BYTES })
    }

    /// Whether a batch with this much plain text still fits.
    pub(crate) fn fits(&self, plain_len: usize) -> bool {
        let len = u64::try_from(batch::disk_len(plain_len)).expect("a length fits in 64 bits");
        self.bytes - self.offset >= len
    }

    /// Writes one batch and makes it durable. After an error the segment is not to be used.
    pub(crate) fn append(&mut self, sequence: u64, plain: &[u8], sync: &SyncFile) -> io::Result<()> {
        assert!(self.fits(plain.len()), "the writer begins a new segment when this one is full");
        let batch = batch::encode(&self.seal, sequence, plain);
        self.file.write_all_at(&batch, self.offset)?;
        sync(&self.file)?;
        self.offset += u64::try_from(batch.len()).expect("a length fits in 64 bits");
        Ok(())
    }
}

fn write_new(dir: &Path, number: u64, header: &[u8], bytes: u64) -> Result<File, OpenError> {
    let (new, path) = (new_path(dir, number), path(dir, number));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .map_err(OpenError::io("create", &new))?;
    zero(&mut file, bytes)
        .and_then(|()| file.write_all_at(header, 0))
        .and_then(|()| file.sync_all())
        .map_err(OpenError::io("fill", &new))?;
    fs::rename(&new, &path).map_err(OpenError::io("rename to", &path))?;
    seal::sync_dir(dir).map_err(OpenError::io("sync", dir))?;
    Ok(file)
}

fn zero(file: &mut File, bytes: u64) -> io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        let chunk = usize::try_from(left).unwrap_or(ZEROS.len()).min(ZEROS.len());
        file.write_all(&ZEROS[..chunk])?;
        left -= u64::try_from(chunk).expect("a length fits in 64 bits");
    }
    Ok(())
}

/// A segment as found on disk, its header checked.
pub(crate) struct Loaded {
    pub(crate) path: PathBuf,
    pub(crate) seal: SegmentSeal,
    pub(crate) first_sequence: u64,
    /// All of the file; batches begin at `HEADER_BYTES`.
    pub(crate) bytes: Vec<u8>,
}

impl Loaded {
    /// Reads segment `number` whole.
    pub(crate) fn read(dir: &Path, key: &DataKey, number: u64) -> Result<Loaded, OpenError> {
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
        if crc32fast::hash(&header[..CRC_AT]).to_le_bytes() != header[CRC_AT..] {
            return Err(damaged(0, "its header does not match its checksum"));
        }
        let salt: [u8; SALT_BYTES] = header[SALT_AT..TAG_AT].try_into().expect("the slice has that length");
        let seal = SegmentSeal::new(key, &salt, le_u64(header, 16));
        if seal.header_tag(&header[..TAG_AT]) != header[TAG_AT..CRC_AT] {
            return Err(OpenError::WrongKey { file: path, key: DataKey::path(dir) });
        }
        if le_u64(header, 16) != number {
            return Err(damaged(0, &format!("it is segment {} under another name", le_u64(header, 16))));
        }
        if u64::try_from(bytes.len()) != Ok(le_u64(header, 32)) {
            return Err(damaged(bytes.len(), &format!("it was made with {} bytes", le_u64(header, 32))));
        }
        let first_sequence = le_u64(header, 24);
        Ok(Loaded { path, seal, first_sequence, bytes })
    }
}

impl Loaded {
    /// Whether all that counts of older segments is said at its beginning.
    pub(crate) fn begins_anew(&self) -> bool {
        let at = usize::try_from(HEADER_BYTES).expect("a header is small");
        let batch::Found::Batch { plain, .. } =
            batch::decode(&self.seal, self.bytes.get(at..).unwrap_or_default())
        else {
            return false;
        };
        let records = record::decode_all(&plain).unwrap_or_default();
        records.first().is_some_and(|first| matches!(first.kind, Some(Kind::Anew(_))))
    }
}

fn le_u64(header: &[u8; FIELDS_END], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&header[at..at + 8]);
    u64::from_le_bytes(bytes)
}

/// Zeroes a segment from `offset` to its end, durably: the cut of a torn tail.
pub(crate) fn cut(path: &Path, offset: u64) -> Result<(), OpenError> {
    let mut file = OpenOptions::new().write(true).open(path).map_err(OpenError::io("open", path))?;
    let bytes = file.metadata().map_err(OpenError::io("inspect", path))?.len();
    file.seek(SeekFrom::Start(offset))
        .and_then(|_| zero(&mut file, bytes.saturating_sub(offset)))
        .and_then(|()| file.sync_all())
        .map_err(OpenError::io("cut the torn tail of", path))
}
