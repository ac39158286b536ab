//! For fuzzing only: what a bad disk and other machines may hand to this crate, given any bytes. Each target
//! panics where the crate would have done wrong, not only where it panics by itself.

mod sample;

use std::fs;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

pub use self::sample::Scratch;
use self::sample::{SEGMENT_BYTES, UNLOCK, damage, keys, state, with_sample};
use crate::error::OpenError;
use crate::keys::{Keys, UnlockKey};
use crate::recover::examine;
use crate::snapshot::stream::read_state;
use crate::snapshot::{PIECE_BYTES, Pieces, SnapshotId, load};
use crate::store::codec;
use crate::wal::record::{self, Said};
use crate::wal::recover::Recovered;
use crate::wal::{batch, recover, segment};
use crate::wire::{
    self, Answer, AppendAnswer, AppendMsg, Ask, Request, Response, TransferAnswer, TransferMsg, VoteAnswer,
    VoteMsg,
};

/// A log with damage (see `damage`): refused, or what it said at some time is what it says, and each
/// damage has taken one batch at most, the last.
pub fn segment(bytes: &[u8]) {
    with_sample(|sample| {
        let damage = damage(&sample.log, bytes);
        damage.while_so(|| {
            let numbers = segment::list(&sample.dir).expect("the directory can be read");
            let scan = recover::scan(&sample.dir, &keys(&sample.dir), &numbers);
            drop(examine(&sample.dir, None));
            let Ok(scan) = scan else { return };
            let at = sample.said.iter().position(|said| *said == scan.recovered);
            let at = at.expect("a history is read that never was");
            assert!(
                damage.n_gone > 0 || at + 1 + damage.n_changes >= sample.said.len(),
                "{} changes cost more batches than that: {at} of {} are left",
                damage.n_changes,
                sample.said.len()
            );
        });
    });
}

/// Batches of any plain text, sealed as they should be, each with its length (one byte) before it: refused,
/// or taken, in order.
pub fn batches(bytes: &[u8]) {
    with_sample(|sample| {
        let damage = damage(&sample.log, &[]);
        damage.while_so(|| {
            let keys = keys(&sample.dir);
            let key = keys.current();
            let (number, first_sequence) = (1, 1);
            let place =
                segment::Place { dir: &sample.dir, key: &key, number, first_sequence, bytes: SEGMENT_BYTES };
            let (mut file, seal) =
                segment::start(&place, &Said::default()).expect("the system gives randomness");
            let (mut rest, mut sequence) = (bytes, first_sequence + 1);
            while let Some((&n, after)) = rest.split_first() {
                let (text, after) = after.split_at(usize::from(n).min(after.len()));
                let batch = batch::encode(&seal, sequence, text);
                if file.len() + batch.len() > usize::try_from(SEGMENT_BYTES).expect("it is small") {
                    break;
                }
                file.extend_from_slice(&batch);
                (rest, sequence) = (after, sequence + 1);
            }
            file.resize(usize::try_from(SEGMENT_BYTES).expect("it is small"), 0);
            fs::write(segment::path(&sample.dir, number), &file).expect("the file can be written");
            let Ok(scan) = recover::scan(&sample.dir, &keys, &[number]) else { return };
            assert_eq!(scan.next_sequence, sequence, "all or nothing");
            check(scan.recovered);
        });
    });
}

/// That a log that was read makes sense.
fn check(recovered: Recovered) {
    let (first, next) = (recovered.said.first(), recovered.said.next);
    assert!(recovered.entries.keys().copied().eq(first..next), "entries {first} to {next}, without a gap");
    assert_eq!(Said::default().after(&recovered.said.encode()), recovered.said, "a segment begins with it");
    drop(recovered.check(std::path::Path::new("log")));
    for record in recovered.entries.into_values() {
        let once = codec::write_entry(&codec::read_entry(record));
        assert_eq!(codec::write_entry(&codec::read_entry(once.clone())), once, "read as it is written");
    }
}

impl Said {
    /// After these records, which are encoded.
    fn after(mut self, records: &[u8]) -> Said {
        let records = record::decode_all(Bytes::copy_from_slice(records)).expect("records");
        records.iter().for_each(|record| self.take(record));
        self
    }
}

/// A snapshot with damage: refused, if anything at all is changed.
pub fn snapshot(bytes: &[u8]) {
    with_sample(|sample| {
        let damage = damage(&sample.snapshot, bytes);
        damage.while_so(|| {
            drop(examine(&sample.dir, None));
            let found = load(&sample.dir, &keys(&sample.dir));
            let Ok(Some(found)) = found else {
                assert!(damage.n_changes > 0, "what is whole is read");
                return;
            };
            let read = whole(&*found.pieces);
            assert_eq!(read.is_ok(), !damage.is_real(), "all that is changed is noticed, and nothing else");
            assert!(read.map_or(true, |read| read == state()), "the state that was written");
        });
    });
}

fn whole(pieces: &dyn Pieces) -> Result<Vec<u8>, OpenError> {
    read_state(pieces, |reader| {
        let mut state = Vec::new();
        reader.read_to_end(&mut state).map(|_| state).map_err(|error| error.to_string())
    })
}

#[derive(Debug)]
struct Loose(Vec<Bytes>);

impl Pieces for Loose {
    fn id(&self) -> SnapshotId {
        [0; 16]
    }

    fn count(&self) -> u64 {
        u64::try_from(self.0.len()).expect("few")
    }

    fn packed_bytes(&self) -> u64 {
        0
    }

    fn piece(&self, number: u64) -> Result<Bytes, OpenError> {
        Ok(self.0[usize::try_from(number).expect("few")].clone())
    }

    fn keep(self: Arc<Self>, _old: u64) -> io::Result<()> {
        Ok(())
    }
}

/// Pieces of any packed bytes: refused, or unpacked within their limit.
pub fn pieces(bytes: &[u8]) {
    let pieces = Loose(bytes.chunks(256).take(4).map(Bytes::copy_from_slice).collect());
    let most = pieces.0.len() * PIECE_BYTES;
    // Refused is as good.
    let len = whole(&pieces).map_or(0, |read| read.len());
    assert!(len <= most, "a piece unpacks to no more than a piece");
}

/// A key file. By the first byte: any bytes; a plain or a wrapped one with damage, its checksum right or wrong.
pub fn key_file(bytes: &[u8]) {
    let Some((&how, rest)) = bytes.split_first() else { return };
    with_sample(|sample| {
        let (is_wrapped, is_any) = (how & 1 == 1, how & 2 == 2);
        let file = if is_wrapped { &sample.wrapped } else { &sample.plain };
        let mut damage = damage(std::slice::from_ref(file), rest);
        if is_any {
            damage.set(rest);
        } else if how & 4 == 4 {
            damage.checksum();
        }
        damage.while_so(|| {
            let dir = file.path.parent().expect("it is in a directory");
            let unlock = is_wrapped.then(|| UnlockKey::new(UNLOCK));
            drop(Keys::are_wrapped(dir));
            let found = Keys::open(dir, unlock.as_ref());
            drop(Keys::open(dir, Some(&UnlockKey::new(&b"another"[..]))));
            let Ok(found) = found else { return };
            assert!(
                !is_wrapped || is_any || !damage.is_real(),
                "what is changed of a wrapped file is noticed"
            );
            let copy = found.copy_to(&sample.copy).expect("it can be written");
            let again = Keys::open(&sample.copy, unlock.as_ref()).expect("what was written is read");
            assert_eq!((copy.numbers(), copy.lock()), (again.numbers(), again.lock()));
            assert!(
                found.numbers().into_iter().all(|number| again.get(number) == found.get(number)),
                "the keys are the same"
            );
        });
    });
}

/// A sealed secret beside the log, with damage: refused, if anything is changed.
pub fn secret(bytes: &[u8]) {
    with_sample(|sample| {
        let damage = damage(std::slice::from_ref(&sample.secret), bytes);
        let dir = sample.wrapped.path.parent().expect("it is in a directory");
        let keys = Keys::open(dir, Some(&UnlockKey::new(UNLOCK))).expect("the keys are there");
        let opened = keys.open_secret(damage.only().unwrap_or_default());
        assert_eq!(opened.is_ok(), !damage.is_real(), "all that is changed is noticed, and nothing else");
    });
}

/// What another member says, as a question and as an answer.
pub fn message(bytes: &[u8]) {
    if let Ok(request) = wire::decode::<Request>(Bytes::copy_from_slice(bytes)) {
        let again: Request = wire::decode(wire::encode(&request)).expect("what was written is read");
        assert_eq!(again, request);
        match request.ask {
            Some(Ask::Append(msg)) => twice(msg, |msg| Some(AppendMsg::new(&msg.read().ok()?))),
            Some(Ask::Vote(msg) | Ask::PreVote(msg)) => {
                twice(msg, |msg| Some(VoteMsg::new(&msg.read().ok()?)));
            }
            Some(Ask::Transfer(msg)) => twice(msg, |msg| Some(TransferMsg::new(&msg.read().ok()?))),
            Some(Ask::Snapshot(piece)) => drop(piece.meta.map(|meta| meta.read())),
            Some(Ask::Propose(_) | Ask::ReadIndex(_) | Ask::Removed(_)) | None => {}
        }
    }
    if let Ok(response) = wire::decode::<Response>(Bytes::copy_from_slice(bytes)) {
        let again: Response = wire::decode(wire::encode(&response)).expect("what was written is read");
        assert_eq!(again, response);
        match response.answer {
            Some(Answer::Append(msg)) => twice(msg, |msg| Some(AppendAnswer::new(&msg.read().ok()?))),
            Some(Answer::Vote(msg) | Answer::PreVote(msg)) => {
                twice(msg, |msg| Some(VoteAnswer::new(&msg.read().ok()?)));
            }
            Some(Answer::Transfer(msg)) => twice(msg, |msg| Some(TransferAnswer::new(&msg.read().ok()?))),
            Some(
                Answer::Snapshot(_)
                | Answer::Propose(_)
                | Answer::ReadIndex(_)
                | Answer::Removed(_)
                | Answer::Stopped(_),
            )
            | None => {}
        }
    }
    drop(record::decode_all(Bytes::copy_from_slice(bytes)));
}

/// That what a message means is written so that it means the same.
fn twice<M: Message + Default + Clone + PartialEq>(msg: M, over: impl Fn(M) -> Option<M>) {
    let Some(once) = over(msg) else { return };
    assert!(over(once.clone()).as_ref() == Some(&once), "it is read as it is written");
}
