//! Tables, chains, sets and their elements: transactions on nf_tables over netlink.

use rustix::io::Errno;

use super::expr::Rule;
use super::netlink::{CREATE, Message, Netlink, NetlinkError, tolerate};

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM;
const DEL_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const NEW_SET: u16 = SUBSYSTEM | 9;
const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
const DEL_ELEMENT: u16 = SUBSYSTEM | 14;
const APPEND: u16 = 0x800;
const FAMILY_IP: u8 = 2;

/// Elements in one message: an attribute ends at 64 KiB, an element of ours takes at most 48 bytes.
const ELEMENTS_MAX: usize = 800;

/// Types of keys and values, by the numbers that the `nft` program shows them with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Type {
    Ipv4Addr = 7,
    InetProto = 12,
    InetService = 13,
    Mark = 19,
}

/// A set, or a map when it has values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Set {
    pub(crate) name: &'static str,
    pub(crate) key: &'static [Type],
    pub(crate) value: &'static [Type],
}

/// Where a base chain hooks in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hook {
    pub(crate) kind: &'static str,
    pub(crate) hook: u32,
    pub(crate) priority: i32,
}

/// A key of a set, with its value in a map; each part in its own 4 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<[u8; 8]>,
}

/// Commands on one table that the kernel takes together or not at all.
#[derive(Debug)]
pub(crate) struct Batch {
    table: &'static str,
    messages: Vec<Message>,
}

impl Batch {
    pub(crate) fn new(table: &'static str) -> Batch {
        Batch { table, messages: vec![marker(BATCH_BEGIN)] }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.len() == 1
    }

    /// The commands as bytes, to tell one ruleset from another.
    pub(crate) fn bytes(&self) -> impl Iterator<Item = u8> + '_ {
        self.messages.iter().flat_map(|m| m.body().iter().copied())
    }

    fn push(&mut self, kind: u16, flags: u16, name_attr: u16, fill: impl FnOnce(&mut Message)) {
        let mut message = Message::new(kind, flags).raw(&[FAMILY_IP, 0, 0, 0]);
        message.text(name_attr, self.table);
        fill(&mut message);
        self.messages.push(message);
    }

    pub(crate) fn add_table(&mut self) {
        self.push(NEW_TABLE, CREATE, 1, |_| {});
    }

    pub(crate) fn del_table(&mut self) {
        self.push(DEL_TABLE, 0, 1, |_| {});
    }

    pub(crate) fn add_chain(&mut self, name: &str, hook: Option<Hook>) {
        self.push(NEW_CHAIN, CREATE, 1, |m| {
            m.text(3, name);
            if let Some(base) = hook {
                m.nest(4, |h| {
                    h.be32(1, base.hook);
                    h.attr(2, &base.priority.to_be_bytes());
                });
                m.text(7, base.kind);
            }
        });
    }

    pub(crate) fn add_rule(&mut self, chain: &str, expressions: impl FnOnce(&mut Rule<'_>)) {
        self.push(NEW_RULE, CREATE | APPEND, 1, |m| {
            m.text(2, chain);
            m.nest(4, |list| expressions(&mut Rule(list)));
        });
    }

    pub(crate) fn add_set(&mut self, set: &Set, id: u32) {
        const MAP: u32 = 8;
        self.push(NEW_SET, CREATE, 1, |m| {
            m.text(2, set.name);
            m.be32(3, if set.value.is_empty() { 0 } else { MAP });
            m.be32(4, concatenation(set.key));
            m.be32(5, width(set.key));
            if !set.value.is_empty() {
                m.be32(6, concatenation(set.value));
                m.be32(7, width(set.value));
            }
            m.be32(10, id);
        });
    }

    pub(crate) fn add_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(NEW_ELEMENT, CREATE, set, elements);
    }

    pub(crate) fn del_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(DEL_ELEMENT, 0, set, elements);
    }

    /// Removes all elements.
    pub(crate) fn flush(&mut self, set: &str) {
        self.push(DEL_ELEMENT, 0, 1, |m| m.text(2, set));
    }

    fn elements(&mut self, kind: u16, flags: u16, set: &str, elements: &[Element]) {
        for part in elements.chunks(ELEMENTS_MAX) {
            self.push(kind, flags, 1, |m| {
                m.text(2, set);
                m.nest(3, |list| {
                    for element in part {
                        list.nest(1, |elem| {
                            elem.nest(1, |key| key.attr(1, &element.key));
                            if let Some(value) = &element.value {
                                elem.nest(2, |data| data.attr(1, value));
                            }
                        });
                    }
                });
            });
        }
    }
}

/// An nf_tables socket of one network namespace.
#[derive(Debug)]
pub(crate) struct Nft(Netlink);

impl Nft {
    /// Opens it in the network namespace of the calling thread.
    pub(crate) fn open() -> Result<Nft, NetlinkError> {
        Netlink::netfilter().map(Nft)
    }

    /// All of it, atomically; returns when the kernel has it.
    pub(crate) fn commit(&mut self, mut batch: Batch) -> Result<(), NetlinkError> {
        if batch.is_empty() {
            return Ok(());
        }
        batch.messages.push(marker(BATCH_END));
        self.0.transaction(batch.messages)
    }

    pub(crate) fn has_chain(&mut self, table: &'static str, chain: &str) -> Result<bool, NetlinkError> {
        let mut message = Message::new(GET_CHAIN, 0).raw(&[FAMILY_IP, 0, 0, 0]);
        message.text(1, table);
        message.text(3, chain);
        Ok(self.0.ask(message, Errno::NOENT)?.is_some())
    }

    /// One that is gone is fine.
    pub(crate) fn drop_table(&mut self, table: &'static str) -> Result<(), NetlinkError> {
        let mut batch = Batch::new(table);
        batch.del_table();
        tolerate(self.commit(batch), &[Errno::NOENT])
    }
}

/// The start or end of a transaction: family unspecified, version, and the subsystem in big endian.
fn marker(kind: u16) -> Message {
    Message::new(kind, 0).raw(&[0, 0, 0, 10])
}

fn concatenation(types: &[Type]) -> u32 {
    types.iter().fold(0, |all, t| (all << 6) | *t as u32)
}

fn width(types: &[Type]) -> u32 {
    types.iter().map(|_| 4).sum()
}
