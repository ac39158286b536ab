//! Writes a container's output in the form of Docker's json-file driver, with rotation.
//!
//! Lines longer than 16 KiB are cut into several records of which only the last ends with a newline, so
//! that readers can put them together again. A full or failing disk loses output, never the container.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::stamp;

/// Docker's limit of one record.
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// What is read from the pipe and not yet a whole line.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pending: Vec<u8>,
}

/// The log file of one container.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    /// In bytes; 0 is no limit.
    size_max: u64,
    files_max: u32,
    out: Vec<u8>,
}

impl Log {
    pub(crate) fn open(path: PathBuf, size_max: u64, files_max: u32) -> Log {
        let file = append(&path);
        let size = file.as_ref().and_then(|f| f.metadata().ok()).map_or(0, |m| m.len());
        Log { path, file, size, size_max, files_max: files_max.max(1), out: Vec::new() }
    }

    /// Takes what was read from `stream` and writes the lines that are now whole.
    pub(crate) fn take(&mut self, stream: &str, lines: &mut Lines, mut bytes: &[u8]) {
        let time = stamp::format_rfc3339(stamp::now_unix_nanos());
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (line, rest) = bytes.split_at(end + 1);
            lines.pending.extend_from_slice(line);
            self.cut(stream, lines, &time);
            let line = std::mem::take(&mut lines.pending);
            self.record(stream, &line, &time);
            // Keeps the buffer, so that a line costs no allocation.
            lines.pending = line;
            lines.pending.clear();
            bytes = rest;
        }
        lines.pending.extend_from_slice(bytes);
        self.cut(stream, lines, &time);
        self.flush();
    }

    /// The stream has ended: what is left is a line too.
    pub(crate) fn finish(&mut self, stream: &str, lines: &mut Lines) {
        if !lines.pending.is_empty() {
            let line = std::mem::take(&mut lines.pending);
            self.record(stream, &line, &stamp::format_rfc3339(stamp::now_unix_nanos()));
        }
        self.flush();
    }

    /// Writes full records until less than one is pending.
    fn cut(&mut self, stream: &str, lines: &mut Lines, time: &str) {
        while lines.pending.len() > RECORD_BYTES_MAX {
            // Not within a character, unless it is none.
            let mut at = RECORD_BYTES_MAX;
            while at > RECORD_BYTES_MAX - 4 && lines.pending[at] & 0xc0 == 0x80 {
                at -= 1;
            }
            let rest = lines.pending.split_off(at);
            let record = std::mem::replace(&mut lines.pending, rest);
            self.record(stream, &record, time);
        }
    }

    fn record(&mut self, stream: &str, bytes: &[u8], time: &str) {
        self.out.extend_from_slice(b"{\"log\":\"");
        escape(&mut self.out, &String::from_utf8_lossy(bytes));
        self.out.extend_from_slice(b"\",\"stream\":\"");
        self.out.extend_from_slice(stream.as_bytes());
        self.out.extend_from_slice(b"\",\"time\":\"");
        self.out.extend_from_slice(time.as_bytes());
        self.out.extend_from_slice(b"\"}\n");
        let size = self.size.saturating_add(u64::try_from(self.out.len()).unwrap_or(u64::MAX));
        if self.size_max > 0 && size >= self.size_max {
            self.flush();
            self.rotate();
        } else if self.out.len() >= 4 * RECORD_BYTES_MAX {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if let Some(file) = &mut self.file {
            // A full disk must not stop the container; its output is lost meanwhile.
            let _lost = file.write_all(&self.out);
        }
        self.size = self.size.saturating_add(u64::try_from(self.out.len()).unwrap_or(u64::MAX));
        self.out.clear();
        self.out.shrink_to(4 * RECORD_BYTES_MAX);
    }

    /// `json.log` becomes `json.log.1` and so on; what exceeds the number of files goes.
    fn rotate(&mut self) {
        let older = |n: u32| -> PathBuf { if n == 0 { self.path.clone() } else { numbered(&self.path, n) } };
        let oldest = self.files_max - 1;
        let _absent = std::fs::remove_file(older(oldest));
        for n in (0..oldest).rev() {
            let _absent = std::fs::rename(older(n), older(n + 1));
        }
        self.file = append(&self.path);
        self.size = 0;
    }
}

fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    PathBuf::from(name)
}

fn append(path: &Path) -> Option<File> {
    File::options().append(true).create(true).open(path).ok()
}

/// The content of a JSON string.
fn escape(out: &mut Vec<u8>, text: &str) {
    for b in text.bytes() {
        match b {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', b]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => out.extend_from_slice(format!("\\u{b:04x}").as_bytes()),
            0x20.. => out.push(b),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(path: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("skep-shim-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn long_lines_are_cut_at_characters_and_the_last_record_has_the_newline() {
        let dir = scratch("cut");
        let mut log = Log::open(dir.join("json.log"), 0, 1);
        let mut lines = Lines::default();
        let text = format!("a{}\n", "é".repeat(20_000));
        for part in text.as_bytes().chunks(1000) {
            log.take("stdout", &mut lines, part);
        }
        log.take("stdout", &mut lines, b"\x01\"tail\\");
        log.finish("stdout", &mut lines);
        let records = records(&dir.join("json.log"));
        let logs: Vec<&str> = records.iter().map(|r| r["log"].as_str().unwrap()).collect();
        assert_eq!(logs.len(), 4);
        assert!(logs[..3].iter().all(|l| l.len() <= RECORD_BYTES_MAX && !l.contains('\u{fffd}')));
        assert_eq!(logs[..3].concat(), text);
        assert_eq!(logs[3], "\u{1}\"tail\\");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn rotation_keeps_the_newest_files() {
        let dir = scratch("rotate");
        let mut log = Log::open(dir.join("json.log"), 300, 3);
        let mut lines = Lines::default();
        for n in 0..40 {
            log.take("stderr", &mut lines, format!("line {n}\n").as_bytes());
        }
        let mut seen = Vec::new();
        for name in ["json.log.2", "json.log.1", "json.log"] {
            seen.extend(records(&dir.join(name)).iter().map(|r| r["log"].as_str().unwrap().to_owned()));
        }
        assert!(!dir.join("json.log.3").exists());
        assert!(seen.len() < 40 && seen.len() > 4, "{seen:?}");
        assert_eq!(seen.last().unwrap(), "line 39\n");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
