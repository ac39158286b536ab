//! A backup: the whole state in one file. It holds the root's key and every secret of the swarm.
//!
//! Magic, version, the length of the title and the title (JSON: of which swarm, when, how much, under what), a salt, a
//! tag that shows the right key; then frames: kind, length and sealed text: pieces of the state, each compressed, and an
//! end that counts them; last a SHA-256 of all before it, which shows damage without the key. The key is PBKDF2 of what
//! the user keeps, with the file's salt, or of nothing, where whoever has the file can read it; a frame's number is its
//! nonce, title and kind are authenticated.

use std::{
    fmt,
    fs::File,
    io::{self, BufReader, Read, Write},
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest, pbkdf2,
    rand::{SecureRandom, SystemRandom},
};
use serde::{Deserialize, Serialize};
use skep_api::Secret;
use skep_raft::StateMachine;
use skep_store::{Store, View};

use crate::machine::Machine;

const MAGIC: [u8; 8] = *b"skepback";
const VERSION: u32 = 1;
/// As OWASP asks of PBKDF2-HMAC-SHA256; a third of a second, once a file.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(600_000).expect("it is not 0");
const SALT_BYTES: usize = 32;
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const SUM_BYTES: usize = 32;
/// How much of the state a piece holds.
const PIECE_BYTES: usize = 1024 * 1024;
const FRAME_BYTES_MAX: usize = PIECE_BYTES + PIECE_BYTES / 64;
const TITLE_BYTES_MAX: usize = 64 * 1024;
/// The first level packs a state to a third at the speed of a disk.
const LEVEL: i32 = 1;
const PIECE: u8 = 1;
const END: u8 = 2;
const KEY_NONCE: [u8; NONCE_LEN] = [0xff; NONCE_LEN];

/// Why a backup cannot be used. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is none, or not whole.
    #[error("{} is damaged at byte {offset}: {reason}; take another backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What was found there.
        reason: String,
    },
    /// A newer build made it.
    #[error("{} has format {found}, and this build reads {VERSION}; use the build that made it", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version that it states.
        found: u32,
    },
    /// It was sealed under another key.
    #[error("the key is not that of {}, which is sealed under {sealed}", path.display())]
    WrongKey {
        /// The file.
        path: PathBuf,
        /// Under what.
        sealed: Sealed,
    },
    /// Its state is none that this build reads.
    #[error("the state in {} cannot be taken over: {reason}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// What opens a backup.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sealed {
    /// Nothing is needed: whoever has the file can read it.
    Open,
    /// What the user named when it was made.
    Key,
    /// The unlock key that the swarm had then.
    UnlockKey,
}

impl fmt::Display for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "no key",
            Self::Key => "the passphrase or key that was named when it was made",
            Self::UnlockKey => "the unlock key that the swarm had when it was made",
        })
    }
}

/// What a backup says of itself without its key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Title {
    /// The swarm.
    pub cluster_id: String,
    /// When it was made, in Unix nanoseconds.
    pub made_at: i64,
    /// Of the state.
    pub revision: u64,
    /// The last raft entry in it.
    pub index: u64,
    /// How many there are.
    pub nodes: usize,
    /// How many there are.
    pub services: usize,
    /// How many there are.
    pub tasks: usize,
    /// What opens it.
    pub sealed: Sealed,
}

impl Title {
    /// Of this state.
    #[must_use]
    pub fn of(view: &View, index: u64, made_at: i64, sealed: Sealed) -> Self {
        Self {
            cluster_id: view.cluster().map(|cluster| cluster.id.to_string()).unwrap_or_default(),
            made_at,
            revision: view.revision(),
            index,
            nodes: view.n_nodes(),
            services: view.services().count(),
            tasks: view.n_tasks(),
            sealed,
        }
    }
}

struct Seal {
    key: LessSafeKey,
    title: Vec<u8>,
}

/// What a file with this salt is sealed under.
fn derive(key: &Secret, salt: &[u8; SALT_BYTES]) -> [u8; KEY_BYTES] {
    let mut bytes = [0; KEY_BYTES];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, salt, key.reveal(), &mut bytes);
    bytes
}

impl Seal {
    fn new(key: [u8; KEY_BYTES], title: Vec<u8>) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, &key).expect("a key of 32 bytes");
        Self { key: LessSafeKey::new(key), title }
    }

    fn aad(&self, kind: u8) -> Aad<Vec<u8>> {
        Aad::from([&self.title[..], &[kind]].concat())
    }

    fn seal(&self, nonce: [u8; NONCE_LEN], kind: u8, mut text: Vec<u8>) -> Vec<u8> {
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), self.aad(kind), &mut text)
            .expect("a piece is far below what AES-GCM can seal");
        text
    }

    fn open(&self, nonce: [u8; NONCE_LEN], kind: u8, mut sealed: Vec<u8>) -> Option<Vec<u8>> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let len = self.key.open_in_place(nonce, self.aad(kind), &mut sealed).ok()?.len();
        sealed.truncate(len);
        Some(sealed)
    }
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).expect("a length fits in 64 bits")
}

fn nonce(number: u64) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    nonce
}

/// Takes a state and gives a backup's bytes to `out`.
struct Writer<'a> {
    out: &'a mut dyn Write,
    sum: digest::Context,
    seal: Seal,
    packer: zstd::bulk::Compressor<'static>,
    plain: Vec<u8>,
    count: u64,
}

impl Writer<'_> {
    fn give(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.out.write_all(bytes)
    }

    fn frame(&mut self, kind: u8, text: Vec<u8>) -> io::Result<()> {
        let sealed = self.seal.seal(nonce(self.count), kind, text);
        let len = u32::try_from(sealed.len()).map_err(io::Error::other)?;
        self.give(&[kind])?;
        self.give(&len.to_le_bytes())?;
        self.give(&sealed)?;
        self.count += 1;
        Ok(())
    }

    fn cut(&mut self) -> io::Result<()> {
        let packed = self.packer.compress(&self.plain)?;
        self.plain.clear();
        self.frame(PIECE, packed)
    }
}

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(PIECE_BYTES - self.plain.len());
        self.plain.extend_from_slice(&bytes[..n]);
        if self.plain.len() == PIECE_BYTES {
            self.cut()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a backup of `store`; `key` is empty for one that is open. Takes as long as the state is large.
///
/// # Errors
/// What `out` says.
pub fn write(out: &mut dyn Write, store: &Store, title: &Title, key: &Secret) -> io::Result<()> {
    write_under(out, store, title, |salt| derive(key, salt))
}

/// The same under a key that is found in another way.
pub(crate) fn write_under(
    out: &mut dyn Write,
    store: &Store,
    title: &Title,
    key: impl FnOnce(&[u8; SALT_BYTES]) -> [u8; KEY_BYTES],
) -> io::Result<()> {
    let title = serde_json::to_vec(title).map_err(io::Error::other)?;
    let mut salt = [0; SALT_BYTES];
    SystemRandom::new().fill(&mut salt).map_err(|_| io::Error::other("no random numbers"))?;
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&u32::try_from(title.len()).map_err(io::Error::other)?.to_le_bytes());
    head.extend_from_slice(&title);
    head.extend_from_slice(&salt);
    let seal = Seal::new(key(&salt), head.clone());
    let tag = seal.seal(KEY_NONCE, 0, Vec::new());
    let packer = zstd::bulk::Compressor::new(LEVEL)?;
    let sum = digest::Context::new(&digest::SHA256);
    let mut writer = Writer { out, sum, seal, packer, plain: Vec::with_capacity(PIECE_BYTES), count: 0 };
    writer.give(&head)?;
    writer.give(&tag)?;
    store.write(&mut writer)?;
    if !writer.plain.is_empty() {
        writer.cut()?;
    }
    let count = writer.count;
    writer.frame(END, count.to_le_bytes().to_vec())?;
    let sum = writer.sum.clone().finish();
    writer.out.write_all(sum.as_ref())
}

/// A file as it is read, with where it stands.
struct Reading<'a> {
    path: &'a Path,
    file: BufReader<File>,
    at: u64,
}

impl Reading<'_> {
    fn damaged(&self, reason: &str) -> BackupError {
        BackupError::Damaged { path: self.path.to_owned(), offset: self.at, reason: reason.to_owned() }
    }

    fn take(&mut self, n: usize, what: &str) -> Result<Vec<u8>, BackupError> {
        let mut bytes = vec![0; n];
        match self.file.read_exact(&mut bytes) {
            Ok(()) => {
                self.at += wide(n);
                Ok(bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged(&format!("the file ends within {what}")))
            }
            Err(source) => Err(BackupError::Io { path: self.path.to_owned(), source }),
        }
    }

    fn number(&mut self, what: &str) -> Result<u32, BackupError> {
        let bytes = self.take(4, what)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
}

struct Opened<'a> {
    reading: Reading<'a>,
    title: Title,
    head: Vec<u8>,
    salt: [u8; SALT_BYTES],
    tag: Vec<u8>,
}

fn open(path: &Path) -> Result<Opened<'_>, BackupError> {
    let failed = |source| BackupError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mut reading = Reading { path, file: BufReader::new(file), at: 0 };
    let mut head = reading.take(MAGIC.len(), "its first bytes")?;
    if head != MAGIC {
        reading.at = 0;
        return Err(reading.damaged("it does not begin as a backup does"));
    }
    let found = reading.number("its version")?;
    if found != VERSION {
        return Err(BackupError::Version { path: path.to_owned(), found });
    }
    head.extend_from_slice(&found.to_le_bytes());
    let len = reading.number("its title")?;
    let n = usize::try_from(len).ok().filter(|n| *n <= TITLE_BYTES_MAX);
    let n = n.ok_or_else(|| reading.damaged("its title is longer than any"))?;
    head.extend_from_slice(&len.to_le_bytes());
    let text = reading.take(n, "its title")?;
    let title = serde_json::from_slice(&text).map_err(|_| reading.damaged("its title cannot be read"))?;
    head.extend_from_slice(&text);
    let salt_bytes = reading.take(SALT_BYTES, "its salt")?;
    head.extend_from_slice(&salt_bytes);
    let salt = salt_bytes.try_into().expect("as many bytes as were asked for");
    let tag = reading.take(TAG_BYTES, "its key's tag")?;
    Ok(Opened { reading, title, head, salt, tag })
}

/// What a backup says of itself; all of it is held against its checksum, which needs no key.
///
/// # Errors
/// [`BackupError`].
pub fn verify_sum(path: &Path) -> Result<Title, BackupError> {
    let title = open(path)?.title;
    let failed = |source| BackupError::Io { path: path.to_owned(), source };
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let len = file.get_ref().metadata().map_err(failed)?.len();
    let mut rest = len.saturating_sub(wide(SUM_BYTES));
    let mut sum = digest::Context::new(&digest::SHA256);
    let mut chunk = vec![0; PIECE_BYTES];
    while rest > 0 {
        let n = usize::try_from(rest).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        file.read_exact(&mut chunk[..n]).map_err(failed)?;
        sum.update(&chunk[..n]);
        rest -= wide(n);
    }
    let mut stated = [0; SUM_BYTES];
    file.read_exact(&mut stated).map_err(failed)?;
    if sum.finish().as_ref() == stated {
        return Ok(title);
    }
    // The frames, whose lengths are plain, may tell where it was cut.
    let reason = "its checksum does not fit: it was cut, or changed somewhere".to_owned();
    Err(BackupError::Damaged { path: path.to_owned(), offset: len, reason })
}

/// Reads a backup whole.
///
/// # Errors
/// [`BackupError`]; damage is named by its place.
pub fn read(path: &Path, key: &Secret) -> Result<(Title, Store), BackupError> {
    read_under(path, |salt| derive(key, salt))
}

/// The same under a key that is found in another way.
pub(crate) fn read_under(
    path: &Path,
    key: impl FnOnce(&[u8; SALT_BYTES]) -> [u8; KEY_BYTES],
) -> Result<(Title, Store), BackupError> {
    let Opened { reading, title, head, salt, tag } = open(path)?;
    let seal = Seal::new(key(&salt), head);
    if seal.open(KEY_NONCE, 0, tag).is_none() {
        return Err(BackupError::WrongKey { path: path.to_owned(), sealed: title.sealed });
    }
    let unpacker = zstd::bulk::Decompressor::new()
        .map_err(|source| BackupError::Io { path: path.to_owned(), source })?;
    let mut pieces =
        Pieces { reading, seal, unpacker, next: 0, plain: Vec::new(), given: 0, ended: false, failed: None };
    let machine = Machine::new();
    let restored = machine.restore(&mut pieces);
    if let Some(error) = pieces.failed {
        return Err(error);
    }
    restored.map_err(|reason| BackupError::State { path: path.to_owned(), reason })?;
    let reading = pieces.reading;
    let len = reading.file.get_ref().metadata().map(|file| file.len());
    if len.map_err(|source| BackupError::Io { path: path.to_owned(), source })?
        != reading.at + wide(SUM_BYTES)
    {
        return Err(reading.damaged("something follows its end"));
    }
    verify_sum(path)?;
    Ok((title, machine.store()))
}

/// The state in a backup, as bytes.
struct Pieces<'a> {
    reading: Reading<'a>,
    seal: Seal,
    unpacker: zstd::bulk::Decompressor<'static>,
    next: u64,
    plain: Vec<u8>,
    given: usize,
    ended: bool,
    failed: Option<BackupError>,
}

impl Pieces<'_> {
    fn next_piece(&mut self) -> Result<(), BackupError> {
        let began = self.reading.at;
        let kind = self.reading.take(1, "a frame")?[0];
        let len = usize::try_from(self.reading.number("a frame")?).unwrap_or(usize::MAX);
        let at = |reading: &Reading<'_>, reason: &str| BackupError::Damaged {
            path: reading.path.to_owned(),
            offset: began,
            reason: reason.to_owned(),
        };
        if len > FRAME_BYTES_MAX {
            return Err(at(&self.reading, "a frame is longer than any"));
        }
        let sealed = self.reading.take(len, "a frame")?;
        let text = self.seal.open(nonce(self.next), kind, sealed);
        let text = text.ok_or_else(|| at(&self.reading, "a seal does not hold"))?;
        if kind == END {
            self.ended = true;
            let is_whole = text == self.next.to_le_bytes();
            return if is_whole { Ok(()) } else { Err(at(&self.reading, "pieces are missing")) };
        }
        self.next += 1;
        self.plain = self
            .unpacker
            .decompress(&text, PIECE_BYTES)
            .map_err(|error| at(&self.reading, &format!("a piece does not unpack: {error}")))?;
        self.given = 0;
        Ok(())
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.given == self.plain.len() && !self.ended {
            if let Err(error) = self.next_piece() {
                let words = error.to_string();
                self.failed = Some(error);
                return Err(io::Error::other(words));
            }
        }
        if self.ended && self.given == self.plain.len() {
            return Ok(0);
        }
        let n = out.len().min(self.plain.len() - self.given);
        out[..n].copy_from_slice(&self.plain[self.given..self.given + n]);
        self.given += n;
        Ok(n)
    }
}
