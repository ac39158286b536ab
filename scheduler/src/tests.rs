//! Tables and properties of placement.

mod naive;
mod preempt;
mod properties;
mod tables;

use std::{collections::BTreeMap, sync::Arc};

use skep_api::{
    Id, NodeId,
    constraint::Constraint,
    object::{GenericResource, Node, NodeState},
};

use crate::{Ask, Crowd, GenericFree, NodeInfo, Picture};

const CPU: i64 = 1_000_000_000;
const GIB: i64 = 1 << 30;

fn id(n: u64) -> NodeId {
    NodeId(Id(u128::from(n)))
}

/// A ready node with 4 CPUs and 8 GiB free.
fn node(n: u64) -> NodeInfo {
    let mut node = Node { id: id(n), ..Node::default() };
    node.status.state = NodeState::Ready;
    node.description.hostname = format!("n{n}");
    (node.description.os, node.description.arch) = ("linux".into(), "x86_64".into());
    node.spec.labels.insert("zone".into(), if n.is_multiple_of(2) { "even" } else { "odd" }.into());
    NodeInfo { node: Arc::new(node), n_tasks: 0, nano_cpus: 4 * CPU, memory_bytes: 8 * GIB, generic: None }
}

fn edit(mut info: NodeInfo, edit: impl FnOnce(&mut Node)) -> NodeInfo {
    edit(Arc::make_mut(&mut info.node));
    info
}

fn labelled(info: NodeInfo, key: &str, value: &str) -> NodeInfo {
    edit(info, |node| drop(node.spec.labels.insert(key.into(), value.into())))
}

fn with_generic(info: NodeInfo, has: &[GenericResource]) -> NodeInfo {
    let generic = GenericFree::new(has, &BTreeMap::new(), &[].into());
    let info = edit(info, |node| node.description.generic = has.to_vec());
    NodeInfo { generic, ..info }
}

fn named(kind: &str, value: &str) -> GenericResource {
    GenericResource::Named { kind: kind.into(), value: value.into() }
}

fn discrete(kind: &str, amount: i64) -> GenericResource {
    GenericResource::Discrete { kind: kind.into(), amount }
}

fn constrained(text: &str) -> Ask {
    Ask { constraints: vec![(Constraint::parse(text).unwrap(), text.to_owned())], ..Ask::default() }
}

fn placed(nodes: impl IntoIterator<Item = NodeInfo>, ask: &Ask, crowd: &Crowd, n_tasks: usize) -> Vec<u64> {
    let given = Picture::new(nodes).place(ask, crowd, n_tasks).nodes;
    given.into_iter().map(|given| u64::try_from(given.node.0.0).unwrap()).collect()
}
