//! Object ids: 128 bits, shown as 25 base36 characters as Swarm shows them.

use std::{fmt, str::FromStr};

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// How many characters an id has when printed (the length of the largest 128-bit number in base 36).
pub const ID_CHARS: usize = 25;

/// A 128-bit object id. Comes from a source of randomness that the caller holds. Packed, as the alignment of
/// a u128 would cost 8 bytes in each index entry.
#[repr(Rust, packed(8))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Id(pub u128);

/// The text is not 25 base36 characters of at most 128 bits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid id '{0}': 25 characters of 0-9a-z expected")]
pub struct InvalidId(pub String);

impl Id {
    /// The bytes as stored, big endian; empty bytes stand for "none" on the wire.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }

    /// Reads what [`Id::to_bytes`] wrote; `None` for anything but 16 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(u128::from_be_bytes(bytes.try_into().ok()?)))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'0'; ID_CHARS];
        let mut rest = self.0;
        for place in text.iter_mut().rev() {
            let digit = usize::try_from(rest % 36).unwrap_or_default();
            *place = DIGITS[digit];
            rest /= 36;
        }
        f.pad(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Id {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId(text.to_owned());
        if text.len() != ID_CHARS {
            return Err(invalid());
        }
        let mut value: u128 = 0;
        for byte in text.bytes() {
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'z' => byte - b'a' + 10,
                _ => return Err(invalid()),
            };
            value =
                value.checked_mul(36).and_then(|v| v.checked_add(u128::from(digit))).ok_or_else(invalid)?;
        }
        Ok(Self(value))
    }
}

macro_rules! typed_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub Id);

        impl $name {
            /// The bytes as stored.
            #[must_use]
            pub fn to_bytes(self) -> Vec<u8> {
                self.0.to_bytes()
            }

            /// Reads stored bytes; `None` unless they are an id.
            #[must_use]
            pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
                Id::from_bytes(bytes).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.parse().map(Self)
            }
        }
    };
}

typed_id!(
    /// A member of the swarm.
    NodeId
);
typed_id!(
    /// A service.
    ServiceId
);
typed_id!(
    /// One attempt to run.
    TaskId
);
typed_id!(
    /// A network of the swarm.
    NetworkId
);
typed_id!(
    /// A token for joining with a life of its own.
    TicketId
);
typed_id!(
    /// The swarm itself.
    ClusterId
);
typed_id!(
    /// One write of a client, remembered so that it is never applied twice.
    RequestId
);

/// Where fresh ids come from: seeded in tests, the system's randomness in a daemon.
pub trait IdSource {
    /// A number never given before (128 random bits).
    fn next_id(&mut self) -> Id;
}

/// A seeded [`IdSource`] for tests and simulation (splitmix64).
#[derive(Debug, Clone)]
pub struct SeededIds(pub u64);

impl SeededIds {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl IdSource for SeededIds {
    fn next_id(&mut self) -> Id {
        Id(u128::from(self.next_u64()) << 64 | u128::from(self.next_u64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip() {
        for value in [0, 1, 35, 36, u128::MAX, 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef] {
            let text = Id(value).to_string();
            assert_eq!(text.len(), ID_CHARS);
            assert_eq!(text.parse(), Ok(Id(value)));
            assert_eq!(Id::from_bytes(&Id(value).to_bytes()), Some(Id(value)));
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in
            ["", "abc", "zzzzzzzzzzzzzzzzzzzzzzzzz", "0123456789abcdefghijklmnO", "é000000000000000000000000"]
        {
            assert!(text.parse::<Id>().is_err(), "{text}");
        }
    }
}
