//! Reads image archives: `docker save` old and new, OCI archives, and plain root file systems.
//!
//! The table of contents of an archive comes at its end, so its files are first spooled to disk, each
//! hashed on the way. Whatever states a hash must have it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::images::{Image, ImageConfigChanges, ImageError, LoadedImage};
use crate::layers::{LAYERS_MAX, Layers};
use crate::manifest::{
    ConfigFile, DOCUMENT_BYTES_MAX, Descriptor, OciIndex, OciManifest, Platform, parse, run_config,
};
use crate::reference;
use crate::stamp;
use crate::stream::{Hashing, decompress, sha256_hex};

/// Files of one archive.
const FILES_MAX: usize = 100_000;
/// Indexes within indexes.
const NESTING_MAX: u32 = 4;

/// An image ready for the index: its id, itself, its configuration as it came.
pub(crate) type Ready = (String, Image, Vec<u8>);

/// An entry of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// A file of the archive, spooled.
#[derive(Debug)]
struct Spooled {
    path: PathBuf,
    hex: String,
    size: u64,
}

/// A manifest's digest with the annotations of the index.
type Chosen = (String, BTreeMap<String, String>);

/// What one image needs of the archive.
struct Parts {
    config: String,
    layers: Vec<String>,
    references: BTreeSet<String>,
    digest: Option<String>,
}

/// Reads all images of an archive and unpacks their layers.
pub(crate) fn load(layers: &Layers, from: impl Read) -> Result<(Vec<Ready>, Vec<LoadedImage>), ImageError> {
    let dir = layers.scratch().map_err(ImageError::io("make a directory for the archive"))?;
    let result = Archive::spool(&dir, from).and_then(|archive| {
        let mut ready = Vec::new();
        let mut loaded = Vec::new();
        for parts in archive.images()? {
            let (id, image, config) = archive.image(layers, &parts)?;
            let mut names: Vec<_> = parts.references.iter().cloned().map(Some).collect();
            if names.is_empty() {
                names.push(None);
            }
            loaded.extend(names.into_iter().map(|reference| LoadedImage { reference, id: id.clone() }));
            ready.push((id, image, config));
        }
        Ok((ready, loaded))
    });
    // If this fails, the next open() cleans up.
    let _cleaned = fs::remove_dir_all(&dir);
    result
}

/// Makes an image of one layer out of a root file system's tar.
pub(crate) fn import(
    layers: &Layers,
    from: impl Read,
    name: &str,
    changes: &ImageConfigChanges,
) -> Result<Ready, ImageError> {
    let parsed = reference::parse(name).filter(|r| r.digest.is_none());
    let tagged = parsed.ok_or_else(|| ImageError::Reference(name.to_owned()))?.tagged();
    let mut tar = decompress(from).map_err(ImageError::io("read the root file system"))?;
    let added = layers.add(&mut tar, None).map_err(ImageError::io("unpack the root file system"))?;
    let Platform { architecture, os, .. } = Platform::host();
    // The newest file's time and not now: the same tar makes the same image on every node.
    let created = stamp::format_rfc3339(added.newest_unix_secs.saturating_mul(1_000_000_000));
    let config = json!({
        "architecture": architecture,
        "os": os,
        "created": created,
        "config": {
            "Entrypoint": changes.entrypoint,
            "Cmd": changes.cmd,
            "Env": changes.env,
            "WorkingDir": changes.workdir.clone().unwrap_or_default(),
        },
        "rootfs": { "type": "layers", "diff_ids": [added.layer.diff_id] },
        "history": [{ "created": created, "comment": "imported root file system" }],
    });
    let bytes = config.to_string().into_bytes();
    let parsed: ConfigFile = parse("the configuration", &bytes)?;
    let image = Image {
        references: BTreeSet::from([tagged]),
        digest: None,
        repo_digests: BTreeSet::new(),
        created,
        layers: vec![added.layer],
        config: run_config(parsed),
    };
    Ok((format!("sha256:{}", sha256_hex(&bytes)), image, bytes))
}

struct Archive {
    files: BTreeMap<String, Spooled>,
    /// Old archives have links from one layer's place to another's.
    links: BTreeMap<String, String>,
}

impl Archive {
    fn spool(dir: &Path, from: impl Read) -> Result<Archive, ImageError> {
        let read = || ImageError::io("read the archive");
        let mut archive = Archive { files: BTreeMap::new(), links: BTreeMap::new() };
        let mut tar = tar::Archive::new(decompress(from).map_err(read())?);
        for entry in tar.entries().map_err(read())? {
            let entry = entry.map_err(read())?;
            let name = join("", &entry.path().map_err(read())?.to_string_lossy());
            if archive.files.len() + archive.links.len() >= FILES_MAX {
                return Err(ImageError::Invalid(format!("it has more than {FILES_MAX} files")));
            }
            if let Some(target) = entry.link_name().map_err(read())? {
                // A symbolic link is relative to its directory, a hard link to the archive's root.
                let symbolic = entry.header().entry_type().is_symlink();
                let base = if symbolic { parent(&name) } else { "" };
                archive.links.insert(name.clone(), join(base, &target.to_string_lossy()));
            } else if entry.header().entry_type().is_file() {
                let path = dir.join(archive.files.len().to_string());
                let mut out = File::create(&path).map_err(ImageError::io("spool the archive"))?;
                let mut entry = Hashing::new(entry);
                let size = io::copy(&mut entry, &mut out).map_err(read())?;
                let hex = entry.hex();
                if name.strip_prefix("blobs/sha256/").is_some_and(|stated| stated != hex) {
                    return Err(ImageError::Invalid(format!("{name} has the hash {hex}")));
                }
                archive.files.insert(name, Spooled { path, hex, size });
            }
        }
        Ok(archive)
    }

    fn get(&self, name: &str) -> Option<&Spooled> {
        let mut name = join("", name);
        for _ in 0..8 {
            match self.links.get(&name) {
                Some(target) => name.clone_from(target),
                None => break,
            }
        }
        self.files.get(&name)
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let file = self.get(name).ok_or_else(|| ImageError::Invalid(format!("it lacks {name}")))?;
        if file.size > DOCUMENT_BYTES_MAX {
            return Err(ImageError::Invalid(format!("{name} has {} bytes", file.size)));
        }
        fs::read(&file.path).map_err(ImageError::io("read the spooled archive"))
    }

    fn document<T: DeserializeOwned>(&self, name: &str) -> Result<T, ImageError> {
        parse(name, &self.bytes(name)?)
    }

    fn images(&self) -> Result<Vec<Parts>, ImageError> {
        if self.get("manifest.json").is_some() {
            return self.docker_images();
        }
        if self.get("index.json").is_none() {
            return Err(ImageError::Invalid("it has neither manifest.json nor index.json".to_owned()));
        }
        let mut images = Vec::new();
        for (manifest, annotations) in self.oci_manifests()? {
            images.push(self.oci_image(&manifest, &annotations)?);
        }
        Ok(images)
    }

    fn docker_images(&self) -> Result<Vec<Parts>, ImageError> {
        // New archives are OCI layouts as well, from which the manifests' digests can be had.
        let mut digests = BTreeMap::new();
        if self.get("index.json").is_some() {
            for (manifest, _) in self.oci_manifests()? {
                let config: OciManifest = self.document(&blob(&manifest)?)?;
                digests.insert(blob(&config.config.digest)?, manifest);
            }
        }
        let mut images = Vec::new();
        for entry in self.document::<Vec<DockerManifest>>("manifest.json")? {
            let mut references = BTreeSet::new();
            for tag in entry.repo_tags.unwrap_or_default() {
                let parsed = reference::parse(&tag).ok_or(ImageError::Reference(tag))?;
                references.insert(parsed.tagged());
            }
            let digest = digests.get(&join("", &entry.config)).cloned();
            let layers = entry.layers.unwrap_or_default();
            images.push(Parts { config: entry.config, layers, references, digest });
        }
        Ok(images)
    }

    /// The digests of the manifests that are for this machine, with the annotations of the index.
    fn oci_manifests(&self) -> Result<Vec<Chosen>, ImageError> {
        let index: OciIndex = self.document("index.json")?;
        let mut found = Vec::new();
        for descriptor in index.manifests {
            let annotations = descriptor.annotations.clone();
            if let Some(manifest) = self.choose(&descriptor, NESTING_MAX)? {
                found.push((manifest, annotations));
            }
        }
        if found.is_empty() {
            return Err(ImageError::Platform(Platform::host().to_string()));
        }
        Ok(found)
    }

    fn choose(&self, descriptor: &Descriptor, nesting: u32) -> Result<Option<String>, ImageError> {
        if descriptor.platform.as_ref().is_some_and(|p| Platform::host().rank(p).is_none()) {
            return Ok(None);
        }
        if !descriptor.is_index() {
            return Ok(Some(descriptor.digest.clone()));
        }
        if nesting == 0 {
            return Err(ImageError::Invalid("its indexes are nested too deeply".to_owned()));
        }
        let index: OciIndex = self.document(&blob(&descriptor.digest)?)?;
        for inner in &index.manifests {
            // An archive may list platforms that it leaves out.
            let present = self.get(&blob(&inner.digest)?).is_some();
            if let (true, Some(found)) = (present, self.choose(inner, nesting - 1)?) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn oci_image(&self, manifest: &str, notes: &BTreeMap<String, String>) -> Result<Parts, ImageError> {
        let document: OciManifest = self.document(&blob(manifest)?)?;
        // What containerd writes is a full name; the standard's may be just a tag, which names nothing.
        let full = notes.get("io.containerd.image.name");
        let name = full
            .or_else(|| notes.get("org.opencontainers.image.ref.name").filter(|n| n.contains([':', '/'])));
        let mut references = BTreeSet::new();
        if let Some(name) = name {
            let parsed = reference::parse(name).ok_or_else(|| ImageError::Reference(name.clone()))?;
            references.insert(parsed.tagged());
        }
        Ok(Parts {
            config: blob(&document.config.digest)?,
            layers: document.layers.iter().map(|l| blob(&l.digest)).collect::<Result<_, _>>()?,
            references,
            digest: Some(manifest.to_owned()),
        })
    }

    fn image(&self, layers: &Layers, parts: &Parts) -> Result<Ready, ImageError> {
        let bytes = self.bytes(&parts.config)?;
        let hex = sha256_hex(&bytes);
        let stated = parts.config.strip_suffix(".json").filter(|n| n.len() == 64);
        if stated.is_some_and(|s| s != hex) {
            return Err(ImageError::Invalid(format!("{} has the hash {hex}", parts.config)));
        }
        let config: ConfigFile = parse(&parts.config, &bytes)?;
        let diff_ids = config.rootfs.diff_ids.clone().unwrap_or_default();
        if diff_ids.len() != parts.layers.len() {
            let (listed, said) = (parts.layers.len(), diff_ids.len());
            return Err(ImageError::Invalid(format!("it lists {listed} layers, its configuration {said}")));
        }
        if diff_ids.len() > LAYERS_MAX {
            return Err(ImageError::Invalid(format!("it has more than {LAYERS_MAX} layers")));
        }
        let mut unpacked = Vec::new();
        for (diff_id, name) in diff_ids.iter().zip(&parts.layers) {
            if let Some(layer) = layers.get(diff_id) {
                unpacked.push(layer);
                continue;
            }
            let file = self.get(name).ok_or_else(|| ImageError::Invalid(format!("it lacks {name}")))?;
            tracing::debug!(layer.diff_id = %diff_id, layer.hash = %file.hex, "unpacking a layer");
            let unpack = || ImageError::io(&format!("unpack layer {diff_id}"));
            let mut tar = File::open(&file.path).and_then(decompress).map_err(unpack())?;
            unpacked.push(layers.add(&mut tar, Some(diff_id)).map_err(unpack())?.layer);
        }
        let image = Image {
            references: parts.references.clone(),
            digest: parts.digest.clone(),
            repo_digests: BTreeSet::new(),
            created: config.created.clone().unwrap_or_default(),
            layers: unpacked,
            config: run_config(config),
        };
        Ok((format!("sha256:{hex}"), image, bytes))
    }
}

/// Where an OCI layout keeps what has this digest.
fn blob(digest: &str) -> Result<String, ImageError> {
    let hex = reference::digest_hex(digest);
    Ok(format!("blobs/sha256/{}", hex.ok_or_else(|| ImageError::Invalid(format!("bad digest {digest:?}")))?))
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Names of an archive are only keys here, so that a path leading out of it can do no harm.
fn join(base: &str, name: &str) -> String {
    let mut parts: Vec<&str> = base.split('/').filter(|p| !p.is_empty()).collect();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
