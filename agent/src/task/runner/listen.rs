//! A task that runs is an endpoint of the mesh at once, but its program listens a moment later: it counts as
//! running when it does, or after a while, as a program may have its reasons.

use std::{fs, io, time::Duration};

use tokio::time::{Instant, sleep};

/// How long a program may take to listen on its published ports; it runs then in any case.
const LISTENS_MAX: Duration = Duration::from_millis(250);
/// Between two looks.
const LOOK_EACH: Duration = Duration::from_millis(2);
/// The kernel's number of a socket that listens, as /proc shows it.
const LISTEN: &str = "0A";

/// Waits until all `ports` are listened on, by TCP, in the network of the process `pid`.
pub(super) async fn listens(pid: u32, ports: &[u16]) {
    let until = Instant::now() + LISTENS_MAX;
    // What cannot be read is not waited for: the process may be gone.
    while !are_open(pid, ports).unwrap_or(true) && Instant::now() < until {
        sleep(LOOK_EACH).await;
    }
}

fn are_open(pid: u32, ports: &[u16]) -> io::Result<bool> {
    if ports.is_empty() {
        return Ok(true);
    }
    let mut tables = fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
    // There is none without IPv6.
    tables.push_str(&fs::read_to_string(format!("/proc/{pid}/net/tcp6")).unwrap_or_default());
    let listening = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let port = fields.nth(1)?.rsplit_once(':')?.1;
        (fields.nth(1)? == LISTEN).then(|| u16::from_str_radix(port, 16).ok())?
    };
    Ok(ports.iter().all(|port| tables.lines().filter_map(listening).any(|open| open == *port)))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_port_is_open_once_somebody_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = std::process::id();
        assert!(are_open(own, &[port]).unwrap());
        drop(listener);
        assert!(!are_open(own, &[port]).unwrap());
        assert!(are_open(own, &[]).unwrap());
        assert!(are_open(u32::MAX, &[port]).is_err(), "a process that is gone");
        listens(u32::MAX, &[port]).await;
    }
}
