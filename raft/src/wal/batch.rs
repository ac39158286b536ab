//! The unit of the log on disk: all records of one write, under one header and one seal.
//!
//! A batch begins at a multiple of 512 bytes, so that the write of one never touches a sector of the
//! batch before it. Header (32 bytes, little-endian): magic, version, kind, sequence number, length of
//! the sealed body, CRC of the sealed body, CRC of the header. The CRCs tell a torn write (which they
//! catch) from an altered one (which passes them and fails the seal). What a torn write lost is zeros, as
//! it was before; a batch that cannot be read and lacks nothing is damaged. The body is followed by a byte
//! that is no zero, so that a body which ends in zeros lacks nothing.

use bytes::Bytes;

use super::spare::is_zero;
use crate::seal::{SegmentSeal, TAG_BYTES};

/// Where batches may begin: the smallest sector of a disk.
pub(crate) const ALIGN: usize = 512;
pub(crate) const HEADER_BYTES: usize = 32;
pub(crate) const VERSION: u16 = 1;
const MAGIC: [u8; 4] = *b"skwb";
/// A batch of records; other kinds may come.
const KIND_RECORDS: u16 = 1;
/// The last byte of a batch: no single bit makes a zero of it.
const END: u8 = 0xff;
/// What a batch has beside its plain text and the padding.
pub(crate) const FRAME_BYTES: usize = HEADER_BYTES + TAG_BYTES + 1;
/// How much of the header the seal authenticates: all that is known before sealing.
const PLACE: usize = 20;

/// The bytes on disk of a batch with this much plain text.
pub(crate) fn disk_len(plain_len: usize) -> usize {
    (FRAME_BYTES + plain_len).next_multiple_of(ALIGN)
}

/// The batch as it goes to disk, padded with zeros to whole sectors.
pub(crate) fn encode(seal: &SegmentSeal, sequence: u64, plain: &[u8]) -> Vec<u8> {
    let body_len = u32::try_from(plain.len() + TAG_BYTES).expect("a batch fits in a segment");
    let mut bytes = Vec::with_capacity(disk_len(plain.len()));
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&KIND_RECORDS.to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&body_len.to_le_bytes());
    let place = bytes.clone();
    bytes.resize(HEADER_BYTES, 0);
    bytes.extend_from_slice(plain);
    let tag = seal.seal(sequence, &place, &mut bytes[HEADER_BYTES..]);
    bytes.extend_from_slice(&tag);
    let body_crc = crc32fast::hash(&bytes[HEADER_BYTES..]);
    bytes[20..24].copy_from_slice(&body_crc.to_le_bytes());
    let header_crc = crc32fast::hash(&bytes[..28]);
    bytes[28..32].copy_from_slice(&header_crc.to_le_bytes());
    bytes.push(END);
    bytes.resize(disk_len(plain.len()), 0);
    bytes
}

/// What stands at a place where a batch may begin.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A whole batch.
    Batch { sequence: u64, plain: Bytes, disk_len: usize },
    /// Zeros, a torn write, or damage: which of them, only what follows can tell.
    Nothing(&'static str),
    /// Not a batch that can be read, nor what is left of one that was not written whole.
    Damaged(&'static str),
    /// A whole batch that was not sealed for this place of this file: no torn write looks like this.
    Altered,
    /// A batch of a newer format.
    Newer(u16),
}

/// Reads the batch at the beginning of `bytes`, which reach to the end of the segment.
pub(crate) fn decode(seal: &SegmentSeal, bytes: &[u8]) -> Found {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Found::Nothing("the segment ends here");
    };
    let is_header = header[..4] == MAGIC && crc32fast::hash(&header[..28]) == le_u32(header, 28);
    if !is_header {
        // The sector that it stands in was written whole, up to some byte, or not at all.
        let sector = &bytes[HEADER_BYTES..bytes.len().min(ALIGN)];
        return if is_zero(sector) {
            Found::Nothing("no whole batch begins here")
        } else {
            Found::Damaged("the header of a batch is damaged")
        };
    }
    let version = u16::from_le_bytes([header[4], header[5]]);
    if version != VERSION || header[6..8] != KIND_RECORDS.to_le_bytes() {
        return Found::Newer(version);
    }
    let body_len = usize::try_from(le_u32(header, 16)).expect("a usize holds 32 bits");
    let end = HEADER_BYTES + body_len;
    let Some(whole) = bytes.get(..=end) else {
        return Found::Nothing("the batch reaches beyond the segment");
    };
    let body = &whole[HEADER_BYTES..end];
    if crc32fast::hash(body) != le_u32(header, 20) {
        return if is_torn(whole) {
            Found::Nothing("the batch's body is torn or damaged")
        } else {
            Found::Damaged("the batch's body is damaged")
        };
    }
    // Zeros before the write and after it, so no torn write leaves anything else. One may lack the end alone.
    let rest = &bytes[end + 1..bytes.len().min((end + 1).next_multiple_of(ALIGN))];
    if ![0, END].contains(&whole[end]) || !is_zero(rest) {
        return Found::Damaged("the rest of a batch's last sector is not empty");
    }
    let mut sequence = [0; 8];
    sequence.copy_from_slice(&header[8..16]);
    let sequence = u64::from_le_bytes(sequence);
    let mut body = body.to_vec();
    let Some(len) = seal.open(sequence, &header[..PLACE], &mut body).map(<[u8]>::len) else {
        return Found::Altered;
    };
    body.truncate(len);
    Found::Batch { sequence, plain: Bytes::from(body), disk_len: disk_len(len) }
}

/// Whether a batch that is `whole` long lacks a sector, or its end. Sealed text has no zeros for a sector's
/// length, and the rest of the last sector has the end.
fn is_torn(whole: &[u8]) -> bool {
    whole.last() == Some(&0) || whole.chunks(ALIGN).any(is_zero)
}

fn le_u32(header: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}
