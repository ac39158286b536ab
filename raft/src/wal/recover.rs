//! Reads the log back at an opening, and tells a torn tail from damage.
//!
//! At most one batch is ever unsynced, and it is the last one. So what cannot be read is a torn tail,
//! which nobody was told about, if no batch follows and some of it was never written; else it is damage.
//! "Follows" is decided by sequence numbers, which run on without a gap from segment to segment: each
//! states its first one. Older segments may be missing, if no entry that counts was in them. Everything is
//! checked before anything is changed.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use super::batch::{self, Found};
use super::held::Held;
use super::record::{self, EntryRecord, Kind, Record, Said};
use super::segment::{self, HEADER_BYTES, Loaded, Tail};
use super::spare::is_zero;
use crate::error::OpenError;
use crate::keys::Keys;
use crate::snapshot::Snapshot;

/// What the log says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Recovered {
    pub(crate) said: Said,
    /// The state that the log goes on from.
    pub(crate) snapshot: Option<Snapshot>,
    /// By index, without a gap: from the one after the last purged, or from 0 on.
    pub(crate) entries: BTreeMap<u64, EntryRecord>,
}

/// What `scan` found.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) recovered: Recovered,
    /// The sequence number of the next batch.
    pub(crate) next_sequence: u64,
    /// The end of the last segment.
    pub(crate) tail: Option<Tail>,
    /// The first segment that was taken in.
    begins_at: u64,
    /// Which segments still count; older ones are to be removed.
    pub(crate) held: Held,
}

/// Reads the segments `numbers`; changes nothing. What is wrong with a segment does not count once a later
/// one begins anew: it was to be removed.
pub(crate) fn scan(dir: &Path, keys: &Keys, numbers: &[u64]) -> Result<Scan, OpenError> {
    let mut scan = Ok(Scan::before(1, 1));
    let mut previous = None;
    for &number in numbers {
        let segment = Loaded::read(dir, keys, number);
        let is_next = previous.is_some_and(|previous| previous + 1 == number);
        previous = Some(number);
        if let Ok(segment) = &segment
            && (segment.begins_anew() || !is_next)
        {
            scan = Ok(Scan::before(number, segment.first_sequence));
        }
        scan = scan.and_then(|mut scan| {
            scan.go_on(&segment?, number)?;
            Ok(scan)
        });
    }
    let scan = scan?;
    scan.check_whole(dir)?;
    Ok(scan)
}

/// Reads one segment by itself, whatever was before it. What is missing then does not show.
pub(crate) fn scan_one(dir: &Path, keys: &Keys, number: u64) -> Result<Scan, OpenError> {
    let segment = Loaded::read(dir, keys, number)?;
    let mut scan = Scan::before(number, segment.first_sequence);
    scan.go_on(&segment, number)?;
    Ok(scan)
}

impl Scan {
    /// Before the first segment that counts.
    fn before(number: u64, sequence: u64) -> Scan {
        Scan {
            recovered: Recovered::default(),
            next_sequence: sequence,
            tail: None,
            begins_at: number,
            held: Held::new(),
        }
    }

    fn go_on(&mut self, segment: &Loaded, number: u64) -> Result<(), OpenError> {
        // A torn tail of an earlier segment was cut, and its sequence number given out again, before
        // this segment was made. If this one begins later, that tail had been acknowledged.
        if segment.first_sequence != self.next_sequence {
            let end = self.tail.take().map(|tail| {
                (tail.path, tail.from + u64::try_from(tail.batch.len()).expect("a length fits in 64 bits"))
            });
            let (file, offset) = end.unwrap_or_else(|| (segment.path.clone(), 0));
            let reason = format!(
                "batch {} cannot be read, and segment {number} goes on at batch {}",
                self.next_sequence, segment.first_sequence
            );
            return Err(OpenError::Damaged { file, offset, reason });
        }
        if number == self.begins_at {
            self.recovered.said = segment.said();
        } else if segment.next() != self.recovered.said.next {
            let reason = format!(
                "it goes on at entry {}, and the segment before it ends before entry {}",
                segment.next(),
                self.recovered.said.next
            );
            return Err(OpenError::Damaged { file: segment.path.clone(), offset: HEADER_BYTES, reason });
        }
        self.held.begin(number);
        self.next_sequence += 1;
        self.tail = Some(self.read_segment(segment)?);
        Ok(())
    }

    /// Takes in one segment after its first batch; says how it ends.
    fn read_segment(&mut self, segment: &Loaded) -> Result<Tail, OpenError> {
        let mut last = usize::try_from(HEADER_BYTES).expect("a header is small");
        let mut at = segment.begins_at;
        let wide = |at: usize| u64::try_from(at).expect("a length fits in 64 bits");
        let damaged = |at: usize, reason: String| OpenError::Damaged {
            file: segment.path.clone(),
            offset: wide(at),
            reason,
        };
        loop {
            let rest = segment.bytes.get(at..).unwrap_or_default();
            match batch::decode(&segment.seal, rest) {
                Found::Batch { sequence, plain, disk_len } => {
                    if sequence != self.next_sequence {
                        let reason =
                            format!("batch {} should stand here, not {sequence}", self.next_sequence);
                        return Err(damaged(at, reason));
                    }
                    let records = record::decode_all(plain)
                        .map_err(|e| damaged(at, format!("batch {sequence} holds no records: {e}")))?;
                    for record in records {
                        self.held.take(&record);
                        self.recovered.take(record).map_err(|reason| damaged(at, reason))?;
                    }
                    // Only what the next purge finds of no use goes.
                    self.held.written();
                    self.next_sequence += 1;
                    (last, at) = (at, at + disk_len);
                }
                Found::Nothing(reason) => {
                    if let Some(later) = later_batch(segment, at) {
                        return Err(damaged(
                            at,
                            format!("{reason}, but a whole batch follows at byte {later}"),
                        ));
                    }
                    let batch = Bytes::copy_from_slice(&segment.bytes[last..at]);
                    let (path, is_torn) = (segment.path.clone(), !is_zero(rest));
                    return Ok(Tail { path, from: wide(last), batch, is_torn });
                }
                Found::Damaged(reason) => return Err(damaged(at, reason.to_owned())),
                Found::Altered => {
                    return Err(damaged(
                        at,
                        "a batch is whole, but its seal does not hold: it was altered".into(),
                    ));
                }
                Found::Newer(version) => {
                    let (file, known) = (segment.path.clone(), u32::from(batch::VERSION));
                    return Err(OpenError::NewerFormat { file, version: u32::from(version), known });
                }
            }
        }
    }

    /// That no entry that counts was in a segment that is missing.
    fn check_whole(&self, dir: &Path) -> Result<(), OpenError> {
        let Recovered { said, entries, .. } = &self.recovered;
        let first = entries.keys().next().copied().unwrap_or(said.next);
        if first == said.first() {
            return Ok(());
        }
        let missing = self.begins_at.saturating_sub(1);
        let reason = format!(
            "this segment of the log is missing, or one before it, with entries {} to {}",
            said.first(),
            first.saturating_sub(1)
        );
        Err(OpenError::Damaged { file: segment::path(dir, missing), offset: 0, reason })
    }
}

/// Where in the segment, after `at`, something stands that is a batch beyond doubt.
fn later_batch(segment: &Loaded, at: usize) -> Option<usize> {
    let next = (at + 1).next_multiple_of(batch::ALIGN);
    (next..segment.bytes.len()).step_by(batch::ALIGN).find(|at| {
        match batch::decode(&segment.seal, &segment.bytes[*at..]) {
            Found::Batch { .. } | Found::Newer(_) => true,
            Found::Nothing(_) | Found::Damaged(_) | Found::Altered => false,
        }
    })
}

impl Recovered {
    /// What openraft relies on and no single record shows.
    pub(crate) fn check(&self, dir: &Path) -> Result<(), OpenError> {
        let in_snapshot =
            self.snapshot.as_ref().and_then(|snapshot| snapshot.meta.last_log_id).map(|id| id.index);
        let purged = self.said.purged.as_ref().map(|purged| purged.index);
        if let Some(purged) = purged.filter(|purged| in_snapshot.is_none_or(|last| last < *purged)) {
            let reason =
                format!("the log begins after entry {purged}, and the snapshot that has it is missing");
            return Err(OpenError::Damaged { file: dir.to_owned(), offset: 0, reason });
        }
        let last = self.entries.keys().next_back().copied().max(in_snapshot);
        match &self.said.committed {
            Some(committed) if last.is_none_or(|last| last < committed.index) => Err(OpenError::Consensus {
                reason: format!(
                    "the log says that entry {} is committed, and does not have it",
                    committed.index
                ),
            }),
            Some(_) | None => Ok(()),
        }
    }

    pub(crate) fn take(&mut self, record: Record) -> Result<(), String> {
        let next = self.said.next;
        self.said.take(&record);
        match record.kind {
            Some(Kind::Entry(entry)) if entry.index != next => {
                return Err(format!("entry {next} should stand here, not {}", entry.index));
            }
            Some(Kind::Entry(entry)) => {
                self.entries.insert(entry.index, entry);
            }
            Some(Kind::Truncate(truncate)) => {
                self.entries.split_off(&truncate.first_gone());
            }
            Some(Kind::Purged(purged)) => self.entries = self.entries.split_off(&(purged.index + 1)),
            Some(Kind::Vote(_) | Kind::Committed(_)) => {}
            Some(Kind::Base(_)) => return Err("only a segment's first batch says where it begins".to_owned()),
            None => return Err("a record is of a kind that this binary does not know".to_owned()),
        }
        Ok(())
    }
}
