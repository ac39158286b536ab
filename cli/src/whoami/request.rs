//! One HTTP/1.1 request: read with limits, answered as plain text.

use std::fmt::Write as _;
use std::io::{self, BufRead, Read, Write};
use std::net::TcpStream;
use std::{env, fs};

/// The longest head (request line and headers) in bytes; more is answered by closing.
const HEAD_MAX: u64 = 16 * 1024;
/// The longest body that is read and thrown away, in bytes.
const BODY_MAX: u64 = 1024 * 1024;
/// The longest that `wait_ms` may hold a request.
const WAIT_MS_MAX: u64 = 20_000;

/// What was asked.
pub(crate) struct Request {
    head: Vec<String>,
    /// The client ends the connection after this answer.
    pub(crate) close: bool,
    /// How long the client asks the answer to take.
    pub(crate) wait_ms: u64,
}

impl Request {
    /// Reads the next request; `None` when the client has closed. `begun` runs at its first byte.
    pub(crate) fn read(reader: &mut impl BufRead, begun: impl FnOnce()) -> io::Result<Option<Self>> {
        if reader.fill_buf()?.is_empty() {
            return Ok(None);
        }
        begun();
        let mut limited = reader.take(HEAD_MAX);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if limited.read_line(&mut line)? == 0 {
                return Err(io::Error::other("head cut off or longer than 16 KiB"));
            }
            let line = line.trim_end();
            if line.is_empty() && !head.is_empty() {
                break;
            }
            if !line.is_empty() {
                head.push(line.to_owned());
            }
        }
        let request = Self::from_head(head);
        let n_body = request.header("content-length").and_then(|v| v.parse().ok()).unwrap_or(0_u64);
        if n_body > BODY_MAX || request.header("transfer-encoding").is_some() {
            return Err(io::Error::other("body longer than 1 MiB or chunked"));
        }
        io::copy(&mut reader.take(n_body), &mut io::sink())?;
        Ok(Some(request))
    }

    fn from_head(head: Vec<String>) -> Self {
        let mut request = Self { head, close: false, wait_ms: 0 };
        let line = request.head.first().cloned().unwrap_or_default();
        let connection = request.header("connection").unwrap_or_default().to_ascii_lowercase();
        request.close = connection.contains("close")
            || (line.ends_with("HTTP/1.0") && !connection.contains("keep-alive"));
        let path = line.split(' ').nth(1).unwrap_or_default();
        request.wait_ms = path
            .split_once("wait_ms=")
            .and_then(|(_, v)| v.split('&').next()?.parse().ok())
            .map_or(0, |ms: u64| ms.min(WAIT_MS_MAX));
        request
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.iter().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Writes the answer in one call, so that a client never sees half of it.
    pub(crate) fn answer(&self, mut stream: &TcpStream, close: bool) -> io::Result<()> {
        let body = self.body(stream);
        let connection = if close { "close" } else { "keep-alive" };
        let is_head = self.head.first().is_some_and(|line| line.starts_with("HEAD "));
        let shown = if is_head { "" } else { &body };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
             Connection: {connection}\r\n\r\n{shown}",
            body.len(),
        );
        stream.write_all(answer.as_bytes())
    }

    fn body(&self, stream: &TcpStream) -> String {
        let mut body = String::new();
        let mut line = |name: &str, value: Option<String>| {
            // Writing to a String cannot fail.
            let _ = writeln!(body, "{name}: {}", value.as_deref().unwrap_or("-"));
        };
        line("Hostname", fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|h| h.trim().to_owned()));
        line("Node", first_env(&["NODE", "NODE_NAME", "SKEP_NODE"]));
        if let Some(task) = first_env(&["TASK", "TASK_NAME", "SKEP_TASK"]) {
            line("Task", Some(task));
        }
        if let Some(slot) = first_env(&["SLOT", "TASK_SLOT", "SKEP_SLOT"]) {
            line("Slot", Some(slot));
        }
        if let Ok(version) = env::var("VERSION") {
            line("Version", Some(version));
        }
        line("Client", stream.peer_addr().ok().map(|a| a.to_string()));
        line("Server", stream.local_addr().ok().map(|a| a.to_string()));
        body.push('\n');
        for text in &self.head {
            body.push_str(text);
            body.push('\n');
        }
        body
    }
}

fn first_env(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| env::var(name).ok().filter(|v| !v.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::Request;

    fn read(text: &str) -> Option<Request> {
        Request::read(&mut text.as_bytes(), || ()).unwrap()
    }

    #[test]
    fn keep_alive_is_the_default_of_http_1_1_alone() {
        for (text, close) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", true),
            ("GET / HTTP/1.0\r\n\r\n", true),
            ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", false),
        ] {
            assert_eq!(read(text).unwrap().close, close, "{text:?}");
        }
    }

    #[test]
    fn a_wait_is_read_from_the_path_and_bounded() {
        for (path, ms) in
            [("/", 0), ("/?wait_ms=20", 20), ("/a?x=1&wait_ms=7&y=2", 7), ("/?wait_ms=99999999", 20_000)]
        {
            assert_eq!(read(&format!("GET {path} HTTP/1.1\r\n\r\n")).unwrap().wait_ms, ms, "{path}");
        }
    }

    #[test]
    fn the_end_of_the_stream_is_no_request_and_half_a_head_is_an_error() {
        assert!(read("").is_none());
        assert!(Request::read(&mut "GET / HT".as_bytes(), || ()).is_err());
    }
}
