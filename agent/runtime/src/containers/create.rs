//! Creates a container's directory: everything is looked up and decided here, the shim only carries it out.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::bundle::{self, Bound, Host};
use crate::cgroup;
use crate::containers::{
    Container, ContainerError, RECORD_FILE, RECORD_VERSION, Record, parse_signal, valid_id,
};
use crate::engine::{Inner, is_name};
use crate::handoff::{SHIM_FILE, ShimConfig, VolumeFill, write_json};
use crate::images::Image;
use crate::layers::Layers;
use crate::spec::{ContainerSpec, Mount, MountKind};
use crate::stamp;
use crate::user::{self, User};
use crate::volumes;

const SIGTERM: i32 = 15;

/// The mounts of a container with what is needed to make them.
#[derive(Debug, Default)]
struct Places {
    bound: Vec<Bound>,
    fill: Vec<VolumeFill>,
}

pub(super) fn create(inner: &Inner, spec: &ContainerSpec) -> Result<(), ContainerError> {
    if !valid_id(&spec.id) {
        return Err(ContainerError::Invalid(format!("invalid container id {:?}", spec.id)));
    }
    if inner.containers().contains_key(&spec.id) {
        return Ok(());
    }
    let found = inner.images.find(&spec.image);
    let (image_id, image) = found.ok_or_else(|| ContainerError::NoSuchImage(spec.image.clone()))?;
    if bundle::command(spec, &image.config).is_empty() {
        return Err(ContainerError::Invalid("No command specified".to_owned()));
    }
    let signal = spec.stop_signal.as_ref().or(image.config.stop_signal.as_ref());
    let stop_signal = match signal {
        Some(text) => {
            parse_signal(text).ok_or_else(|| ContainerError::Invalid(format!("Invalid signal: {text}")))?
        }
        None => SIGTERM,
    };
    // Uppermost first, as overlayfs wants it.
    let layers: Vec<String> = image.layers.iter().rev().map(|l| l.diff_id.clone()).collect();
    let user = find_user(inner, spec, &image, &layers)?;
    check_mounts(spec)?;

    let dir = inner.container_dir(&spec.id);
    let host = host(inner, spec)?;
    // Checked before anything is made.
    bundle::capabilities(spec, &host).map_err(ContainerError::Invalid)?;
    let made = make(inner, spec, &image, &user, &host, &dir, &layers);
    made.map_err(ContainerError::io("create", &spec.id))?;
    let record = Record {
        version: RECORD_VERSION,
        id: spec.id.clone(),
        image: spec.image.clone(),
        image_id,
        layers,
        labels: spec.labels.clone(),
        netns: spec.netns.clone(),
        stop_signal,
        created_at_unix_nanos: stamp::now_unix_nanos(),
    };
    write_json(&dir.join(RECORD_FILE), &record).map_err(ContainerError::io("create", &spec.id))?;
    inner.containers().entry(spec.id.clone()).or_insert_with(|| Arc::new(Container::new(record)));
    Ok(())
}

fn find_user(
    inner: &Inner,
    spec: &ContainerSpec,
    image: &Image,
    layers: &[String],
) -> Result<User, ContainerError> {
    let read = |path: &str| {
        let bytes = inner
            .layers
            .read_file(layers, Path::new(path))
            .map_err(ContainerError::io("create", &spec.id))?;
        Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
    };
    let wanted = spec.user.as_deref().filter(|u| !u.is_empty()).unwrap_or(&image.config.user);
    user::find(wanted, &spec.groups, &read("/etc/passwd")?, &read("/etc/group")?)
        .map_err(ContainerError::Invalid)
}

/// Docker's checks, in its words.
fn check_mounts(spec: &ContainerSpec) -> Result<(), ContainerError> {
    for mount in &spec.mounts {
        let kind = match mount.kind {
            MountKind::Bind => "bind",
            MountKind::Volume => "volume",
            MountKind::Tmpfs => "tmpfs",
        };
        let invalid = |why: &str| {
            Err(ContainerError::Invalid(format!("invalid mount config for type {kind:?}: {why}")))
        };
        let target = Path::new(&mount.target);
        if !target.is_absolute() {
            return invalid(&format!("invalid mount path: '{}' mount path must be absolute", mount.target));
        }
        if target.components().any(|c| c == std::path::Component::ParentDir) || target.parent().is_none() {
            return invalid(&format!("invalid specification: destination can't be '{}'", mount.target));
        }
        match (mount.kind, mount.source.as_deref().filter(|s| !s.is_empty())) {
            (MountKind::Bind, None) => return invalid("field Source must not be empty"),
            (MountKind::Bind, Some(source)) if !Path::new(source).is_absolute() => {
                return invalid(&format!("invalid mount path: '{source}' mount path must be absolute"));
            }
            (MountKind::Bind, Some(source)) if !Path::new(source).exists() => {
                return invalid(&format!("bind source path does not exist: {source}"));
            }
            (MountKind::Volume, Some(name)) if !is_name(name) => {
                return invalid(&format!("\"{name}\" includes invalid characters for a local volume name"));
            }
            (MountKind::Tmpfs, Some(_)) => return invalid("field Source must not be specified"),
            (MountKind::Bind | MountKind::Volume, Some(_)) | (MountKind::Volume | MountKind::Tmpfs, None) => {
            }
        }
    }
    Ok(())
}

fn host(inner: &Inner, spec: &ContainerSpec) -> Result<Host, ContainerError> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bounding = status.lines().find_map(|l| l.strip_prefix("CapBnd:"));
    let capabilities = bounding.and_then(|b| u64::from_str_radix(b.trim(), 16).ok()).unwrap_or(0);
    let shares_network = match &spec.netns {
        None => false,
        Some(path) => {
            let theirs = fs::metadata(path).map_err(|e| {
                ContainerError::Invalid(format!("network namespace {} cannot be joined: {e}", path.display()))
            })?;
            let ours = fs::metadata("/proc/self/ns/net").map_err(ContainerError::io("create", &spec.id))?;
            (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino())
        }
    };
    let protection = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    Ok(Host {
        cgroup: inner.cgroup(&spec.id),
        unified: cgroup::is_unified(&inner.cgroups),
        limits_swap: cgroup::limits_swap(&inner.cgroups),
        capabilities,
        shares_network,
        oom_protected: protection.trim().starts_with('-'),
        open_files: inner.config.open_files,
    })
}

/// Writes everything but the record.
fn make(
    inner: &Inner,
    spec: &ContainerSpec,
    image: &Image,
    user: &User,
    host: &Host,
    dir: &Path,
    layers: &[String],
) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => crate::engine::make_private(dir)?,
    }
    for sub in ["rootfs", "upper", "work"] {
        fs::create_dir(dir.join(sub))?;
    }
    // The upper directory's mode is the container's root directory's.
    copy_root_mode(inner, layers, &dir.join("upper"))?;
    let mut places = mounted(inner, spec, image, dir)?;
    for (name, content) in [
        ("hosts", &spec.hosts),
        ("hostname", &format!("{}\n", spec.hostname)),
        ("resolv.conf", &spec.resolv_conf),
    ] {
        let target = format!("/etc/{name}");
        if spec.mounts.iter().any(|m| m.target == target) {
            continue;
        }
        let source = dir.join(name);
        fs::write(&source, content)?;
        fs::set_permissions(&source, PermissionsExt::from_mode(0o644))?;
        places.bound.push(Bound { source, target, read_only: false });
    }
    let config = bundle::config(spec, &image.config, user, host, &places.bound).map_err(io::Error::other)?;
    write_json(&dir.join("config.json"), &config)?;
    let mut lower: Vec<String> = layers.iter().map(|l| Layers::short_name(l)).collect();
    if lower.is_empty() {
        lower.push("empty".to_owned());
    }
    let shim = ShimConfig {
        id: spec.id.clone(),
        layers_dir: inner.layers.dir().to_owned(),
        lower,
        no_devices: host.unified,
        workdir: bundle::workdir(spec, &image.config),
        volumes: places.fill,
        log_max_size: spec.log.max_size,
        log_max_file: spec.log.max_file,
        cgroup: host.cgroup.clone(),
        shim_cgroup: inner.shim_cgroup(),
        links: spec.links.clone(),
    };
    write_json(&dir.join(SHIM_FILE), &shim)
}

fn copy_root_mode(inner: &Inner, layers: &[String], upper: &Path) -> io::Result<()> {
    let top = layers.first().map(|l| inner.layers.dir().join(Layers::short_name(l)));
    let meta = fs::metadata(top.unwrap_or_else(|| inner.layers.dir().join("empty")))?;
    std::os::unix::fs::chown(upper, Some(meta.uid()), Some(meta.gid()))?;
    fs::set_permissions(upper, meta.permissions())
}

/// Finds or makes the places of binds and volumes. The image's own volumes get one without a name, which
/// lies in the container's directory and goes with it.
fn mounted(inner: &Inner, spec: &ContainerSpec, image: &Image, dir: &Path) -> io::Result<Places> {
    let mut places = Places::default();
    let clean = |path: &str| path.trim_end_matches('/').to_owned();
    let mut wanted: Vec<(Option<&str>, String, Option<&Mount>)> = Vec::new();
    for mount in &spec.mounts {
        let source = mount.source.as_deref().filter(|s| !s.is_empty());
        match (mount.kind, source) {
            (MountKind::Bind, Some(source)) => {
                let (source, target) = (PathBuf::from(source), clean(&mount.target));
                places.bound.push(Bound { source, target, read_only: mount.read_only });
            }
            (MountKind::Volume, name) => wanted.push((name, clean(&mount.target), Some(mount))),
            (MountKind::Bind | MountKind::Tmpfs, _) => {}
        }
    }
    for target in image.config.volumes.iter().map(|v| clean(v)) {
        if !spec.mounts.iter().any(|m| clean(&m.target) == target) && target.starts_with('/') {
            wanted.push((None, target, None));
        }
    }
    for (at, (name, target, mount)) in wanted.into_iter().enumerate() {
        let source = match (name, mount) {
            (Some(name), Some(mount)) => volumes::make(&inner.config.state_dir, name, &mount.labels)?,
            (Some(_) | None, _) => {
                let source = dir.join("volumes").join(at.to_string());
                volumes::make_data(&source)?;
                source
            }
        };
        if !mount.is_some_and(|mount| mount.no_copy) {
            places.fill.push(VolumeFill { target: target.clone(), source: source.clone() });
        }
        let read_only = mount.is_some_and(|mount| mount.read_only);
        places.bound.push(Bound { source, target, read_only });
    }
    Ok(places)
}
