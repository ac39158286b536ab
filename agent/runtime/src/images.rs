//! The index of images: names, configurations and layers, in one JSON file that is replaced whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::layers::Layer;
use crate::reference::{self, Reference, digest_hex};

const INDEX_VERSION: u32 = 1;
/// A shorter prefix of an id is more likely a mistyped name.
const ID_PREFIX_MIN: usize = 4;

/// Why an image could not be loaded, imported or removed.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The archive is none, or lies about its content.
    #[error("invalid image archive: {0}")]
    Invalid(String),
    /// The archive holds images, but none for this machine.
    #[error("the archive has no image for {0}")]
    Platform(String),
    /// Not a name that an image can have.
    #[error("invalid reference format: {0:?}")]
    Reference(String),
    /// No image of this name or id.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// A container needs it.
    #[error("image {image} is used by container {container}; remove that first")]
    InUse { image: String, container: String },
    /// The disk or the stream failed.
    #[error("failed to {what}: {source}")]
    Io { what: String, source: io::Error },
}

impl ImageError {
    pub(crate) fn io(what: &str) -> impl FnOnce(io::Error) -> ImageError + use<> {
        let what = what.to_owned();
        // What is wrong with a tar has no kind of its own; what is wrong with the machine has.
        let damage = [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof, io::ErrorKind::Other];
        move |source| {
            if damage.contains(&source.kind()) {
                ImageError::Invalid(format!("failed to {what}: {source}"))
            } else {
                ImageError::Io { what, source }
            }
        }
    }
}

/// An image as it was loaded or imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// Its name as Docker shows it; `None` for an image without a name.
    pub reference: Option<String>,
    /// `sha256:<hex>` of its configuration.
    pub id: String,
}

/// How containers of the image run unless told otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub user: String,
    pub workdir: String,
    /// `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Targets of volumes that every container of the image has.
    pub volumes: Vec<String>,
    pub stop_signal: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub architecture: String,
    pub os: String,
}

/// What an imported root file system is to run; `None` leaves it empty.
#[derive(Debug, Clone, Default)]
pub struct ImageConfigChanges {
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub env: Option<Vec<String>>,
    pub workdir: Option<String>,
}

/// An image of this engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// `sha256:<hex>` of its configuration.
    pub id: String,
    /// `name:tag` as Docker shows them, sorted.
    pub references: Vec<String>,
    /// `sha256:<hex>` of its manifest, where the archive had one.
    pub digest: Option<String>,
    /// `name@sha256:<hex>` of each pull, sorted.
    pub repo_digests: Vec<String>,
    /// RFC 3339, as its builder wrote it; may be empty.
    pub created: String,
    /// Bytes of all files of all layers.
    pub size: u64,
    pub config: ImageConfig,
}

/// What the index keeps of an image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Image {
    pub(crate) references: BTreeSet<String>,
    pub(crate) digest: Option<String>,
    #[serde(default)]
    pub(crate) repo_digests: BTreeSet<String>,
    pub(crate) created: String,
    /// Lowest first, as in the image's configuration.
    pub(crate) layers: Vec<Layer>,
    pub(crate) config: ImageConfig,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Index {
    version: u32,
    images: BTreeMap<String, Image>,
}

/// All images, on disk and in memory.
#[derive(Debug)]
pub(crate) struct Images {
    dir: PathBuf,
    index: Mutex<Arc<Index>>,
}

impl Images {
    pub(crate) fn open(dir: PathBuf) -> io::Result<Images> {
        fs::create_dir_all(&dir)?;
        let index = match fs::read(dir.join("index.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Index { version: INDEX_VERSION, images: BTreeMap::new() }
            }
            Err(e) => return Err(e),
        };
        if index.version != INDEX_VERSION {
            return Err(io::Error::other(format!("image index has unknown version {}", index.version)));
        }
        Ok(Images { dir, index: Mutex::new(Arc::new(index)) })
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Index>> {
        self.index.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn read(&self) -> Arc<Index> {
        Arc::clone(&self.lock())
    }

    /// Adds images with their configurations as they came; a name that another image had moves over.
    pub(crate) fn add(&self, added: Vec<(String, Image, Vec<u8>)>) -> io::Result<()> {
        let mut index = Index::clone(&self.read());
        for (id, image, config) in added {
            let hex = digest_hex(&id).ok_or_else(|| io::Error::other(format!("bad image id {id}")))?;
            write_whole(&self.dir.join(hex), &config)?;
            for other in index.images.values_mut() {
                other.references.retain(|r| !image.references.contains(r));
            }
            match index.images.get_mut(&id) {
                Some(known) => {
                    known.references.extend(image.references);
                    known.repo_digests.extend(image.repo_digests);
                    known.digest = image.digest.or_else(|| known.digest.take());
                }
                None => drop(index.images.insert(id, image)),
            }
        }
        self.replace(index)
    }

    /// Takes a name, or with its id all of an image, away. Returns the id if nothing is left of it.
    pub(crate) fn remove(&self, name: &str) -> Result<Option<String>, ImageError> {
        let (id, _) = self.find(name).ok_or_else(|| ImageError::NoSuchImage(name.to_owned()))?;
        let mut index = Index::clone(&self.read());
        let tagged = reference::parse(name).map(|r| r.tagged());
        let image = index.images.get_mut(&id).ok_or_else(|| ImageError::NoSuchImage(name.to_owned()))?;
        let untagged = tagged.is_some_and(|t| image.references.remove(&t));
        let gone = !untagged || image.references.is_empty();
        if gone {
            index.images.remove(&id);
        }
        self.replace(index).map_err(ImageError::io("write the image index"))?;
        if let (true, Some(hex)) = (gone, digest_hex(&id)) {
            let _unreachable_anyway = fs::remove_file(self.dir.join(hex));
        }
        Ok(gone.then_some(id))
    }

    fn replace(&self, index: Index) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(&index)?;
        write_whole(&self.dir.join("index.json"), &bytes)?;
        *self.lock() = Arc::new(index);
        Ok(())
    }

    pub(crate) fn list(&self) -> Vec<ImageInfo> {
        self.read().images.iter().map(|(id, image)| info(id, image)).collect()
    }

    /// An image by its id, with its configuration as it came.
    pub(crate) fn get(&self, id: &str) -> Option<(Image, Vec<u8>)> {
        let image = self.read().images.get(id)?.clone();
        Some((image, fs::read(self.dir.join(digest_hex(id)?)).ok()?))
    }

    /// Gives an image one more name, which another may have had.
    pub(crate) fn tag(&self, source: &str, target: &str) -> Result<(), ImageError> {
        let wanted = reference::parse(target).filter(|r| r.digest.is_none());
        let tagged = wanted.ok_or_else(|| ImageError::Reference(target.to_owned()))?.tagged();
        let (id, _) = self.find(source).ok_or_else(|| ImageError::NoSuchImage(source.to_owned()))?;
        let mut index = Index::clone(&self.read());
        for (other, image) in &mut index.images {
            image.references.remove(&tagged);
            if *other == id {
                image.references.insert(tagged.clone());
            }
        }
        self.replace(index).map_err(ImageError::io("write the image index"))
    }

    /// All layers that images need.
    pub(crate) fn layers(&self) -> BTreeSet<String> {
        self.read().images.values().flat_map(|i| i.layers.iter().map(|l| l.diff_id.clone())).collect()
    }

    /// Finds by name, name and digest, id or start of an id.
    pub(crate) fn find(&self, name: &str) -> Option<(String, Image)> {
        let index = self.read();
        let by_name = |r: &Reference| {
            index.images.iter().find(|(id, image)| match &r.digest {
                // An archive of `docker save` has no manifest, so that its id has to do.
                Some(digest) => {
                    // Whatever the name: the content is the same.
                    let pulled = |r: &String| r.split_once('@').is_some_and(|(_, known)| known == digest);
                    image.digest.as_ref() == Some(digest)
                        || *id == digest
                        || image.repo_digests.iter().any(pulled)
                }
                None => image.references.contains(&r.tagged()),
            })
        };
        let found = reference::parse(name).as_ref().and_then(by_name).or_else(|| {
            let hex = name.strip_prefix("sha256:").unwrap_or(name);
            if hex.len() < ID_PREFIX_MIN {
                return None;
            }
            let mut matching = index.images.iter().filter(|(id, _)| id["sha256:".len()..].starts_with(hex));
            // Two images that start alike: neither is meant for sure.
            matching.next().filter(|_| matching.next().is_none())
        });
        found.map(|(id, image)| (id.clone(), image.clone()))
    }
}

pub(crate) fn info(id: &str, image: &Image) -> ImageInfo {
    ImageInfo {
        id: id.to_owned(),
        references: image.references.iter().cloned().collect(),
        digest: image.digest.clone(),
        repo_digests: image.repo_digests.iter().cloned().collect(),
        created: image.created.clone(),
        size: image.layers.iter().map(|l| l.size).sum(),
        config: image.config.clone(),
    }
}

/// Replaces a file so that a power cut leaves the old one or the new one.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let tmp = path.with_extension("tmp");
    let mut file = fs::File::create(&tmp)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()?;
    fs::rename(&tmp, path)?;
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}
