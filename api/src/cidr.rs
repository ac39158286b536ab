//! IPv4 address ranges written as `address/prefix`.

use std::{fmt, net::Ipv4Addr, str::FromStr};

/// An IPv4 network: its first address and its prefix length. No bits are set beyond the prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cidr {
    base: Ipv4Addr,
    prefix: u8,
}

/// A text that is no address range.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CidrError {
    /// Not `address/prefix` of IPv4.
    #[error("'{0}' is no IPv4 subnet such as 10.0.9.0/24")]
    Malformed(String),
    /// Bits beyond the prefix (libnetwork's words, `MB:api/types/network/ipam.go`).
    #[error("invalid subnet {given}: it should be {meant}")]
    HostBits {
        /// As written.
        given: String,
        /// Without those bits.
        meant: Cidr,
    },
}

impl Cidr {
    /// The range of `prefix` bits (at most 32) that `address` lies in.
    #[must_use]
    pub const fn new(address: Ipv4Addr, prefix: u8) -> Self {
        Self { base: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)), prefix }
    }

    /// Its first address.
    #[must_use]
    pub fn base(self) -> Ipv4Addr {
        self.base
    }

    /// Its last address.
    #[must_use]
    pub fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits() | !mask(self.prefix))
    }

    /// Its prefix length.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.base.to_bits()
    }

    /// Whether the two share an address: then one lies in the other.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.base) || other.contains(self.base)
    }

    /// Its parts of `prefix` bits, in order; none if that is shorter than its own.
    pub fn parts(self, prefix: u8) -> impl Iterator<Item = Self> {
        let fits = prefix >= self.prefix && prefix <= 32;
        let n = if fits { 1_u64 << (prefix - self.prefix) } else { 0 };
        (0..n).filter_map(move |at| {
            let offset = u32::try_from(at << (32 - prefix)).ok()?;
            Some(Self::new(Ipv4Addr::from_bits(self.base.to_bits() | offset), prefix))
        })
    }
}

const fn mask(prefix: u8) -> u32 {
    match prefix {
        0 => 0,
        1..32 => u32::MAX << (32 - prefix),
        _ => u32::MAX,
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let malformed = || CidrError::Malformed(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(malformed)?;
        let address: Ipv4Addr = address.parse().map_err(|_| malformed())?;
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32).ok_or_else(malformed)?;
        let cidr = Self::new(address, prefix);
        if cidr.base != address {
            return Err(CidrError::HostBits { given: text.to_owned(), meant: cidr });
        }
        Ok(cidr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_written() {
        for text in ["10.0.0.0/8", "10.0.1.0/24", "0.0.0.0/0", "1.2.3.4/32"] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
        for (text, expect) in [
            ("10.0.0.1/24", "invalid subnet 10.0.0.1/24: it should be 10.0.0.0/24"),
            ("10.0.0.0", "'10.0.0.0' is no IPv4 subnet such as 10.0.9.0/24"),
            ("10.0.0.0/33", "is no IPv4 subnet"),
            ("fd00::/8", "is no IPv4 subnet"),
        ] {
            let error = text.parse::<Cidr>().unwrap_err().to_string();
            assert!(error.contains(expect), "{text}: {error}");
        }
    }

    #[test]
    fn parts_lie_in_order() {
        let of = |text: &str| text.parse::<Cidr>().unwrap();
        let parts: Vec<String> = of("10.0.0.0/22").parts(24).map(|part| part.to_string()).collect();
        assert_eq!(parts, ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"]);
        assert_eq!(of("10.0.0.0/24").parts(8).count(), 0);
        assert_eq!(of("10.0.0.0/24").parts(24).count(), 1);
        assert_eq!(of("0.0.0.0/0").parts(1).last(), Some(of("128.0.0.0/1")));
        assert!(of("10.0.0.0/8").overlaps(of("10.9.0.0/24")) && of("10.9.0.0/24").overlaps(of("10.0.0.0/8")));
        assert!(!of("10.0.0.0/24").overlaps(of("10.0.1.0/24")));
        assert_eq!(of("10.0.1.0/24").last(), Ipv4Addr::new(10, 0, 1, 255));
    }
}
