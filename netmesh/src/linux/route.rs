//! Links, addresses, routes, neighbours and forwarding entries, over rtnetlink.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::netlink::{Attrs, CREATE, EXCL, Message, Netlink, NetlinkError, REPLACE, tolerate};
use crate::plan::Mac;

const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
const NEW_ADDR: u16 = 20;
const DEL_ADDR: u16 = 21;
const GET_ADDR: u16 = 22;
const NEW_ROUTE: u16 = 24;
const NEW_NEIGH: u16 = 28;
const DEL_NEIGH: u16 = 29;
const GET_NEIGH: u16 = 30;

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
const UP: u32 = 1;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const VXLAN_ID: u16 = 1;
const VXLAN_LOCAL: u16 = 4;
const VXLAN_LEARNING: u16 = 7;
const VXLAN_PORT: u16 = 15;
const BRPORT_HAIRPIN: u16 = 4;
const BRPORT_LEARNING: u16 = 8;
const BRPORT_UNICAST_FLOOD: u16 = 9;
const BRPORT_MULTICAST_FLOOD: u16 = 27;
const BRPORT_BROADCAST_FLOOD: u16 = 30;
const BRPORT_NEIGH_SUPPRESS: u16 = 32;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NTF_SELF: u8 = 0x2;
const NTF_MASTER: u8 = 0x4;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;

/// A link as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) kind: Option<String>,
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: u32,
    pub(crate) master: Option<u32>,
    pub(crate) vxlan: Option<Vxlan>,
}

/// What a VXLAN device was made with and cannot change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vxlan {
    pub(crate) vni: u32,
    pub(crate) local: Ipv4Addr,
    pub(crate) port: u16,
}

/// An address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkAddr {
    pub(crate) index: u32,
    pub(crate) addr: Ipv4Addr,
    pub(crate) prefix: u8,
}

/// A pair of interfaces: one in this namespace on a bridge, its peer in another one.
#[derive(Debug)]
pub(crate) struct VethPair<'a> {
    pub(crate) name: &'a str,
    pub(crate) master: u32,
    pub(crate) mtu: u32,
    pub(crate) peer_name: &'a str,
    pub(crate) peer_mac: Mac,
    pub(crate) peer_netns: BorrowedFd<'a>,
}

/// An rtnetlink socket of one network namespace.
#[derive(Debug)]
pub(crate) struct Route(Netlink);

type Result<T> = std::result::Result<T, NetlinkError>;

impl Route {
    /// Opens it in the network namespace of the calling thread.
    pub(crate) fn open() -> Result<Route> {
        Netlink::route().map(Route)
    }

    pub(crate) fn links(&mut self) -> Result<Vec<Link>> {
        let message = Message::new(GET_LINK, 0).raw(&link_header(AF_UNSPEC, 0, 0, 0));
        Ok(self.0.dump(message)?.iter().filter_map(|body| read_link(body)).collect())
    }

    pub(crate) fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let mut message = Message::new(GET_LINK, 0).raw(&link_header(AF_UNSPEC, 0, 0, 0));
        message.text(IFLA_IFNAME, name);
        Ok(self.0.ask(message, Errno::NODEV)?.as_deref().and_then(read_link))
    }

    pub(crate) fn add_bridge(&mut self, name: &str, mac: Mac, mtu: u32) -> Result<()> {
        let mut message = Message::new(NEW_LINK, CREATE | EXCL).raw(&link_header(AF_UNSPEC, 0, UP, UP));
        message.text(IFLA_IFNAME, name);
        message.attr(IFLA_ADDRESS, &mac.0);
        message.u32(IFLA_MTU, mtu);
        message.nest(IFLA_LINKINFO, |info| info.text(INFO_KIND, "bridge"));
        tolerate(self.0.request(message), &[Errno::EXIST])
    }

    pub(crate) fn add_vxlan(&mut self, name: &str, of: Vxlan, mac: Mac, master: u32, mtu: u32) -> Result<()> {
        let mut message = Message::new(NEW_LINK, CREATE | EXCL).raw(&link_header(AF_UNSPEC, 0, UP, UP));
        message.text(IFLA_IFNAME, name);
        message.attr(IFLA_ADDRESS, &mac.0);
        message.u32(IFLA_MTU, mtu);
        message.u32(IFLA_MASTER, master);
        message.nest(IFLA_LINKINFO, |info| {
            info.text(INFO_KIND, "vxlan");
            info.nest(INFO_DATA, |data| {
                data.u32(VXLAN_ID, of.vni);
                data.attr(VXLAN_LOCAL, &of.local.octets());
                data.attr(VXLAN_LEARNING, &[0]);
                data.attr(VXLAN_PORT, &of.port.to_be_bytes());
            });
        });
        self.0.request(message)
    }

    /// A bridge port that learns nothing, floods nothing, and whose far side is answered for by the bridge.
    pub(crate) fn set_static_port(&mut self, index: u32) -> Result<()> {
        let mut message = Message::new(SET_LINK, 0).raw(&link_header(AF_BRIDGE, index, 0, 0));
        message.nest(IFLA_PROTINFO, |port| {
            port.attr(BRPORT_LEARNING, &[0]);
            port.attr(BRPORT_UNICAST_FLOOD, &[0]);
            port.attr(BRPORT_MULTICAST_FLOOD, &[0]);
            port.attr(BRPORT_BROADCAST_FLOOD, &[0]);
            port.attr(BRPORT_NEIGH_SUPPRESS, &[1]);
        });
        self.0.request(message)
    }

    /// A bridge port that may get back what it sent: a translated packet to where it came from.
    pub(crate) fn set_hairpin(&mut self, index: u32) -> Result<()> {
        let mut message = Message::new(SET_LINK, 0).raw(&link_header(AF_BRIDGE, index, 0, 0));
        message.nest(IFLA_PROTINFO, |port| port.attr(BRPORT_HAIRPIN, &[1]));
        self.0.request(message)
    }

    pub(crate) fn add_veth(&mut self, pair: &VethPair<'_>) -> Result<()> {
        let mut message = Message::new(NEW_LINK, CREATE | EXCL).raw(&link_header(AF_UNSPEC, 0, UP, UP));
        message.text(IFLA_IFNAME, pair.name);
        message.u32(IFLA_MTU, pair.mtu);
        message.u32(IFLA_MASTER, pair.master);
        message.nest(IFLA_LINKINFO, |info| {
            info.text(INFO_KIND, "veth");
            info.nest(INFO_DATA, |data| {
                data.nest(VETH_PEER, |peer| {
                    // It cannot be raised before both ends are there.
                    peer.push_raw(&link_header(AF_UNSPEC, 0, 0, 0));
                    peer.text(IFLA_IFNAME, pair.peer_name);
                    peer.attr(IFLA_ADDRESS, &pair.peer_mac.0);
                    peer.u32(IFLA_MTU, pair.mtu);
                    peer.attr(IFLA_NET_NS_FD, &pair.peer_netns.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.0.request(message)
    }

    pub(crate) fn set_up(&mut self, index: u32) -> Result<()> {
        self.0.request(Message::new(NEW_LINK, 0).raw(&link_header(AF_UNSPEC, index, UP, UP)))
    }

    pub(crate) fn set_mac(&mut self, index: u32, mac: Mac) -> Result<()> {
        let mut message = Message::new(NEW_LINK, 0).raw(&link_header(AF_UNSPEC, index, 0, 0));
        message.attr(IFLA_ADDRESS, &mac.0);
        self.0.request(message)
    }

    pub(crate) fn set_master(&mut self, index: u32, master: u32) -> Result<()> {
        let mut message = Message::new(NEW_LINK, 0).raw(&link_header(AF_UNSPEC, index, 0, 0));
        message.u32(IFLA_MASTER, master);
        self.0.request(message)
    }

    /// Deletes a link and its peer; one that is gone is fine.
    pub(crate) fn del_link(&mut self, name: &str) -> Result<()> {
        let mut message = Message::new(DEL_LINK, 0).raw(&link_header(AF_UNSPEC, 0, 0, 0));
        message.text(IFLA_IFNAME, name);
        tolerate(self.0.request(message), &[Errno::NODEV])
    }

    pub(crate) fn addresses(&mut self) -> Result<Vec<LinkAddr>> {
        let message = Message::new(GET_ADDR, 0).raw(&addr_header(0, 0));
        Ok(self.0.dump(message)?.iter().filter_map(|body| read_address(body)).collect())
    }

    pub(crate) fn add_address(&mut self, of: LinkAddr) -> Result<()> {
        let mut message = Message::new(NEW_ADDR, CREATE | REPLACE).raw(&addr_header(of.prefix, of.index));
        message.attr(IFA_LOCAL, &of.addr.octets());
        message.attr(IFA_ADDRESS, &of.addr.octets());
        self.0.request(message)
    }

    pub(crate) fn del_address(&mut self, of: LinkAddr) -> Result<()> {
        let mut message = Message::new(DEL_ADDR, 0).raw(&addr_header(of.prefix, of.index));
        message.attr(IFA_LOCAL, &of.addr.octets());
        tolerate(self.0.request(message), &[Errno::ADDRNOTAVAIL])
    }

    pub(crate) fn set_default_route(&mut self, gateway: Ipv4Addr, index: u32) -> Result<()> {
        // family, dst_len, src_len, tos, table main, protocol static, scope universe, type unicast, flags
        let mut message =
            Message::new(NEW_ROUTE, CREATE | REPLACE).raw(&[AF_INET, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]);
        message.attr(RTA_GATEWAY, &gateway.octets());
        message.u32(RTA_OIF, index);
        self.0.request(message)
    }

    /// The bridge holds that `mac` is behind its VXLAN port, and the port that it is at `via`.
    pub(crate) fn set_forwarding(&mut self, vxlan: u32, mac: Mac, via: Ipv4Addr) -> Result<()> {
        let mut message = Message::new(NEW_NEIGH, CREATE | REPLACE).raw(&neigh_header(
            AF_BRIDGE,
            vxlan,
            NUD_PERMANENT,
            NTF_SELF,
        ));
        message.attr(NDA_LLADDR, &mac.0);
        message.attr(NDA_DST, &via.octets());
        self.0.request(message)?;
        let mut message = Message::new(NEW_NEIGH, CREATE | REPLACE)
            .raw(&neigh_header(AF_BRIDGE, vxlan, NUD_NOARP, NTF_MASTER));
        message.attr(NDA_LLADDR, &mac.0);
        self.0.request(message)
    }

    pub(crate) fn del_forwarding(&mut self, vxlan: u32, mac: Mac) -> Result<()> {
        for flags in [NTF_MASTER, NTF_SELF] {
            let mut message = Message::new(DEL_NEIGH, 0).raw(&neigh_header(AF_BRIDGE, vxlan, 0, flags));
            message.attr(NDA_LLADDR, &mac.0);
            tolerate(self.0.request(message), &[Errno::NOENT, Errno::NODEV])?;
        }
        Ok(())
    }

    pub(crate) fn set_neighbour(&mut self, index: u32, addr: Ipv4Addr, mac: Mac) -> Result<()> {
        let mut message =
            Message::new(NEW_NEIGH, CREATE | REPLACE).raw(&neigh_header(AF_INET, index, NUD_PERMANENT, 0));
        message.attr(NDA_DST, &addr.octets());
        message.attr(NDA_LLADDR, &mac.0);
        self.0.request(message)
    }

    pub(crate) fn del_neighbour(&mut self, index: u32, addr: Ipv4Addr) -> Result<()> {
        let mut message = Message::new(DEL_NEIGH, 0).raw(&neigh_header(AF_INET, index, 0, 0));
        message.attr(NDA_DST, &addr.octets());
        tolerate(self.0.request(message), &[Errno::NOENT, Errno::NODEV])
    }

    /// Where the VXLAN device sends which hardware address.
    pub(crate) fn forwarding(&mut self, vxlan: u32) -> Result<Vec<(Mac, Ipv4Addr)>> {
        let message = Message::new(GET_NEIGH, 0).raw(&neigh_header(AF_BRIDGE, 0, 0, 0));
        let rows = self.0.dump(message)?;
        Ok(rows.iter().filter_map(|body| read_forwarding(body, vxlan)).collect())
    }
}

/// struct ifinfomsg
fn link_header(family: u8, index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// struct ifaddrmsg
fn addr_header(prefix: u8, index: u32) -> [u8; 8] {
    let i = index.to_ne_bytes();
    [AF_INET, prefix, 0, 0, i[0], i[1], i[2], i[3]]
}

/// struct ndmsg
fn neigh_header(family: u8, index: u32, state: u16, flags: u8) -> [u8; 12] {
    let i = index.to_ne_bytes();
    let s = state.to_ne_bytes();
    [family, 0, 0, 0, i[0], i[1], i[2], i[3], s[0], s[1], flags, 0]
}

fn read_link(body: &[u8]) -> Option<Link> {
    let attrs = Attrs(body.get(16..)?);
    let info = attrs.nested(IFLA_LINKINFO);
    let kind = info.and_then(|i| i.text(INFO_KIND));
    let data = info.and_then(|i| i.nested(INFO_DATA));
    let vxlan = data.filter(|_| kind.as_deref() == Some("vxlan")).and_then(|data| {
        Some(Vxlan {
            vni: data.u32(VXLAN_ID)?,
            local: Ipv4Addr::from(data.array::<4>(VXLAN_LOCAL)?),
            port: u16::from_be_bytes(data.array(VXLAN_PORT)?),
        })
    });
    Some(Link {
        index: word(body, 4)?,
        name: attrs.text(IFLA_IFNAME)?,
        kind,
        mac: attrs.array(IFLA_ADDRESS).map(Mac),
        mtu: attrs.u32(IFLA_MTU)?,
        master: attrs.u32(IFLA_MASTER),
        vxlan,
    })
}

fn read_address(body: &[u8]) -> Option<LinkAddr> {
    let attrs = Attrs(body.get(8..)?);
    if body[0] != AF_INET {
        return None;
    }
    let addr = attrs.array::<4>(IFA_LOCAL).or_else(|| attrs.array(IFA_ADDRESS))?;
    Some(LinkAddr { index: word(body, 4)?, addr: addr.into(), prefix: body[1] })
}

fn read_forwarding(body: &[u8], vxlan: u32) -> Option<(Mac, Ipv4Addr)> {
    let attrs = Attrs(body.get(12..)?);
    if body[0] != AF_BRIDGE || word(body, 4)? != vxlan || body[10] & NTF_SELF == 0 {
        return None;
    }
    Some((Mac(attrs.array(NDA_LLADDR)?), attrs.array::<4>(NDA_DST)?.into()))
}

fn word(body: &[u8], at: usize) -> Option<u32> {
    body.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}
