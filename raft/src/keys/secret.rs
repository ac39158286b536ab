//! Secrets in other files of a member that are sealed while its key file is wrapped: its TLS key.
//!
//! Such a text names its data key as the log's files do, and whoever owns the file holds the key, so that it
//! is not forgotten.

use std::fmt;
use std::sync::Arc;

use super::Keys;
use crate::error::OpenError;
use crate::seal::{self, DataKey, SALT_BYTES, SegmentSeal};

const MAGIC: [u8; 8] = *b"skepscrt";
const VERSION: u32 = 1;
const NUMBER_AT: usize = 12;
const SALT_AT: usize = 16;
const HEADER_BYTES: usize = SALT_AT + SALT_BYTES;
/// The only text that is sealed under a salt.
const ONLY: u64 = 0;

/// Keeps a data key from being forgotten, for as long as a file that is sealed under it may be read again.
#[derive(Clone)]
pub struct KeyHeld(#[expect(dead_code, reason = "it is held")] Arc<DataKey>);

impl fmt::Debug for KeyHeld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHeld")
    }
}

/// A text as it goes to disk, and what has to be held while it is there.
#[derive(Debug)]
pub struct SealedSecret {
    /// What is written.
    pub bytes: Vec<u8>,
    /// Its key.
    pub held: KeyHeld,
}

impl Keys {
    /// Seals a text under the current data key; None while the key file is plain, which would protect
    /// nothing.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn seal_secret(&self, text: &[u8]) -> Result<Option<SealedSecret>, OpenError> {
        let (is_wrapped, _) = self.lock();
        if !is_wrapped {
            return Ok(None);
        }
        let (key, salt) = (self.current(), seal::random()?);
        let mut bytes = Vec::with_capacity(HEADER_BYTES + text.len() + seal::TAG_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&key.number.to_le_bytes());
        bytes.extend_from_slice(&salt);
        let header = bytes.clone();
        bytes.extend_from_slice(text);
        let tag = SegmentSeal::for_secret(&key, &salt).seal(ONLY, &header, &mut bytes[HEADER_BYTES..]);
        bytes.extend_from_slice(&tag);
        Ok(Some(SealedSecret { bytes, held: KeyHeld(key) }))
    }

    /// Opens what [`Keys::seal_secret`] made.
    ///
    /// # Errors
    /// What is wrong with it, in words without any of it.
    pub fn open_secret(&self, sealed: &[u8]) -> Result<(Vec<u8>, KeyHeld), String> {
        if sealed.len() < HEADER_BYTES || sealed[..8] != MAGIC {
            return Err("it is not a sealed text".to_owned());
        }
        let number =
            |at: usize| u32::from_le_bytes([sealed[at], sealed[at + 1], sealed[at + 2], sealed[at + 3]]);
        if number(8) != VERSION {
            return Err(format!("it has format {}, and this binary knows {VERSION}", number(8)));
        }
        let key = self.get(number(NUMBER_AT));
        let key = key.ok_or_else(|| "it is sealed under a data key that is not there".to_owned())?;
        let salt = sealed[SALT_AT..HEADER_BYTES].try_into().expect("the slice has that length");
        let (header, body) = sealed.split_at(HEADER_BYTES);
        let mut body = body.to_vec();
        let plain = SegmentSeal::for_secret(&key, &salt).open(ONLY, header, &mut body).map(<[u8]>::len);
        body.truncate(plain.ok_or_else(|| "its seal does not hold: it was altered".to_owned())?);
        Ok((body, KeyHeld(key)))
    }
}
