//! What fuzzing begins with and what it has kept, run once more, and some more made of both.
//! `SKEP_FUZZ_SECONDS=60` goes on for so long with each target.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../fuzz/seeds.rs"]
mod seeds;
#[path = "../fuzz/targets.rs"]
mod targets;

use std::collections::BTreeMap;
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use targets::Target;

/// How many inputs are made of those that are there, for each target.
const MADE: u32 = 300;
const INPUT_BYTES_MAX: usize = 4096;

/// Those of each target.
fn inputs() -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut all: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    seeds::all(&mut |target, _, bytes| all.entry(target.to_owned()).or_default().push(bytes.to_vec()));
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, inputs) in &mut all {
        let mut files: Vec<_> = fs::read_dir(corpus.join(target))
            .into_iter()
            .flatten()
            .map(|file| file.unwrap().path())
            .collect();
        files.sort();
        inputs.extend(files.iter().map(|path| fs::read(path).unwrap()));
    }
    all
}

/// The next number of a sequence: the same each time.
fn draw(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 16).expect("48 bits")
}

/// Another input, of one and a piece of another one.
fn made(inputs: &[Vec<u8>], state: &mut u64) -> Vec<u8> {
    let mut bytes = inputs[draw(state) % inputs.len()].clone();
    for _ in 0..=draw(state) % 8 {
        let at = draw(state) % (bytes.len() + 1);
        let end = (at + 1 + draw(state) % 16).min(bytes.len());
        match draw(state) % 6 {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << (draw(state) % 8),
            2 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][draw(state) % 5],
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let other = &inputs[draw(state) % inputs.len()];
                let from = draw(state) % (other.len() + 1);
                let to = (from + draw(state) % 32).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
        }
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

#[track_caller]
fn run((name, target): Target, bytes: &[u8]) {
    if catch_unwind(|| target(bytes)).is_err() {
        let path = std::env::temp_dir().join(format!("skep-fuzz-{name}"));
        fs::write(&path, bytes).expect("the input can be written");
        panic!("{name} does wrong with the input in {}", path.display());
    }
}

#[test]
fn what_fuzzing_has_kept_does_no_harm() {
    let seconds: u64 =
        std::env::var("SKEP_FUZZ_SECONDS").map_or(0, |seconds| seconds.parse().expect("a number of seconds"));
    let only = std::env::var("SKEP_FUZZ").ok();
    let inputs = inputs();
    for &(name, target) in
        targets::TARGETS.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name))
    {
        let inputs = inputs.get(name).expect("each target has seeds");
        inputs.iter().for_each(|bytes| run((name, target), bytes));
        let (began, mut n) = (Instant::now(), 0);
        let mut state = 0x5eed_0000 + seconds;
        while n < MADE || began.elapsed() < Duration::from_secs(seconds) {
            run((name, target), &made(inputs, &mut state));
            n += 1;
        }
        if seconds > 0 {
            eprintln!("{name}: {n} inputs");
        }
    }
}
