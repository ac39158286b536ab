//! Docker's multiplexed streams: an 8-byte head (stream, length) and so many bytes.

use anyhow::bail;

/// The longest frame that is taken for one; more means that the stream is not of this kind.
const FRAME_BYTES_MAX: usize = 64 << 20;
const HEAD_BYTES: usize = 8;

/// Where a frame belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stream {
    Out,
    Err,
    /// The daemon's own words.
    System,
}

/// Cuts what comes in into frames.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    waiting: Vec<u8>,
}

impl Frames {
    /// Takes in what came; [`Frames::next`] gives the frames that are whole.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// The bytes are no such stream.
    pub(crate) fn next(&mut self) -> anyhow::Result<Option<(Stream, Vec<u8>)>> {
        let Some((head, rest)) = self.waiting.split_at_checked(HEAD_BYTES) else { return Ok(None) };
        let stream = match head[0] {
            0 | 1 => Stream::Out,
            2 => Stream::Err,
            3 => Stream::System,
            other => bail!("the daemon sent a frame of an unknown stream: {other}"),
        };
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > FRAME_BYTES_MAX {
            bail!("the daemon sent a frame of {length} bytes; at most {FRAME_BYTES_MAX} are taken");
        }
        let Some(content) = rest.get(..length).map(<[u8]>::to_vec) else { return Ok(None) };
        self.waiting.drain(..HEAD_BYTES + length);
        Ok(Some((stream, content)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_however_they_come_in() {
        let bytes = b"\x01\0\0\0\0\0\0\x02hi\x02\0\0\0\0\0\0\x03oh!";
        for step in 1..bytes.len() {
            let mut frames = Frames::default();
            let mut got = Vec::new();
            for piece in bytes.chunks(step) {
                frames.push(piece);
                while let Some(frame) = frames.next().unwrap() {
                    got.push(frame);
                }
            }
            assert_eq!(got, [(Stream::Out, b"hi".to_vec()), (Stream::Err, b"oh!".to_vec())], "{step}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let mut frames = Frames::default();
        frames.push(b"HTTP/1.1 ");
        assert!(frames.next().is_err());
    }
}
