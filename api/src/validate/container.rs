//! The container part of a task's spec.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::Value;

use super::{not_honoured, unhonoured};
use crate::{
    ApiError,
    json::is_zero,
    spec::{ContainerSpec, EXCLUSIVE_LABEL, Mount, SKEP_LABEL_PREFIX, Ulimit},
    template::{TaskFacts, expand},
};

const PATH: &str = "TaskTemplate.ContainerSpec";

pub(super) fn check(spec: &ContainerSpec) -> Result<(), ApiError> {
    if spec.image.is_empty() {
        return Err(ApiError::invalid(format!("{PATH}.Image: image reference must be provided")));
    }
    if !is_reference(&spec.image) {
        return Err(ApiError::invalid(format!(
            "{PATH}.Image: \"{}\" is not a valid repository/tag",
            spec.image
        )));
    }
    let later =
        ["TTY", "OpenStdin", "Init", "Secrets", "Configs", "Privileges", "OomScoreAdj", "PullOptions"];
    unhonoured(&spec.extra, PATH, &later)?;
    if let Some(isolation) = spec.extra.get("Isolation").and_then(Value::as_str)
        && !matches!(isolation, "" | "default")
    {
        return Err(not_honoured(&format!("{PATH}.Isolation"), isolation));
    }
    if let Some(check) = spec.extra.get("Healthcheck").filter(|check| !is_zero(check)) {
        // NONE asks for no health check, which is what there is.
        if check.get("Test").and_then(|t| t.get(0)).and_then(Value::as_str) != Some("NONE") {
            return Err(not_honoured(&format!("{PATH}.Healthcheck"), ""));
        }
    }
    if let Some(dir) = spec.dir.as_deref().filter(|dir| !dir.is_empty() && !dir.starts_with('/')) {
        return Err(ApiError::invalid(format!(
            "{PATH}.Dir: the working directory '{dir}' is invalid, it needs to be an absolute path"
        )));
    }
    if spec.stop_grace_period.is_some_and(|nanos| nanos < 0) {
        return Err(ApiError::invalid(format!("{PATH}.StopGracePeriod: must not be negative")));
    }
    if let Some(signal) = spec.stop_signal.as_deref().filter(|s| !s.is_empty())
        && signal_number(signal).is_none()
    {
        return Err(ApiError::invalid(format!("{PATH}.StopSignal: invalid signal: {signal}")));
    }
    templates(spec)?;
    for (at, host) in spec.hosts.iter().flatten().enumerate() {
        if host.split_whitespace().count() < 2 {
            return Err(ApiError::invalid(format!(
                "{PATH}.Hosts[{at}]: '{host}': expected an address and a name"
            )));
        }
    }
    process(spec)?;
    mounts(spec.mounts.as_deref().unwrap_or(&[]))
}

/// What is filled in for each task can be.
fn templates(spec: &ContainerSpec) -> Result<(), ApiError> {
    let check = |field: &dyn Fn() -> String, text: &str| match expand(text, &TaskFacts::default()) {
        Ok(_) => Ok(()),
        Err(error) => Err(ApiError::invalid(format!("{PATH}.{}: {error}", field()))),
    };
    for (at, text) in spec.env.iter().flatten().enumerate() {
        check(&|| format!("Env[{at}]"), text)?;
    }
    if let Some(text) = &spec.hostname {
        check(&|| "Hostname".to_owned(), text)?;
    }
    for (at, mount) in spec.mounts.iter().flatten().enumerate() {
        check(&|| format!("Mounts[{at}].Source"), &mount.source)?;
        check(&|| format!("Mounts[{at}].Target"), &mount.target)?;
    }
    Ok(())
}

/// Name servers, kernel settings, limits.
fn process(spec: &ContainerSpec) -> Result<(), ApiError> {
    let servers = spec.dns_config.iter().flat_map(|dns| dns.nameservers.iter().flatten());
    for (at, server) in servers.enumerate() {
        if server.parse::<IpAddr>().is_err() {
            return Err(ApiError::invalid(format!(
                "{PATH}.DNSConfig.Nameservers[{at}]: {server} is not an ip address"
            )));
        }
    }
    for key in spec.sysctls.iter().flatten().map(|(key, _)| key) {
        if !is_own_sysctl(key) {
            return Err(ApiError::invalid(format!(
                "{PATH}.Sysctls: sysctl '{key}' is not allowed: it is not the task's own"
            )));
        }
    }
    for (at, limit) in spec.ulimits.iter().flatten().enumerate() {
        let path = format!("{PATH}.Ulimits[{at}]");
        if !Ulimit::NAMES.contains(&limit.name.as_str()) {
            return Err(ApiError::invalid(format!("{path}.Name: invalid ulimit type: {}", limit.name)));
        }
        let as_count = |value: i64| if value < 0 { u64::MAX } else { value.unsigned_abs() };
        if limit.soft < -1 || limit.hard < -1 || as_count(limit.soft) > as_count(limit.hard) {
            return Err(ApiError::invalid(format!(
                "{path}: ulimit soft limit must be less than or equal to hard limit: {} > {}",
                limit.soft, limit.hard
            )));
        }
    }
    Ok(())
}

/// What a namespace of the task holds, so that no other task sees it (runc's list, `libcontainer/configs/validate`).
fn is_own_sysctl(key: &str) -> bool {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let is_plain =
        key.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c)) && !key.contains("..");
    is_plain && (IPC.contains(&key) || key.starts_with("net.") || key.starts_with("fs.mqueue."))
}

/// `[host[:port]/]name[:tag][@algorithm:digest]`, as Docker's references are written; also an image's id.
fn is_reference(text: &str) -> bool {
    let (rest, digest) = text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
    let digest_ok = digest.is_none_or(|digest| {
        digest
            .split_once(':')
            .is_some_and(|(_, hex)| hex.len() >= 32 && hex.chars().all(|c| c.is_ascii_hexdigit()))
    });
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        Some(_) | None => (rest, None),
    };
    let tag_ok = tag.is_none_or(|tag| {
        !tag.is_empty()
            && tag.len() <= 128
            && !tag.starts_with(['.', '-'])
            && tag.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
    });
    let mut parts: Vec<&str> = path.split('/').collect();
    let is_host = |part: &str| part.contains(['.', ':']) || part == "localhost";
    if parts.len() > 1 && is_host(parts[0]) {
        parts.remove(0);
    }
    let part_ok = |part: &&str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(part.chars().next())
            && edge(part.chars().next_back())
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
    };
    digest_ok && tag_ok && parts.iter().all(part_ok)
}

fn mounts(mounts: &[Mount]) -> Result<(), ApiError> {
    let mut targets = BTreeSet::new();
    for (at, mount) in mounts.iter().enumerate() {
        let path = format!("{PATH}.Mounts[{at}]");
        unhonoured(&mount.extra, &path, &["ClusterOptions", "ImageOptions"])?;
        if !mount.target.starts_with('/') {
            return Err(ApiError::invalid(format!(
                "{path}.Target: invalid mount target, must be an absolute path in the container"
            )));
        }
        if !targets.insert(mount.target.trim_end_matches('/')) {
            return Err(ApiError::invalid(format!("{path}: duplicate mount point: {}", mount.target)));
        }
        match mount.kind().as_str() {
            "bind" if !mount.source.starts_with('/') => {
                return Err(ApiError::invalid(format!(
                    "{path}.Source: invalid bind mount source, must be an absolute path"
                )));
            }
            "volume" if mount.source.starts_with('/') => {
                return Err(ApiError::invalid(format!(
                    "{path}.Source: invalid volume mount source, must not be an absolute path"
                )));
            }
            "volume" if mount.source.contains('/') || mount.source == ".." => {
                return Err(ApiError::invalid(format!(
                    "{path}.Source: '{}' is no name of a volume",
                    mount.source
                )));
            }
            "tmpfs" if !mount.source.is_empty() => {
                return Err(ApiError::invalid(format!("{path}.Source: a tmpfs has no source")));
            }
            "bind" | "volume" | "tmpfs" => {}
            kind @ ("npipe" | "cluster" | "image") => {
                return Err(not_honoured(&format!("{path}.Type"), kind));
            }
            kind => return Err(ApiError::invalid(format!("{path}.Type: invalid MountType: \"{kind}\""))),
        }
        options(mount, &path)?;
    }
    Ok(())
}

fn options(mount: &Mount, path: &str) -> Result<(), ApiError> {
    if let Some(Value::Object(bind)) = mount.extra.get("BindOptions") {
        let propagation = bind.get("Propagation").and_then(Value::as_str).unwrap_or("");
        if !matches!(propagation, "" | "rprivate") {
            return Err(not_honoured(&format!("{path}.BindOptions.Propagation"), propagation));
        }
        let later = ["NonRecursive", "CreateMountpoint", "ReadOnlyNonRecursive", "ReadOnlyForceRecursive"];
        unhonoured(bind, &format!("{path}.BindOptions"), &later)?;
    }
    if let Some(volume) = &mount.volume_options {
        unhonoured(&volume.extra, &format!("{path}.VolumeOptions"), &["Subpath"])?;
        for (key, value) in volume.labels.iter().flatten() {
            let path = format!("{path}.VolumeOptions.Labels.{key}");
            match (key.as_str(), value.as_str()) {
                (EXCLUSIVE_LABEL, "true" | "false") => {}
                (EXCLUSIVE_LABEL, value) => {
                    let words = format!("{path}: invalid value '{value}': must be one of true, false");
                    return Err(ApiError::invalid(words));
                }
                (key, _) if key.starts_with(SKEP_LABEL_PREFIX) => {
                    let words =
                        format!("{path}: skep has no such label of volumes; it has {EXCLUSIVE_LABEL}");
                    return Err(ApiError::invalid(words));
                }
                (_, _) => {}
            }
        }
        let driver = volume.driver_config.as_ref();
        let path = format!("{path}.VolumeOptions.DriverConfig");
        let name = driver.and_then(|driver| driver.name.as_deref()).unwrap_or("");
        if !matches!(name, "" | "local") {
            return Err(not_honoured(&format!("{path}.Name"), name));
        }
        if let Some((key, value)) = driver.iter().flat_map(|driver| driver.options.iter().flatten()).next() {
            return Err(not_honoured(&format!("{path}.Options.{key}"), value));
        }
    }
    if let Some(tmpfs) = &mount.tmpfs_options {
        unhonoured(&tmpfs.extra, &format!("{path}.TmpfsOptions"), &["Options"])?;
        if tmpfs.size_bytes.unwrap_or(0) < 0 {
            return Err(ApiError::invalid(format!("{path}.TmpfsOptions.SizeBytes: must not be negative")));
        }
    }
    Ok(())
}

/// Linux signals by name (with or without SIG, any case) or number.
#[must_use]
pub fn signal_number(text: &str) -> Option<i32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == name).and_then(|at| i32::try_from(at + 1).ok())
}
