//! Which segments hold entries that still count: those before the first such one may go.

use std::collections::VecDeque;

use super::record::{Kind, Record, TruncateRecord};

/// What counts of each segment, as far as it is durable, and of the batch that is being gathered.
#[derive(Debug)]
pub(crate) struct Held {
    /// Number and last counting entry of each segment, the oldest first; the last one is being written.
    segments: VecDeque<(u64, Option<u64>)>,
    /// The last counting entry of the next batch.
    batch: Option<u64>,
    /// The first entry that is not purged.
    first: u64,
}

impl Held {
    /// Before the first segment.
    pub(crate) fn new() -> Held {
        Held { segments: VecDeque::new(), batch: None, first: 0 }
    }

    /// Another segment begins.
    pub(crate) fn begin(&mut self, number: u64) {
        self.segments.push_back((number, None));
    }

    /// The first segment that still counts.
    pub(crate) fn first(&self) -> Option<u64> {
        self.segments.front().map(|(number, _)| *number)
    }

    /// A record is in the next batch.
    pub(crate) fn take(&mut self, record: &Record) {
        match &record.kind {
            Some(Kind::Entry(entry)) => self.batch = self.batch.max(Some(entry.index)),
            Some(Kind::Truncate(truncate)) => self.truncate(truncate),
            Some(Kind::Purged(purged)) => self.first = purged.index + 1,
            Some(Kind::Vote(_) | Kind::Committed(_) | Kind::Base(_)) | None => {}
        }
    }

    fn truncate(&mut self, truncate: &TruncateRecord) {
        let lasts = self.segments.iter_mut().map(|(_, last)| last).chain([&mut self.batch]);
        lasts.for_each(|last| *last = (*last).min(truncate.keep_to));
    }

    /// The next batch is durable, in the newest segment. Tells which segments are of no use any more, and
    /// forgets them.
    pub(crate) fn written(&mut self) -> Vec<u64> {
        if let Some((_, last)) = self.segments.back_mut() {
            *last = (*last).max(self.batch.take());
        }
        let mut dead = Vec::new();
        while self.segments.len() > 1
            && let Some((number, _)) =
                self.segments.pop_front_if(|(_, last)| last.is_none_or(|last| last < self.first))
        {
            dead.push(number);
        }
        dead
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{EntryRecord, LogPosition, VoteRecord};
    use super::*;

    fn entry(index: u64) -> Record {
        Kind::Entry(EntryRecord { term: 1, index, content: None }).into()
    }

    #[test]
    fn a_segment_goes_with_all_before_it_once_nothing_in_it_counts() {
        let purged = |index| Record::from(Kind::Purged(LogPosition { term: 1, index }));
        let truncate = |keep_to| Record::from(Kind::Truncate(TruncateRecord { keep_to }));
        let vote = Record::from(Kind::Vote(VoteRecord { term: 1, raft_id: 1, committed: true }));
        // By segment, what is written to it; then what may go.
        let cases: [(&[&[Record]], &[u64]); 7] = [
            (&[&[entry(0)], &[entry(1)], &[entry(2)]], &[]),
            (&[&[entry(0)], &[entry(1)], &[purged(0)]], &[1]),
            (&[&[entry(0)], &[entry(1)], &[purged(1)]], &[1, 2]),
            (&[&[entry(0)], &[entry(1)], &[truncate(None), entry(0)]], &[1, 2]),
            (&[&[entry(0)], &[entry(1)], &[truncate(Some(0)), entry(1)]], &[]),
            // One without any entry waits for those before it.
            (&[&[entry(0)], std::slice::from_ref(&vote), &[entry(1)]], &[]),
            (&[std::slice::from_ref(&vote), &[entry(0)], &[entry(1)]], &[1]),
        ];
        for (segments, expect) in cases {
            let (mut held, mut gone) = (Held::new(), Vec::new());
            for (number, records) in (1..).zip(segments) {
                held.begin(number);
                records.iter().for_each(|record| held.take(record));
                gone.extend(held.written());
            }
            assert_eq!(gone, expect, "{segments:?}");
        }
    }
}
