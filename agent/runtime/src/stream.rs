//! Carries an asynchronous byte stream to blocking code, and takes compression off.

use std::io::{self, BufRead, BufReader, Read};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

/// Size of a piece, and how many may wait: the memory that one load takes at most.
const PIECE_BYTES: usize = 256 * 1024;
const PIECES: usize = 4;

/// The blocking end of a stream.
#[derive(Debug)]
pub(crate) struct Pieces {
    from: mpsc::Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    read: usize,
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.read == self.piece.len() {
            match self.from.blocking_recv() {
                None => return Ok(0),
                Some(piece) => (self.piece, self.read) = (piece?, 0),
            }
        }
        let n = out.len().min(self.piece.len() - self.read);
        out[..n].copy_from_slice(&self.piece[self.read..self.read + n]);
        self.read += n;
        Ok(n)
    }
}

/// Runs blocking `work` on what `from` delivers.
pub(crate) async fn with_blocking<R, T, F>(mut from: R, work: F) -> io::Result<T>
where
    R: AsyncRead + Unpin,
    T: Send + 'static,
    F: FnOnce(Pieces) -> T + Send + 'static,
{
    let (send, receive) = mpsc::channel(PIECES);
    let work =
        tokio::task::spawn_blocking(move || work(Pieces { from: receive, piece: Vec::new(), read: 0 }));
    let pump = async move {
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let (piece, last) = match from.read(&mut piece).await {
                Ok(0) => break,
                Ok(n) => {
                    piece.truncate(n);
                    (Ok(piece), false)
                }
                Err(e) => (Err(e), true),
            };
            // The worker may have seen enough.
            if send.send(piece).await.is_err() || last {
                break;
            }
        }
    };
    let (done, ()) = tokio::join!(work, pump);
    done.map_err(io::Error::other)
}

/// Decompresses gzip and zstd, told by their first bytes; anything else passes as it is.
pub(crate) fn decompress<'a>(from: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut from = BufReader::with_capacity(64 * 1024, from);
    let head = from.fill_buf()?;
    Ok(if head.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(from))
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(zstd::stream::read::Decoder::with_buffer(from)?)
    } else {
        Box::new(from)
    })
}

/// Hashes what passes.
pub(crate) struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(inner: R) -> Hashing<R> {
        Hashing { inner, hash: Sha256::new() }
    }

    /// Hex digits of the hash of all that was read.
    pub(crate) fn hex(self) -> String {
        hex(&self.hash.finalize())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(out)?;
        self.hash.update(&out[..n]);
        Ok(n)
    }
}

/// SHA-256 of `bytes` in hex digits.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
