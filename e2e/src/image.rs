//! The images that stories run: busybox of this machine as a `docker save` archive of the old layout.
//!
//! The example image of `skep dev` is an OCI layout, so between them both forms are loaded.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// A static busybox with links for its applets, `/bin/sh` among them.
pub const BUSYBOX: &str = "skep/busybox:1";
/// The example image; loaded by `skep dev` where the example is asked for.
pub const WHOAMI: &str = "skep/whoami:latest";

/// Packs `/bin/busybox` as an image; `setup.sh` installs it.
///
/// # Errors
/// When there is no static busybox on this machine.
pub fn busybox_archive() -> anyhow::Result<Vec<u8>> {
    let layer = busybox_layer()?;
    let config = serde_json::to_vec(&json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    }))?;
    let manifest = json!([{"Config": "config.json", "RepoTags": [BUSYBOX], "Layers": ["base/layer.tar"]}]);
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, "base", tar::EntryType::Directory, &[])?;
    append(&mut archive, "base/layer.tar", tar::EntryType::Regular, &layer)?;
    append(&mut archive, "config.json", tar::EntryType::Regular, &config)?;
    append(&mut archive, "manifest.json", tar::EntryType::Regular, &serde_json::to_vec(&manifest)?)?;
    Ok(archive.into_inner()?)
}

/// The root file system of busybox as a tar; `setup.sh` installs it.
///
/// # Errors
/// When there is no static busybox on this machine.
pub(crate) fn busybox_layer() -> anyhow::Result<Vec<u8>> {
    let program = std::fs::read("/bin/busybox").context("read /bin/busybox (e2e/setup.sh installs it)")?;
    let list = Command::new("/bin/busybox").arg("--list").output().context("run /bin/busybox --list")?;
    let mut layer = tar::Builder::new(Vec::new());
    for dir in ["bin", "dev", "etc", "proc", "sys", "tmp", "root"] {
        append(&mut layer, dir, tar::EntryType::Directory, &[])?;
    }
    append(&mut layer, "bin/busybox", tar::EntryType::Regular, &program)?;
    append(
        &mut layer,
        "etc/passwd",
        tar::EntryType::Regular,
        b"root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n",
    )?;
    append(&mut layer, "etc/group", tar::EntryType::Regular, b"root:x:0:\nweb:x:1000:\n")?;
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        header.set_uid(0);
        header.set_gid(0);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    Ok(layer.into_inner()?)
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

fn append(
    tar: &mut tar::Builder<Vec<u8>>,
    path: impl AsRef<Path>,
    kind: tar::EntryType,
    bytes: &[u8],
) -> anyhow::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(u64::try_from(bytes.len())?);
    header.set_mtime(0);
    Ok(tar.append_data(&mut header, path, bytes)?)
}
