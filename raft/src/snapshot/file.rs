//! A snapshot file: a header, what the snapshot is of, then its state in sealed pieces.
//!
//! Header (76 bytes, little-endian): magic, version, length of the sealed meta, index of the last entry,
//! salt, tag, CRC. The file has its name only once it is whole and on disk, so what cannot be read in
//! a named file is damage.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;

use super::{MetaRecord, Snapshot};
use crate::error::OpenError;
use crate::wal::seal::{self, DataKey, SALT_BYTES, SegmentSeal, TAG_BYTES};

const MAGIC: [u8; 8] = *b"skepsnap";
const VERSION: u32 = 1;
const INDEX_AT: usize = 16;
const SALT_AT: usize = 24;
const TAG_AT: usize = SALT_AT + SALT_BYTES;
const CRC_AT: usize = TAG_AT + TAG_BYTES;
const HEADER_BYTES: usize = CRC_AT + 4;
/// How much of the state one seal covers.
const PIECE_BYTES: usize = 1024 * 1024;
/// Which piece the meta is; those of the state follow.
const META_PIECE: u64 = 0;

/// The path of the snapshot that ends with entry `index`.
pub(super) fn path(dir: &Path, index: u64) -> PathBuf {
    dir.join(name(index))
}

fn name(index: u64) -> String {
    format!("snapshot-{index:016x}.snap")
}

/// The files that are whole, the newest last.
pub(super) fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("snapshot-") && name.ends_with(".snap") {
            paths.push(path);
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

/// Writes a snapshot; its file is durable, name and all, on return.
pub(super) fn write(dir: &Path, key: &DataKey, snapshot: &Snapshot) -> Result<PathBuf, OpenError> {
    let (new, path) = write_new(dir, key, snapshot)?;
    fs::rename(&new, &path).map_err(OpenError::io("rename to", &path))?;
    seal::sync_dir(dir).map_err(OpenError::io("sync", dir))?;
    Ok(path)
}

/// The file under another name, whole and on disk; and the name that it is to have.
pub(super) fn write_new(
    dir: &Path,
    key: &DataKey,
    snapshot: &Snapshot,
) -> Result<(PathBuf, PathBuf), OpenError> {
    let index = snapshot.meta.last_log_id.map_or(0, |id| id.index);
    let path = path(dir, index);
    let new = path.with_extension("snap.new");
    let salt = seal::random()?;
    let seal = SegmentSeal::for_snapshot(key, &salt, index);
    let mut meta = MetaRecord::new(&snapshot.meta, snapshot.state.len()).encode_to_vec();
    let meta_len = u32::try_from(meta.len() + TAG_BYTES).expect("the members of a swarm are few");
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&meta_len.to_le_bytes());
    header.extend_from_slice(&index.to_le_bytes());
    header.extend_from_slice(&salt);
    let tag = seal.header_tag(&header);
    header.extend_from_slice(&tag);
    header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .map_err(OpenError::io("create", &new))?;
    let mut write = |file: &mut File| -> io::Result<()> {
        file.write_all(&header)?;
        write_piece(file, &seal, META_PIECE, &mut meta)?;
        for (piece, plain) in (META_PIECE + 1..).zip(snapshot.state.chunks(PIECE_BYTES)) {
            write_piece(file, &seal, piece, &mut plain.to_vec())?;
        }
        file.sync_all()
    };
    if let Err(error) = write(&mut file) {
        // Half of one would only take the log's space.
        fs::remove_file(&new).ok();
        return Err(OpenError::io("write", &new)(error));
    }
    Ok((new, path))
}

fn write_piece(file: &mut File, seal: &SegmentSeal, piece: u64, text: &mut [u8]) -> io::Result<()> {
    let tag = seal.seal(piece, &[], text);
    file.write_all(text)?;
    file.write_all(&tag)
}

/// Removes what an interrupted writing left, and all snapshots but `keep`.
pub(super) fn remove_others(dir: &Path, keep: &Path) -> Result<(), OpenError> {
    for file in fs::read_dir(dir).map_err(OpenError::io("list", dir))? {
        let path = file.map_err(OpenError::io("list", dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("snapshot-") && path != keep {
            fs::remove_file(&path).map_err(OpenError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Reads a file whole, or says what is wrong with it and where.
pub(super) fn read(dir: &Path, path: &Path, key: &DataKey) -> Result<Snapshot, OpenError> {
    let bytes = fs::read(path).map_err(OpenError::io("read", path))?;
    let damaged = |offset: usize, reason: &str| OpenError::Damaged {
        file: path.to_owned(),
        offset: u64::try_from(offset).unwrap_or(u64::MAX),
        reason: reason.to_owned(),
    };
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Err(damaged(bytes.len(), "the file ends within its header"));
    };
    if header[..8] != MAGIC {
        return Err(damaged(0, "it does not begin as a snapshot does"));
    }
    let version = le_u32(header, 8);
    if version > VERSION {
        return Err(OpenError::NewerFormat { file: path.to_owned(), version, known: VERSION });
    }
    if crc32fast::hash(&header[..CRC_AT]) != le_u32(header, CRC_AT) {
        return Err(damaged(0, "its header does not match its checksum"));
    }
    let salt: [u8; SALT_BYTES] = header[SALT_AT..TAG_AT].try_into().expect("the slice has that length");
    let index = u64::from_le_bytes(header[INDEX_AT..SALT_AT].try_into().expect("the slice has that length"));
    let seal = SegmentSeal::for_snapshot(key, &salt, index);
    if seal.header_tag(&header[..TAG_AT]) != header[TAG_AT..CRC_AT] {
        return Err(OpenError::WrongKey { file: path.to_owned(), key: DataKey::path(dir) });
    }
    if path.file_name().is_none_or(|found| *found != *name(index)) {
        return Err(damaged(0, "it has the name of another snapshot"));
    }
    let mut at = HEADER_BYTES;
    let mut piece = |piece: u64, sealed_len: usize| {
        let mut sealed =
            bytes.get(at..at + sealed_len).ok_or_else(|| damaged(at, "the file ends early"))?.to_vec();
        let plain = seal.open(piece, &[], &mut sealed).ok_or_else(|| damaged(at, "a seal does not hold"))?;
        let plain = plain.to_vec();
        at += sealed_len;
        Ok(plain)
    };
    let meta_len = usize::try_from(le_u32(header, 12)).expect("a usize holds 32 bits");
    let meta = piece(META_PIECE, meta_len)?;
    let meta = MetaRecord::decode(&*meta).map_err(|e| damaged(HEADER_BYTES, &e.to_string()))?;
    let mut left = usize::try_from(meta.state_bytes).map_err(|_| damaged(HEADER_BYTES, "it is too long"))?;
    let mut state = Vec::with_capacity(left.min(bytes.len()));
    for number in META_PIECE + 1.. {
        if left == 0 {
            break;
        }
        let len = left.min(PIECE_BYTES);
        state.extend_from_slice(&piece(number, len + TAG_BYTES)?);
        left -= len;
    }
    if at != bytes.len() {
        return Err(damaged(at, "the file goes on after its end"));
    }
    Ok(Snapshot { meta: meta.read(), state: Bytes::from(state) })
}

fn le_u32(header: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}
