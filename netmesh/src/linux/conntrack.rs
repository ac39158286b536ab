//! The kernel's table of connections: forgetting some.

use std::net::Ipv4Addr;

use rustix::io::Errno;

use super::netlink::{Attrs, Message, Netlink, NetlinkError, tolerate};

const GET: u16 = (1 << 8) | 1;
const DELETE: u16 = (1 << 8) | 2;
const FAMILY_IP: u8 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const SOURCE: u16 = 1;
const PROTO_NUMBER: u16 = 1;
const PROTO_DESTINATION_PORT: u16 = 3;

/// A tracked connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) protocol: u8,
    /// The port that the client asked for.
    pub(crate) port: u16,
    /// Who answers it.
    pub(crate) server: Ipv4Addr,
}

/// Forgets the connections that `is_meant`: their next packet is a first one again.
pub(crate) fn forget(socket: &mut Netlink, is_meant: impl Fn(&Flow) -> bool) -> Result<(), NetlinkError> {
    for body in socket.dump(Message::new(GET, 0).raw(&[FAMILY_IP, 0, 0, 0]))? {
        let attrs = Attrs(body.get(4..).unwrap_or_default());
        let Some(flow) = read(attrs).filter(&is_meant) else { continue };
        let Some(original) = attrs.get(TUPLE_ORIGINAL) else { continue };
        tracing::debug!(?flow, "forgetting a connection");
        let mut message = Message::new(DELETE, 0).raw(&[FAMILY_IP, 0, 0, 0]);
        message.nest(TUPLE_ORIGINAL, |tuple| tuple.push_raw(original));
        tolerate(socket.request(message), &[Errno::NOENT])?;
    }
    Ok(())
}

fn read(attrs: Attrs<'_>) -> Option<Flow> {
    let original = attrs.nested(TUPLE_ORIGINAL)?.nested(TUPLE_PROTO)?;
    let server = attrs.nested(TUPLE_REPLY)?.nested(TUPLE_IP)?.array::<4>(SOURCE)?;
    Some(Flow {
        protocol: original.get(PROTO_NUMBER)?.first().copied()?,
        port: u16::from_be_bytes(original.array(PROTO_DESTINATION_PORT)?),
        server: server.into(),
    })
}
