//! `skep swarm ca`: shows the root, and rotates it with progress, as the docker CLI does.

use std::{io::IsTerminal as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::client::{
    connection::Connection,
    duration,
    output::{self, print, text},
    progress::Screen,
};

/// How often the daemon is asked.
const POLL_EVERY: Duration = Duration::from_millis(200);

#[derive(Args, Debug)]
pub(crate) struct Ca {
    /// Rotate the swarm CA - if no certificate or key are provided, new ones will be generated
    #[arg(long)]
    rotate: bool,
    /// Path to the PEM-formatted root CA certificate to use for the new cluster
    #[arg(long, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    /// Path to the PEM-formatted root CA key to use for the new cluster
    #[arg(long, value_name = "FILE")]
    ca_key: Option<PathBuf>,
    /// Validity period for node certificates (ns|us|ms|s|m|h)
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    cert_expiry: Option<i64>,
    /// Certificate signing endpoint: protocol=cfssl,url=https://HOST/PATH[,cacert=FILE] (may be given several times)
    #[arg(long = "external-ca", value_name = "SPEC", value_parser = external_ca)]
    external_cas: Vec<Value>,
    /// Exit immediately instead of waiting for the root rotation to converge
    #[arg(short, long)]
    detach: bool,
    /// Suppress progress output
    #[arg(short, long)]
    quiet: bool,
}

/// An external CA as the command line has it, in the API's form (`CLI:cli/command/swarm/opts.go`).
///
/// # Errors
/// Docker's words.
pub(crate) fn external_ca(spec: &str) -> Result<Value, String> {
    let mut out = json!({ "Options": {} });
    for field in spec.split(',') {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"))?;
        match key.to_ascii_lowercase().as_str() {
            "protocol" if value.eq_ignore_ascii_case("cfssl") => out["Protocol"] = "cfssl".into(),
            "protocol" => return Err(format!("unrecognized external CA protocol {value}")),
            "url" => out["URL"] = value.into(),
            "cacert" => {
                let pem = pem_file(&PathBuf::from(value));
                out["CACert"] =
                    pem.map_err(|error| format!("unable to read CA cert for external CA: {error:#}"))?.into();
            }
            _ => out["Options"][key] = value.into(),
        }
    }
    for (key, word) in [("Protocol", "protocol"), ("URL", "url")] {
        if out.get(key).is_none() {
            return Err(format!("the external-ca option needs a {word}= parameter"));
        }
    }
    Ok(out)
}

fn pem_file(path: &PathBuf) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !text.contains("-----BEGIN ") {
        bail!("{}: file contents must be in PEM format", path.display());
    }
    Ok(text)
}

/// `skep swarm ca`.
///
/// # Errors
/// Flags that do not go together, in Docker's words; what the daemon says.
pub(crate) async fn run(daemon: &Connection, flags: &Ca) -> anyhow::Result<()> {
    let swarm = daemon.get("/swarm").await?;
    if !flags.rotate {
        for (flag, is_given) in [
            ("ca-cert", flags.ca_cert.is_some()),
            ("ca-key", flags.ca_key.is_some()),
            ("cert-expiry", flags.cert_expiry.is_some()),
            ("external-ca", !flags.external_cas.is_empty()),
        ] {
            if is_given {
                bail!("`--{flag}` flag requires the `--rotate` flag to update the CA");
            }
        }
        return show_root(&swarm);
    }
    if !flags.external_cas.is_empty() && flags.ca_cert.is_none() {
        bail!(
            "rotating to an external CA requires the `--ca-cert` flag to specify the external CA's cert - to add an external CA with the current root CA certificate, use the `update` command instead"
        );
    }
    if flags.ca_cert.is_some() && flags.external_cas.is_empty() && flags.ca_key.is_none() {
        bail!(
            "the --ca-cert flag requires that a --ca-key flag and/or --external-ca flag be provided as well"
        );
    }
    let spec = changed(&swarm, flags)?;
    daemon.post(&format!("/swarm/update?version={}", output::version(&swarm)?), &spec).await?;
    if flags.detach {
        return Ok(());
    }
    let is_done = tokio::select! {
        done = watch(daemon, flags.quiet) => done.map(|()| true)?,
        _ = tokio::signal::ctrl_c() => false,
    };
    if !is_done {
        return print(
            "\nOperation continuing in background.\nUse `skep swarm inspect` and `skep node ls` to check progress.\n",
        );
    }
    if flags.quiet { Ok(()) } else { show_root(&daemon.get("/swarm").await?) }
}

/// The settings that ask for the rotation.
fn changed(swarm: &Value, flags: &Ca) -> anyhow::Result<Value> {
    let read = |path: &Option<PathBuf>, flag| match path {
        Some(path) => pem_file(path).with_context(|| format!("--{flag}")),
        None => Ok(String::new()),
    };
    let (cert, key) = (read(&flags.ca_cert, "ca-cert")?, read(&flags.ca_key, "ca-key")?);
    let mut spec = swarm["Spec"].clone();
    let section = &mut spec["CAConfig"];
    if let Some(nanos) = flags.cert_expiry {
        section["NodeCertExpiry"] = nanos.into();
    }
    if !flags.external_cas.is_empty() {
        let mut all = flags.external_cas.clone();
        for ca in all.iter_mut().filter(|ca| ca.get("CACert").is_none()) {
            ca["CACert"] = cert.clone().into();
        }
        section["ExternalCAs"] = all.into();
    }
    if cert.is_empty() && key.is_empty() {
        let n = section.get("ForceRotate").and_then(Value::as_u64).unwrap_or_default();
        section["ForceRotate"] = (n + 1).into();
    } else {
        section["SigningCACert"] = cert.into();
        section["SigningCAKey"] = key.into();
    }
    Ok(spec)
}

fn show_root(swarm: &Value) -> anyhow::Result<()> {
    let root = text(swarm, "/TLSInfo/TrustRoot").trim();
    if root.is_empty() {
        bail!("no CA information available");
    }
    print(&format!("{root}\n"))
}

/// How far a rotation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Look {
    n_nodes: usize,
    n_certificates: usize,
    n_roots: usize,
    is_rotating: bool,
}

impl Look {
    fn of(swarm: &Value, nodes: &[Value]) -> Self {
        let is_rotating = swarm["RootRotationInProgress"] == Value::Bool(true);
        let asked = &swarm["TLSInfo"];
        let has = |node: &&Value, keys: &[&str]| {
            keys.iter().all(|key| node.pointer(&format!("/Description/TLSInfo/{key}")) == asked.get(key))
        };
        let is_certified = |node: &&Value| has(node, &["CertIssuerSubject", "CertIssuerPublicKey"]);
        let n_certificates = nodes.iter().filter(is_certified).count();
        // While certificates are still to come, no node has the next root.
        let is_late = n_certificates == nodes.len() && !is_rotating;
        let n_roots = if is_late { nodes.iter().filter(|node| has(node, &["TrustRoot"])).count() } else { 0 };
        Self { n_nodes: nodes.len(), n_certificates, n_roots, is_rotating }
    }

    fn is_done(self) -> bool {
        !self.is_rotating && self.n_certificates == self.n_nodes && self.n_roots == self.n_nodes
    }

    fn lines(self, root: &str) -> Vec<String> {
        vec![
            format!("desired root: {root}"),
            format!("  rotated TLS certificates: {}/{} nodes", self.n_certificates, self.n_nodes),
            format!("  rotated CA certificates:  {}/{} nodes", self.n_roots, self.n_nodes),
        ]
    }
}

async fn watch(daemon: &Connection, quiet: bool) -> anyhow::Result<()> {
    let mut screen = Screen::new(std::io::stdout().is_terminal(), quiet);
    loop {
        let swarm = daemon.get("/swarm").await?;
        let nodes = daemon.get("/nodes").await?;
        let look = Look::of(&swarm, nodes.as_array().map(Vec::as_slice).unwrap_or_default());
        let digest = skep_link::RootDigest::of_pem(text(&swarm, "/TLSInfo/TrustRoot"));
        screen.show(look.lines(&format!("sha256:{digest}")))?;
        if look.is_done() {
            return Ok(());
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn external_cas_are_read_as_docker_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\n").unwrap();
        let spec = format!("protocol=CFSSL,url=https://ca/sign,cacert={},label=x", file.display());
        assert_eq!(
            external_ca(&spec).unwrap(),
            json!({ "Protocol": "cfssl", "URL": "https://ca/sign", "CACert": "-----BEGIN CERTIFICATE-----\n",
                "Options": { "label": "x" } })
        );
        for (spec, expect) in [
            ("https://ca", "invalid field 'https://ca' must be a key=value pair"),
            ("protocol=acme,url=https://ca", "unrecognized external CA protocol acme"),
            ("url=https://ca", "the external-ca option needs a protocol= parameter"),
            ("protocol=cfssl", "the external-ca option needs a url= parameter"),
            ("protocol=cfssl,url=u,cacert=/nowhere", "unable to read CA cert for external CA"),
        ] {
            let error = external_ca(spec).unwrap_err();
            assert!(error.contains(expect), "{error}");
        }
    }

    #[test]
    fn a_rotation_is_done_when_all_nodes_have_certificate_and_root() {
        let tls = |root: &str, key: &str| json!({ "TrustRoot": root, "CertIssuerSubject": "s", "CertIssuerPublicKey": key });
        let node = |root, key| json!({ "Description": { "TLSInfo": tls(root, key) } });
        let swarm =
            |root, key, rotating| json!({ "TLSInfo": tls(root, key), "RootRotationInProgress": rotating });
        let counts = |swarm: &Value, nodes: &[Value]| {
            let look = Look::of(swarm, nodes);
            (look.n_certificates, look.n_roots, look.is_done())
        };
        let during = swarm("old", "new", true);
        assert_eq!(counts(&during, &[node("old", "old"), node("old", "new")]), (1, 0, false));
        assert_eq!(counts(&during, &[node("old", "new"), node("old", "new")]), (2, 0, false));
        let after = swarm("new", "new", false);
        assert_eq!(counts(&after, &[node("old", "new"), node("new", "new")]), (2, 1, false));
        assert_eq!(counts(&after, &[node("new", "new"), node("new", "new")]), (2, 2, true));
    }
}
