//! Five daemons of the Docker Engine that is installed: one a network namespace, all else of its own too.
//!
//! The network is as that of `skep dev`: a bridge in a namespace, a veth to each node. Published ports are
//! not asked of it: they need IPVS, which not every kernel has.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;
use skep_e2e::{busybox_archive, request_within, run};

use crate::swarm::{ANSWER_WAIT_MAX, Daemons, LIMIT, Node, call, wait};

const N_NODES: u8 = 5;
/// Of all names that this makes on the machine: namespaces, cgroups.
const PREFIX: &str = "skep-peer";

pub(crate) struct Peer {
    dir: PathBuf,
    nodes: Vec<Node>,
    /// The daemons, to be reaped.
    children: Vec<Child>,
}

impl Peer {
    pub(crate) fn start() -> anyhow::Result<Self> {
        for program in ["dockerd", "ip", "nsenter", "unshare"] {
            shell(&format!("command -v {program}"))
                .with_context(|| format!("{program} has to be installed"))?;
        }
        let dir = PathBuf::from(format!("/var/lib/{PREFIX}"));
        let mut peer = Self { dir, nodes: Vec::new(), children: Vec::new() };
        // What a killed benchmark left.
        peer.clear();
        fs::create_dir_all(&peer.dir).with_context(|| format!("make {}", peer.dir.display()))?;
        shell(&format!("ip netns add {PREFIX}-br && ip -n {PREFIX}-br link add br0 type bridge"))?;
        shell(&format!("ip -n {PREFIX}-br link set br0 up"))?;
        for n in 1..=N_NODES {
            let name = format!("{PREFIX}-{n}");
            let address = Ipv4Addr::new(10, 251, 251, 10 + n);
            shell(&format!(
                "ip netns add {name} && ip -n {name} link set lo up && \
                 ip -n {name} link add eth0 type veth peer name port{n} netns {PREFIX}-br && \
                 ip -n {PREFIX}-br link set port{n} master br0 up && \
                 ip -n {name} addr add {address}/24 dev eth0 && ip -n {name} link set eth0 up && \
                 ip -n {name} route add default via 10.251.251.1"
            ))?;
            let socket = peer.dir.join(&name).join("docker.sock");
            peer.nodes.push(Node { name, socket, address, pid: 0 });
        }
        for node in peer.nodes.clone() {
            peer.spawn(&node)?;
        }
        for node in peer.nodes.clone() {
            peer.answers(&node)?;
        }
        let archive = busybox_archive()?;
        for node in &peer.nodes {
            let answer = request_within(
                &node.socket,
                "POST",
                "/images/load?quiet=1",
                &archive,
                "application/x-tar",
                ANSWER_WAIT_MAX,
            )?;
            if answer.status != 200 || answer.text().contains("\"error\"") {
                bail!("load busybox on {}: {}", node.name, answer.text());
            }
        }
        Ok(peer)
    }

    fn spawn(&mut self, node: &Node) -> anyhow::Result<()> {
        let dir = self.dir.join(&node.name);
        fs::create_dir_all(&dir)?;
        for stale in ["docker.pid", "exec/containerd/containerd.pid"] {
            drop(fs::remove_file(dir.join(stale)));
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("log"))?;
        let (name, dir) = (&node.name, dir.display());
        // Its own /run: plugins and containerd have fixed places there.
        let script = format!(
            "mount -t tmpfs tmpfs /run && hostname {name} && exec dockerd --data-root {dir}/data \
             --exec-root {dir}/exec -H unix://{dir}/docker.sock -p {dir}/docker.pid --cgroup-parent /{PREFIX}/{name}"
        );
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{name}"))
            .args(["unshare", "--mount", "--uts", "--propagation", "slave", "sh", "-c", &script])
            // Else each task first asks a registry.
            .env("DOCKER_SERVICE_PREFER_OFFLINE_IMAGE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start dockerd")?;
        let pid = i32::try_from(child.id())?;
        self.children.push(child);
        for known in self.nodes.iter_mut().filter(|n| n.name == node.name) {
            known.pid = pid;
        }
        Ok(())
    }

    fn answers(&self, node: &Node) -> anyhow::Result<()> {
        wait(&format!("{} answers (log in {})", node.name, self.dir.display()), || {
            call(node, "GET", "/version", &Value::Null).is_ok()
        })
    }

    /// Kills what is in the daemon's mount namespace (shims share it) and in its containers' cgroups.
    fn kill(&self, node: &Node) {
        let inode = |path: String| fs::metadata(path).ok().map(|m| m.ino());
        let own = inode("/proc/self/ns/mnt".to_owned());
        let mnt = inode(format!("/proc/{}/ns/mnt", node.pid)).filter(|found| Some(*found) != own);
        let cgroup = format!(":/{PREFIX}/{}/", node.name);
        let is_of_it = |pid: i32| {
            fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(&cgroup))
                || (mnt.is_some() && inode(format!("/proc/{pid}/ns/mnt")) == mnt)
                || fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    line.contains(&format!("{}/{}/", self.dir.display(), node.name))
                        && !line.starts_with("skep")
                })
        };
        // Containers that start while this looks are met by the next look.
        let _ = skep_e2e::try_wait_for(LIMIT, || {
            let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
            let pids = pids.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
            let found: Vec<i32> = pids.filter(|pid| is_alive(*pid) && is_of_it(*pid)).collect();
            for pid in &found {
                drop(crate::swarm::signal(*pid, rustix::process::Signal::KILL));
            }
            found.is_empty().then_some(())
        });
    }

    fn clear(&mut self) {
        let nodes = if self.nodes.is_empty() {
            let node = |n| Node {
                name: format!("{PREFIX}-{n}"),
                socket: PathBuf::new(),
                address: Ipv4Addr::UNSPECIFIED,
                pid: 0,
            };
            (1..=N_NODES).map(node).collect()
        } else {
            self.nodes.clone()
        };
        for node in &nodes {
            self.kill(node);
        }
        for child in &mut self.children {
            drop(child.wait());
        }
        let names = nodes.iter().map(|n| n.name.clone()).chain([format!("{PREFIX}-br")]);
        for name in names.filter(|name| Path::new("/run/netns").join(name).exists()) {
            drop(shell(&format!("ip netns del {name}")));
        }
        drop(shell(&format!(
            "for d in /sys/fs/cgroup/{PREFIX} /sys/fs/cgroup/*/{PREFIX}; do \
             [ -d $d ] && find $d -depth -type d -exec rmdir {{}} + ; done; rm -rf {}",
            self.dir.display()
        )));
    }
}

/// Neither gone nor waiting to be reaped.
fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

fn shell(script: &str) -> anyhow::Result<()> {
    let output = run(Command::new("sh").args(["-c", script]), LIMIT)?;
    if !output.is_ok() {
        bail!("{script}: {output}");
    }
    Ok(())
}

impl Daemons for Peer {
    fn label(&self) -> String {
        let version = self.nodes.first().and_then(|n| call(n, "GET", "/version", &Value::Null).ok());
        let version = version.and_then(|v| v["Version"].as_str().map(str::to_owned)).unwrap_or_default();
        format!("Docker {version}")
    }

    fn name(&self) -> &str {
        PREFIX
    }

    fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    fn lose(&mut self, node: &Node) -> anyhow::Result<()> {
        self.kill(node);
        Ok(())
    }

    fn restart(&mut self, node: &Node) -> anyhow::Result<()> {
        // Its containerd and its containers outlive a killed dockerd.
        self.spawn(node)?;
        self.answers(node)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.clear();
    }
}
