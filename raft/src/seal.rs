//! How files are sealed: an AES-256-GCM key for each, derived from a data key of the key file (`keys`).
//!
//! A segment's key is HKDF-SHA256(data key, its salt). Its nonces are the sequence numbers of its
//! batches: each is used once, because a salt belongs to one segment of one opening, which writes each
//! sequence number once. What is authenticated beside the text binds it to its file and its place.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};
use ring::hkdf;
use ring::rand::{SecureRandom, SystemRandom};

use crate::error::OpenError;

pub(crate) const SALT_BYTES: usize = 32;
pub(crate) const TAG_BYTES: usize = 16;
pub(crate) const KEY_BYTES: usize = 32;
/// Separates these keys from any other that may be derived from the data key one day.
const KEY_PURPOSE: &[u8] = b"skep raft wal segment v1";
const SNAPSHOT_PURPOSE: &[u8] = b"skep raft snapshot v1";
const SECRET_PURPOSE: &[u8] = b"skep secret beside the log v1";
/// Of the key that wraps the key file, which comes from the unlock key.
const UNLOCK_PURPOSE: &[u8] = b"skep key file v1";
/// The nonce of a segment's header: no sequence number can be this, as their first four bytes are 0.
const HEADER_NONCE: [u8; NONCE_LEN] = [0xff; NONCE_LEN];

/// A key that the keys of files come from, and its number in the key file. A file that is sealed under it
/// holds it while it is open: a key that anybody holds is not forgotten.
#[derive(PartialEq, Eq)]
pub(crate) struct DataKey {
    pub(crate) number: u32,
    pub(crate) bytes: [u8; KEY_BYTES],
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataKey({}, redacted)", self.number)
    }
}

/// Makes the names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// 32 bytes from the system's source: keys and salts never come from a seed.
pub(crate) fn random() -> Result<[u8; 32], OpenError> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| OpenError::Consensus {
        reason: "the system's source of random numbers does not answer".to_owned(),
    })?;
    Ok(bytes)
}

/// Seals and opens what one segment file holds.
pub(crate) struct SegmentSeal {
    key: LessSafeKey,
    /// Salt and number of the segment.
    file_id: [u8; SALT_BYTES + 8],
}

impl fmt::Debug for SegmentSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SegmentSeal(redacted)")
    }
}

impl SegmentSeal {
    pub(crate) fn new(data_key: &DataKey, salt: &[u8; SALT_BYTES], number: u64) -> SegmentSeal {
        SegmentSeal::derive(&data_key.bytes, salt, number, KEY_PURPOSE)
    }

    /// The seal of a snapshot file, whose pieces are sealed as batches are.
    pub(crate) fn for_snapshot(data_key: &DataKey, salt: &[u8; SALT_BYTES], index: u64) -> SegmentSeal {
        SegmentSeal::derive(&data_key.bytes, salt, index, SNAPSHOT_PURPOSE)
    }

    /// The seal of one text that stands alone, in some other file.
    pub(crate) fn for_secret(data_key: &DataKey, salt: &[u8; SALT_BYTES]) -> SegmentSeal {
        SegmentSeal::derive(&data_key.bytes, salt, 0, SECRET_PURPOSE)
    }

    /// The seal of the key file, under an unlock key.
    pub(crate) fn for_keys(unlock: &[u8], salt: &[u8; SALT_BYTES]) -> SegmentSeal {
        SegmentSeal::derive(unlock, salt, 0, UNLOCK_PURPOSE)
    }

    fn derive(key: &[u8], salt: &[u8; SALT_BYTES], number: u64, purpose: &[u8]) -> SegmentSeal {
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(key);
        let purpose = [purpose];
        let key = secret.expand(&purpose, &AES_256_GCM).expect("32 bytes are within what HKDF gives");
        let mut file_id = [0; SALT_BYTES + 8];
        file_id[..SALT_BYTES].copy_from_slice(salt);
        file_id[SALT_BYTES..].copy_from_slice(&number.to_le_bytes());
        SegmentSeal { key: LessSafeKey::new(UnboundKey::from(key)), file_id }
    }

    /// Seals `text` in place for the batch `sequence`; `place` is authenticated with it.
    pub(crate) fn seal(&self, sequence: u64, place: &[u8], text: &mut [u8]) -> [u8; TAG_BYTES] {
        self.seal_with(batch_nonce(sequence), place, text)
    }

    /// Opens in place what `seal` made of a text and its tag; None if any of it was altered.
    pub(crate) fn open<'a>(&self, sequence: u64, place: &[u8], sealed: &'a mut [u8]) -> Option<&'a [u8]> {
        let nonce = Nonce::assume_unique_for_key(batch_nonce(sequence));
        let aad = Aad::from([&self.file_id, place].concat());
        self.key.open_in_place(nonce, aad, sealed).ok().map(|plain| &*plain)
    }

    /// What proves that a segment's header was made under this key. Made once for each segment.
    pub(crate) fn header_tag(&self, header: &[u8]) -> [u8; TAG_BYTES] {
        self.seal_with(HEADER_NONCE, header, &mut [])
    }

    fn seal_with(&self, nonce: [u8; NONCE_LEN], place: &[u8], text: &mut [u8]) -> [u8; TAG_BYTES] {
        let aad = Aad::from([&self.file_id, place].concat());
        let tag: Tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, text)
            .expect("a batch is far below what AES-GCM can seal");
        tag.as_ref().try_into().expect("an AES-GCM tag has 16 bytes")
    }
}

fn batch_nonce(sequence: u64) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&sequence.to_be_bytes());
    nonce
}
