//! The example service's image, packed in memory: the program and the shared libraries that it needs.
//!
//! The archive is an OCI layout with the `manifest.json` of `docker save` beside it, so that any engine
//! loads it. The system's dynamic loader says which libraries; none when the program is static.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What the image is called.
pub(crate) const TAG: &str = "skep/whoami:latest";
const PROGRAM: &str = "skep-whoami";

/// Packs the program that stands beside this one.
pub(crate) fn pack() -> anyhow::Result<Vec<u8>> {
    let own = std::env::current_exe().context("find our own program")?;
    let program = own.with_file_name(PROGRAM);
    if !program.is_file() {
        bail!("{} is missing beside {}; `cargo build --release` makes both", PROGRAM, own.display());
    }
    let layer = layer(&program)?;
    archive(&layer)
}

fn layer(program: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let mut tar = tar::Builder::new(Vec::new());
    for dir in ["dev", "etc", "proc", "sys", "tmp"] {
        append(&mut tar, Path::new(dir), tar::EntryType::Directory, &[])?;
    }
    append(&mut tar, Path::new(PROGRAM), tar::EntryType::Regular, &bytes)?;
    for library in libraries(program, &bytes)? {
        let content = fs::read(&library).with_context(|| format!("read {}", library.display()))?;
        append(&mut tar, library.strip_prefix("/")?, tar::EntryType::Regular, &content)?;
    }
    Ok(tar.into_inner()?)
}

/// The loader and what it says it would load, each by the path that the program asks for.
fn libraries(program: &Path, elf: &[u8]) -> anyhow::Result<BTreeSet<PathBuf>> {
    let Some(loader) = interpreter(elf) else { return Ok(BTreeSet::new()) };
    let output = Command::new(&loader)
        .arg("--list")
        .arg(program)
        .output()
        .with_context(|| format!("run the loader {}", loader.display()))?;
    if !output.status.success() {
        bail!("{} --list {}: {}", loader.display(), program.display(), output.status);
    }
    let mut found = BTreeSet::from([loader]);
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        // `libc.so.6 => /lib/.../libc.so.6 (0x...)`; the kernel's own page has no path.
        let path = line.rsplit("=>").next().unwrap_or_default().split_ascii_whitespace().next();
        found.extend(path.filter(|p| p.starts_with('/')).map(PathBuf::from));
    }
    Ok(found)
}

/// The path in the ELF file's PT_INTERP; `None` for a static program.
fn interpreter(elf: &[u8]) -> Option<PathBuf> {
    const PT_INTERP: u32 = 3;
    let u16_at = |at: usize| Some(usize::from(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?)));
    let u64_at = |at: usize| {
        usize::try_from(u64::from_le_bytes(elf.get(at..at.checked_add(8)?)?.try_into().ok()?)).ok()
    };
    let (table, entry_len, n_entries) = (u64_at(0x20)?, u16_at(0x36)?, u16_at(0x38)?);
    (0..n_entries).find_map(|n| {
        let entry = table + n * entry_len;
        let kind = u32::from_le_bytes(elf.get(entry..entry + 4)?.try_into().ok()?);
        let (at, len) = (u64_at(entry + 8)?, u64_at(entry + 32)?);
        let text = elf.get(at..at.checked_add(len)?)?.split(|b| *b == 0).next()?;
        (kind == PT_INTERP).then(|| PathBuf::from(OsStr::from_bytes(text)))
    })
}

fn archive(layer: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut blob = |bytes: &[u8], media_type: &str| -> anyhow::Result<Value> {
        let hex = hex(bytes);
        let path = Path::new("blobs/sha256").join(&hex);
        append(&mut tar, &path, tar::EntryType::Regular, bytes)?;
        Ok(json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len()}))
    };
    let layer_blob = blob(layer, "application/vnd.oci.image.layer.v1.tar")?;
    let config = serde_json::to_vec(&json!({
        "architecture": arch(),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {"Entrypoint": [format!("/{PROGRAM}")], "ExposedPorts": {"80/tcp": {}}, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [layer_blob["digest"]]},
    }))?;
    let config_blob = blob(&config, "application/vnd.oci.image.config.v1+json")?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config_blob,
        "layers": [layer_blob],
    }))?;
    let mut manifest_blob = blob(&manifest, "application/vnd.oci.image.manifest.v1+json")?;
    manifest_blob["annotations"] = json!({
        "io.containerd.image.name": format!("docker.io/{TAG}"),
        "org.opencontainers.image.ref.name": "latest",
    });
    let index = json!({"schemaVersion": 2, "manifests": [manifest_blob]});
    let path_of =
        |blob: &Value| blob["digest"].as_str().unwrap_or_default().replacen("sha256:", "blobs/sha256/", 1);
    let docker =
        json!([{"Config": path_of(&config_blob), "RepoTags": [TAG], "Layers": [path_of(&layer_blob)]}]);
    for (name, content) in [
        ("index.json", serde_json::to_vec(&index)?),
        ("manifest.json", serde_json::to_vec(&docker)?),
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
    ] {
        append(&mut tar, Path::new(name), tar::EntryType::Regular, &content)?;
    }
    Ok(tar.into_inner()?)
}

fn append(
    tar: &mut tar::Builder<Vec<u8>>,
    path: &Path,
    kind: tar::EntryType,
    bytes: &[u8],
) -> anyhow::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(u64::try_from(bytes.len())?);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, path, bytes).with_context(|| format!("pack {}", path.display()))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
