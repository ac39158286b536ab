//! The crates' arrows, the licences of what we build on, and what may never come in.
//!
//! Read from `cargo metadata`, so that a new arrow or dependency is a decision and not an accident.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde::Deserialize;

/// Who may use whom among our crates; an arrow that is not here needs a word in ARCHITECTURE.md first.
const ARROWS: &[(&str, &[&str])] = &[
    ("skep-api", &[]),
    ("skep-link", &["skep-api"]),
    ("skep-raft", &[]),
    ("skep-scheduler", &["skep-api"]),
    ("skep-store", &["skep-api"]),
    ("skep-orchestrator", &["skep-api", "skep-store"]),
    (
        "skep-manager",
        &["skep-api", "skep-link", "skep-orchestrator", "skep-raft", "skep-scheduler", "skep-store"],
    ),
    ("skep-runtime", &[]),
    ("skep-shim", &["skep-runtime"]),
    ("skep-netmesh", &["skep-api"]),
    ("skep-agent", &["skep-api", "skep-link", "skep-netmesh", "skep-runtime"]),
    ("skep", &["skep-agent", "skep-api", "skep-link", "skep-manager"]),
    ("skep-e2e", &[]),
];

const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "MPL-2.0",
    "CDLA-Permissive-2.0",
];

/// Crates whose manifest names a file instead of a licence: what that file says, read by us.
const READ: &[(&str, &str)] = &[("rust-criu", "MIT")];

/// C crypto libraries: they need a C tool chain or a library of the host; ring is what we use.
const BANNED: &[&str] = &["openssl-sys", "aws-lc-sys"];

/// What we read of `cargo metadata`. Read by ourselves, as its crate asks for a `serde_json` without a limit of depth,
/// which would then be in every program of ours that is built with the tests.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `dev`, `build`, or nothing.
    kind: Option<String>,
}

fn metadata() -> Metadata {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--format-version", "1", "--manifest-path", "../Cargo.toml"]);
    let output = command.output().expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata in its first format")
}

fn ours(metadata: &Metadata) -> BTreeMap<&str, &Package> {
    let packages = metadata.packages.iter().filter(|p| metadata.workspace_members.contains(&p.id));
    packages.map(|p| (p.name.as_str(), p)).collect()
}

#[test]
fn our_crates_use_only_whom_they_may() {
    let metadata = metadata();
    let ours = ours(&metadata);
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let unlisted: Vec<_> = ours.keys().filter(|name| !allowed.contains_key(*name)).collect();
    assert!(unlisted.is_empty(), "crates without a line in ARROWS: {unlisted:?}");
    for (name, package) in &ours {
        let used = package.dependencies.iter().filter(|d| d.kind.as_deref() != Some("dev"));
        for dependency in used.map(|d| d.name.as_str()).filter(|d| ours.contains_key(d)) {
            assert!(allowed[name].contains(&dependency), "{name} -> {dependency} is no arrow of the design");
        }
    }
}

#[test]
fn nothing_depends_on_the_cli_or_the_stories() {
    let metadata = metadata();
    for (name, package) in ours(&metadata) {
        for dependency in &package.dependencies {
            let is_top = matches!(dependency.name.as_str(), "skep" | "skep-e2e");
            assert!(!is_top, "{name} -> {} turns the tree upside down", dependency.name);
        }
    }
}

#[test]
fn pure_crates_have_no_runtime_and_no_kernel_below_them() {
    let metadata = metadata();
    let ours = ours(&metadata);
    for name in ["skep-api", "skep-store", "skep-orchestrator", "skep-scheduler"] {
        let used = ours[name].dependencies.iter().filter(|d| d.kind.is_none());
        for dependency in used {
            let is_shell = ["tokio", "rustix", "nix", "libc", "hyper", "tonic", "async-trait"];
            let found = is_shell.contains(&dependency.name.as_str());
            assert!(!found, "{name} decides, so it may not use {}", dependency.name);
        }
    }
}

#[test]
fn every_dependency_has_an_allowed_licence() {
    let metadata = metadata();
    let mut bad = BTreeSet::new();
    for package in &metadata.packages {
        let read = READ.iter().find(|(name, _)| *name == package.name.as_str()).map(|(_, licence)| *licence);
        if !package.license.as_deref().or(read).is_some_and(is_allowed) {
            bad.insert(format!("{} {}: {:?}", package.name, package.version, package.license));
        }
    }
    assert!(bad.is_empty(), "licences outside the list: {bad:#?}");
}

/// Whether an SPDX expression can be met from the list: `OR` needs one side, `AND` both.
fn is_allowed(expression: &str) -> bool {
    let text = expression.replace('/', " OR ");
    let tokens: Vec<String> =
        text.replace('(', " ( ").replace(')', " ) ").split_whitespace().map(str::to_owned).collect();
    let mut at = 0;
    let value = any(&tokens, &mut at);
    value && at == tokens.len()
}

fn any(tokens: &[String], at: &mut usize) -> bool {
    let mut value = all(tokens, at);
    while tokens.get(*at).is_some_and(|t| t == "OR") {
        *at += 1;
        // Both sides are read whatever the first one is.
        let right = all(tokens, at);
        value = value || right;
    }
    value
}

fn all(tokens: &[String], at: &mut usize) -> bool {
    let mut value = one(tokens, at);
    while tokens.get(*at).is_some_and(|t| t == "AND") {
        *at += 1;
        let right = one(tokens, at);
        value = value && right;
    }
    value
}

fn one(tokens: &[String], at: &mut usize) -> bool {
    let Some(token) = tokens.get(*at) else { return false };
    *at += 1;
    if token == "(" {
        let value = any(tokens, at);
        *at += 1;
        return value;
    }
    // An exception only adds rights, and `+` only later versions to choose from.
    if tokens.get(*at).is_some_and(|t| t == "WITH") {
        *at += 2;
    }
    LICENCES.contains(&token.trim_end_matches('+'))
}

#[test]
fn licence_expressions_are_understood() {
    for (expression, expect) in [
        ("MIT", true),
        ("MIT/Apache-2.0", true),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("(MIT OR Apache-2.0) AND OpenSSL", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
        ("MPL-2.0+", true),
        ("", false),
    ] {
        assert_eq!(is_allowed(expression), expect, "{expression}");
    }
}

#[test]
fn banned_crates_are_not_in_the_lock_file() {
    let lock = std::fs::read_to_string("../Cargo.lock").expect("Cargo.lock is committed");
    for name in BANNED {
        assert!(
            !lock.contains(&format!("name = \"{name}\"")),
            "{name} came in; `cargo tree -i {name}` says how"
        );
    }
}
