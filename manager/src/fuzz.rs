//! For fuzzing only: what a person or a bad disk may hand to this crate, given any bytes. Each target panics where the
//! crate would have done wrong, not only where it panics by itself.

use std::{cell::RefCell, fs};

use ring::digest;
use skep_raft::fuzz::Scratch;
use skep_store::{FEATURE_LEVEL, Store};

use crate::{
    level,
    recovery::backup::{self, Sealed, Title},
    unlock_key_text,
};

/// What a fuzzed backup is sealed under: to derive it as a real one's would take a third of a second each time.
const KEY: [u8; 32] = [7; 32];
const SUM_BYTES: usize = 32;
const CHANGE_BYTES: usize = 4;

thread_local! {
    static BACKUP: RefCell<Option<(Scratch, Vec<u8>)>> = const { RefCell::new(None) };
    static MANAGER: Scratch = Scratch::new("manager");
}

fn sample(store: &Store) -> (Scratch, Vec<u8>) {
    let title = Title::of(&store.view(), 9, 1, Sealed::Key);
    let mut backup = Vec::new();
    backup::write_under(&mut backup, store, &title, |_| KEY).expect("a vector takes all");
    (Scratch::new("backup"), backup)
}

/// A backup with damage, four bytes each time: of what kind, the place (two), and what a byte there is changed by.
fn damaged(whole: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut file = whole.to_vec();
    for change in bytes.chunks_exact(CHANGE_BYTES) {
        let at = usize::from(u16::from_le_bytes([change[1], change[2]])) % whole.len();
        match change[0] % 16 {
            15 => file.truncate(at),
            14 => file.resize(file.len() + usize::from(change[3]), 0),
            _ => file.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= change[3]),
        }
    }
    file
}

/// A backup of `store`, always the same one. By the first byte: any bytes; one with damage, its checksum right or
/// wrong: refused, if anything is changed.
pub fn backup(store: &Store, bytes: &[u8]) {
    let Some((&how, rest)) = bytes.split_first() else { return };
    BACKUP.with_borrow_mut(|sampled| {
        let (dir, whole) = sampled.get_or_insert_with(|| sample(store));
        let mut file = if how & 1 == 1 { rest.to_vec() } else { damaged(whole, rest) };
        if how & 2 == 2 && file.len() >= SUM_BYTES {
            let end = file.len() - SUM_BYTES;
            let sum = digest::digest(&digest::SHA256, &file[..end]);
            file[end..].copy_from_slice(sum.as_ref());
        }
        let is_whole = file == *whole;
        let path = dir.join("backup");
        fs::write(&path, &file).expect("the file can be written");
        let stated = backup::verify_sum(&path);
        match backup::read_under(&path, |_| KEY) {
            Ok((title, read)) => {
                assert!(is_whole, "all that is changed is noticed");
                assert!(stated.is_ok_and(|stated| stated == title), "it says of itself what it is");
                assert!(read == *store, "the state that was written");
            }
            Err(_) => assert!(!is_whole, "what is whole is read"),
        }
    });
}

/// An unlock key as a user types it: one text is one key.
pub fn unlock_key(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(key) = crate::parse_unlock_key(&text) {
        assert!(unlock_key_text(&key) == text, "one text is one key");
    }
}

/// The file that keeps the feature level beside the log: a newer build's is refused, any other text stops nobody.
pub fn level_file(bytes: &[u8]) {
    MANAGER.with(|dir| {
        fs::write(level::path(dir), bytes).expect("the file can be written");
        let stated = String::from_utf8_lossy(bytes).trim().parse::<u32>();
        let is_newer = stated.is_ok_and(|level| level > FEATURE_LEVEL);
        assert_eq!(level::check_kept(dir).is_err(), is_newer);
    });
}
