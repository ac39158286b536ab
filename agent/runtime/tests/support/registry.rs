//! Registries to pull from: Debian's docker-registry on this machine, and one that answers what it is told.
//!
//! What is missing is said on stderr, uncaptured.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::lab::{LIMIT, image_config, say};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A docker-registry, ended when dropped.
#[derive(Debug)]
pub(crate) struct Registry {
    process: Child,
    /// `address:port`.
    pub(crate) host: String,
    client_protocol: ClientProtocol,
    auth: RegistryAuth,
}

/// How a registry is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    Open,
    /// Only `me` with the password `secret`.
    Password,
    /// By TLS with a certificate of the CA in `ca.crt` of its directory.
    Tls,
}

impl Registry {
    /// Starts one on `address` with its files in `dir`; `None` (said loudly) where there is no docker-registry.
    pub(crate) async fn start(dir: &Path, address: IpAddr, guard: Guard) -> Option<Registry> {
        let port = TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port();
        let host = format!("{address}:{port}");
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n",
            dir.join("data").display()
        );
        if guard == Guard::Password {
            let file = dir.join("htpasswd");
            let made = Command::new("htpasswd").args(["-Bbn", "me", "secret"]).output();
            let Ok(made) = made else {
                say("htpasswd is missing: apt-get install apache2-utils");
                return None;
            };
            std::fs::write(&file, made.stdout).unwrap();
            config += &format!("auth:\n  htpasswd: {{realm: test, path: {}}}\n", file.display());
        }
        config += &format!("http:\n  addr: {host}\n");
        if guard == Guard::Tls {
            certificates(dir, address);
            let (cert, key) = (dir.join("own.crt"), dir.join("own.key"));
            config += &format!("  tls: {{certificate: {}, key: {}}}\n", cert.display(), key.display());
        }
        let file = dir.join("config.yml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("docker-registry");
        let started = command.arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(process) = started else {
            say("docker-registry is missing: apt-get install docker-registry");
            return None;
        };
        let registry = Registry {
            process,
            client_protocol: if guard == Guard::Tls { ClientProtocol::Https } else { ClientProtocol::Http },
            auth: match guard {
                Guard::Password => RegistryAuth::Basic("me".into(), "secret".into()),
                Guard::Open | Guard::Tls => RegistryAuth::Anonymous,
            },
            host,
        };
        let listens = async {
            while tokio::net::TcpStream::connect(&registry.host).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, listens).await.unwrap();
        Some(registry)
    }

    fn client(&self) -> Client {
        let _once = rustls::crypto::ring::default_provider().install_default();
        let config = ClientConfig {
            protocol: self.client_protocol.clone(),
            accept_invalid_certificates: true,
            ..ClientConfig::default()
        };
        Client::try_from(config).unwrap()
    }

    fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.host).parse().unwrap()
    }

    /// Pushes an image of these layers, packed as their media types say; its manifest's digest.
    pub(crate) async fn push(&self, name: &str, layers: &[(Vec<u8>, &str, Vec<u8>)]) -> String {
        let plain: Vec<Vec<u8>> = layers.iter().map(|(plain, ..)| plain.clone()).collect();
        let config = image_config(&plain, serde_json::json!({ "Cmd": ["sh"] }));
        let config =
            Config::new(config.into_bytes(), "application/vnd.oci.image.config.v1+json".into(), None);
        let layers: Vec<_> = layers
            .iter()
            .map(|(_, kind, packed)| ImageLayer::new(packed.clone(), (*kind).to_owned(), None))
            .collect();
        let (client, reference) = (self.client(), self.reference(name));
        let pushed = client.push(&reference, &layers, config, &self.auth, None).await.unwrap();
        pushed.manifest_url.rsplit('/').next().unwrap().to_owned()
    }

    /// Pushes a manifest or an index as it is.
    pub(crate) async fn push_document(&self, name: &str, text: &str, kind: &str) {
        let client = self.client();
        client.store_auth_if_needed(&self.host, &self.auth).await;
        let (reference, bytes) = (self.reference(name), text.as_bytes().to_vec());
        client.push_manifest_raw(&reference, bytes, kind.parse().unwrap()).await.unwrap();
    }

    /// How many bytes the manifest of this digest has.
    pub(crate) async fn size_of(&self, name: &str) -> usize {
        let (client, reference) = (self.client(), self.reference(name));
        client.pull_manifest_raw(&reference, &self.auth, &[OCI_MANIFEST]).await.unwrap().0.len()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// A CA, and a certificate of its for the address.
fn certificates(dir: &Path, address: IpAddr) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(vec![address.to_string()]).unwrap();
    let own = own.signed_by(&key, &issuer).unwrap();
    std::fs::write(dir.join("ca.crt"), ca_cert.pem()).unwrap();
    std::fs::write(dir.join("own.crt"), own.pem()).unwrap();
    std::fs::write(dir.join("own.key"), key.serialize_pem()).unwrap();
}

/// An address of this machine that is not loopback, where there is one.
pub(crate) fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// What a [`liar`] answers with.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// Status, type and body.
    Body(u16, String, Vec<u8>),
    /// Half of the body, then nothing more.
    Hang(Vec<u8>),
}

/// A registry that answers each path as told, 404 for the rest; its `address:port`.
pub(crate) async fn liar(answers: BTreeMap<String, Answer>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answers = answers.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        // The beginning of TLS, which it does not speak.
                        Ok(0x16) if head.is_empty() => return,
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let path = head.split_whitespace().nth(1).unwrap_or_default();
                let missing = Answer::Body(404, "application/json".into(), b"{}".to_vec());
                let (status, kind, length, body) = match answers.get(path).unwrap_or(&missing) {
                    Answer::Body(status, kind, body) => (*status, kind.clone(), body.len(), body.clone()),
                    Answer::Hang(body) => {
                        (200, "application/octet-stream".into(), body.len(), body[..body.len() / 2].to_vec())
                    }
                };
                let head = format!(
                    "HTTP/1.1 {status} x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
                );
                let _gone = stream.write_all(head.as_bytes()).await;
                let _gone = stream.write_all(&body).await;
                if length > body.len() {
                    // Until the client goes.
                    let _gone = stream.read_u8().await;
                }
            });
        }
    });
    host
}
