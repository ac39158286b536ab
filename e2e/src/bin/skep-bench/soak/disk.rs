//! A small file system of its own for each manager's state, on an image file, so that it can be filled.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::fs::FallocateFlags;
use skep_e2e::Cluster;

/// Room for a log with its spare segments, a snapshot and the 32 MiB that a manager wants before it goes on.
const SIZE_MIB: u64 = 192;
const MOUNT_WAIT_MAX: Duration = Duration::from_secs(30);
/// A file system is filled in pieces of at most so much, the last ones of one block.
const PIECE_MAX: u64 = 64 << 20;
const BLOCK: u64 = 4096;

/// Puts an ext4 image under the state of the manager `name`: in its node's mount namespace, and in the
/// caller's, where it is filled and from where `skep dev down` takes it away.
///
/// # Errors
/// The machine has no loop devices, or the daemon does not come back.
pub(super) fn make_small(cluster: &mut Cluster, name: &str) -> anyhow::Result<()> {
    cluster.kill_node(name, false);
    let state = cluster.state_dir().join(name).join("manager");
    let (image, own) = (own_mount(cluster, name).with_extension("img"), own_mount(cluster, name));
    fs::create_dir_all(&own)?;
    File::create(&image)?.set_len(SIZE_MIB << 20)?;
    let script = "set -e; mkfs.ext4 -q -m 0 -F \"$1\"; mount -o loop \"$1\" \"$2\"; cp -a \"$3/.\" \"$2\"; chmod 700 \"$2\"; \
                  nsenter --mount=\"$4\" mount \"$(findmnt -n -o SOURCE \"$2\")\" \"$3\"";
    let mut command = Command::new("sh");
    let mounts = cluster.node(name).socket_path().with_extension("mnt");
    command.args(["-c", script, "sh"]).args([&image, &own, &state, &mounts]);
    let output = skep_e2e::run(&mut command, MOUNT_WAIT_MAX)?;
    if !output.is_ok() {
        bail!("a small disk for {name}: {output}");
    }
    let output = cluster.restart_node(name);
    if !output.is_ok() {
        bail!("restart {name} on its small disk: {output}");
    }
    Ok(())
}

/// Takes all the room that is left.
pub(super) fn fill(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let file = File::create(filler(cluster, name)).context("make the file that fills a disk")?;
    let (mut at, mut piece) = (0, PIECE_MAX);
    while piece >= BLOCK {
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), at, piece) {
            Ok(()) => at += piece,
            Err(rustix::io::Errno::NOSPC) => piece /= 2,
            Err(error) => return Err(error).context("fill a disk"),
        }
    }
    Ok(())
}

/// Makes the room again.
pub(super) fn free(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    fs::remove_file(filler(cluster, name)).context("free a disk")
}

fn own_mount(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.state_dir().join(format!("{name}.disk"))
}

fn filler(cluster: &Cluster, name: &str) -> PathBuf {
    own_mount(cluster, name).join("filler")
}
