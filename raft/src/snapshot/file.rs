//! Snapshots as files: a header, then frames: what the snapshot is of, its pieces, and an end that counts them.
//!
//! Header (76 bytes, little-endian): magic, version, number of the data key, index of the last entry, salt,
//! tag, CRC. A frame is its kind, the length of what is sealed, and that, tag and all; its place in the file is
//! the seal's nonce, its kind is authenticated. A file has its name only once it is whole and on disk, so
//! what cannot be read in a named file is damage; one without its end was cut.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::{MetaRecord, PACKED_BYTES_MAX, Pieces, Sink, Snapshot, SnapshotId, Snapshots};
use crate::error::OpenError;
use crate::keys::Keys;
use crate::seal::{self, DataKey, SALT_BYTES, SegmentSeal, TAG_BYTES};
use crate::types::SnapshotMeta;

pub(crate) const MAGIC: [u8; 8] = *b"skepsnap";
const VERSION: u32 = 3;
const KEY_AT: usize = 12;
const INDEX_AT: usize = 16;
const SALT_AT: usize = 24;
const TAG_AT: usize = SALT_AT + SALT_BYTES;
const CRC_AT: usize = TAG_AT + TAG_BYTES;
const HEADER_BYTES: usize = CRC_AT + 4;
/// A frame's kind and length.
const FRAME_BYTES: usize = 5;
/// After so many bytes a file that is being written is synced: one sync of all of it would hold up the log's.
const SYNC_BYTES: u64 = 4 * 1024 * 1024;

/// What a frame holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Meta = 1,
    Piece = 2,
    End = 3,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Kind::Meta => 1,
            Kind::Piece => 2,
            Kind::End => 3,
        }
    }
}

fn name(index: u64) -> String {
    format!("snapshot-{index:016x}.snap")
}

/// The files that are whole, the newest last.
pub(super) fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = of_kind(dir, ".snap")?;
    paths.sort_unstable();
    Ok(paths)
}

fn of_kind(dir: &Path, suffix: &str) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("snapshot-") && name.ends_with(suffix) {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// The snapshots in a directory, which the log's lock protects.
#[derive(Debug)]
pub(crate) struct SnapshotDir {
    place: Arc<Place>,
}

/// A directory, and the newest snapshot in it.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
    keys: Keys,
    /// Held while the directory is changed.
    newest: Mutex<Option<Snapshot>>,
}

impl Place {
    fn newest(&self) -> MutexGuard<'_, Option<Snapshot>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SnapshotDir {
    pub(super) fn at(dir: &Path, keys: &Keys) -> Arc<Place> {
        Arc::new(Place { dir: dir.to_owned(), keys: keys.clone(), newest: Mutex::new(None) })
    }

    /// Removes what an interrupted writing left, and opens the newest.
    pub(crate) fn new(dir: &Path, keys: &Keys) -> Result<SnapshotDir, OpenError> {
        for half in of_kind(dir, ".new").map_err(OpenError::io("list", dir))? {
            fs::remove_file(&half).map_err(OpenError::io("remove", &half))?;
        }
        let place = SnapshotDir::at(dir, keys);
        let newest = newest(&place, keys)?;
        *place.newest() = newest;
        keys.tidy_some_time();
        Ok(SnapshotDir { place })
    }
}

impl Snapshots for SnapshotDir {
    fn begin(&self, meta: &SnapshotMeta) -> io::Result<Box<dyn Sink>> {
        let file = NewFile::create(&self.place, meta).map_err(io::Error::other)?;
        Ok(Box::new(file))
    }

    fn current(&self) -> Option<Snapshot> {
        self.place.newest().clone()
    }

    fn simulated(&self) -> Option<Duration> {
        None
    }
}

/// The newest snapshot of a directory.
pub(super) fn newest(place: &Arc<Place>, keys: &Keys) -> Result<Option<Snapshot>, OpenError> {
    let newest = list(&place.dir).map_err(OpenError::io("list", &place.dir))?.pop();
    newest.map(|path| open(place, path, keys)).transpose()
}

/// A file that has no name of its own yet; it goes with this.
#[derive(Debug)]
struct Nameless(Option<PathBuf>);

impl Drop for Nameless {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // What cannot be removed now is at the next opening.
            fs::remove_file(path).ok();
        }
    }
}

/// A snapshot file as it is written.
struct NewFile {
    place: Arc<Place>,
    path: Nameless,
    file: File,
    key: Arc<DataKey>,
    seal: SegmentSeal,
    meta: SnapshotMeta,
    id: SnapshotId,
    /// Where each piece's frame begins, and where the next one does.
    frames: Vec<u64>,
    end: u64,
    synced: u64,
}

impl fmt::Debug for NewFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl NewFile {
    fn create(place: &Arc<Place>, meta: &SnapshotMeta) -> Result<NewFile, OpenError> {
        let key = place.keys.current();
        let index = meta.last_log_id.map_or(0, |id| id.index);
        let salt = seal::random()?;
        let seal = SegmentSeal::for_snapshot(&key, &salt, index);
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&key.number.to_le_bytes());
        header.extend_from_slice(&index.to_le_bytes());
        header.extend_from_slice(&salt);
        let tag = seal.header_tag(&header);
        header.extend_from_slice(&tag);
        header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
        // One may be received while another one is built: the salt tells them apart.
        let id = file_id(&salt);
        let path = place.dir.join(format!("snapshot-{index:016x}-{:032x}.new", u128::from_be_bytes(id)));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(OpenError::io("create", &path))?;
        let named = Nameless(Some(path.clone()));
        file.write_all(&header).map_err(OpenError::io("write", &path))?;
        let mut new = NewFile {
            place: Arc::clone(place),
            path: named,
            file,
            key,
            seal,
            meta: meta.clone(),
            id,
            frames: Vec::new(),
            end: len(HEADER_BYTES),
            synced: 0,
        };
        let meta = MetaRecord::new(meta).encode_to_vec();
        new.frame(Kind::Meta, 0, &meta).map_err(OpenError::io("write", &path))?;
        Ok(new)
    }

    fn frame(&mut self, kind: Kind, number: u64, text: &[u8]) -> io::Result<()> {
        let sealed = u32::try_from(text.len() + TAG_BYTES).map_err(io::Error::other)?;
        let mut frame = Vec::with_capacity(FRAME_BYTES + text.len() + TAG_BYTES);
        frame.push(kind.number());
        frame.extend_from_slice(&sealed.to_le_bytes());
        frame.extend_from_slice(text);
        let tag = self.seal.seal(number, &[kind.number()], &mut frame[FRAME_BYTES..]);
        frame.extend_from_slice(&tag);
        self.file.write_all(&frame)?;
        self.end += len(frame.len());
        Ok(())
    }
}

impl Sink for NewFile {
    fn push(&mut self, packed: &[u8]) -> io::Result<()> {
        let (at, number) = (self.end, self.count() + 1);
        self.frame(Kind::Piece, number, packed)?;
        self.frames.push(at);
        if self.end - self.synced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.synced = self.end;
        }
        Ok(())
    }

    fn count(&self) -> u64 {
        len(self.frames.len())
    }

    fn finish(mut self: Box<Self>) -> io::Result<Snapshot> {
        let count = self.count();
        let packed_bytes = self.end;
        self.frame(Kind::End, count + 1, &count.to_le_bytes())?;
        self.file.sync_all()?;
        let NewFile { place, path, file, key, seal, meta, id, frames, .. } = *self;
        let index = meta.last_log_id.map_or(0, |id| id.index);
        let (dir, place, path) = (place.dir.clone(), Arc::downgrade(&place), Mutex::new(path));
        let file =
            SnapshotFile { place, dir, path, index, file, _key: key, seal, meta, id, frames, packed_bytes };
        Ok(Snapshot { meta: file.meta.clone(), pieces: Arc::new(file) })
    }
}

/// A whole snapshot file, open for reading: it may be unlinked meanwhile.
struct SnapshotFile {
    place: Weak<Place>,
    dir: PathBuf,
    /// Its first name, until it is kept.
    path: Mutex<Nameless>,
    index: u64,
    file: File,
    /// Not forgotten while somebody reads it.
    _key: Arc<DataKey>,
    seal: SegmentSeal,
    meta: SnapshotMeta,
    id: SnapshotId,
    frames: Vec<u64>,
    packed_bytes: u64,
}

impl fmt::Debug for SnapshotFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotFile").field("path", &self.path()).finish_non_exhaustive()
    }
}

impl SnapshotFile {
    fn path(&self) -> PathBuf {
        let first = self.path.lock().unwrap_or_else(PoisonError::into_inner).0.clone();
        first.unwrap_or_else(|| self.dir.join(name(self.index)))
    }

    fn damaged(&self, at: u64, reason: &str) -> OpenError {
        damaged(&self.path(), at, reason)
    }

    /// What the frame at `at` holds, and where the next one begins.
    fn read(&self, at: u64, number: u64, wanted: &[Kind]) -> Result<(Kind, Vec<u8>, u64), OpenError> {
        let cut = |error: io::Error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                return self.damaged(at, "the file ends early");
            }
            OpenError::io("read", &self.path())(error)
        };
        let mut head = [0; FRAME_BYTES];
        self.file.read_exact_at(&mut head, at).map_err(cut)?;
        let kind = wanted.iter().copied().find(|kind| kind.number() == head[0]);
        let kind = kind.ok_or_else(|| self.damaged(at, "a frame of another kind should stand here"))?;
        let sealed = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
        let sealed = usize::try_from(sealed).expect("a usize holds 32 bits");
        if sealed > PACKED_BYTES_MAX + TAG_BYTES {
            return Err(self.damaged(at, "a frame is longer than any"));
        }
        let mut text = vec![0; sealed];
        self.file.read_exact_at(&mut text, at + len(FRAME_BYTES)).map_err(cut)?;
        let plain = self.seal.open(number, &[kind.number()], &mut text).map(<[u8]>::len);
        text.truncate(plain.ok_or_else(|| self.damaged(at, "a seal does not hold"))?);
        Ok((kind, text, at + len(FRAME_BYTES + sealed)))
    }

    /// Finds the frames of all pieces, whose seals are checked when they are read, and checks the end.
    fn find_frames(&mut self, mut at: u64) -> Result<(), OpenError> {
        loop {
            let mut head = [0; FRAME_BYTES];
            match self.file.read_exact_at(&mut head, at) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(self.damaged(at, "the file ends before its end"));
                }
                outcome => outcome.map_err(OpenError::io("read", &self.path()))?,
            }
            if head[0] != Kind::Piece.number() {
                break;
            }
            self.frames.push(at);
            at += len(FRAME_BYTES) + u64::from(u32::from_le_bytes([head[1], head[2], head[3], head[4]]));
        }
        let count = len(self.frames.len());
        let (_, end, after) = self.read(at, count + 1, &[Kind::End])?;
        if end != count.to_le_bytes() {
            return Err(self.damaged(at, "the file has not as many pieces as it should"));
        }
        if self.file.metadata().map_err(OpenError::io("inspect", &self.path()))?.len() != after {
            return Err(self.damaged(after, "the file goes on after its end"));
        }
        self.packed_bytes = at;
        Ok(())
    }
}

impl Pieces for SnapshotFile {
    fn id(&self) -> SnapshotId {
        self.id
    }

    fn count(&self) -> u64 {
        len(self.frames.len())
    }

    fn packed_bytes(&self) -> u64 {
        self.packed_bytes
    }

    fn piece(&self, number: u64) -> Result<Bytes, OpenError> {
        let at = usize::try_from(number).ok().and_then(|number| self.frames.get(number));
        let at = *at.ok_or_else(|| self.damaged(self.packed_bytes, "it has no such piece"))?;
        let (_, packed, _) = self.read(at, number + 1, &[Kind::Piece])?;
        Ok(Bytes::from(packed))
    }

    fn keep(self: Arc<Self>, old: u64) -> io::Result<()> {
        let Some(place) = self.place.upgrade() else {
            return Err(io::Error::other("the directory is closed"));
        };
        let mut newest = place.newest();
        {
            let mut path = self.path.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(first) = path.0.clone() else { return Ok(()) };
            // One that was being made while a newer one arrived has nothing to say any more.
            let last = |snapshot: &Snapshot| snapshot.meta.last_log_id.map_or(0, |id| id.index);
            if newest.as_ref().is_some_and(|newest| last(newest) > self.index) {
                return Ok(());
            }
            fs::rename(first, self.dir.join(name(self.index)))?;
            path.0 = None;
        }
        seal::sync_dir(&self.dir)?;
        *newest = Some(Snapshot { meta: self.meta.clone(), pieces: Arc::clone(&self) as _ });
        remove_older(&self.dir, old)?;
        drop(newest);
        place.keys.tidy_some_time();
        Ok(())
    }
}

/// Removes all but the newest and the `old` ones before it.
fn remove_older(dir: &Path, old: u64) -> io::Result<()> {
    let keep = usize::try_from(old).unwrap_or(usize::MAX).saturating_add(1);
    list(dir)?.iter().rev().skip(keep).try_for_each(fs::remove_file)
}

/// Opens a file that has its name, and checks all but its pieces.
pub(super) fn open(place: &Arc<Place>, path: PathBuf, keys: &Keys) -> Result<Snapshot, OpenError> {
    let file = File::open(&path).map_err(OpenError::io("open", &path))?;
    let mut header = [0; HEADER_BYTES];
    match file.read_exact_at(&mut header, 0) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(damaged(&path, 0, "the file ends within its header"));
        }
        outcome => outcome.map_err(OpenError::io("read", &path))?,
    }
    if header[..8] != MAGIC {
        return Err(damaged(&path, 0, "it does not begin as a snapshot does"));
    }
    let version = le_u32(&header, 8);
    if version > VERSION {
        return Err(OpenError::NewerFormat { file: path, version, known: VERSION });
    }
    if version < VERSION || crc32fast::hash(&header[..CRC_AT]) != le_u32(&header, CRC_AT) {
        return Err(damaged(&path, 0, "its header does not match its checksum or has a format that is gone"));
    }
    let salt: [u8; SALT_BYTES] = header[SALT_AT..TAG_AT].try_into().expect("the slice has that length");
    let index = u64::from_le_bytes(header[INDEX_AT..SALT_AT].try_into().expect("the slice has that length"));
    let sealed =
        keys.get(le_u32(&header, KEY_AT)).map(|key| (SegmentSeal::for_snapshot(&key, &salt, index), key));
    let is_ours = |(seal, _): &(SegmentSeal, _)| seal.header_tag(&header[..TAG_AT]) == header[TAG_AT..CRC_AT];
    let Some((seal, key)) = sealed.filter(is_ours) else {
        return Err(OpenError::WrongKey { file: path, key: Keys::path(&place.dir) });
    };
    if path.file_name().is_none_or(|found| *found != *name(index)) {
        return Err(damaged(&path, 0, "it has the name of another snapshot"));
    }
    let mut file = SnapshotFile {
        place: Arc::downgrade(place),
        dir: place.dir.clone(),
        path: Mutex::new(Nameless(None)),
        index,
        file,
        _key: key,
        seal,
        meta: SnapshotMeta::default(),
        id: file_id(&salt),
        frames: Vec::new(),
        packed_bytes: 0,
    };
    let at = len(HEADER_BYTES);
    let (_, meta, after) = file.read(at, 0, &[Kind::Meta])?;
    let meta = MetaRecord::decode(&*meta).map_err(|e| file.damaged(at, &e.to_string()))?;
    file.meta = meta.read();
    file.find_frames(after)?;
    Ok(Snapshot { meta: file.meta.clone(), pieces: Arc::new(file) })
}

fn damaged(file: &Path, offset: u64, reason: &str) -> OpenError {
    OpenError::Damaged { file: file.to_owned(), offset, reason: reason.to_owned() }
}

/// A salt is drawn for each file; half of it is enough to know the file by.
fn file_id(salt: &[u8; SALT_BYTES]) -> SnapshotId {
    salt[..16].try_into().expect("the slice has that length")
}

fn le_u32(header: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

fn len(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("a length fits in 64 bits")
}
