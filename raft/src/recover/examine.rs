//! A closed directory explained, file by file. Nothing is changed, not even a lock made.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::held;
use crate::error::OpenError;
use crate::keys::{Keys, UnlockKey};
use crate::snapshot;
use crate::wal::recover::scan;
use crate::wal::segment::{self, Loaded};

/// Said of a key file that was not opened.
const LOCKED: &str = "the keys that log and snapshots are sealed under, locked: with the unlock key of the swarm the rest is read, too";

/// How a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// As it should be, or of no importance.
    Ok,
    /// It should be there.
    Missing,
    /// It cannot be used.
    Damaged,
}

/// What is to be said of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Its path.
    pub path: PathBuf,
    /// How it is.
    pub verdict: Verdict,
    /// What it holds, or what is wrong with it and where.
    pub words: String,
}

impl Finding {
    fn new(path: PathBuf, verdict: Verdict, words: impl Into<String>) -> Finding {
        Finding { path, verdict, words: words.into() }
    }
}

/// Explains each file of a log's directory, the key file first and the log as a whole (under the directory's own
/// path) last. With keys that are missing, wrong or locked, nothing else can be read; `unlock` opens locked ones.
pub fn examine(dir: &Path, unlock: Option<&UnlockKey>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let path = Keys::path(dir);
    let keys = match Keys::open(dir, unlock) {
        Ok(keys) => keys,
        Err(error) => {
            // All that can be known without the unlock key is that it is one.
            let is_locked = matches!(error, OpenError::KeyLocked { .. });
            let is_missing = matches!(error, OpenError::MissingKey { .. });
            let verdict = match (is_locked, is_missing) {
                (true, _) => Verdict::Ok,
                (false, true) => Verdict::Missing,
                (false, false) => Verdict::Damaged,
            };
            let words = if is_locked { LOCKED.to_owned() } else { error.to_string() };
            findings.push(Finding::new(path, verdict, words));
            return findings;
        }
    };
    let locked = if keys.lock().0 { ", locked with the unlock key" } else { "" };
    let words = format!("the keys that log and snapshots are sealed under{locked}");
    findings.push(Finding::new(path, Verdict::Ok, words));
    let numbers = match segment::list(dir) {
        Ok(numbers) => numbers,
        Err(error) => {
            findings.push(Finding::new(
                dir.to_owned(),
                Verdict::Damaged,
                format!("cannot be listed: {error}"),
            ));
            return findings;
        }
    };
    if numbers.is_empty() {
        findings.push(Finding::new(segment::path(dir, 1), Verdict::Missing, "there is no segment of a log"));
    }
    findings.extend(numbers.iter().map(|number| one_segment(dir, &keys, *number)));
    snapshots(dir, &keys, &mut findings);
    others(dir, &mut findings);
    findings.push(whole(dir, &keys, &numbers));
    findings
}

/// By itself; what only shows beside the others is said of the whole.
fn one_segment(dir: &Path, keys: &Keys, number: u64) -> Finding {
    let path = segment::path(dir, number);
    let segment = match Loaded::read(dir, keys, number) {
        Ok(segment) => segment,
        Err(error) => return Finding::new(path, Verdict::Damaged, said(&error)),
    };
    let first = segment.said().next;
    // One alone begins wherever it does: entries before it are no matter here.
    match crate::wal::recover::scan_one(dir, keys, number) {
        Ok(scan) => {
            let n = scan.recovered.entries.len();
            let torn = match &scan.tail {
                Some(tail) if tail.is_torn => {
                    let at = tail.from + u64::try_from(tail.batch.len()).unwrap_or_default();
                    format!("; a torn write at byte {at}, never acknowledged, is cut at the next start")
                }
                Some(_) | None => String::new(),
            };
            let words = format!(
                "segment {number}, batches {} to {}, {n} entries from {first} on{torn}",
                segment.first_sequence,
                scan.next_sequence.saturating_sub(1)
            );
            Finding::new(path, Verdict::Ok, words)
        }
        Err(error) => Finding::new(path, Verdict::Damaged, said(&error)),
    }
}

fn snapshots(dir: &Path, keys: &Keys, findings: &mut Vec<Finding>) {
    let Ok(paths) = snapshot::list(dir) else { return };
    let newest = paths.last().cloned();
    for path in paths {
        let is_newest = Some(&path) == newest.as_ref();
        let finding = match snapshot::open(dir, &path, keys).and_then(|found| {
            (0..found.pieces.count()).try_for_each(|number| found.pieces.piece(number).map(drop))?;
            Ok(found)
        }) {
            Ok(found) => {
                let words = format!(
                    "the state after entry {}, {} pieces, {} bytes{}",
                    found.meta.last_log_id.map_or(0, |id| id.index),
                    found.pieces.count(),
                    found.pieces.packed_bytes(),
                    if is_newest { "" } else { "; an older one, kept by the swarm's settings" }
                );
                Finding::new(path, Verdict::Ok, words)
            }
            Err(error) => Finding::new(path, Verdict::Damaged, said(&error)),
        };
        findings.push(finding);
    }
}

/// What a start makes, or removes.
fn others(dir: &Path, findings: &mut Vec<Finding>) {
    let known: BTreeSet<PathBuf> = findings.iter().map(|finding| finding.path.clone()).collect();
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort_unstable();
    for path in paths.into_iter().filter(|path| !known.contains(path)) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let words = match name.as_str() {
            "lock" => "held by the daemon while it runs",
            "wal.spare" => "the next segment of the log, empty",
            _ if name.ends_with(".new") => "left of a write that was cut off; the next start removes it",
            _ => "not of this program; it may be removed",
        };
        findings.push(Finding::new(path, Verdict::Ok, words));
    }
}

fn whole(dir: &Path, keys: &Keys, numbers: &[u64]) -> Finding {
    let found = scan(dir, keys, numbers).map(|scan| scan.recovered).and_then(|mut recovered| {
        recovered.snapshot = snapshot::load(dir, keys)?;
        recovered.check(dir)?;
        Ok(recovered)
    });
    match found {
        Ok(recovered) => {
            let held = held(&recovered);
            let index = |index: Option<u64>| index.map_or("none".to_owned(), |index| index.to_string());
            let words = format!(
                "the log as a whole: term {}, last entry {}, known to be committed {}, in a snapshot {}",
                held.term,
                index(held.last),
                index(held.committed),
                index(held.snapshot)
            );
            Finding::new(dir.to_owned(), Verdict::Ok, words)
        }
        Err(error) => Finding::new(dir.to_owned(), Verdict::Damaged, said(&error)),
    }
}

/// With what the system said.
fn said(error: &OpenError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
