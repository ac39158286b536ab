//! Netlink itself: messages of nested attributes, a socket that waits for the kernel's answers.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

pub(crate) const REQUEST: u16 = 0x1;
pub(crate) const ACK: u16 = 0x4;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const EXCL: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;

const HEADER: usize = 16;
const NESTED: u16 = 0x8000;
const KIND_MASK: u16 = 0x3fff;
const MSG_ERROR: u16 = 2;
const MSG_DONE: u16 = 3;

/// The kernel answers at once or not at all; a lost answer must not hang the daemon.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Dumps come in parts of at most 32 KiB.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// The kernel's own default; a longer batch raises it for the socket.
const SEND_BUFFER: usize = 200 * 1024;

/// Why the kernel did not do what was asked of it over netlink.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("the kernel refused: {0}")]
    Refused(Errno),
    #[error("netlink socket: {0}")]
    Socket(Errno),
    #[error("the kernel's answer is malformed")]
    Malformed,
}

impl NetlinkError {
    pub(crate) fn errno(&self) -> Option<Errno> {
        match self {
            NetlinkError::Refused(errno) => Some(*errno),
            NetlinkError::Socket(_) | NetlinkError::Malformed => None,
        }
    }
}

/// Turns the given refusals (the object is gone, or was there) into success.
pub(crate) fn tolerate(result: Result<(), NetlinkError>, errnos: &[Errno]) -> Result<(), NetlinkError> {
    match result {
        Err(e) if e.errno().is_some_and(|errno| errnos.contains(&errno)) => Ok(()),
        other => other,
    }
}

/// One request being written; lengths are filled in as attributes close.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    pub(crate) fn new(kind: u16, flags: u16) -> Message {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        Message { bytes }
    }

    /// The fixed header of the family, which comes before the attributes.
    pub(crate) fn raw(mut self, data: &[u8]) -> Message {
        self.push_raw(data);
        self
    }

    pub(crate) fn push_raw(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    pub(crate) fn attr(&mut self, kind: u16, data: &[u8]) {
        let at = self.open(kind);
        self.bytes.extend_from_slice(data);
        self.close(at);
    }

    /// A zero-terminated string.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let at = self.open(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.close(at);
    }

    /// A number as netfilter wants it: 32 bits, big endian.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// A number as rtnetlink wants it.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_ne_bytes());
    }

    pub(crate) fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Message)) {
        let at = self.open(kind | NESTED);
        inside(self);
        self.close(at);
    }

    fn open(&mut self, kind: u16) -> usize {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&0_u16.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        at
    }

    fn close(&mut self, at: usize) {
        let len =
            u16::try_from(self.bytes.len() - at).expect("attributes are cut below 64 KiB by their callers");
        self.bytes[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn add_flags(&mut self, flags: u16) {
        let now = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]);
        self.bytes[6..8].copy_from_slice(&(now | flags).to_ne_bytes());
    }

    fn finish(&mut self, seq: u32) -> &[u8] {
        let len = u32::try_from(self.bytes.len()).expect("a message is far below 4 GiB");
        self.bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&seq.to_ne_bytes());
        &self.bytes
    }

    /// What follows the netlink header; tests and fingerprints read it.
    pub(crate) fn body(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }
}

/// The attributes of a received message or of a nested attribute.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attrs<'a>(pub(crate) &'a [u8]);

impl<'a> Attrs<'a> {
    pub(crate) fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let head = rest.get(..4)?;
            let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
            let kind = u16::from_ne_bytes([head[2], head[3]]) & KIND_MASK;
            let data = rest.get(4..len)?;
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, data))
        })
    }

    pub(crate) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.iter().find(|(k, _)| *k == kind).map(|(_, data)| data)
    }

    pub(crate) fn nested(self, kind: u16) -> Option<Attrs<'a>> {
        self.get(kind).map(Attrs)
    }

    pub(crate) fn array<const N: usize>(self, kind: u16) -> Option<[u8; N]> {
        self.get(kind)?.get(..N)?.try_into().ok()
    }

    pub(crate) fn u32(self, kind: u16) -> Option<u32> {
        self.array(kind).map(u32::from_ne_bytes)
    }

    pub(crate) fn text(self, kind: u16) -> Option<String> {
        let bytes = self.get(kind)?;
        let text = CStr::from_bytes_until_nul(bytes).ok()?;
        text.to_str().ok().map(str::to_owned)
    }
}

struct Answer {
    seq: u32,
    kind: u16,
    body: Vec<u8>,
}

/// A netlink socket, one request or batch at a time.
#[derive(Debug)]
pub(crate) struct Netlink {
    fd: OwnedFd,
    seq: u32,
    send_buffer: usize,
}

impl Netlink {
    pub(crate) fn route() -> Result<Netlink, NetlinkError> {
        Netlink::open(None)
    }

    pub(crate) fn netfilter() -> Result<Netlink, NetlinkError> {
        Netlink::open(Some(rustix::net::netlink::NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> Result<Netlink, NetlinkError> {
        let open = || {
            let fd = rustix::net::socket_with(
                AddressFamily::NETLINK,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                protocol,
            )?;
            rustix::net::bind(&fd, &rustix::net::netlink::SocketAddrNetlink::new(0, 0))?;
            sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(ANSWER_MAX))?;
            sockopt::set_socket_recv_buffer_size_force(&fd, 4 * 1024 * 1024)?;
            Ok(fd)
        };
        let fd = open().map_err(NetlinkError::Socket)?;
        Ok(Netlink { fd, seq: 0, send_buffer: SEND_BUFFER })
    }

    /// Sends one request and waits until the kernel says that it is done.
    pub(crate) fn request(&mut self, mut message: Message) -> Result<(), NetlinkError> {
        message.add_flags(ACK);
        let seq = self.next_seq();
        self.send(message.finish(seq))?;
        self.wait_for(seq, seq)
    }

    /// Sends messages that the kernel takes as one transaction. Fails with the first refusal.
    pub(crate) fn transaction(&mut self, mut batch: Vec<Message>) -> Result<(), NetlinkError> {
        let mut wire = Vec::with_capacity(batch.iter().map(|m| m.bytes.len()).sum());
        let first = self.seq.wrapping_add(1);
        let n_messages = batch.len();
        let mut asked = first;
        for (i, message) in batch.iter_mut().enumerate() {
            let seq = self.next_seq();
            // The answer to the last command before the end marker comes after the commit.
            if i + 2 == n_messages {
                message.add_flags(ACK);
                asked = seq;
            }
            wire.extend_from_slice(message.finish(seq));
        }
        self.send(&wire)?;
        self.wait_for(first, asked)
    }

    /// The bodies of all answers to a dump.
    pub(crate) fn dump(&mut self, mut message: Message) -> Result<Vec<Vec<u8>>, NetlinkError> {
        message.add_flags(DUMP);
        let seq = self.next_seq();
        self.send(message.finish(seq))?;
        let mut found = Vec::new();
        loop {
            for answer in self.receive()?.into_iter().filter(|a| a.seq == seq) {
                match answer.kind {
                    MSG_DONE => return Ok(found),
                    MSG_ERROR => return Err(refusal(&answer).unwrap_or(NetlinkError::Malformed)),
                    _ => found.push(answer.body),
                }
            }
        }
    }

    /// The body of the one answer to a question; none if the kernel has no such object.
    pub(crate) fn ask(
        &mut self,
        mut message: Message,
        absent: Errno,
    ) -> Result<Option<Vec<u8>>, NetlinkError> {
        let seq = self.next_seq();
        self.send(message.finish(seq))?;
        loop {
            if let Some(answer) = self.receive()?.into_iter().find(|a| a.seq == seq) {
                if answer.kind != MSG_ERROR {
                    return Ok(Some(answer.body));
                }
                return match refusal(&answer) {
                    Some(e) if e.errno() == Some(absent) => Ok(None),
                    Some(e) => Err(e),
                    None => Err(NetlinkError::Malformed),
                };
            }
        }
    }

    fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1);
        self.seq
    }

    fn send(&mut self, wire: &[u8]) -> Result<(), NetlinkError> {
        if wire.len() > self.send_buffer {
            sockopt::set_socket_send_buffer_size_force(&self.fd, wire.len() + SEND_BUFFER)
                .map_err(NetlinkError::Socket)?;
            self.send_buffer = wire.len();
        }
        rustix::net::send(&self.fd, wire, SendFlags::empty()).map_err(NetlinkError::Socket)?;
        Ok(())
    }

    /// Reads answers until the one to `asked`, or a refusal that ends the whole (answered to `first`).
    fn wait_for(&mut self, first: u32, asked: u32) -> Result<(), NetlinkError> {
        let mut refused = None;
        loop {
            for answer in self.receive()?.into_iter().filter(|a| a.kind == MSG_ERROR) {
                let of_this = answer.seq.wrapping_sub(first) <= asked.wrapping_sub(first);
                if !of_this {
                    continue;
                }
                if let Some(error) = refusal(&answer) {
                    if answer.seq == first {
                        return Err(error);
                    }
                    refused.get_or_insert(error);
                }
                if answer.seq == asked {
                    return refused.map_or(Ok(()), Err);
                }
            }
        }
    }

    fn receive(&mut self) -> Result<Vec<Answer>, NetlinkError> {
        let mut buffer = vec![0_u8; RECEIVE_BUFFER];
        let (_, len) = loop {
            match rustix::net::recv(&self.fd, buffer.as_mut_slice(), RecvFlags::empty()) {
                Err(Errno::INTR) => {}
                other => break other.map_err(NetlinkError::Socket)?,
            }
        };
        let mut rest = buffer.get(..len).ok_or(NetlinkError::Malformed)?;
        let mut answers = Vec::new();
        while let Some(head) = rest.get(..HEADER) {
            let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
            let half = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
            let len = usize::try_from(word(0)).map_err(|_| NetlinkError::Malformed)?;
            let body = rest.get(HEADER..len).ok_or(NetlinkError::Malformed)?.to_vec();
            answers.push(Answer { seq: word(8), kind: half(4), body });
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(answers)
    }
}

/// What an error message says; none if it is the acknowledgement.
fn refusal(answer: &Answer) -> Option<NetlinkError> {
    let Some(code) = answer.body.get(..4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes) else {
        return Some(NetlinkError::Malformed);
    };
    if code == 0 {
        return None;
    }
    Some(NetlinkError::Refused(Errno::from_raw_os_error(code.saturating_neg())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_as_written() {
        let mut message = Message::new(16, 0);
        message.text(3, "eth0");
        message.nest(18, |inside| {
            inside.u32(1, 7);
            inside.attr(2, &[1, 2, 3]);
        });
        let attrs = Attrs(message.body());
        assert_eq!(attrs.text(3).as_deref(), Some("eth0"));
        let inside = attrs.nested(18).unwrap();
        assert_eq!(inside.u32(1), Some(7));
        assert_eq!(inside.get(2), Some(&[1, 2, 3][..]));
        assert_eq!(inside.get(9), None);
    }

    #[test]
    fn torn_attributes_end_the_list() {
        assert_eq!(Attrs(&[9, 0, 1, 0, 1]).iter().count(), 0);
        assert_eq!(Attrs(&[0, 0, 1, 0]).iter().count(), 0);
        assert_eq!(Attrs(&[4, 0, 1, 0]).iter().count(), 1);
    }
}
