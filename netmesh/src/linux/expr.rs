//! The expressions of a netfilter rule, as the kernel's rule machine reads them.
//!
//! A rule is a list: each expression loads into a register, compares one, or acts; the first that does
//! not match ends the rule. Registers here are the 32-bit ones: r(0), r(1), ...

use super::netlink::Message;

const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// The nth 32-bit register.
pub(crate) const fn r(n: u32) -> u32 {
    8 + n
}

/// Packet metadata.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Meta {
    InputName = 6,
    OutputName = 7,
    TransportProtocol = 16,
}

/// Connection tracking facts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ct {
    State = 0,
    Status = 2,
}

pub(crate) const CT_STATE_NEW: u32 = 8;
pub(crate) const CT_STATUS_DNAT: u32 = 0x20;

/// Header fields: base (1 network, 2 transport), offset, length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field(u32, u32, u32);
pub(crate) const IP_SOURCE: Field = Field(1, 12, 4);
pub(crate) const IP_DESTINATION: Field = Field(1, 16, 4);
pub(crate) const DESTINATION_PORT: Field = Field(2, 2, 2);

/// The expressions of one rule being written.
#[derive(Debug)]
pub(crate) struct Rule<'a>(pub(crate) &'a mut Message);

impl Rule<'_> {
    fn expr(&mut self, name: &str, data: impl FnOnce(&mut Message)) -> &mut Self {
        self.0.nest(LIST_ELEM, |elem| {
            elem.text(EXPR_NAME, name);
            elem.nest(EXPR_DATA, data);
        });
        self
    }

    pub(crate) fn meta(&mut self, key: Meta, to: u32) -> &mut Self {
        self.expr("meta", |m| {
            m.be32(1, to);
            m.be32(2, key as u32);
        })
    }

    pub(crate) fn field(&mut self, field: Field, to: u32) -> &mut Self {
        self.expr("payload", |m| {
            m.be32(1, to);
            m.be32(2, field.0);
            m.be32(3, field.1);
            m.be32(4, field.2);
        })
    }

    pub(crate) fn equal(&mut self, register: u32, value: &[u8]) -> &mut Self {
        self.compare(register, 0, value)
    }

    pub(crate) fn not_equal(&mut self, register: u32, value: &[u8]) -> &mut Self {
        self.compare(register, 1, value)
    }

    fn compare(&mut self, register: u32, op: u32, value: &[u8]) -> &mut Self {
        self.expr("cmp", |m| {
            m.be32(1, register);
            m.be32(2, op);
            m.nest(3, |data| data.attr(DATA_VALUE, value));
        })
    }

    /// Keeps the bits of `mask` in a 4-byte register.
    pub(crate) fn mask(&mut self, register: u32, mask: [u8; 4]) -> &mut Self {
        self.expr("bitwise", |m| {
            m.be32(1, register);
            m.be32(2, register);
            m.be32(3, 4);
            m.nest(4, |data| data.attr(DATA_VALUE, &mask));
            m.nest(5, |data| data.attr(DATA_VALUE, &[0; 4]));
        })
    }

    pub(crate) fn is_protocol(&mut self, protocol: u8) -> &mut Self {
        self.meta(Meta::TransportProtocol, r(0)).equal(r(0), &[protocol])
    }

    /// The whole name: it ends with a zero, or it would match a prefix.
    pub(crate) fn is_link(&mut self, key: Meta, name: &str) -> &mut Self {
        self.meta(key, r(0)).equal(r(0), &link_name(name))
    }

    pub(crate) fn is_not_link(&mut self, key: Meta, name: &str) -> &mut Self {
        self.meta(key, r(0)).not_equal(r(0), &link_name(name))
    }

    fn ct(&mut self, key: Ct) -> &mut Self {
        self.expr("ct", |m| {
            m.be32(1, r(0));
            m.be32(2, key as u32);
        })
    }

    pub(crate) fn is_new(&mut self) -> &mut Self {
        self.ct(Ct::State).mask(r(0), CT_STATE_NEW.to_ne_bytes()).not_equal(r(0), &[0; 4])
    }

    pub(crate) fn is_translated(&mut self) -> &mut Self {
        self.ct(Ct::Status).mask(r(0), CT_STATUS_DNAT.to_ne_bytes()).not_equal(r(0), &[0; 4])
    }

    pub(crate) fn is_not_translated(&mut self) -> &mut Self {
        self.ct(Ct::Status).mask(r(0), CT_STATUS_DNAT.to_ne_bytes()).equal(r(0), &[0; 4])
    }

    /// The destination is an address of this node.
    pub(crate) fn is_local(&mut self) -> &mut Self {
        const TYPE: u32 = 3;
        const OF_DESTINATION: u32 = 2;
        const LOCAL: u32 = 2;
        self.expr("fib", |m| {
            m.be32(1, r(0));
            m.be32(2, TYPE);
            m.be32(3, OF_DESTINATION);
        })
        .equal(r(0), &LOCAL.to_ne_bytes())
    }

    pub(crate) fn is_not_loopback(&mut self) -> &mut Self {
        self.field(IP_DESTINATION, r(0)).mask(r(0), [255, 0, 0, 0]).not_equal(r(0), &[127, 0, 0, 0])
    }

    /// A number in 0..modulus, drawn for each packet.
    pub(crate) fn random(&mut self, modulus: u32, to: u32) -> &mut Self {
        const RANDOM: u32 = 1;
        self.expr("numgen", |m| {
            m.be32(1, to);
            m.be32(2, modulus);
            m.be32(3, RANDOM);
        })
    }

    /// Matches when the registers from `from` on are a key of the map, and loads its value.
    pub(crate) fn lookup(&mut self, map: &str, from: u32, to: u32) -> &mut Self {
        self.expr("lookup", |m| {
            m.text(1, map);
            m.be32(2, from);
            m.be32(3, to);
        })
    }

    pub(crate) fn is_in(&mut self, set: &str, from: u32) -> &mut Self {
        self.expr("lookup", |m| {
            m.text(1, set);
            m.be32(2, from);
        })
    }

    pub(crate) fn is_not_in(&mut self, set: &str, from: u32) -> &mut Self {
        const INVERT: u32 = 1;
        self.expr("lookup", |m| {
            m.text(1, set);
            m.be32(2, from);
            m.be32(5, INVERT);
        })
    }

    /// Translates the destination to the address and port in two registers.
    pub(crate) fn translate(&mut self, addr: u32, port: u32) -> &mut Self {
        const DESTINATION: u32 = 1;
        const FAMILY_IP: u32 = 2;
        self.expr("nat", |m| {
            m.be32(1, DESTINATION);
            m.be32(2, FAMILY_IP);
            m.be32(3, addr);
            m.be32(5, port);
        })
    }

    pub(crate) fn masquerade(&mut self) -> &mut Self {
        self.expr("masq", |_| {})
    }

    pub(crate) fn reset(&mut self) -> &mut Self {
        self.expr("reject", |m| m.be32(1, 1))
    }

    pub(crate) fn port_unreachable(&mut self) -> &mut Self {
        self.expr("reject", |m| {
            m.be32(1, 0);
            m.attr(2, &[3]);
        })
    }

    pub(crate) fn drop(&mut self) -> &mut Self {
        self.expr("immediate", |m| {
            m.be32(1, 0);
            m.nest(2, |data| data.nest(DATA_VERDICT, |verdict| verdict.be32(VERDICT_CODE, 0)));
        })
    }

    pub(crate) fn untracked(&mut self) -> &mut Self {
        self.expr("notrack", |_| {})
    }
}

fn link_name(name: &str) -> [u8; 16] {
    let mut padded = [0; 16];
    let n = name.len().min(15);
    padded[..n].copy_from_slice(&name.as_bytes()[..n]);
    padded
}
