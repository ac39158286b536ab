//! What the Docker Engine says of itself.

use std::collections::BTreeSet;

use bollard::models::{PluginsInfo, SystemInfo, SystemVersion};
use skep_api::object::Plugin;

/// What the Docker Engine says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// Its version, such as `20.10.24`.
    pub version: String,
    /// The newest API that it speaks, as (major, minor).
    pub api: (u32, u32),
    /// What it has, sorted.
    pub plugins: Vec<Plugin>,
}

impl About {
    pub(super) fn of(version: SystemVersion, info: SystemInfo) -> Self {
        Self {
            version: version.version.unwrap_or_default(),
            api: version.api_version.as_deref().and_then(api_version).unwrap_or((1, 24)),
            plugins: plugins(info.plugins.unwrap_or_default()),
        }
    }
}

/// As dockerd tells its managers (`moby:daemon/cluster/executor/container/executor.go`).
fn plugins(found: PluginsInfo) -> Vec<Plugin> {
    let of = |kind: &'static str, names: Option<Vec<String>>| {
        let names = names.unwrap_or_default().into_iter();
        names.map(move |name| Plugin { kind: kind.to_owned(), name })
    };
    // The network between nodes is the mesh's, whatever the engine has.
    let overlay = of("Network", Some(vec!["overlay".to_owned()]));
    let all = overlay.chain(of("Volume", found.volume)).chain(of("Network", found.network));
    let all = all.chain(of("Authorization", found.authorization)).chain(of("Log", found.log));
    all.collect::<BTreeSet<Plugin>>().into_iter().collect()
}

/// `1.41`
fn api_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_says_is_read() {
        let names = |names: &[&str]| Some(names.iter().map(|&name| name.to_owned()).collect());
        let found = PluginsInfo {
            volume: names(&["local"]),
            network: names(&["overlay", "bridge"]),
            authorization: None,
            log: names(&["json-file", "awslogs"]),
        };
        let version = SystemVersion { api_version: Some("1.41".to_owned()), ..SystemVersion::default() };
        let info = SystemInfo { plugins: Some(found), ..SystemInfo::default() };
        let about = About::of(version, info);
        assert_eq!(about.api, (1, 41));
        let plugins: Vec<(&str, &str)> = about.plugins.iter().map(|p| (&*p.kind, &*p.name)).collect();
        assert_eq!(
            plugins,
            [
                ("Log", "awslogs"),
                ("Log", "json-file"),
                ("Network", "bridge"),
                ("Network", "overlay"),
                ("Volume", "local")
            ]
        );
        assert_eq!(api_version("x"), None);
    }
}
