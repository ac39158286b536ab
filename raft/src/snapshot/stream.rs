//! A state as a stream of bytes, cut into compressed pieces on the way to a snapshot and put together on the
//! way back.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::mpsc;
use std::thread;

use super::{PIECE_BYTES, Pieces, Sink};
use crate::error::OpenError;

/// How hard zstd tries: the first level packs a state to a third at the speed of a disk.
const LEVEL: i32 = 1;

/// Takes a state in whatever pieces it comes.
pub(crate) struct PieceWriter<'a> {
    sink: &'a mut dyn Sink,
    packer: zstd::bulk::Compressor<'static>,
    plain: Vec<u8>,
}

impl fmt::Debug for PieceWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PieceWriter").field("sink", &self.sink).finish_non_exhaustive()
    }
}

impl<'a> PieceWriter<'a> {
    pub(crate) fn new(sink: &'a mut dyn Sink) -> io::Result<PieceWriter<'a>> {
        let packer = zstd::bulk::Compressor::new(LEVEL)?;
        Ok(PieceWriter { sink, packer, plain: Vec::with_capacity(PIECE_BYTES) })
    }

    /// Writes what is left.
    pub(crate) fn end(mut self) -> io::Result<()> {
        if self.plain.is_empty() { Ok(()) } else { self.cut() }
    }

    fn cut(&mut self) -> io::Result<()> {
        let packed = self.packer.compress(&self.plain)?;
        self.plain.clear();
        self.sink.push(&packed)
    }
}

impl Write for PieceWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(PIECE_BYTES - self.plain.len());
        self.plain.extend_from_slice(&bytes[..n]);
        if self.plain.len() == PIECE_BYTES {
            self.cut()?;
        }
        Ok(n)
    }

    /// A piece is written when it is full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// So many pieces are unpacked ahead of what is read.
const PIECES_AHEAD: usize = 4;

/// Gives a snapshot's state back, a piece at a time, to what `read` does with it. A thread beside unseals and
/// unpacks ahead.
///
/// # Errors
/// A piece cannot be read; else what `read` says.
pub(crate) fn read_state<T>(
    pieces: &dyn Pieces,
    read: impl FnOnce(&mut StateReader) -> Result<T, String>,
) -> Result<T, OpenError> {
    let mut unpacker =
        zstd::bulk::Decompressor::new().map_err(|e| OpenError::Consensus { reason: e.to_string() })?;
    let (send, received) = mpsc::sync_channel(PIECES_AHEAD);
    thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..pieces.count() {
                let piece = plain(pieces, number, &mut unpacker);
                let is_last = piece.is_err();
                // Nobody reads on after an error.
                if send.send(piece).is_err() || is_last {
                    return;
                }
            }
        });
        let mut reader = StateReader { received, plain: Vec::new(), given: 0, failed: None };
        let outcome = read(&mut reader);
        match reader.failed {
            Some(error) => Err(error),
            None => outcome.map_err(|reason| OpenError::Consensus { reason }),
        }
    })
}

fn plain(
    pieces: &dyn Pieces,
    number: u64,
    unpacker: &mut zstd::bulk::Decompressor<'_>,
) -> Result<Vec<u8>, OpenError> {
    let packed = pieces.piece(number)?;
    unpacker.decompress(&packed, PIECE_BYTES).map_err(|error| OpenError::Consensus {
        reason: format!("piece {number} of a snapshot is sealed and does not unpack: {error}"),
    })
}

/// A state as it is read.
#[derive(Debug)]
pub(crate) struct StateReader {
    received: mpsc::Receiver<Result<Vec<u8>, OpenError>>,
    plain: Vec<u8>,
    /// How much of `plain` was given.
    given: usize,
    failed: Option<OpenError>,
}

impl Read for StateReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.given == self.plain.len() {
            match self.received.recv() {
                Ok(Ok(plain)) => (self.plain, self.given) = (plain, 0),
                Ok(Err(error)) => {
                    let said = io::Error::other(error.to_string());
                    self.failed = Some(error);
                    return Err(said);
                }
                // The last was read.
                Err(mpsc::RecvError) => return Ok(0),
            }
        }
        let n = out.len().min(self.plain.len() - self.given);
        out[..n].copy_from_slice(&self.plain[self.given..self.given + n]);
        self.given += n;
        Ok(n)
    }
}
