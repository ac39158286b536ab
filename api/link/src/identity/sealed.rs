//! The node's key as a manager keeps it while its disk is locked: text that only a [`KeyBox`] opens.

use std::{any::Any, path::Path, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::IdentityError;

/// Around the base64 of a key that is sealed.
const SEALED_BEGIN: &str = "-----BEGIN SKEP SEALED KEY-----";
const SEALED_END: &str = "-----END SKEP SEALED KEY-----";
/// Before that of a key which was on an open disk before: whoever read the disk then has it.
const WAS_OPEN: &str = "Was-Open: to be replaced\n";

/// What has to live for as long as a key that was sealed with it is on disk.
pub type Held = Arc<dyn Any + Send + Sync>;

/// Seals the node's key where it is kept: a manager's, while its swarm is locked when it starts.
pub trait KeyBox: Send + Sync {
    /// The bytes to keep in the place of `key`; `None`: it is kept as it is.
    ///
    /// # Errors
    /// In words, without any of the key.
    fn seal(&self, key: &[u8]) -> Result<Option<(Vec<u8>, Held)>, String>;

    /// The key again.
    ///
    /// # Errors
    /// In words, without any of the key.
    fn open(&self, sealed: &[u8]) -> Result<(Vec<u8>, Held), String>;
}

/// Whether a key file's text is sealed.
pub(super) fn is_sealed(text: &str) -> bool {
    text.starts_with(SEALED_BEGIN)
}

pub(super) fn text(bytes: &[u8], was_open: bool) -> String {
    let note = if was_open { WAS_OPEN } else { "" };
    format!("{SEALED_BEGIN}\n{note}{}\n{SEALED_END}\n", STANDARD.encode(bytes))
}

/// Whether the key in a key file's text is, or once was, open to who reads the disk.
pub(super) fn was_open(text: &str) -> bool {
    !is_sealed(text) || text.contains(WAS_OPEN)
}

/// The key as PEM, whether it is sealed or not.
pub(super) fn open(
    text: String,
    path: &Path,
    key_box: Option<&dyn KeyBox>,
) -> Result<(String, Option<Held>), IdentityError> {
    let Some(sealed) = text.strip_prefix(SEALED_BEGIN) else { return Ok((text, None)) };
    let damaged = |reason: String| IdentityError::Damaged { path: path.to_owned(), reason };
    let body = sealed.trim_end().strip_suffix(SEALED_END).map(str::trim);
    let body = body.map(|text| STANDARD.decode(text.strip_prefix(WAS_OPEN).unwrap_or(text)));
    let Some(Ok(bytes)) = body else { return Err(damaged("it is no sealed key".to_owned())) };
    let key_box = key_box.ok_or_else(|| IdentityError::Sealed { path: path.to_owned() })?;
    let (key, held) = key_box.open(&bytes).map_err(damaged)?;
    let key = String::from_utf8(key).map_err(|_| damaged("it holds no PEM".to_owned()))?;
    Ok((key, Some(held)))
}
