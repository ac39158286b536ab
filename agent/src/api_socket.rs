//! The node's own API socket in a task's container.
//!
//! A daemon that starts anew makes a new socket, and a mount of the old one would stay on that. So its
//! directory is mounted, which stays, and what was asked for is a link into it.

use std::{collections::BTreeMap, path::Path};

use crate::engine::{Mount, MountKind};

/// Where a container finds the directory of the API socket.
pub(crate) const DIR: &str = "/run/skep-engine";

/// Where links are to be, and what they lead to.
pub(crate) fn links(mounts: &[Mount], api_socket: &Path) -> BTreeMap<String, String> {
    let name = api_socket.file_name().unwrap_or_default().to_string_lossy();
    let of_socket = mounts.iter().filter(|mount| mount.kind == MountKind::ApiSocket);
    of_socket.map(|mount| (mount.target.clone(), format!("{DIR}/{name}"))).collect()
}

/// The directory to be mounted on [`DIR`]; nothing is written through one that holds a socket alone.
pub(crate) fn source(api_socket: &Path) -> String {
    api_socket.parent().unwrap_or(api_socket).to_string_lossy().into_owned()
}
