//! The fields of a `StoreSnapshot`, read one at a time.

use std::{
    io::{self, BufRead, Read},
    sync::{Arc, LazyLock},
};

use prost::Message;
use skep_api::{convert::task_in, object::Task, spec::ServiceSpec, wire};

use crate::{Refusal, SnapshotError};

/// An object and what belongs to it has far less; a length beyond is none.
const RECORD_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Most have less.
const ROOM_BYTES: u64 = 64 * 1024;

/// One field.
#[derive(Debug)]
pub enum Record {
    /// How the others are to be read; the first.
    Format(u64),
    /// The store's.
    Revision(u64),
    /// The swarm.
    Cluster(Box<wire::Cluster>),
    /// A node.
    Node(Box<wire::Node>),
    /// A service.
    Service(Box<wire::Service>),
    /// A spec that tasks have and no service any more.
    Spec(wire::StoredSpec),
    /// A task, as yet without its spec.
    Task(Arc<Task>),
    /// A remembered request.
    Request(wire::RememberedRequest),
    /// A network.
    Network(Box<wire::Network>),
    /// A ticket.
    Ticket(Box<wire::Ticket>),
}

impl Record {
    /// Records stand in the order of this: each after all that it names.
    pub(crate) fn place(&self) -> u8 {
        match self {
            Self::Format(_) => 0,
            Self::Revision(_) => 1,
            Self::Cluster(_) => 2,
            Self::Node(_) => 3,
            Self::Network(_) => 4,
            Self::Service(_) => 5,
            Self::Spec(_) => 6,
            Self::Task(_) => 7,
            Self::Ticket(_) => 8,
            Self::Request(_) => 9,
        }
    }

    /// The next field; `None` at the end. A field that this build does not know is refused: to drop it would be
    /// to rewrite what a newer build said.
    ///
    /// # Errors
    /// What follows is no record that this build knows, or reading failed.
    pub fn read(input: &mut impl BufRead) -> Result<Option<Self>, SnapshotError> {
        let broken = |error: io::Error| SnapshotError(error.to_string());
        if input.fill_buf().map_err(broken)?.is_empty() {
            return Ok(None);
        }
        let key = varint(input).map_err(broken)?;
        let (tag, is_number) = (key >> 3, key & 7 == 0);
        if is_number {
            let number = varint(input).map_err(broken)?;
            return match tag {
                1 => Ok(Some(Self::Format(number))),
                2 => Ok(Some(Self::Revision(number))),
                _ => Err(unknown(tag)),
            };
        }
        let len = varint(input).map_err(broken)?;
        if key & 7 != 2 || len > RECORD_BYTES_MAX {
            return Err(SnapshotError(format!("its field {tag} has a length that no field has")));
        }
        // Its length is what it says of itself: nothing is taken for it before it comes.
        let mut bytes = Vec::with_capacity(usize::try_from(len.min(ROOM_BYTES)).unwrap_or_default());
        input.take(len).read_to_end(&mut bytes).map_err(broken)?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) != len {
            return Err(SnapshotError("it ends early".to_owned()));
        }
        let bytes = bytes.as_slice();
        Ok(Some(match tag {
            3 => Self::Cluster(Box::new(decode(bytes)?)),
            4 => Self::Node(Box::new(decode(bytes)?)),
            5 => Self::Service(Box::new(decode(bytes)?)),
            6 => Self::Spec(decode(bytes)?),
            7 => Self::Task(Arc::new(task_in(decode(bytes)?, no_spec()).map_err(Refusal::from)?)),
            8 => Self::Request(decode(bytes)?),
            9 => Self::Network(Box::new(decode(bytes)?)),
            10 => Self::Ticket(Box::new(decode(bytes)?)),
            _ => return Err(unknown(tag)),
        }))
    }
}

/// Stands in until the record meets the others: one for all.
fn no_spec() -> Arc<ServiceSpec> {
    static NONE: LazyLock<Arc<ServiceSpec>> = LazyLock::new(Arc::default);
    Arc::clone(&NONE)
}

fn unknown(tag: u64) -> SnapshotError {
    SnapshotError(format!("it has a field {tag} that this build does not know; start a newer build"))
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, SnapshotError> {
    M::decode(bytes).map_err(|e| SnapshotError(e.to_string()))
}

fn varint(input: &mut impl Read) -> io::Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        number |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(io::Error::other("a number has no end"))
}
