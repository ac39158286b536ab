//! A registry for stories: Debian's docker-registry, filled by writing its files, reached by the nodes of a swarm.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::http::get;
use crate::image::busybox_layer;
use crate::wait::try_wait_for;

const START_WAIT_MAX: Duration = Duration::from_secs(10);
const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A running registry, ended when dropped.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    dir: tempfile::TempDir,
    address: Ipv4Addr,
    port: u16,
}

impl Registry {
    /// Starts one on the address from which this process reaches `node`; with a password only `me` may pull.
    ///
    /// # Errors
    /// When docker-registry or htpasswd is missing (`e2e/setup.sh` installs both) or does not start.
    pub fn start(node: Ipv4Addr, password: Option<&str>) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((node, 9))?;
        let std::net::IpAddr::V4(address) = socket.local_addr()?.ip() else {
            anyhow::bail!("the way to {node} is not IPv4");
        };
        let port = std::net::TcpListener::bind((address, 0))?.local_addr()?.port();
        let dir = tempfile::tempdir()?;
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{address}:{port}'}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\n",
            dir.path().join("data").display()
        );
        if let Some(password) = password {
            let file = dir.path().join("htpasswd");
            let made =
                Command::new("htpasswd").args(["-Bbn", "me", password]).output().context("run htpasswd")?;
            std::fs::write(&file, made.stdout)?;
            config += &format!("auth: {{htpasswd: {{realm: story, path: {}}}}}\n", file.display());
        }
        let file = dir.path().join("config.yml");
        std::fs::write(&file, config)?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().context("run docker-registry")?;
        let registry = Self { process, dir, address, port };
        try_wait_for(START_WAIT_MAX, || get(address, port, "/v2/").ok())
            .with_context(|| format!("docker-registry does not answer on {}", registry.host()))?;
        Ok(registry)
    }

    /// `address:port`.
    #[must_use]
    pub fn host(&self) -> String {
        format!("{}:{}", self.address, self.port)
    }

    /// Puts an image there: busybox, and beside it the file `/said` with `text`. Gives its digest.
    ///
    /// # Errors
    /// When there is no busybox or the disk fails.
    pub fn put(&self, name: &str, tag: &str, text: &str) -> anyhow::Result<String> {
        let base = busybox_layer()?;
        let mut said = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(u64::try_from(text.len())?);
        said.append_data(&mut header, "said", text.as_bytes())?;
        let layers = [base, said.into_inner()?];
        let config = serde_json::to_vec(&json!({
            "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh", "-c", "trap 'exit 0' TERM; cat /said; sleep 1000 & wait"]},
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|l| digest(l)).collect::<Vec<_>>()},
        }))?;
        let describe = |bytes: &[u8], kind: &str| json!({"mediaType": kind, "size": bytes.len(), "digest": digest(bytes)});
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": describe(&config, "application/vnd.docker.container.image.v1+json"),
            "layers": layers.iter().map(|l| describe(l, "application/vnd.docker.image.rootfs.diff.tar")).collect::<Vec<_>>(),
        }))?;
        let root = self.dir.path().join("data/docker/registry/v2");
        let repository = root.join("repositories").join(name);
        for blob in layers.iter().chain([&config]) {
            write_blob(&root, blob)?;
            link(&repository.join("_layers"), blob)?;
        }
        write_blob(&root, &manifest)?;
        link(&repository.join("_manifests/revisions"), &manifest)?;
        let tags = repository.join("_manifests/tags").join(tag);
        link(&tags.join("index"), &manifest)?;
        write(&tags.join("current/link"), digest(&manifest).as_bytes())?;
        Ok(digest(&manifest))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn digest(bytes: &[u8]) -> String {
    let hex: Vec<String> = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{}", hex.concat())
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(path.parent().map_or_else(PathBuf::new, Path::to_owned))?;
    std::fs::write(path, bytes)
}

fn write_blob(root: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let digest = digest(bytes);
    let hex = digest.trim_start_matches("sha256:");
    write(&root.join("blobs/sha256").join(&hex[..2]).join(hex).join("data"), bytes)
}

fn link(dir: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let digest = digest(bytes);
    write(&dir.join("sha256").join(digest.trim_start_matches("sha256:")).join("link"), digest.as_bytes())
}
