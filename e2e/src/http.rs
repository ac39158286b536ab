//! HTTP/1.1 by hand, a new connection each request: over TCP as a user's browser, over a unix socket as an SDK.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// The longest that one request over TCP may take in all its parts.
const GET_WAIT_MAX: Duration = Duration::from_secs(5);
/// The longest that the API may be silent.
const API_WAIT_MAX: Duration = Duration::from_secs(30);

/// A status and a body.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body, without chunk framing.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The `message` of an API error, or the whole body.
    #[must_use]
    pub fn message(&self) -> String {
        self.json()["message"].as_str().map_or_else(|| self.text(), str::to_owned)
    }
}

/// `GET http://address:port/path` on a new connection.
///
/// # Errors
/// When nothing listens, the connection breaks, or 5 s pass.
pub fn get(address: Ipv4Addr, port: u16, path: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address, port)), GET_WAIT_MAX)?;
    stream.set_read_timeout(Some(GET_WAIT_MAX))?;
    stream.set_write_timeout(Some(GET_WAIT_MAX))?;
    exchange(&mut stream, "GET", path, &address.to_string(), &[], "text/plain")
}

/// Sends one request to the API on the unix socket.
///
/// # Errors
/// When nothing listens, the connection breaks, or it is silent for 30 s.
pub fn request(socket: &Path, method: &str, path: &str, body: &[u8], kind: &str) -> io::Result<Answer> {
    request_within(socket, method, path, body, kind, API_WAIT_MAX)
}

/// As [`request`], with another limit on the silence.
///
/// # Errors
/// As [`request`].
pub fn request_within(
    socket: &Path,
    method: &str,
    path: &str,
    body: &[u8],
    kind: &str,
    limit: Duration,
) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(limit))?;
    exchange(&mut stream, method, path, "skep", body, kind)
}

fn exchange(
    stream: &mut (impl Read + Write),
    method: &str,
    path: &str,
    host: &str,
    body: &[u8],
    kind: &str,
) -> io::Result<Answer> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&bytes).ok_or_else(|| io::Error::other(format!("cut-off answer of {} bytes", bytes.len())))
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let header = |name: &str| {
        head.lines().skip(1).filter_map(|line| line.split_once(':')).find_map(|(key, value)| {
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_ascii_lowercase())
        })
    };
    let body = &bytes[end + 4..];
    if header("transfer-encoding").is_some_and(|v| v.contains("chunked")) {
        return Some(Answer { status, body: unchunk(body)? });
    }
    // A body that is shorter than promised was cut off: that is a failed request.
    match header("content-length").and_then(|v| v.parse().ok()) {
        Some(len) => Some(Answer { status, body: body.get(..len)?.to_vec() }),
        None => Some(Answer { status, body: body.to_vec() }),
    }
}

fn unchunk(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|w| w == b"\r\n")?;
        let len =
            usize::from_str_radix(std::str::from_utf8(&bytes[..end]).ok()?.split(';').next()?, 16).ok()?;
        if len == 0 {
            return Some(body);
        }
        bytes = &bytes[end + 2..];
        body.extend_from_slice(bytes.get(..len)?);
        bytes = bytes.get(len + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_cut_off_body_is_no_answer() {
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell").is_none());
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").unwrap().text(), "hello");
    }

    #[test]
    fn chunks_are_joined() {
        let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(parse(bytes).unwrap().text(), "abcde");
    }
}
