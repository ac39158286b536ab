//! Addresses as users write them, and the one that the machine would use by itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use skep_api::ApiError;

/// The control port (Swarm's).
pub(super) const CONTROL_PORT: u16 = 2377;
/// Docker's words for addresses that nobody can reach (`MB:daemon/cluster/listen_addr.go`).
const BAD_ADVERTISE: &str =
    "advertise address must be a non-zero IP address or network interface (with optional port number)";
const BAD_DATA_PATH: &str =
    "data path address must be a non-zero IP address or network interface (without a port number)";

/// The address from which this machine reaches others; `None` without a default route.
pub(super) fn of_default_route() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Connecting a UDP socket sends nothing: it only asks the routing table. An address for documentation.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(addr) if !addr.is_loopback() && !addr.is_unspecified() => Some(addr),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// `IP`, an interface's name as Docker takes it, or a DNS name, each with `:port` or not; `None` when empty.
pub(super) fn parse(field: &str, text: &str) -> Result<Option<(Ipv4Addr, Option<u16>)>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => {
            let port = port.parse().map_err(|_| {
                ApiError::invalid(format!("{field}: '{text}': the port must be a number from 1 to 65535"))
            })?;
            (host, Some(port))
        }
        None => (text, None),
    };
    let addr =
        host.parse().ok().or_else(|| of_interface(host)).or_else(|| of_name(host)).ok_or_else(|| {
            ApiError::invalid(format!(
                "{field}: '{text}' is neither an IPv4 address nor an interface or a DNS name that has one"
            ))
        })?;
    Ok(Some((addr, port)))
}

/// Where others are told to reach this node, as [`parse`] reads it.
pub(super) fn advertised(field: &str, text: &str) -> Result<Option<(Ipv4Addr, Option<u16>)>, ApiError> {
    if is_unspecified(text) {
        return Err(ApiError::invalid(BAD_ADVERTISE));
    }
    parse(field, text)
}

/// Where the traffic of tasks is to go, from Docker's DataPathAddr; `None` when empty.
pub(super) fn data_path(text: &str) -> Result<Option<Ipv4Addr>, ApiError> {
    if is_unspecified(text) {
        return Err(ApiError::invalid(BAD_DATA_PATH));
    }
    match parse("DataPathAddr", text)? {
        Some((_, Some(_))) => Err(ApiError::invalid(BAD_DATA_PATH)),
        Some((addr, None)) => Ok(Some(addr)),
        None => Ok(None),
    }
}

/// `0.0.0.0` or `::`, with a port or not.
fn is_unspecified(text: &str) -> bool {
    let is_zero = |host: &str| {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        host.parse::<IpAddr>().is_ok_and(|addr| addr.is_unspecified())
    };
    is_zero(text) || text.rsplit_once(':').is_some_and(|(host, _)| is_zero(host))
}

/// What others are told for the host of `text`, which `parse` read as `addr`: a DNS name stays one, so that the node
/// may move behind it.
pub(super) fn host(text: &str, addr: Ipv4Addr) -> String {
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    let is_name = !host.is_empty() && host.parse::<Ipv4Addr>().is_err() && of_interface(host).is_none();
    if is_name { host.to_owned() } else { addr.to_string() }
}

/// The first IPv4 address of a DNS name. Blocks while it is asked for.
fn of_name(name: &str) -> Option<Ipv4Addr> {
    // Numbers alone would be read as an address in one of its old forms.
    if !name.contains(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let found = std::net::ToSocketAddrs::to_socket_addrs(&(name, 0)).ok()?;
    found.into_iter().find_map(|addr| match addr.ip() {
        IpAddr::V4(addr) => Some(addr),
        IpAddr::V6(_) => None,
    })
}

/// An init or a join says where to listen (`MB:daemon/cluster/swarm.go:validateAddr`).
pub(super) fn check_listen(text: &str) -> Result<(), ApiError> {
    if text.is_empty() {
        return Err(ApiError::invalid("invalid ListenAddr \"\": invalid empty address"));
    }
    Ok(())
}

/// Where to listen, from Docker's ListenAddr.
pub(super) fn listen(text: &str) -> Result<SocketAddr, ApiError> {
    let (addr, port) = parse("ListenAddr", text)?.unwrap_or((Ipv4Addr::UNSPECIFIED, None));
    Ok(SocketAddr::from((addr, port.unwrap_or(CONTROL_PORT))))
}

/// The first IPv4 address of an interface.
fn of_interface(name: &str) -> Option<Ipv4Addr> {
    let mut first = std::ptr::null_mut();
    #[expect(
        unsafe_code,
        reason = "the C library's list of interfaces has no safe wrapper in our dependencies"
    )]
    // SAFETY: getifaddrs fills `first` with a list that is walked only here and freed once; each name and
    // address in it is valid until then, and an address is read as IPv4 only when its family says so.
    unsafe {
        if libc::getifaddrs(&raw mut first) != 0 {
            return None;
        }
        let mut found = None;
        let mut at = first;
        while let Some(entry) = at.as_ref() {
            let is_named = std::ffi::CStr::from_ptr(entry.ifa_name).to_str() == Ok(name);
            if let Some(addr) = entry.ifa_addr.as_ref().filter(|_| is_named)
                && i32::from(addr.sa_family) == libc::AF_INET
            {
                let v4 = entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned();
                found = Some(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)));
                break;
            }
            at = entry.ifa_next;
        }
        libc::freeifaddrs(first);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_for_others_is_one_that_they_can_reach() {
        let words = |error: ApiError| error.message;
        for text in ["0.0.0.0", "0.0.0.0:2377", "::", "[::]", "[::]:2377", "0:0::0"] {
            assert_eq!(
                advertised("AdvertiseAddr", text).map_err(words),
                Err(BAD_ADVERTISE.to_owned()),
                "{text}"
            );
            assert_eq!(data_path(text).map_err(words), Err(BAD_DATA_PATH.to_owned()), "{text}");
        }
        let addr = Ipv4Addr::new(192, 0, 2, 7);
        assert_eq!(advertised("AdvertiseAddr", "192.0.2.7:99"), Ok(Some((addr, Some(99)))));
        assert_eq!(data_path("192.0.2.7:99").map_err(words), Err(BAD_DATA_PATH.to_owned()));
        assert_eq!((data_path("192.0.2.7"), data_path("")), (Ok(Some(addr)), Ok(None)));
        assert_eq!(listen("0.0.0.0:99"), Ok(SocketAddr::from(([0, 0, 0, 0], 99))));
        assert!(check_listen("").is_err() && check_listen("0.0.0.0").is_ok());
    }
}
