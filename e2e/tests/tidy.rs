//! The tree itself: headers, sizes, purity, and links that lead somewhere.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file, its tests left out; a longer file has two subjects.
const LINES_MAX: usize = 500;
/// Crates that decide: no I/O, no clock, no runtime in their sources.
const PURE: &[&str] = &["api/src", "scheduler/src", "manager/store/src", "manager/orchestrator/src"];
const IMPURE_WORDS: &[&str] =
    &["tokio::", "std::fs", "std::net::Tcp", "std::net::Udp", "std::thread", "std::process"];
/// Where nothing of ours is.
const SKIPPED: &[&str] = &["target", ".git"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && !SKIPPED.iter().any(|s| name == *s) {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
}

fn all(extension: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    files(&root(), extension, &mut found);
    found.sort();
    assert!(!found.is_empty(), "no .{extension} file below {}", root().display());
    let shown = |path: &Path| path.strip_prefix(root()).unwrap_or(path).display().to_string();
    found.iter().map(|p| (shown(p), fs::read_to_string(p).unwrap_or_default())).collect()
}

/// The part before the file's own tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or_default()
}

#[test]
fn every_source_file_says_what_it_is() {
    let bad: Vec<String> =
        all("rs").into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(path, _)| path).collect();
    assert!(bad.is_empty(), "files without a //! header: {bad:#?}");
}

#[test]
fn files_are_short() {
    let long: Vec<String> = all("rs")
        .into_iter()
        .map(|(path, text)| (path, without_tests(&text).lines().count()))
        .filter(|(_, n)| *n > LINES_MAX)
        .map(|(path, n)| format!("{path}: {n} lines"))
        .collect();
    assert!(long.is_empty(), "longer than {LINES_MAX} lines without tests: {long:#?}");
}

#[test]
fn what_decides_does_no_io() {
    let bad: Vec<String> = all("rs")
        .into_iter()
        .filter(|(path, _)| PURE.iter().any(|dir| path.starts_with(dir)))
        .flat_map(|(path, text)| {
            let code: String = without_tests(&text)
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .map(|line| format!("{line}\n"))
                .collect();
            let words = IMPURE_WORDS.iter().filter(move |word| code.contains(**word));
            words.map(move |word| format!("{path}: {word}")).collect::<Vec<_>>()
        })
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn the_tool_chain_is_the_users() {
    for name in ["rust-toolchain", "rust-toolchain.toml"] {
        assert!(!root().join(name).exists(), "{name} would override the user's Rust");
    }
    assert!(root().join("Cargo.lock").exists(), "Cargo.lock is committed");
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut bad = Vec::new();
    for (page, text) in all("md") {
        let dir = root().join(&page).parent().unwrap_or(Path::new("/")).to_owned();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            let is_local = !path.is_empty() && !path.contains("://") && !path.starts_with("mailto:");
            if is_local && !dir.join(path).exists() {
                bad.push(format!("{page} -> {target}"));
            }
        }
    }
    assert!(bad.is_empty(), "links to nothing: {bad:#?}");
}

#[test]
fn paths_named_in_the_architecture_exist() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap_or_default();
    let quoted = text.split('`').skip(1).step_by(2);
    let is_path = |word: &&str| {
        word.contains('/')
            && word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
            && (word.ends_with(".rs") || word.ends_with('/'))
    };
    let bad: Vec<&str> =
        quoted.filter(is_path).filter(|word| !word.starts_with('/') && !root().join(word).exists()).collect();
    assert!(bad.is_empty(), "ARCHITECTURE.md names what does not exist: {bad:#?}");
}
