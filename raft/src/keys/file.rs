//! The bytes of a key file: a header, the keys, a checksum.
//!
//! Header (56 bytes, little-endian): magic, version, whether it is wrapped, version of the unlock key, salt.
//! Then the keys: the number of the current one, how many there are, and each with its number. Wrapped,
//! they are sealed under HKDF-SHA256(unlock key, salt), with a tag after them and the header authenticated. The
//! CRC at the end tells damage from a wrong unlock key.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::OpenError;
use crate::seal::{self, DataKey, KEY_BYTES, SALT_BYTES, SegmentSeal, TAG_BYTES};

use super::{Ring, UnlockKey};

const MAGIC: [u8; 8] = *b"skepkeys";
pub(super) const VERSION: u32 = 1;
const WRAPPED_AT: usize = 12;
const LOCK_AT: usize = 16;
const SALT_AT: usize = 24;
const HEADER_BYTES: usize = SALT_AT + SALT_BYTES;
const CRC_BYTES: usize = 4;
/// The current key's number, and how many there are.
const COUNTS_BYTES: usize = 8;
const ENTRY_BYTES: usize = 4 + KEY_BYTES;
/// The only text that is sealed under a salt.
const ONLY: u64 = 0;

/// Why a key file's bytes give no keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unread {
    Damaged(usize, &'static str),
    Newer(u32),
    /// It is wrapped, and no unlock key was given.
    Locked,
    /// It is wrapped under another one.
    WrongUnlockKey,
}

pub(super) fn encode(ring: &Ring) -> Result<Vec<u8>, OpenError> {
    let salt = seal::random()?;
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&u32::from(ring.unlock.is_some()).to_le_bytes());
    bytes.extend_from_slice(&ring.lock_version.to_le_bytes());
    bytes.extend_from_slice(&salt);
    let count = u32::try_from(ring.keys.len()).expect("there are a few keys");
    bytes.extend_from_slice(&ring.current.to_le_bytes());
    bytes.extend_from_slice(&count.to_le_bytes());
    for key in ring.keys.values() {
        bytes.extend_from_slice(&key.number.to_le_bytes());
        bytes.extend_from_slice(&key.bytes);
    }
    if let Some(unlock) = &ring.unlock {
        let header = bytes[..HEADER_BYTES].to_vec();
        let seal = SegmentSeal::for_keys(unlock.reveal(), &salt);
        let tag = seal.seal(ONLY, &header, &mut bytes[HEADER_BYTES..]);
        bytes.extend_from_slice(&tag);
    }
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// Whether it is wrapped.
pub(super) fn is_wrapped(bytes: &[u8]) -> Result<bool, Unread> {
    check(bytes)?;
    match le_u32(bytes, WRAPPED_AT) {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Unread::Damaged(WRAPPED_AT, "it is neither wrapped nor plain")),
    }
}

pub(super) fn decode(bytes: &[u8], unlock: Option<&UnlockKey>) -> Result<Ring, Unread> {
    let is_wrapped = is_wrapped(bytes)?;
    let lock_version =
        u64::from_le_bytes(bytes[LOCK_AT..SALT_AT].try_into().expect("the slice has that length"));
    let mut body = bytes[HEADER_BYTES..bytes.len() - CRC_BYTES].to_vec();
    if is_wrapped {
        let unlock = unlock.ok_or(Unread::Locked)?;
        let salt = bytes[SALT_AT..HEADER_BYTES].try_into().expect("the slice has that length");
        let seal = SegmentSeal::for_keys(unlock.reveal(), &salt);
        let plain = seal.open(ONLY, &bytes[..HEADER_BYTES], &mut body).map(<[u8]>::len);
        body.truncate(plain.ok_or(Unread::WrongUnlockKey)?);
    }
    let damaged = |words| Unread::Damaged(HEADER_BYTES, words);
    if body.len() < COUNTS_BYTES {
        return Err(damaged("it holds no keys"));
    }
    let (counts, entries) = body.split_at(COUNTS_BYTES);
    let count = usize::try_from(le_u32(counts, 4)).expect("a usize holds 32 bits");
    if Some(entries.len()) != count.checked_mul(ENTRY_BYTES) {
        return Err(damaged("it has not as many keys as it should"));
    }
    let mut keys = BTreeMap::new();
    for entry in entries.chunks(ENTRY_BYTES) {
        let key = entry[4..].try_into().expect("the slice has that length");
        let key = DataKey { number: le_u32(entry, 0), bytes: key };
        keys.insert(key.number, Arc::new(key));
    }
    let current = le_u32(counts, 0);
    if !keys.contains_key(&current) || keys.len() != count {
        return Err(damaged("its current key is not in it, or one is there twice"));
    }
    Ok(Ring { current, keys, unlock: unlock.filter(|_| is_wrapped).cloned(), lock_version })
}

/// That it is a whole key file that this binary reads.
fn check(bytes: &[u8]) -> Result<(), Unread> {
    if bytes.len() < HEADER_BYTES + CRC_BYTES {
        return Err(Unread::Damaged(bytes.len(), "it is too short for a key file"));
    }
    if bytes[..8] != MAGIC {
        return Err(Unread::Damaged(0, "it does not begin as a key file does"));
    }
    let (text, crc) = bytes.split_at(bytes.len() - CRC_BYTES);
    if crc32fast::hash(text).to_le_bytes() != *crc {
        return Err(Unread::Damaged(0, "it does not match its checksum"));
    }
    match le_u32(bytes, 8) {
        VERSION => {}
        version if version > VERSION => return Err(Unread::Newer(version)),
        _ => return Err(Unread::Damaged(8, "it has a format that is gone")),
    }
    if le_u32(bytes, WRAPPED_AT) == 1 && text.len() < HEADER_BYTES + TAG_BYTES {
        return Err(Unread::Damaged(bytes.len(), "it is too short for a key file"));
    }
    Ok(())
}

fn le_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
