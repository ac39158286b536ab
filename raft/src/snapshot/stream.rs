//! A state as a stream of bytes, cut into compressed pieces on the way to a snapshot and put together on the
//! way back.

use std::fmt;
use std::io::{self, Read, Write};

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

/// Gives a snapshot's state back, a piece at a time.
pub(crate) struct StateReader<'a> {
    pieces: &'a dyn Pieces,
    unpacker: zstd::bulk::Decompressor<'static>,
    next: u64,
    plain: Vec<u8>,
    /// How much of `plain` was given.
    given: usize,
    failed: Option<OpenError>,
}

impl fmt::Debug for StateReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateReader").field("pieces", &self.pieces).field("next", &self.next).finish()
    }
}

impl<'a> StateReader<'a> {
    pub(crate) fn new(pieces: &'a dyn Pieces) -> io::Result<StateReader<'a>> {
        let unpacker = zstd::bulk::Decompressor::new()?;
        Ok(StateReader { pieces, unpacker, next: 0, plain: Vec::new(), given: 0, failed: None })
    }

    /// Why a piece could not be read, if one could not.
    pub(crate) fn failure(self) -> Option<OpenError> {
        self.failed
    }

    fn next_piece(&mut self) -> Result<(), OpenError> {
        let packed = self.pieces.piece(self.next)?;
        let plain = self.unpacker.decompress(&packed, PIECE_BYTES).map_err(|error| OpenError::Consensus {
            reason: format!("piece {} of a snapshot is sealed and does not unpack: {error}", self.next),
        })?;
        (self.plain, self.given) = (plain, 0);
        self.next += 1;
        Ok(())
    }
}

impl Read for StateReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.given == self.plain.len() && self.next < self.pieces.count() {
            if let Err(error) = self.next_piece() {
                let said = io::Error::other(error.to_string());
                self.failed = Some(error);
                return Err(said);
            }
        }
        let n = out.len().min(self.plain.len() - self.given);
        out[..n].copy_from_slice(&self.plain[self.given..self.given + n]);
        self.given += n;
        Ok(n)
    }
}
