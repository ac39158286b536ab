//! Small texts that a million objects have: words that are said of most tasks take no memory of their own,
//! a container's id as many bytes as it says.

use std::{fmt, ops::Deref, sync::Arc};

/// What tasks in good order say (Swarm's words). A text that is not here only takes more memory.
const KNOWN: [&str; 12] = [
    "",
    "created",
    "pending task scheduling",
    "scheduler assigned task to node",
    "scheduler confirmed task can run on preassigned node",
    "accepted",
    "preparing",
    "ready",
    "prepared",
    "starting",
    "started",
    "finished",
];

/// A short text; a clone shares it.
#[derive(Clone)]
pub struct Text(Repr);

#[derive(Clone)]
enum Repr {
    Known(u8),
    Other(Arc<str>),
}

impl Text {
    /// The text itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Known(at) => KNOWN[usize::from(*at)],
            Repr::Other(text) => text,
        }
    }
}

impl Default for Text {
    fn default() -> Self {
        Self(Repr::Known(0))
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        let known = KNOWN.iter().position(|known| *known == text).and_then(|at| u8::try_from(at).ok());
        Self(known.map_or_else(|| Repr::Other(text.into()), Repr::Known))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Text {}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialEq<String> for Text {
    fn eq(&self, other: &String) -> bool {
        self.as_str() == other
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How many bytes an engine's id of a container stands for.
const DIGEST_BYTES: usize = 32;

/// A container's id as its engine says it: 64 hexadecimal digits, or whatever it is.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ContainerId(Digits);

#[derive(Clone, PartialEq, Eq, Debug, Default)]
enum Digits {
    #[default]
    None,
    Hex([u8; DIGEST_BYTES]),
    Other(Box<str>),
}

impl ContainerId {
    /// Whether there is no container yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == Digits::None
    }
}

fn unhex(text: &str) -> Option<[u8; DIGEST_BYTES]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let text: &[u8; 2 * DIGEST_BYTES] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; DIGEST_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

impl From<&str> for ContainerId {
    fn from(text: &str) -> Self {
        Self(match unhex(text) {
            Some(bytes) => Digits::Hex(bytes),
            None if text.is_empty() => Digits::None,
            None => Digits::Other(text.into()),
        })
    }
}

impl From<String> for ContainerId {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Digits::None => Ok(()),
            Digits::Hex(bytes) => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let mut text = [0; 2 * DIGEST_BYTES];
                for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
                    pair[0] = HEX[usize::from(byte >> 4)];
                    pair[1] = HEX[usize::from(byte & 15)];
                }
                f.pad(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
            }
            Digits::Other(text) => f.pad(text),
        }
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_what_they_were() {
        for text in KNOWN.into_iter().chain(["task: non-zero exit (5)", "Started"]) {
            assert_eq!(Text::from(text), *text);
            assert_eq!(Text::from(text).to_string(), text);
        }
        assert_eq!(size_of::<Text>(), 16);
        assert!(Text::default().is_empty());
    }

    #[test]
    fn container_ids_are_what_they_were() {
        let hex = "0123456789abcdef".repeat(4);
        for id in ["", "c1", &hex, &hex.to_uppercase(), &hex[1..], &format!("{}x", &hex[1..])] {
            assert_eq!(ContainerId::from(id).to_string(), id);
            assert_eq!(ContainerId::from(id).is_empty(), id.is_empty());
        }
        assert_eq!(ContainerId::from(hex.as_str()).0, Digits::Hex(unhex(&hex).unwrap()));
    }
}
