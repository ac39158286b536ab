//! Addresses as users write them, and the one that the machine would use by itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use skep_api::ApiError;

/// The control port (Swarm's).
pub(super) const CONTROL_PORT: u16 = 2377;

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
