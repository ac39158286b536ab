//! What this machine is: read from the kernel.

use skep_agent::DockerEngine;
use skep_api::object::{NodeDescription, Plugin};

use super::settings::Settings;

/// Wall time in Unix nanoseconds: the one clock of the daemon.
#[expect(clippy::disallowed_methods, reason = "the one place where wall time comes in")]
pub(super) fn clock() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

/// The host's name.
pub(super) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The kernel's release.
pub(super) fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// As `uname -m`.
pub(super) fn arch() -> String {
    rustix::system::uname().machine().to_string_lossy().into_owned()
}

/// The distribution's name for people.
pub(super) fn distribution() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// CPUs this process may use.
pub(super) fn n_cpus() -> u64 {
    std::thread::available_parallelism().map_or(1, |n| u64::try_from(n.get()).unwrap_or(1))
}

/// The same in 1e-9 CPUs.
pub(super) fn nano_cpus() -> i64 {
    i64::try_from(n_cpus()).unwrap_or(1).saturating_mul(1_000_000_000)
}

/// Bytes of memory.
pub(super) fn memory_bytes() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.split_whitespace().next()?.parse::<i64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// What this node tells the managers of itself; its tasks run in the Docker Engine, or in the embedded one.
pub(super) fn description(settings: &Settings, docker: Option<&DockerEngine>) -> NodeDescription {
    NodeDescription {
        hostname: settings.node_name.clone(),
        os: "linux".to_owned(),
        arch: arch(),
        nano_cpus: settings.nano_cpus,
        memory_bytes: settings.memory_bytes,
        engine_version: env!("CARGO_PKG_VERSION").to_owned(),
        engine_labels: settings.labels.clone(),
        generic: settings.generic.clone(),
        plugins: docker.map_or_else(Plugin::embedded, |docker| docker.about().plugins.clone()),
        ..NodeDescription::default()
    }
}
