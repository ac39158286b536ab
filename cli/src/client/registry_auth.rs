//! Who we are to an image's registry: what `docker login` left in its config file, or a helper program keeps.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose};
use serde::Deserialize;
use serde_json::json;
use skep_api::Secret;

/// The key of Docker Hub, of whose images the name says no registry.
const HUB: &str = "https://index.docker.io/v1/";
/// What a helper says as the user name of a token (docker-credential-helpers).
const TOKEN_USER: &str = "<token>";

/// `config.json` of docker's clients.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    auths: BTreeMap<String, Auth>,
    creds_store: String,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    /// `user:password` in base64.
    auth: String,
    identitytoken: String,
}

/// A helper's answer.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Kept {
    username: String,
    secret: String,
}

/// The `X-Registry-Auth` header for `image`'s registry; `None` when nobody is logged in there.
///
/// # Errors
/// The config file or a helper cannot be used; never with what is secret.
pub(super) fn header(image: &str) -> anyhow::Result<Option<Secret>> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let dir = variable("DOCKER_CONFIG").or_else(|| Some(variable("HOME")?.join(".docker")));
    let Some(path) = dir.map(|dir| dir.join("config.json")) else { return Ok(None) };
    from_file(&path, image)
}

fn from_file(path: &Path, image: &str) -> anyhow::Result<Option<Secret>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("cannot read {}", path.display()))?,
    };
    // What serde says of a value shows it.
    let Ok(config) = serde_json::from_str::<Config>(&text) else {
        bail!("{} is no config file of docker's: run 'docker login' again, or put it right", path.display());
    };
    let registry = registry_of(image);
    let helper = config.cred_helpers.get(registry).unwrap_or(&config.creds_store);
    let found = if helper.is_empty() {
        let auth = config.auths.iter().find(|(key, _)| host(key) == host(registry)).map(|(_, auth)| auth);
        match auth {
            None => None,
            Some(auth) => {
                read(auth).with_context(|| format!("{}: the login of {registry}", path.display()))?
            }
        }
    } else {
        ask(helper, registry)?
    };
    Ok(found.map(|(username, secret)| {
        let kind = if username == TOKEN_USER { "identitytoken" } else { "password" };
        let username = if username == TOKEN_USER { "" } else { &username };
        let header = json!({ "username": username, kind: secret, "serveraddress": registry });
        Secret::new(general_purpose::URL_SAFE.encode(header.to_string()).as_bytes())
    }))
}

/// The registry of an image's name, as docker's config has it.
fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => match first {
            "docker.io" | "index.docker.io" => HUB,
            other => other,
        },
        Some(_) | None => HUB,
    }
}

/// Keys may be URLs.
fn host(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split_once('/').map_or(rest, |(host, _)| host)
}

/// User name and password, or [`TOKEN_USER`] and a token; an empty login is none.
fn read(auth: &Auth) -> anyhow::Result<Option<(String, String)>> {
    if !auth.identitytoken.is_empty() {
        return Ok(Some((TOKEN_USER.to_owned(), auth.identitytoken.clone())));
    }
    if auth.auth.is_empty() {
        return Ok(None);
    }
    let bytes = general_purpose::STANDARD.decode(&auth.auth).ok();
    let pair = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = pair.as_deref().and_then(|pair| pair.split_once(':'));
    let (username, password) = pair.context("it is no user and password: run 'docker login' again")?;
    // Old clients pad with zeros.
    Ok(Some((username.to_owned(), password.trim_end_matches('\0').to_owned())))
}

/// Asks `docker-credential-<helper>`; one that has none fails.
fn ask(helper: &str, registry: &str) -> anyhow::Result<Option<(String, String)>> {
    let program = format!("docker-credential-{helper}");
    let cannot = || format!("cannot run {program}, which docker's config file names");
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(cannot)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(registry.as_bytes()).with_context(cannot)?;
    }
    let output = child.wait_with_output().with_context(cannot)?;
    if !output.status.success() {
        return Ok(None);
    }
    let Ok(kept) = serde_json::from_slice::<Kept>(&output.stdout) else {
        bail!("{program} gave no user name and secret for {registry}");
    };
    Ok(Some((kept.username, kept.secret)))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn found(config: &str, image: &str) -> Option<Value> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, config).unwrap();
        let header = from_file(&path, image).unwrap()?;
        Some(serde_json::from_slice(&general_purpose::URL_SAFE.decode(header.reveal()).unwrap()).unwrap())
    }

    #[test]
    fn the_login_of_the_images_registry_is_taken() {
        let config = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnBhc3M="},
            "https://reg.example.com:5000/v2/": {"auth": "YW5uOmE6Yg=="},
            "tokens.example.com": {"identitytoken": "t"}, "empty.example.com": {}
        }}"#;
        for (image, expect) in [
            ("alpine", Some(("hub", "password", "pass", HUB))),
            ("docker.io/library/alpine:3", Some(("hub", "password", "pass", HUB))),
            ("reg.example.com:5000/a/b:1", Some(("ann", "password", "a:b", "reg.example.com:5000"))),
            ("tokens.example.com/a", Some(("", "identitytoken", "t", "tokens.example.com"))),
            ("empty.example.com/a", None),
            ("other.example.com/a", None),
        ] {
            let expect = expect.map(|(username, kind, secret, address)| {
                json!({ "username": username, kind: secret, "serveraddress": address })
            });
            assert_eq!(found(config, image), expect, "{image}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_said_without_the_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        assert!(from_file(&path, "a").unwrap().is_none(), "no file is no login");
        for (config, expect) in [
            (r#"{"auths": {"h:1": {"auth": 17171717}}}"#, "is no config file of docker's"),
            (r#"{"auths": {"h:1": {"auth": "c2VjcmV0"}}}"#, "run 'docker login' again"),
            (r#"{"credsStore": "nowhere-to-be-found"}"#, "cannot run docker-credential-nowhere-to-be-found"),
        ] {
            std::fs::write(&path, config).unwrap();
            let Err(error) = from_file(&path, "h:1/a") else { panic!("{config} is of use") };
            let words = format!("{error:#}");
            assert!(words.contains(expect), "{words}");
            assert!(
                !words.contains("1717") && !words.contains("secret") && !words.contains("c2V"),
                "{words}"
            );
        }
    }
}
