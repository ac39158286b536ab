//! Values of flags, in Docker's forms.

use skep_api::spec::{GenericAmount, Labels, Mount, PortConfig, TmpfsOptions, Ulimit, VolumeOptions};

/// `key=value`
pub(crate) fn filter(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or("invalid argument: bad format of filter (expected name=value)")?;
    Ok((key.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

/// `key[=value]`
pub(crate) fn labels(all: &[String]) -> Labels {
    all.iter()
        .map(|text| text.split_once('=').unwrap_or((text, "")))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// `NAME=value`, or `NAME` for the client's own value of it.
pub(crate) fn env(text: &str) -> Result<String, String> {
    let name = text.split('=').next().unwrap_or_default();
    if name.is_empty() {
        return Err(format!("invalid environment variable: {text}"));
    }
    if text.contains('=') {
        return Ok(text.to_owned());
    }
    Ok(std::env::var(text).map_or_else(|_| text.to_owned(), |value| format!("{text}={value}")))
}

/// `name:ip`, which the API takes as `ip name`.
pub(crate) fn host(text: &str) -> Result<String, String> {
    match text.split_once([':', '=']) {
        Some((name, ip)) if !name.is_empty() && ip.parse::<std::net::IpAddr>().is_ok() => {
            Ok(format!("{ip} {name}"))
        }
        Some(_) | None => Err(format!("bad format for add-host: \"{text}\" (name:ip expected)")),
    }
}

/// `spread=node.labels.zone`
pub(crate) fn spread(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some(("spread", descriptor)) if !descriptor.is_empty() => Ok(descriptor.to_owned()),
        Some((strategy, _)) => {
            Err(format!("unsupported placement preference {strategy} (only spread is supported)"))
        }
        None => Err("placement preference must be of the form \"strategy=value\"".to_owned()),
    }
}

/// `gpu=2`
pub(crate) fn generic(text: &str) -> Result<GenericAmount, String> {
    let invalid = || format!("invalid generic-resource request `{text}`, expected KIND=NUMBER");
    let (kind, value) = text.split_once('=').ok_or_else(invalid)?;
    let value = value.trim().parse().map_err(|_| invalid())?;
    Ok(GenericAmount::of(kind.trim(), value))
}

/// CPUs with up to nine decimals, as 1e-9 CPUs.
pub(crate) fn cpus(text: &str) -> Result<i64, String> {
    let invalid = || format!("failed to parse {text} as a rational number of CPUs");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 {
        return Err("value is too precise".to_owned());
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
    let nanos: i64 = format!("{fraction:0<9}").parse().map_err(|_| invalid())?;
    whole
        .checked_mul(1_000_000_000)
        .and_then(|all| all.checked_add(nanos))
        .filter(|n| *n >= 0)
        .ok_or_else(invalid)
}

/// Bytes with a unit.
pub(crate) fn bytes(text: &str) -> Result<i64, String> {
    skep_api::validate::size(text)
        .and_then(|bytes| i64::try_from(bytes).ok())
        .ok_or_else(|| format!("invalid size: '{text}'"))
}

/// `[[published:]target][/protocol]` with ranges, or `published=..,target=..,protocol=..,mode=..`.
pub(crate) fn ports(text: &str) -> Result<Ports, String> {
    if text.contains('=') {
        long_port(text).map(|port| Ports(vec![port]))
    } else {
        short_ports(text).map(Ports)
    }
}

/// What one `--publish` says: several ports for a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ports(pub(crate) Vec<PortConfig>);

fn port_number(text: &str) -> Result<u16, String> {
    text.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(|| format!("invalid port: {text}"))
}

fn protocol(text: &str) -> Result<String, String> {
    let word = text.to_ascii_lowercase();
    match word.as_str() {
        "tcp" | "udp" | "sctp" => Ok(word),
        _ => Err(format!("invalid protocol value '{text}'")),
    }
}

fn long_port(text: &str) -> Result<PortConfig, String> {
    let mut port =
        PortConfig { protocol: "tcp".into(), publish_mode: "ingress".into(), ..PortConfig::default() };
    for field in text.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(|| format!("invalid field: {field}"))?;
        match key.trim().to_ascii_lowercase().as_str() {
            "protocol" => port.protocol = protocol(value)?,
            "mode" => match value {
                "ingress" | "host" => port.publish_mode = value.to_owned(),
                _ => {
                    return Err(format!(
                        "invalid publish mode value ({value}): must be either 'ingress' or 'host'"
                    ));
                }
            },
            "target" => port.target_port = port_number(value)?,
            "published" => port.published_port = port_number(value)?,
            _ => return Err(format!("invalid field key: {key}")),
        }
    }
    if port.target_port == 0 {
        return Err(format!("missing mandatory field 'target' in '{text}'"));
    }
    Ok(port)
}

/// Inclusive; one port is a range of one.
fn range(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port_number(first)?, port_number(last)?);
    if last < first { Err(format!("invalid range format: {text}")) } else { Ok((first, last)) }
}

fn short_ports(text: &str) -> Result<Vec<PortConfig>, String> {
    let (numbers, word) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol(word)?;
    let (published, target) = match numbers.split_once(':') {
        Some((_, rest)) if rest.contains(':') => return Err("hostip is not supported".to_owned()),
        Some(("", target)) => (None, range(target)?),
        Some((published, target)) => (Some(range(published)?), range(target)?),
        None => (None, range(numbers)?),
    };
    if published.is_some_and(|(first, last)| last - first != target.1 - target.0) {
        return Err(format!("invalid ranges specified for container and host ports: {text}"));
    }
    Ok((target.0..=target.1)
        .map(|target_port| PortConfig {
            protocol: protocol.clone(),
            target_port,
            published_port: published.map_or(0, |(first, _)| first + (target_port - target.0)),
            publish_mode: "ingress".into(),
            ..PortConfig::default()
        })
        .collect())
}

/// `type=bind,source=/a,target=/b,readonly`
pub(crate) fn mount(text: &str) -> Result<Mount, String> {
    let mut mount = Mount { kind: "volume".into(), ..Mount::default() };
    let (mut tmpfs, mut volume) = (TmpfsOptions::default(), VolumeOptions::default());
    for field in text.split(',') {
        let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
        let key = key.trim().to_ascii_lowercase();
        let needs = || value.ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"));
        match key.as_str() {
            "type" => mount.kind = needs()?.to_ascii_lowercase(),
            "source" | "src" => mount.source = needs()?.to_owned(),
            "target" | "dst" | "destination" => mount.target = needs()?.to_owned(),
            "readonly" | "ro" => {
                mount.read_only = Some(switch(&key, value)?);
            }
            "volume-nocopy" => volume.no_copy = Some(switch(&key, value)?),
            "volume-label" => volume.labels.get_or_insert_default().extend(labels(&[needs()?.to_owned()])),
            "tmpfs-size" => tmpfs.size_bytes = Some(bytes(needs()?)?),
            "tmpfs-mode" => {
                let octal = needs()?;
                let bits =
                    u32::from_str_radix(octal, 8).map_err(|_| format!("invalid value for {key}: {octal}"))?;
                tmpfs.mode = Some(bits);
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if !["bind", "volume", "tmpfs"].contains(&mount.kind.as_str()) {
        return Err(format!("unsupported mount type '{}'", mount.kind));
    }
    if mount.target.is_empty() {
        return Err("target is required".to_owned());
    }
    if tmpfs != TmpfsOptions::default() {
        if mount.kind != "tmpfs" {
            return Err(format!("cannot mix 'tmpfs-*' options with mount type '{}'", mount.kind));
        }
        mount.tmpfs_options = Some(tmpfs);
    }
    if volume != VolumeOptions::default() {
        if mount.kind != "volume" {
            return Err(format!("cannot mix 'volume-*' options with mount type '{}'", mount.kind));
        }
        mount.volume_options = Some(volume);
    }
    Ok(mount)
}

/// A key that may stand alone.
fn switch(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(format!("invalid value for {key}: {other}")),
    }
}

/// `nofile=1024:2048`, or one number for both.
pub(crate) fn ulimit(text: &str) -> Result<Ulimit, String> {
    let invalid = || format!("invalid ulimit argument: {text}");
    let (name, numbers) = text.split_once('=').ok_or_else(invalid)?;
    let (soft, hard) = numbers.split_once(':').unwrap_or((numbers, numbers));
    let number = |text: &str| text.parse::<i64>().map_err(|_| invalid());
    Ok(Ulimit { name: name.to_owned(), soft: number(soft)?, hard: number(hard)?, ..Ulimit::default() })
}

/// Splits a command as a shell would: quotes and backslashes, no expansion.
pub(crate) fn words(text: &str) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                let next = chars.next().ok_or("EOF found after escape character")?;
                word.get_or_insert_default().push(next);
            }
            (None, _) if c.is_whitespace() => out.extend(word.take()),
            (_, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("EOF found when expecting closing quote".to_owned());
    }
    out.extend(word);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_both_forms() {
        let check = |text: &str, expect: Result<&str, &str>| {
            let got = ports(text).map(|Ports(all)| {
                let show = |p: &PortConfig| {
                    format!("{}:{}/{}/{}", p.published_port, p.target_port, p.protocol, p.publish_mode)
                };
                all.iter().map(show).collect::<Vec<_>>().join(" ")
            });
            assert_eq!(got.as_deref().map_err(String::as_str), expect, "{text}");
        };
        check("80", Ok("0:80/tcp/ingress"));
        check("8080:80", Ok("8080:80/tcp/ingress"));
        check("8080:80/udp", Ok("8080:80/udp/ingress"));
        check("8000-8001:80-81", Ok("8000:80/tcp/ingress 8001:81/tcp/ingress"));
        check("published=8080,target=80,mode=host", Ok("8080:80/tcp/host"));
        check("target=53,protocol=udp", Ok("0:53/udp/ingress"));
        check("published=80", Err("missing mandatory field 'target' in 'published=80'"));
        check("127.0.0.1:80:80", Err("hostip is not supported"));
        check(
            "8000-8002:80-81",
            Err("invalid ranges specified for container and host ports: 8000-8002:80-81"),
        );
        check("x:80", Err("invalid port: x"));
        check("80/icmp", Err("invalid protocol value 'icmp'"));
        check("target=80,foo=1", Err("invalid field key: foo"));
    }

    #[test]
    fn mounts() {
        let bind = mount("type=bind,src=/a,dst=/b,readonly").unwrap();
        assert_eq!((bind.kind.as_str(), bind.source.as_str(), bind.target.as_str()), ("bind", "/a", "/b"));
        assert_eq!(bind.read_only, Some(true));
        let tmpfs =
            mount("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1777").unwrap().tmpfs_options.unwrap();
        assert_eq!((tmpfs.size_bytes, tmpfs.mode), (Some(1 << 20), Some(0o1777)));
        for (text, expect) in [
            ("type=bind,src=/a", "target is required"),
            ("type=npipe,dst=/a", "unsupported mount type 'npipe'"),
            ("dst=/a,volume-driver=nfs", "unexpected key 'volume-driver' in 'volume-driver=nfs'"),
            ("dst=/a,volume-nocopy=x", "invalid value for volume-nocopy: x"),
            ("type=bind,src=/a,dst=/a,volume-nocopy", "cannot mix 'volume-*' options with mount type 'bind'"),
            ("source,dst=/a", "invalid field 'source' must be a key=value pair"),
        ] {
            assert_eq!(mount(text).unwrap_err(), expect, "{text}");
        }
    }

    #[test]
    fn amounts_and_words() {
        assert_eq!(cpus("0.5"), Ok(500_000_000));
        assert_eq!(cpus("2"), Ok(2_000_000_000));
        assert!(cpus("x").is_err() && cpus("1.0000000001").is_err());
        assert_eq!(bytes("64m"), Ok(64 << 20));
        assert_eq!(words(r#"/bin/sh -c "a 'b' c" d\ e"#).unwrap(), ["/bin/sh", "-c", "a 'b' c", "d e"]);
        assert!(words("'a").is_err());
        let both = ulimit("nofile=5").unwrap();
        assert_eq!((both.name.as_str(), both.soft, both.hard), ("nofile", 5, 5));
        assert_eq!(ulimit("nofile").unwrap_err(), "invalid ulimit argument: nofile");
        assert_eq!(host("db:10.0.0.1"), Ok("10.0.0.1 db".to_owned()));
    }
}
