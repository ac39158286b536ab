//! Reads the log back at an opening, and tells a torn tail from damage.
//!
//! At most one batch is ever unsynced, and it is the last one. So what cannot be read is a torn tail,
//! which nobody was told about, if no batch follows; it is damage if one does. "Follows" is decided by
//! sequence numbers, which run on without a gap through all segments: each segment states its first
//! one. Everything is checked before anything is changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::batch::{self, Found};
use super::record::{self, EntryRecord, Kind, LogPosition, Record, VoteRecord};
use super::seal::DataKey;
use super::segment::{self, HEADER_BYTES, Loaded};
use crate::error::OpenError;
use crate::snapshot::Snapshot;

/// What the log says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Recovered {
    pub(crate) vote: Option<VoteRecord>,
    pub(crate) committed: Option<LogPosition>,
    /// The last entry that was purged.
    pub(crate) purged: Option<LogPosition>,
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
    /// The torn tail of the last segment, to be cut before a new segment is made.
    pub(crate) torn: Option<(PathBuf, u64)>,
    /// The first segment that counts. What is left of older ones is to be removed.
    pub(crate) begins_at: u64,
}

/// Reads the segments `numbers`; changes nothing. What is wrong with a segment does not count once a later
/// one begins anew: it was to be removed.
pub(crate) fn scan(dir: &Path, key: &DataKey, numbers: &[u64]) -> Result<Scan, OpenError> {
    let mut scan = Ok(Scan::beginning(1, 1));
    let mut expected = 1;
    for &number in numbers {
        let segment = Loaded::read(dir, key, number);
        if let Ok(anew) = &segment
            && anew.begins_anew()
        {
            scan = Ok(Scan::beginning(number, anew.first_sequence));
            expected = number;
        }
        scan = scan.and_then(|mut scan| {
            if number != expected {
                let reason =
                    format!("this segment of the log is missing, and segment {number} does not stand for it");
                return Err(OpenError::Damaged { file: segment::path(dir, expected), offset: 0, reason });
            }
            scan.go_on(&segment?, number)?;
            Ok(scan)
        });
        expected += 1;
    }
    scan
}

impl Scan {
    fn beginning(number: u64, sequence: u64) -> Scan {
        Scan { recovered: Recovered::default(), next_sequence: sequence, torn: None, begins_at: number }
    }

    fn go_on(&mut self, segment: &Loaded, number: u64) -> Result<(), OpenError> {
        // A torn tail of an earlier segment was cut, and its sequence number given out again, before
        // this segment was made. If this one begins later, that tail had been acknowledged.
        if segment.first_sequence != self.next_sequence {
            let (file, offset) = self.torn.take().unwrap_or_else(|| (segment.path.clone(), 0));
            let reason = format!(
                "batch {} cannot be read, and segment {number} goes on at batch {}",
                self.next_sequence, segment.first_sequence
            );
            return Err(OpenError::Damaged { file, offset, reason });
        }
        self.torn = self.read_segment(segment)?;
        Ok(())
    }

    /// Takes in one segment; says where its torn tail begins, if it has one.
    fn read_segment(&mut self, segment: &Loaded) -> Result<Option<(PathBuf, u64)>, OpenError> {
        let mut at = usize::try_from(HEADER_BYTES).expect("a header is small");
        let damaged = |at: usize, reason: String| OpenError::Damaged {
            file: segment.path.clone(),
            offset: u64::try_from(at).unwrap_or(u64::MAX),
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
                    let records = record::decode_all(&plain)
                        .map_err(|e| damaged(at, format!("batch {sequence} holds no records: {e}")))?;
                    for record in records {
                        self.recovered.take(record).map_err(|reason| damaged(at, reason))?;
                    }
                    self.next_sequence += 1;
                    at += disk_len;
                }
                Found::Nothing(_) if rest.iter().all(|byte| *byte == 0) => return Ok(None),
                Found::Nothing(reason) => {
                    if let Some(later) = later_batch(segment, at) {
                        return Err(damaged(
                            at,
                            format!("{reason}, but a whole batch follows at byte {later}"),
                        ));
                    }
                    let at = u64::try_from(at).expect("a length fits in 64 bits");
                    return Ok(Some((segment.path.clone(), at)));
                }
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
}

/// Where in the segment, after `at`, something stands that is a batch beyond doubt.
fn later_batch(segment: &Loaded, at: usize) -> Option<usize> {
    let next = (at + 1).next_multiple_of(batch::ALIGN);
    (next..segment.bytes.len()).step_by(batch::ALIGN).find(|at| {
        match batch::decode(&segment.seal, &segment.bytes[*at..]) {
            Found::Batch { .. } | Found::Newer(_) => true,
            Found::Nothing(_) | Found::Altered => false,
        }
    })
}

impl Recovered {
    /// What a log that begins anew begins with.
    pub(crate) fn records(&self) -> Vec<Record> {
        let entries = self.entries.values().cloned();
        record::anew(self.vote.clone(), self.purged.clone(), entries, self.committed.clone())
    }

    /// What openraft relies on and no single record shows.
    pub(crate) fn check(&self, dir: &Path) -> Result<(), OpenError> {
        let in_snapshot =
            self.snapshot.as_ref().and_then(|snapshot| snapshot.meta.last_log_id).map(|id| id.index);
        let purged = self.purged.as_ref().map(|purged| purged.index);
        if let Some(purged) = purged.filter(|purged| in_snapshot.is_none_or(|last| last < *purged)) {
            let reason =
                format!("the log begins after entry {purged}, and the snapshot that has it is missing");
            return Err(OpenError::Damaged { file: dir.to_owned(), offset: 0, reason });
        }
        let last = self.entries.keys().next_back().copied().max(in_snapshot);
        match &self.committed {
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
        match record.kind {
            Some(Kind::Entry(entry)) => {
                let last = self.entries.keys().next_back().copied();
                let next =
                    last.or(self.purged.as_ref().map(|purged| purged.index)).map_or(0, |last| last + 1);
                if entry.index != next {
                    return Err(format!("entry {next} should stand here, not {}", entry.index));
                }
                self.entries.insert(entry.index, entry);
            }
            Some(Kind::Vote(vote)) => self.vote = Some(vote),
            Some(Kind::Truncate(truncate)) => {
                let first_gone = truncate.keep_to.map_or(0, |last| last + 1);
                self.entries.split_off(&first_gone);
            }
            Some(Kind::Purged(purged)) => {
                self.entries = self.entries.split_off(&(purged.index + 1));
                self.purged = Some(purged);
            }
            Some(Kind::Committed(position)) => self.committed = Some(position),
            Some(Kind::Anew(_)) => {
                *self = Recovered { snapshot: self.snapshot.take(), ..Recovered::default() };
            }
            None => return Err("a record is of a kind that this binary does not know".to_owned()),
        }
        Ok(())
    }
}
