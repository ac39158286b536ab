//! An engine without containers: one image, one container, and a registry that knows `far:1`.

use async_trait::async_trait;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use skep_agent::runtime::{
    Distribution, InForce, LayerStep, MountInForce, MountKind, Platform, PullNews, Pulled,
};
use skep_api::{ApiError, ErrorKind, Secret, spec::Labels};
use tokio::io::AsyncReadExt as _;

use super::START;
use crate::http::{
    BodyReader, Container, ContainerState, Image, Loaded, LocalEngine, PullAsked, PullEvent, RemovedImage,
    Volume,
};

/// One image, one container.
pub(super) struct FakeEngine;

fn once(event: PullEvent) -> BoxStream<'static, PullEvent> {
    stream::iter([event]).boxed()
}

#[async_trait]
impl LocalEngine for FakeEngine {
    async fn load(&self, mut archive: BodyReader) -> Result<Vec<Loaded>, ApiError> {
        let mut bytes = Vec::new();
        archive.read_to_end(&mut bytes).await.unwrap();
        Ok(vec![Loaded { reference: Some(format!("loaded:{}", bytes.len())), id: "sha256:00".into() }])
    }

    async fn import(&self, mut rootfs: BodyReader, reference: String) -> Result<String, ApiError> {
        let mut bytes = Vec::new();
        rootfs.read_to_end(&mut bytes).await.unwrap();
        Ok(format!("sha256:{:060x}{reference}", bytes.len()))
    }

    async fn images(&self) -> Result<Vec<Image>, ApiError> {
        Ok(vec![Image {
            id: format!("sha256:{}", "ab".repeat(32)),
            references: vec!["skep/whoami:latest".into()],
            created: START,
            size_bytes: 4_428_000,
            ..Image::default()
        }])
    }

    async fn find_image(&self, name: &str) -> Result<Option<Image>, ApiError> {
        Ok(self.images().await?.into_iter().find(|image| image.references.iter().any(|own| own == name)))
    }

    async fn remove_image(&self, name: &str, _force: bool) -> Result<RemovedImage, ApiError> {
        match self.find_image(name).await? {
            Some(image) => Ok(RemovedImage { untagged: image.references, deleted: vec![image.id] }),
            None => Err(ApiError::not_found(format!("No such image: {name}"))),
        }
    }

    fn pull(&self, asked: PullAsked) -> Result<BoxStream<'static, PullEvent>, ApiError> {
        let began = PullNews::Began { repository: "library/far".into(), which: "1".into() };
        let layer = PullNews::Layer { id: "0123456789ab".into(), step: LayerStep::Complete };
        let (id, digest) = ("sha256:00".into(), format!("sha256:{}", "ab".repeat(32)));
        let end = match asked.reference.trim_start_matches("docker.io/library/") {
            "far:1" => Ok(Pulled { id, digest, is_new: true }),
            "far:2" => Err(ApiError::new(ErrorKind::Internal, "the line broke")),
            _ => {
                let words = format!("no {}", asked.reference);
                return Ok(once(PullEvent::Done(Err(ApiError::not_found(words)))));
            }
        };
        let events = [PullEvent::News(began), PullEvent::News(layer), PullEvent::Done(end)];
        Ok(stream::iter(events).boxed())
    }

    async fn tag_image(&self, source: &str, target: &str) -> Result<(), ApiError> {
        match self.find_image(source).await? {
            Some(_) if !target.contains("..") => Ok(()),
            Some(_) => Err(ApiError::invalid(format!("invalid reference format: {target:?}"))),
            None => Err(ApiError::not_found(format!("No such image: {source}"))),
        }
    }

    async fn distribution(&self, name: &str, _auth: &Secret) -> Result<Distribution, ApiError> {
        let platforms = vec![Platform::parse("linux/amd64").unwrap()];
        let media_type = "application/vnd.oci.image.index.v1+json".to_owned();
        match name {
            "far:1" | "far" => Ok(Distribution {
                media_type,
                digest: format!("sha256:{}", "ab".repeat(32)),
                size: 7,
                platforms,
            }),
            _ => Err(ApiError::not_found(format!("manifest for {name} not found: manifest unknown"))),
        }
    }

    async fn check_login(&self, address: &str, _request: &[u8]) -> Result<(), ApiError> {
        match address {
            "h:5000" => Ok(()),
            _ => Err(ApiError::new(ErrorKind::PermissionDenied, "login attempt failed")),
        }
    }

    async fn containers(&self) -> Result<Vec<Container>, ApiError> {
        Ok(vec![Container {
            id: "cd".repeat(32),
            name: "web.1.xyz".into(),
            image: "skep/whoami:latest".into(),
            command: vec!["/skep-whoami".into()],
            created: START,
            state: ContainerState::Running { pid: 42, since: START },
            ..Container::default()
        }])
    }

    async fn in_force(&self, _id: &str) -> Result<InForce, ApiError> {
        let mount = |kind, name: &str, source: &str, target: &str, tmpfs| MountInForce {
            kind,
            name: (!name.is_empty()).then(|| name.to_owned()),
            source: source.into(),
            target: target.to_owned(),
            read_only: false,
            tmpfs,
        };
        Ok(InForce {
            command: vec!["/skep-whoami".into(), "-v".into()],
            hostname: "cdcd".into(),
            cap_add: vec!["CAP_NET_ADMIN".into()],
            memory_bytes: 1 << 23,
            mounts: vec![
                mount(MountKind::Volume, "data", "/s/data", "/d", None),
                mount(MountKind::Tmpfs, "", "", "/t", Some((0, 0o1777))),
            ],
            ..InForce::default()
        })
    }

    async fn volumes(&self) -> Result<Vec<Volume>, ApiError> {
        let labels = [("a".to_owned(), "b".to_owned())].into();
        Ok(vec![
            Volume { name: "data".into(), labels, created: START, is_used: true, ..Volume::default() },
            Volume { name: "old".into(), created: START, ..Volume::default() },
        ])
    }

    async fn create_volume(&self, name: &str, labels: Labels) -> Result<Volume, ApiError> {
        Ok(Volume { name: name.into(), labels, created: START, ..Volume::default() })
    }

    async fn remove_volume(&self, name: &str) -> Result<(), ApiError> {
        match name {
            "data" => Err(ApiError::new(ErrorKind::AlreadyExists, "remove data: volume is in use - [cd]")),
            _ => Ok(()),
        }
    }
}
