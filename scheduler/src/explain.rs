//! Why each node refuses a task, and what would make it fit: for a person who asks, node by node.

use std::collections::BTreeMap;

use skep_api::{
    NodeId,
    object::{Node, NodeState},
};

use crate::{
    Ask, Crowd, Filter, NodeInfo, Picture, Refused,
    filter::{has_plugin, platform},
};

/// Why no node takes a task, or which do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Explanation {
    /// Each node, in the order of their ids.
    pub nodes: Vec<NodeAnswer>,
    /// Small changes that each would make it fit somewhere: one a rule, the smallest of its kind.
    pub remedies: Vec<String>,
}

/// What one node says to a task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeAnswer {
    /// Which.
    pub node: NodeId,
    /// As people call it.
    pub name: String,
    /// All rules that refuse the task, in order, each with words for this node; none: it takes the task.
    pub refusals: Vec<(Filter, String)>,
    /// What should hold of it and does not, as it was written: others are tried before.
    pub missed: Vec<String>,
}

impl Explanation {
    /// Whether a node takes the task.
    #[must_use]
    pub fn fits_somewhere(&self) -> bool {
        self.nodes.iter().any(|answer| answer.refusals.is_empty())
    }

    /// How many nodes each rule refused; each counts for the first one.
    #[must_use]
    pub fn refused(&self) -> Refused {
        let mut refused = Refused::default();
        for (filter, _) in self.nodes.iter().filter_map(|answer| answer.refusals.first()) {
            *refused.0.entry(*filter).or_default() += 1;
        }
        refused
    }
}

impl Picture {
    /// What each node says to one more task.
    #[must_use]
    pub fn explain(&self, ask: &Ask, crowd: &Crowd) -> Explanation {
        explained(ask, crowd, self.nodes())
    }

    /// What the one node says that a task is for; it may be gone.
    #[must_use]
    pub fn explain_on(&self, ask: &Ask, crowd: &Crowd, node: NodeId) -> Explanation {
        explained(ask, crowd, self.node(node).into_iter())
    }
}

fn explained<'a>(ask: &Ask, crowd: &Crowd, infos: impl Iterator<Item = &'a NodeInfo>) -> Explanation {
    let mut nodes = Vec::new();
    let mut remedies: BTreeMap<Filter, Remedy> = BTreeMap::new();
    for info in infos {
        let answer = answer(ask, crowd, info);
        if let [(filter, _)] = answer.refusals.as_slice() {
            let found = remedy(*filter, ask, crowd, info, &answer.name);
            if remedies.get(filter).is_none_or(|best| found.size < best.size) {
                remedies.insert(*filter, found);
            }
        }
        nodes.push(answer);
    }
    Explanation { nodes, remedies: remedies.into_values().map(|remedy| remedy.words).collect() }
}

#[derive(Clone, Debug)]
struct Remedy {
    /// The least is the smallest change.
    size: i64,
    words: String,
}

fn answer(ask: &Ask, crowd: &Crowd, info: &NodeInfo) -> NodeAnswer {
    let node = &info.node;
    let hostname = &node.description.hostname;
    let name = if hostname.is_empty() { node.id.to_string() } else { hostname.clone() };
    let refuses = |filter: &Filter| !filter.check(ask, crowd, info, 0);
    let refusals = Filter::ORDER.into_iter().filter(refuses);
    let refusals = refusals.map(|filter| (filter, detail(filter, ask, crowd, info))).collect();
    let missed = ask.missed(node).map(|soft| soft.text.clone()).collect();
    NodeAnswer { node: node.id, name, refusals, missed }
}

fn detail(filter: Filter, ask: &Ask, crowd: &Crowd, info: &NodeInfo) -> String {
    match filter {
        Filter::Ready => away(&info.node).to_owned(),
        Filter::Resources => {
            let lacking = shortfalls(ask, info).into_iter().map(|lack| lack.words);
            format!("lacks {}", lacking.collect::<Vec<_>>().join(", "))
        }
        Filter::Plugin => {
            let missing = ask.plugins.iter().filter(|plugin| !has_plugin(&info.node, plugin));
            let names: Vec<String> =
                missing.map(|plugin| format!("{}/{}", plugin.kind, plugin.name)).collect();
            format!("has no plugin {}", names.join(", "))
        }
        Filter::Constraints => format!("does not satisfy {}", unmet(ask, info).join(", ")),
        Filter::Platform => {
            let (os, arch) = platform(&info.node);
            format!("the image is not made for {os}/{arch}")
        }
        Filter::HostPorts => match ask.host_ports.len() {
            ..=1 => format!("somebody has port {} open", ports(ask)),
            _ => format!("somebody has one or more of the ports {} open", ports(ask)),
        },
        Filter::MaxReplicas => {
            format!("has {} of at most {} tasks of the service", crowd.n_own(info.node.id), ask.max_replicas)
        }
    }
}

fn remedy(filter: Filter, ask: &Ask, crowd: &Crowd, info: &NodeInfo, name: &str) -> Remedy {
    match filter {
        Filter::Ready => {
            // Who is there has to be told only; who is not comes back or not.
            let is_there = info.node.status.state == NodeState::Ready;
            let words = if is_there { format!("make {name} active") } else { format!("bring {name} back") };
            Remedy { size: i64::from(!is_there), words }
        }
        Filter::Resources => {
            let lacking = shortfalls(ask, info);
            let words: Vec<String> = lacking.iter().map(|lack| lack.words.clone()).collect();
            let size = lacking.iter().map(|lack| lack.size).sum();
            Remedy { size, words: format!("reserve less, or free {} on {name}", words.join(" and ")) }
        }
        Filter::Plugin => Remedy { size: 0, words: format!("{name} {}", detail(filter, ask, crowd, info)) },
        Filter::Constraints => {
            let unmet = unmet(ask, info);
            let words = format!("leave {} out, or make {name} satisfy it", unmet.join(" and "));
            Remedy { size: i64::try_from(unmet.len()).unwrap_or(i64::MAX), words }
        }
        Filter::Platform => {
            let (os, arch) = platform(&info.node);
            Remedy {
                size: 0,
                words: format!("use an image that is made for {os}/{arch} as well, for {name}"),
            }
        }
        Filter::HostPorts => {
            let words = match ask.host_ports.len() {
                ..=1 => format!("free port {} on {name}", ports(ask)),
                _ => format!("free those of the ports {} that are open on {name}", ports(ask)),
            };
            Remedy { size: 0, words }
        }
        Filter::MaxReplicas => {
            let n_own = crowd.n_own(info.node.id);
            let words =
                format!("allow {} tasks of the service on a node, as on {name}", n_own.saturating_add(1));
            Remedy { size: i64::try_from(n_own).unwrap_or(i64::MAX), words }
        }
    }
}

fn away(node: &Node) -> &'static str {
    match node.status.state {
        NodeState::Down => "is down",
        NodeState::Unknown => "was not heard of yet",
        NodeState::Ready => match node.spec.availability {
            skep_api::spec::Availability::Active => "takes tasks",
            skep_api::spec::Availability::Pause => "is paused",
            skep_api::spec::Availability::Drain => "is drained",
        },
    }
}

/// What is missing of something, and how much that is of what is asked for, in thousandths.
struct Lack {
    size: i64,
    words: String,
}

fn shortfalls(ask: &Ask, info: &NodeInfo) -> Vec<Lack> {
    let amounts = &ask.amounts;
    let mut all = Vec::new();
    let mut add = |asked: i64, free: i64, words: &dyn Fn(i64) -> String| {
        let missing = asked.saturating_sub(free);
        if asked > 0 && missing > 0 {
            all.push(Lack { size: missing.saturating_mul(1_000) / asked, words: words(missing) });
        }
    };
    add(amounts.nano_cpus, info.nano_cpus, &cpus);
    // What is begun of one counts whole: so much is enough.
    add(amounts.memory_bytes, info.memory_bytes, &|bytes| {
        format!("{} MiB of memory", bytes.saturating_add((1 << 20) - 1) >> 20)
    });
    for (kind, asked) in &amounts.generic {
        add(*asked, info.generic(kind), &|missing| format!("{missing} of {kind}"));
    }
    all
}

fn cpus(nanos: i64) -> String {
    let text = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "1" { "1 CPU".to_owned() } else { format!("{text} CPUs") }
}

fn unmet<'a>(ask: &'a Ask, info: &NodeInfo) -> Vec<&'a str> {
    let unmet = ask.constraints.iter().filter(|(constraint, _)| !constraint.matches(&info.node));
    unmet.map(|(_, text)| text.as_str()).collect()
}

fn ports(ask: &Ask) -> String {
    let all: Vec<String> =
        ask.host_ports.iter().map(|(protocol, port)| format!("{port}/{protocol}")).collect();
    all.join(", ")
}
