//! Five daemons of skep, by `skep dev`.

use anyhow::Context as _;
use serde_json::Value;
use skep_e2e::Cluster;

use crate::swarm::{Daemons, Node, call};

pub(crate) struct Ours {
    cluster: Cluster,
    engine: String,
    nodes: Vec<Node>,
}

impl Ours {
    pub(crate) fn start(engine: &str) -> Self {
        let mut builder = Cluster::builder(1, 4).flag("--no-swarm");
        // The default of `skep dev` is the embedded one.
        if engine != "embedded" {
            builder = builder.flag("--engine").flag(engine);
        }
        let mut ours = Self { cluster: builder.start(), engine: engine.to_owned(), nodes: Vec::new() };
        ours.read();
        ours
    }

    fn read(&mut self) {
        let node = |n: &skep_e2e::Node| Node {
            name: n.name.clone(),
            socket: n.socket_path().to_owned(),
            address: n.address,
            pid: n.pid.unwrap_or_default(),
        };
        self.nodes = self.cluster.nodes().iter().map(node).collect();
    }
}

impl Daemons for Ours {
    fn label(&self) -> String {
        let version = self.nodes.first().and_then(|n| call(n, "GET", "/version", &Value::Null).ok());
        let version = version.and_then(|v| v["Version"].as_str().map(str::to_owned)).unwrap_or_default();
        format!("skep {version}, {} engine", self.engine)
    }

    fn name(&self) -> &str {
        self.cluster.name()
    }

    fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    fn lose(&mut self, node: &Node) -> anyhow::Result<()> {
        self.cluster.kill_node(&node.name, true);
        Ok(())
    }

    fn restart(&mut self, node: &Node) -> anyhow::Result<()> {
        let output = self.cluster.restart_node(&node.name);
        output.is_ok().then_some(()).with_context(|| format!("restart {}: {output}", node.name))?;
        self.read();
        Ok(())
    }
}
