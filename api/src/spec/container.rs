//! `ContainerSpec`: what of it this build honours; the rest stays in `extra`.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Extra, Labels, LogDriver, STOP_GRACE_DEFAULT};

/// The container of a task.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerSpec {
    /// `name[:tag][@digest]`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// Of the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// Replaces the image's entrypoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Replaces the image's command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// The container's id when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// `KEY=value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// Working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    /// `name|uid[:group|gid]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Supplementary groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
    /// SIGTERM when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Nanoseconds; 10 s when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_grace_period: Option<i64>,
    /// Read-only root file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// Bind, volume, tmpfs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounts: Option<Vec<Mount>>,
    /// `IP name [alias...]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<String>>,
    /// Beyond Docker's default set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capability_add: Option<Vec<String>>,
    /// From Docker's default set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capability_drop: Option<Vec<String>>,
    /// Who answers for names.
    #[serde(rename = "DNSConfig", skip_serializing_if = "Option::is_none")]
    pub dns_config: Option<Box<DnsConfig>>,
    /// Kernel settings of the task's own namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sysctls: Option<BTreeMap<String, String>>,
    /// Limits of each process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ulimits: Option<Vec<Ulimit>>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ContainerSpec {
    /// Time between the stop signal and SIGKILL.
    #[must_use]
    pub fn stop_grace(&self) -> Duration {
        match self.stop_grace_period {
            Some(nanos) => Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)),
            None => STOP_GRACE_DEFAULT,
        }
    }
}

/// A mount into the container.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Mount {
    /// bind, volume, tmpfs.
    #[serde(rename = "Type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// A path for bind, a name for volume (none: anonymous), nothing for tmpfs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Absolute path in the container.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// Not writable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// Of a tmpfs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs_options: Option<TmpfsOptions>,
    /// Of a volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_options: Option<VolumeOptions>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Mount {
    /// Its type as Docker reads it: in any case, and bind where none is said (`MB:daemon/cluster/convert/container.go`).
    #[must_use]
    pub fn kind(&self) -> String {
        if self.kind.is_empty() { "bind".to_owned() } else { self.kind.to_ascii_lowercase() }
    }
}

/// The label of a volume's mount that says that no two tasks may have the volume at the same time.
pub const EXCLUSIVE_LABEL: &str = "skep.exclusive";

impl Mount {
    /// Whether no other task may have its volume at the same time.
    #[must_use]
    pub fn is_exclusive(&self) -> bool {
        let labels = self.volume_options.as_ref().and_then(|options| options.labels.as_ref());
        labels.and_then(|labels| labels.get(EXCLUSIVE_LABEL)).is_some_and(|value| value == "true")
    }
}

/// Settings of a tmpfs mount.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TmpfsOptions {
    /// 0: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// File mode bits; 1777 octal when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Settings of a volume.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeOptions {
    /// It does not take over what the image has at the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_copy: Option<bool>,
    /// Of a volume that is made by this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// The driver with its options; local when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_config: Option<LogDriver>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Who answers for names; what is absent is the node's own.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DnsConfig {
    /// Addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nameservers: Option<Vec<String>>,
    /// Domains that short names are tried in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<Vec<String>>,
    /// As in resolv.conf.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<Vec<String>>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A limit of each process, as `setrlimit` has it; -1 is none.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ulimit {
    /// nofile, nproc...
    pub name: String,
    /// Counts.
    pub soft: i64,
    /// What a process may raise it to.
    pub hard: i64,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Ulimit {
    /// Docker's names of the limits (`docker/go-units`).
    pub const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
}
