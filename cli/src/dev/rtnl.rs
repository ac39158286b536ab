//! The few rtnetlink requests that a development swarm needs, spoken in the calling thread's namespace.
//!
//! One socket, one request at a time, each acknowledged by the kernel, so that no `ip` program is needed.
//! Invariant: a socket belongs to the network namespace that its thread was in when it was opened.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;

/// An rtnetlink socket.
#[derive(Debug)]
pub(crate) struct Rtnl {
    socket: OwnedFd,
}

impl Rtnl {
    /// Opens a socket in the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        // Protocol 0 of netlink is NETLINK_ROUTE.
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket })
    }

    /// The index of the link `name`.
    pub(crate) fn index(&self, name: &str) -> io::Result<u32> {
        Ok(rustix::net::netdevice::name_to_index(&self.socket, name)?)
    }

    pub(crate) fn set_up(&self, name: &str) -> io::Result<()> {
        let mut m = Message::new(RTM_NEWLINK, 0);
        m.link_header(self.index(name)?, IFF_UP);
        self.ask(m)
    }

    pub(crate) fn add_bridge(&self, name: &str) -> io::Result<()> {
        let mut m = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
        m.link_header(0, IFF_UP);
        m.attr_str(IFLA_IFNAME, name);
        m.nest(IFLA_LINKINFO, |m| m.attr_str(IFLA_INFO_KIND, "bridge"));
        self.ask(m)
    }

    /// Makes a veth pair: `port` here, up and on the bridge `master`; `peer` in the namespace `peer_ns`.
    pub(crate) fn add_veth(
        &self,
        port: &str,
        master: u32,
        peer: &str,
        peer_ns: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let ns = peer_ns.as_raw_fd().to_ne_bytes();
        let mut m = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
        m.link_header(0, IFF_UP);
        m.attr_str(IFLA_IFNAME, port);
        m.attr(IFLA_MASTER, &master.to_ne_bytes());
        m.nest(IFLA_LINKINFO, |m| {
            m.attr_str(IFLA_INFO_KIND, "veth");
            m.nest(IFLA_INFO_DATA, |m| {
                m.nest(VETH_INFO_PEER, |m| {
                    m.link_header(0, 0);
                    m.attr_str(IFLA_IFNAME, peer);
                    m.attr(IFLA_NET_NS_FD, &ns);
                });
            });
        });
        self.ask(m)
    }

    pub(crate) fn add_address(&self, link: &str, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut m = Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL);
        m.put(&[AF_INET, prefix, 0, 0]);
        m.put(&self.index(link)?.to_ne_bytes());
        m.attr(IFA_LOCAL, &address.octets());
        m.attr(IFA_ADDRESS, &address.octets());
        self.ask(m)
    }

    pub(crate) fn add_default_route(&self, link: &str, gateway: Ipv4Addr) -> io::Result<()> {
        const RT_TABLE_MAIN: u8 = 254;
        const RTPROT_BOOT: u8 = 3;
        const RTN_UNICAST: u8 = 1;
        let mut m = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL);
        m.put(&[AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST]);
        m.put(&0_u32.to_ne_bytes());
        m.attr(RTA_OIF, &self.index(link)?.to_ne_bytes());
        m.attr(RTA_GATEWAY, &gateway.octets());
        self.ask(m)
    }

    /// Says for good which hardware address a neighbour has, whatever it says itself.
    pub(crate) fn pin_neighbour(&self, link: &str, address: Ipv4Addr, hardware: [u8; 6]) -> io::Result<()> {
        let mut m = Message::new(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE);
        m.neighbour_header(self.index(link)?, NUD_PERMANENT);
        m.attr(NDA_DST, &address.octets());
        m.attr(NDA_LLADDR, &hardware);
        self.ask(m)
    }

    /// Forgets what is known of a neighbour; nothing is no error.
    pub(crate) fn forget_neighbour(&self, link: &str, address: Ipv4Addr) -> io::Result<()> {
        let mut m = Message::new(RTM_DELNEIGH, 0);
        m.neighbour_header(self.index(link)?, 0);
        m.attr(NDA_DST, &address.octets());
        match self.ask(m) {
            Err(err) if err.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// Removes a link; one that is not there is no error.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        let Ok(index) = self.index(name) else { return Ok(()) };
        let mut m = Message::new(RTM_DELLINK, 0);
        m.link_header(index, 0);
        match self.ask(m) {
            // Gone between the two calls: its namespace was being taken down.
            Err(err) if err.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    fn ask(&self, message: Message) -> io::Result<()> {
        rustix::net::send(&self.socket, &message.finish(), SendFlags::empty())?;
        let mut answer = vec![0_u8; 8192];
        let (n, _) = rustix::net::recv(&self.socket, answer.as_mut_slice(), RecvFlags::empty())?;
        let field = |at: usize| -> io::Result<[u8; 4]> {
            answer.get(at..at + 4).and_then(|b| b.try_into().ok()).ok_or(io::ErrorKind::UnexpectedEof.into())
        };
        let kind = u16::from_ne_bytes([answer[4], answer[5]]);
        if n < 20 || kind != NLMSG_ERROR {
            return Err(io::Error::other(format!("netlink answered message type {kind} of {n} bytes")));
        }
        match i32::from_ne_bytes(field(16)?) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(-code)),
        }
    }
}

/// A netlink message under construction.
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut m = Self { bytes: vec![0; 4] };
        m.put(&kind.to_ne_bytes());
        m.put(&(NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        m.put(&1_u32.to_ne_bytes());
        m.put(&0_u32.to_ne_bytes());
        m
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// `struct ifinfomsg`; `set` are the flags to raise.
    fn link_header(&mut self, index: u32, set: u32) {
        self.put(&[0; 4]);
        self.put(&index.to_ne_bytes());
        self.put(&set.to_ne_bytes());
        self.put(&set.to_ne_bytes());
    }

    /// `struct ndmsg`.
    fn neighbour_header(&mut self, index: u32, state: u16) {
        self.put(&[AF_INET, 0, 0, 0]);
        self.put(&index.to_ne_bytes());
        self.put(&state.to_ne_bytes());
        self.put(&[0, 0]);
    }

    fn attr(&mut self, kind: u16, value: &[u8]) {
        self.nest(kind, |m| m.put(value));
    }

    fn attr_str(&mut self, kind: u16, value: &str) {
        self.nest(kind, |m| {
            m.put(value.as_bytes());
            m.put(&[0]);
        });
    }

    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.put(&[0; 2]);
        self.put(&kind.to_ne_bytes());
        fill(self);
        let len = u16::try_from(self.bytes.len() - start).expect("requests here are under 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }

    fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.bytes.len()).expect("requests here are under 64 KiB");
        self.bytes[..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes
    }
}
