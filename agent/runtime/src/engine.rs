//! The engine itself: opens its state, and answers for images.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use thiserror::Error;
use tokio::io::AsyncRead;
use tokio::task::JoinSet;

use crate::cgroup::{self, Hierarchy};
use crate::containers::Container;
use crate::hosts::Registries;
use crate::images::{ImageConfigChanges, ImageError, ImageInfo, Images, LoadedImage, info};
use crate::layers::Layers;
use crate::load;
use crate::pull::Pulls;
use crate::stream;

/// Where the engine keeps its state, and what it needs to run containers.
#[derive(Debug, Clone)]
pub struct Config {
    /// Made with mode 0700. One engine at a time.
    pub state_dir: PathBuf,
    /// The program `skep-shim`.
    pub shim: PathBuf,
    /// Cgroup beneath which all of the engine's are; one for each node on a machine, such as `skep/<node id>`.
    pub cgroup_prefix: String,
    /// How registries are trusted.
    pub registries: Registries,
    /// How many files a container's processes may have open unless it says so: now, and what they may raise that to.
    /// `None`: as this process.
    pub open_files: Option<(u64, u64)>,
}

/// Why the engine cannot work here.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The shim is missing.
    #[error("there is no shim program at {0}; it is built and installed beside the daemon")]
    NoShim(PathBuf),
    /// The cgroup prefix would lead elsewhere.
    #[error("invalid cgroup prefix {0:?}: parts of letters, digits, '_', '.' and '-', parted by '/'")]
    CgroupPrefix(String),
    /// libcontainer could not limit or even count anything.
    #[error(
        "no cgroups are mounted beneath /sys/fs/cgroup here; `ip netns exec` hides them, so enter a network \
         namespace by `nsenter --net`"
    )]
    NoCgroups,
    /// The state directory cannot be read or written.
    #[error("failed to open the engine's state in {dir}: {source}")]
    State { dir: PathBuf, source: io::Error },
}

/// The embedded engine. Cheap to clone; the last clone dropped stops watching, and stops no container.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) layers: Layers,
    pub(crate) images: Images,
    pub(crate) cgroups: Vec<Hierarchy>,
    pub(crate) containers: Mutex<BTreeMap<String, Arc<Container>>>,
    /// One change of images at a time, so that none removes the layers that another has just unpacked.
    pub(crate) changing_images: tokio::sync::Mutex<()>,
    pub(crate) pulls: Pulls,
    /// Watch over running containers; dropped with the engine, they stop watching.
    pub(crate) watchers: Mutex<JoinSet<()>>,
}

impl Inner {
    pub(crate) fn containers(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn container_dir(&self, id: &str) -> PathBuf {
        self.config.state_dir.join("containers").join(id)
    }

    pub(crate) fn cgroup(&self, id: &str) -> String {
        format!("{}/{id}", self.config.cgroup_prefix)
    }
}

impl Engine {
    /// Opens the state directory, which is made if missing, and takes over the containers of an earlier
    /// engine: what runs runs on and is watched, what ended meanwhile is told as ended.
    pub async fn open(config: Config) -> Result<Engine, EngineError> {
        if !config.shim.is_file() {
            return Err(EngineError::NoShim(config.shim));
        }
        let part = |p: &str| p != "." && p != ".." && is_name(p);
        if !config.cgroup_prefix.split('/').all(part) {
            return Err(EngineError::CgroupPrefix(config.cgroup_prefix));
        }
        if cgroup::hierarchies().is_ok_and(|h| h.is_empty()) {
            return Err(EngineError::NoCgroups);
        }
        let dir = config.state_dir.clone();
        let opened = tokio::task::spawn_blocking(move || Engine::open_blocking(config));
        let engine = opened.await.map_err(io::Error::other).and_then(|r| r);
        let engine = engine.map_err(|source| EngineError::State { dir, source })?;
        engine.watch_adopted();
        Ok(engine)
    }

    fn open_blocking(mut config: Config) -> io::Result<Engine> {
        make_private(&config.state_dir)?;
        // The shim does not share the daemon's working directory for ever.
        config.state_dir = config.state_dir.canonicalize()?;
        config.shim = config.shim.canonicalize()?;
        let dir = &config.state_dir;
        for sub in ["containers", "volumes"] {
            make_private(&dir.join(sub))?;
        }
        let layers = Layers::open(dir.join("layers"), dir.join("tmp"))?;
        let images = Images::open(dir.join("images"))?;
        let cgroups = cgroup::hierarchies()?;
        let containers = Container::find_all(&config, &cgroups)?;
        let inner = Inner {
            config,
            layers,
            images,
            cgroups,
            containers: Mutex::new(containers),
            changing_images: tokio::sync::Mutex::new(()),
            pulls: Pulls::default(),
            watchers: Mutex::new(JoinSet::new()),
        };
        let engine = Engine { inner: Arc::new(inner) };
        engine.inner.layers.remove_unused(&engine.used_layers())?;
        Ok(engine)
    }

    fn used_layers(&self) -> BTreeSet<String> {
        let mut used = self.inner.images.layers();
        used.extend(self.inner.pulls.layers());
        used.extend(self.inner.containers().values().flat_map(|c| c.record.layers.iter().cloned()));
        used
    }

    /// Loads all images of an archive: `docker save` (old and new form) or OCI, plain or compressed.
    ///
    /// # Errors
    /// If the archive is damaged or none, has nothing for this machine, or the disk fails. Nothing is
    /// changed then.
    pub async fn load<R>(&self, tar: R) -> Result<Vec<LoadedImage>, ImageError>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        let _changing = self.inner.changing_images.lock().await;
        let inner = Arc::clone(&self.inner);
        stream::with_blocking(tar, move |from| {
            let (ready, loaded) = load::load(&inner.layers, from)?;
            inner.layers.sync().map_err(ImageError::io("write the layers to disk"))?;
            inner.images.add(ready).map_err(ImageError::io("write the image index"))?;
            Ok(loaded)
        })
        .await
        .map_err(ImageError::io("read the archive"))?
    }

    /// Makes an image of a root file system's tar, plain or compressed. The same tar and changes make the
    /// same image everywhere.
    ///
    /// # Errors
    /// As [`Engine::load`]; and if `reference` is no image name.
    pub async fn import_rootfs<R>(
        &self,
        tar: R,
        reference: &str,
        changes: ImageConfigChanges,
    ) -> Result<LoadedImage, ImageError>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        let _changing = self.inner.changing_images.lock().await;
        let inner = Arc::clone(&self.inner);
        let reference = reference.to_owned();
        stream::with_blocking(tar, move |from| {
            let ready = load::import(&inner.layers, from, &reference, &changes)?;
            let loaded = LoadedImage { reference: ready.1.references.first().cloned(), id: ready.0.clone() };
            inner.layers.sync().map_err(ImageError::io("write the layers to disk"))?;
            inner.images.add(vec![ready]).map_err(ImageError::io("write the image index"))?;
            Ok(loaded)
        })
        .await
        .map_err(ImageError::io("read the root file system"))?
    }

    /// All images, by id.
    pub fn images(&self) -> Vec<ImageInfo> {
        self.inner.images.list()
    }

    /// Finds an image by name (`busybox`, `docker.io/library/busybox:latest`), name and digest, id, or the
    /// unique start of an id.
    pub fn find_image(&self, reference: &str) -> Option<ImageInfo> {
        self.inner.images.find(reference).map(|(id, image)| info(&id, &image))
    }

    /// Gives the image `source` the further name `target`, which another image may have had.
    ///
    /// # Errors
    /// If there is no such image, the name is none, or the disk fails.
    pub async fn tag_image(&self, source: &str, target: &str) -> Result<(), ImageError> {
        let _changing = self.inner.changing_images.lock().await;
        let (inner, source, target) = (Arc::clone(&self.inner), source.to_owned(), target.to_owned());
        let tagged = tokio::task::spawn_blocking(move || inner.images.tag(&source, &target));
        tagged.await.map_err(io::Error::other).map_err(ImageError::io("tag the image"))?
    }

    /// Takes away a name of an image; with its last name, or by its id, the image and what only it needs.
    ///
    /// # Errors
    /// If there is none, a container uses it, or the disk fails.
    pub async fn remove_image(&self, reference: &str) -> Result<(), ImageError> {
        let _changing = self.inner.changing_images.lock().await;
        let found = self.inner.images.find(reference);
        let (id, _) = found.ok_or_else(|| ImageError::NoSuchImage(reference.to_owned()))?;
        let user =
            self.inner.containers().values().find(|c| c.record.image_id == id).map(|c| c.record.id.clone());
        if let Some(container) = user {
            return Err(ImageError::InUse { image: reference.to_owned(), container });
        }
        let engine = self.clone();
        let reference = reference.to_owned();
        let removed = tokio::task::spawn_blocking(move || {
            if engine.inner.images.remove(&reference)?.is_some() {
                let used = engine.used_layers();
                engine.inner.layers.remove_unused(&used).map_err(ImageError::io("remove layers"))?;
            }
            Ok(())
        });
        removed.await.map_err(io::Error::other).map_err(ImageError::io("remove the image"))?
    }
}

/// Letters, digits, `_`, `.` and `-`, not beginning with the latter two: safe as a file and cgroup name.
pub(crate) fn is_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    name.len() <= 200
        && name.bytes().all(inner)
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A directory that nobody but root looks into.
pub(crate) fn make_private(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}
