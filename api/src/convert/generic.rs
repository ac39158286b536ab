//! Generic resources and plugins.

use crate::{
    object::{GenericResource, Plugin},
    wire,
};

/// Generic resources to their stored form.
#[must_use]
pub fn generic_out(resources: &[GenericResource]) -> Vec<wire::GenericResource> {
    let out = |resource: &GenericResource| match resource.clone() {
        GenericResource::Named { kind, value } => wire::GenericResource { kind, named: value, amount: 0 },
        GenericResource::Discrete { kind, amount } => {
            wire::GenericResource { kind, named: String::new(), amount }
        }
    };
    resources.iter().map(out).collect()
}

/// Generic resources from their stored form.
#[must_use]
pub fn generic_in(resources: Vec<wire::GenericResource>) -> Vec<GenericResource> {
    let read = |resource: wire::GenericResource| {
        let wire::GenericResource { kind, named, amount } = resource;
        if named.is_empty() {
            GenericResource::Discrete { kind, amount }
        } else {
            GenericResource::Named { kind, value: named }
        }
    };
    resources.into_iter().map(read).collect()
}

impl From<&Plugin> for wire::Plugin {
    fn from(plugin: &Plugin) -> Self {
        Self { kind: plugin.kind.clone(), name: plugin.name.clone() }
    }
}

impl From<wire::Plugin> for Plugin {
    fn from(plugin: wire::Plugin) -> Self {
        Self { kind: plugin.kind, name: plugin.name }
    }
}
