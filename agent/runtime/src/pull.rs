//! Pulls an image: its manifest for this machine, the layers that are not here yet, then one entry in the index.
//!
//! Calls for the same image with the same credentials share one pull; it stops when the last of them goes
//! away. Nothing of an image is seen before all of it is here; what was unpacked of one that failed helps the
//! next try and goes with the next clean-up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use thiserror::Error;
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinSet;

use crate::credentials::{Credentials, CredentialsError};
use crate::engine::{Engine, Inner};
use crate::images::{Image, ImageError};
use crate::layers::{LAYERS_MAX, Layer};
use crate::manifest::{ConfigFile, Descriptor, OciIndex, OciManifest, Platform, parse, run_config};
use crate::reference::{self, Reference};
use crate::registry::{CONNECT_MAX, Registry};
use crate::stream::decompress;

/// Layers of one image that are fetched at the same time (Docker's `max-concurrent-downloads`).
const DOWNLOADS_MAX: usize = 3;
/// News of a pull that a slow listener may lag behind; it misses the oldest then.
const NEWS_MAX: usize = 1024;
/// Bytes between two news of one download.
const NEWS_BYTES: u64 = 512 * 1024;

/// Why an image could not be had, in Docker's words where there are any.
#[derive(Debug, Error)]
pub enum PullError {
    /// Not a name that an image can have.
    #[error("invalid reference format: {0:?}")]
    Reference(String),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The registry does not let us, or does not say whether it has it.
    #[error(
        "pull access denied for {image}, repository does not exist or may require 'docker login': {reason} (registry {registry})"
    )]
    Denied { image: String, registry: String, reason: String },
    /// The registry has no such image.
    #[error("manifest for {image} not found: {reason}")]
    NotFound { image: String, reason: String },
    /// No connection, or not one to be trusted.
    #[error("registry {registry} cannot be reached: {reason}")]
    Unreachable { registry: String, reason: String },
    /// The registry answered with something else than the image.
    #[error("registry {registry}: {reason}")]
    Registry { registry: String, image: String, reason: String },
    /// The image is not made for this machine.
    #[error("no matching manifest for {platform} in the manifest list entries of {image}")]
    Platform { image: String, platform: Platform },
    /// The image is damaged, or the disk failed.
    #[error("failed to store {image}")]
    Image { image: String, source: ImageError },
}

/// What is to be pulled.
#[derive(Debug, Clone, Default)]
pub struct PullRequest {
    /// With a digest the tag is only a comment. Without either, `latest`.
    pub reference: String,
    pub credentials: Credentials,
    /// `None`: this machine's.
    pub platform: Option<Platform>,
}

/// An image that is here now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// `sha256:<hex>` of its configuration.
    pub id: String,
    /// `sha256:<hex>` of what its name stood for: a manifest, or an index of them.
    pub digest: String,
    /// Whether it, by this name, was not here before.
    pub is_new: bool,
}

/// How far a pull is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullNews {
    /// The registry knows the image: its repository and what was asked for of it.
    Began { repository: String, which: String },
    /// A layer, by the first twelve digits of its digest.
    Layer { id: String, step: LayerStep },
}

/// How far a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerStep {
    Waiting,
    AlreadyExists,
    Downloading { bytes: u64, of: u64 },
    Extracting,
    Complete,
}

/// A pull under way; dropped, it stops, unless another waits for the same image.
#[derive(Debug)]
pub struct Pull {
    /// Ready when it has ended.
    pub done: Shared<BoxFuture<'static, Outcome>>,
    /// What happens meanwhile.
    pub news: broadcast::Receiver<PullNews>,
}

/// How a pull ended.
pub type Outcome = Result<Pulled, Arc<PullError>>;

type Key = (String, Credentials, String);
/// A pull that others may join while somebody waits for it.
type Flight = (WeakShared<BoxFuture<'static, Outcome>>, broadcast::Sender<PullNews>);

/// The pulls under way, and what they need that nobody may take away.
#[derive(Debug, Default)]
pub(crate) struct Pulls {
    flights: Mutex<BTreeMap<Key, Flight>>,
    /// Layers of pulls under way, with how many want each: no clean-up takes them.
    pinned: Mutex<BTreeMap<String, usize>>,
    /// One fetches a layer, others wait for it.
    fetching: Mutex<BTreeMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pulls {
    /// Layers that pulls under way have, or soon will.
    pub(crate) fn layers(&self) -> Vec<String> {
        lock(&self.pinned).keys().cloned().collect()
    }

    fn fetching(&self, diff_id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = lock(&self.fetching);
        fetching.retain(|_, one| one.strong_count() > 0);
        if let Some(one) = fetching.get(diff_id).and_then(Weak::upgrade) {
            return one;
        }
        let one = Arc::default();
        fetching.insert(diff_id.to_owned(), Arc::downgrade(&one));
        one
    }
}

/// Layers that stay while this does.
struct Pinned {
    inner: Arc<Inner>,
    layers: Vec<String>,
}

impl Pinned {
    fn new(inner: &Arc<Inner>, layers: &[String]) -> Self {
        let mut pinned = lock(&inner.pulls.pinned);
        for layer in layers {
            *pinned.entry(layer.clone()).or_default() += 1;
        }
        drop(pinned);
        Self { inner: Arc::clone(inner), layers: layers.to_vec() }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut pinned = lock(&self.inner.pulls.pinned);
        for layer in &self.layers {
            if let Some(n) = pinned.get_mut(layer) {
                *n -= 1;
                if *n == 0 {
                    pinned.remove(layer);
                }
            }
        }
    }
}

/// A directory for downloads, gone with this.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // If this fails, the next open() cleans up.
        let _cleaned = fs::remove_dir_all(&self.0);
    }
}

impl Engine {
    /// Begins to pull an image, or joins those who do already.
    pub fn pull(&self, request: PullRequest) -> Pull {
        let platform = request.platform.as_ref().map(ToString::to_string).unwrap_or_default();
        let name = reference::parse(&request.reference).map_or(request.reference.clone(), |r| r.to_string());
        let key = (name, request.credentials.clone(), platform);
        let mut flights = lock(&self.inner.pulls.flights);
        flights.retain(|_, (done, _)| done.upgrade().is_some_and(|done| done.peek().is_none()));
        if let Some((done, news)) = flights.get(&key)
            && let Some(done) = done.upgrade()
        {
            return Pull { done, news: news.subscribe() };
        }
        let (news, heard) = broadcast::channel(NEWS_MAX);
        let run = run(Arc::clone(&self.inner), request, news.clone());
        let done = async move { run.await.map_err(Arc::new) }.boxed().shared();
        if let Some(weak) = done.downgrade() {
            flights.insert(key, (weak, news));
        }
        Pull { done, news: heard }
    }
}

/// What of an image's documents a pull goes by.
struct Plan {
    /// Of what the name stands for.
    digest: String,
    /// Of this machine's manifest.
    manifest_digest: String,
    manifest: OciManifest,
}

async fn run(
    inner: Arc<Inner>,
    request: PullRequest,
    news: broadcast::Sender<PullNews>,
) -> Result<Pulled, PullError> {
    let reference = reference::parse(&request.reference)
        .ok_or_else(|| PullError::Reference(request.reference.clone()))?;
    let registries = &inner.config.registries;
    let registry = Registry::open(registries, &reference, &request.credentials, CONNECT_MAX).await?;
    let plan = plan(&registry, &reference, request.platform.as_ref()).await?;
    let which = reference.digest.clone().unwrap_or_else(|| reference.tag().to_owned());
    let _nobody = news.send(PullNews::Began { repository: reference.repository(), which });
    let stored = |source| PullError::Image { image: reference.to_string(), source };
    let id = plan.manifest.config.digest.clone();
    let repo_digest = format!("{}@{}", reference.name, plan.digest);
    let before = inner.images.find(&reference.to_string());
    let is_new = before.is_none_or(|(before, _)| before != id);
    let pulled = Pulled { id: id.clone(), digest: plan.digest.clone(), is_new };
    let references = match reference.digest {
        Some(_) => BTreeSet::new(),
        None => BTreeSet::from([reference.tagged()]),
    };
    let changing = inner.changing_images.lock().await;
    if let Some((mut image, config)) = inner.images.get(&id) {
        (image.references, image.repo_digests) = (references, BTreeSet::from([repo_digest]));
        image.digest = Some(plan.manifest_digest);
        let added = inner.images.add(vec![(id, image, config)]);
        added.map_err(ImageError::io("write the image index")).map_err(stored)?;
        return Ok(pulled);
    }
    drop(changing);

    let config = registry.document(&plan.manifest.config).await?;
    let read: ConfigFile = parse("the configuration", &config).map_err(stored)?;
    let diff_ids = read.rootfs.diff_ids.clone().unwrap_or_default();
    if diff_ids.len() != plan.manifest.layers.len() || diff_ids.len() > LAYERS_MAX {
        let (listed, said) = (plan.manifest.layers.len(), diff_ids.len());
        let words = format!("it lists {listed} layers, its configuration {said}; {LAYERS_MAX} at most");
        return Err(registry.damaged(&words));
    }
    // A clean-up that has begun may not know of the pins.
    let changing = inner.changing_images.lock().await;
    let pinned = Pinned::new(&inner, &diff_ids);
    drop(changing);
    let layers = fetch_all(&inner, registry, &plan.manifest.layers, &diff_ids, &news).await?;
    let image = Image {
        references,
        digest: Some(plan.manifest_digest),
        repo_digests: BTreeSet::from([repo_digest]),
        created: read.created.clone().unwrap_or_default(),
        layers,
        config: run_config(read),
    };
    let changing = inner.changing_images.lock().await;
    let keeper = Arc::clone(&inner);
    let kept = tokio::task::spawn_blocking(move || {
        keeper.layers.sync().map_err(ImageError::io("write the layers to disk"))?;
        keeper.images.add(vec![(id, image, config)]).map_err(ImageError::io("write the image index"))
    });
    kept.await
        .map_err(std::io::Error::other)
        .map_err(ImageError::io("store the image"))
        .flatten()
        .map_err(stored)?;
    drop((changing, pinned));
    Ok(pulled)
}

/// Finds the manifest for the platform.
async fn plan(
    registry: &Registry,
    reference: &Reference,
    platform: Option<&Platform>,
) -> Result<Plan, PullError> {
    let which = reference.digest.as_deref().unwrap_or_else(|| reference.tag());
    let top = registry.manifest(which).await?;
    let stored = |source| PullError::Image { image: reference.to_string(), source };
    if !top.is_index() {
        let manifest = parse("the manifest", &top.bytes).map_err(stored)?;
        return Ok(Plan { manifest_digest: top.digest.clone(), digest: top.digest, manifest });
    }
    let index: OciIndex = parse("the index", &top.bytes).map_err(stored)?;
    let platform = platform.cloned().unwrap_or_else(Platform::host);
    let Some(entry) = platform.choose(&index.manifests) else {
        return Err(PullError::Platform { image: reference.to_string(), platform });
    };
    let found = registry.manifest(&entry.digest).await?;
    if found.is_index() {
        return Err(registry.damaged("its index names another index"));
    }
    let manifest = parse("the manifest", &found.bytes).map_err(stored)?;
    Ok(Plan { digest: top.digest, manifest_digest: found.digest, manifest })
}

/// Brings all layers here, lowest first in the answer.
async fn fetch_all(
    inner: &Arc<Inner>,
    registry: Registry,
    descriptors: &[Descriptor],
    diff_ids: &[String],
    news: &broadcast::Sender<PullNews>,
) -> Result<Vec<Layer>, PullError> {
    let disk = |e| registry.damaged(&format!("no place for its layers: {e}"));
    let scratch = Arc::new(Scratch(inner.layers.scratch().map_err(disk)?));
    let registry = Arc::new(registry);
    let turns = Arc::new(Semaphore::new(DOWNLOADS_MAX));
    // Dropped with this future, it ends the downloads.
    let mut fetches = JoinSet::new();
    for (n, (descriptor, diff_id)) in descriptors.iter().zip(diff_ids).enumerate() {
        let fetch = Fetch {
            inner: Arc::clone(inner),
            registry: Arc::clone(&registry),
            descriptor: descriptor.clone(),
            diff_id: diff_id.clone(),
            spool: scratch.0.join(n.to_string()),
            _scratch: Arc::clone(&scratch),
            news: news.clone(),
        };
        fetch.tell(LayerStep::Waiting);
        let turns = Arc::clone(&turns);
        fetches.spawn(async move { fetch.run(&turns).await.map(|layer| (n, layer)) });
    }
    let mut layers = BTreeMap::new();
    while let Some(fetched) = fetches.join_next().await {
        let (n, layer) = fetched.map_err(|e| registry.damaged(&format!("its download failed: {e}")))??;
        layers.insert(n, layer);
    }
    Ok(layers.into_values().collect())
}

/// One layer on its way.
struct Fetch {
    inner: Arc<Inner>,
    registry: Arc<Registry>,
    descriptor: Descriptor,
    diff_id: String,
    spool: PathBuf,
    _scratch: Arc<Scratch>,
    news: broadcast::Sender<PullNews>,
}

impl Fetch {
    fn tell(&self, step: LayerStep) {
        let hex = self.descriptor.digest.trim_start_matches("sha256:");
        let id = hex.chars().take(12).collect();
        let _nobody = self.news.send(PullNews::Layer { id, step });
    }

    async fn run(self, turns: &Semaphore) -> Result<Layer, PullError> {
        let fetching = self.inner.pulls.fetching(&self.diff_id);
        let _only_one = fetching.lock().await;
        if let Some(layer) = self.inner.layers.get(&self.diff_id) {
            self.tell(LayerStep::AlreadyExists);
            return Ok(layer);
        }
        let _turn = turns.acquire().await;
        self.download().await?;
        self.tell(LayerStep::Extracting);
        let (inner, diff_id, spool) = (Arc::clone(&self.inner), self.diff_id.clone(), self.spool.clone());
        let unpacked = tokio::task::spawn_blocking(move || unpack(&inner, &diff_id, &spool));
        let unpacked = unpacked.await.map_err(std::io::Error::other).flatten();
        let layer = unpacked.map_err(|e| self.registry.damaged(&format!("unpacking a layer: {e}")))?;
        self.tell(LayerStep::Complete);
        Ok(layer)
    }

    async fn download(&self) -> Result<(), PullError> {
        let of = self.descriptor.size;
        let disk = |e| self.registry.damaged(&format!("no place for a layer: {e}"));
        let mut file = tokio::fs::File::create(&self.spool).await.map_err(disk)?;
        let mut told = 0;
        let so_far = |bytes| {
            if bytes >= told + NEWS_BYTES || bytes == of {
                told = bytes;
                self.tell(LayerStep::Downloading { bytes, of });
            }
        };
        self.registry.blob(&self.descriptor, &mut file, so_far).await
    }
}

fn unpack(inner: &Inner, diff_id: &str, spool: &Path) -> std::io::Result<Layer> {
    let mut tar = decompress(fs::File::open(spool)?)?;
    let added = inner.layers.add(&mut tar, Some(diff_id))?;
    // The disk need not hold all layers twice.
    fs::remove_file(spool)?;
    Ok(added.layer)
}
