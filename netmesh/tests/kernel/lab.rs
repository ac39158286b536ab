//! Nodes, a client and tasks as network namespaces on one bridge, for the tests on a real kernel.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use skep_netmesh::{Config, Desired, Endpoint, Ingress, Mesh, Peer, Protocol, PublishedPort, Remote};
use tokio::runtime::Runtime;

/// How long a connection may take that is expected to work.
const CONNECT_MAX: Duration = Duration::from_secs(2);

static N_LABS: AtomicUsize = AtomicUsize::new(0);

/// True if the tests can run here; says so loudly if not.
pub(crate) fn can_run() -> bool {
    let has_ip = Command::new("ip").arg("-V").output().is_ok();
    let can = rustix::process::geteuid().is_root() && has_ip;
    if !can {
        eprintln!("\n*** SKIPPED: the kernel tests of netmesh need root and the `ip` program ***\n");
    }
    can
}

fn run(line: &str) {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What a command prints inside a namespace.
pub(crate) fn output_in(netns: &Path, program: &str, args: &[&str]) -> String {
    let output = in_netns(netns, || Command::new(program).args(args).output().unwrap());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `f` on a thread inside a network namespace.
pub(crate) fn in_netns<T: Send>(netns: &Path, f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(netns);
            f()
        });
        thread.join().unwrap()
    })
}

fn enter(netns: &Path) {
    use std::os::fd::AsFd;
    let file = File::open(netns).unwrap();
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// Addresses end in the node's number; the client has 100.
pub(crate) struct Lab {
    name: String,
    dir: tempfile::TempDir,
    pub(crate) nodes: Vec<Node>,
    pub(crate) client: PathBuf,
}

pub(crate) struct Node {
    pub(crate) n: u8,
    pub(crate) netns: PathBuf,
    pub(crate) config: Config,
    pub(crate) mesh: Option<Mesh>,
    runtime: Option<Runtime>,
}

impl Lab {
    pub(crate) fn new(n_nodes: u8) -> Lab {
        let name = format!("nmt-{}-{}", std::process::id(), N_LABS.fetch_add(1, Ordering::Relaxed));
        let fabric = format!("{name}-f");
        let mut lab = Lab {
            client: PathBuf::from(format!("/var/run/netns/{name}-100")),
            dir: tempfile::tempdir().unwrap(),
            nodes: Vec::new(),
            name,
        };
        run(&format!("ip netns add {fabric}"));
        run(&format!("ip -n {fabric} link add br0 type bridge"));
        run(&format!("ip -n {fabric} link set br0 up"));
        for n in (1..=n_nodes).chain([100]) {
            let netns = format!("{}-{n}", lab.name);
            run(&format!("ip netns add {netns}"));
            run(&format!("ip -n {netns} link set lo up"));
            run(&format!("ip -n {fabric} link add p{n} type veth peer name uplink netns {netns}"));
            run(&format!("ip -n {fabric} link set p{n} master br0 up"));
            run(&format!("ip -n {netns} addr add {}/24 dev uplink", underlay(n)));
            run(&format!("ip -n {netns} link set uplink up"));
            if n <= n_nodes {
                let mut node = lab.node(n, netns);
                node.start();
                lab.nodes.push(node);
            }
        }
        lab
    }

    fn node(&self, n: u8, netns: String) -> Node {
        let config = Config::new(&self.dir.path().join(format!("n{n}")), underlay(n));
        let netns = Path::new("/var/run/netns").join(netns);
        Node { n, netns, config, mesh: None, runtime: None }
    }

    /// Whether the bridges hand their frames to the rules too, on all nodes.
    pub(crate) fn set_bridge_netfilter(&self, value: &str) {
        for node in &self.nodes {
            let path = "/proc/sys/net/bridge/bridge-nf-call-iptables";
            in_netns(&node.netns, || std::fs::write(path, value).unwrap());
        }
    }

    /// Applies on each node what it needs to serve these ports by these tasks (task, node).
    pub(crate) fn apply(&self, revision: u64, ports: &[PublishedPort], tasks: &[(Ipv4Addr, u8)]) {
        for node in &self.nodes {
            node.apply(self.desired(node.n, revision, ports, tasks));
        }
    }

    pub(crate) fn desired(
        &self,
        n: u8,
        revision: u64,
        ports: &[PublishedPort],
        tasks: &[(Ipv4Addr, u8)],
    ) -> Desired {
        let peers = self.nodes.iter().filter(|p| p.n != n);
        Desired {
            revision,
            ingress: Some(Ingress { addr: ingress(n), prefix: 16 }),
            peers: peers
                .map(|p| Peer {
                    node: format!("n{}", p.n),
                    data_path_addr: underlay(p.n),
                    ingress_addr: ingress(p.n),
                })
                .collect(),
            remotes: tasks
                .iter()
                .filter(|(_, on)| *on != n)
                .map(|(addr, on)| Remote { addr: *addr, data_path_addr: underlay(*on) })
                .collect(),
            ports: ports.to_vec(),
        }
    }

    /// Who answers on a node's port, asked by the client so many times.
    pub(crate) fn answers(&self, of: &Node, port: u16, n_times: usize) -> std::collections::BTreeSet<String> {
        (0..n_times).map(|_| greet(&self.client, underlay(of.n), port).unwrap().0).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mesh) = node.mesh.clone() {
                let torn = node.on(async move { mesh.teardown().await });
                if let Err(e) = torn {
                    eprintln!("teardown of node {}: {e:?}", node.n);
                }
            }
            node.stop();
        }
        let nodes = self.nodes.iter().map(|node| node.n.to_string());
        for end in nodes.chain(["100".to_owned(), "f".to_owned()]) {
            // A test that failed early has not made all of them.
            let _ = Command::new("ip").args(["netns", "del", &format!("{}-{end}", self.name)]).output();
        }
    }
}

impl Node {
    /// A daemon's life: a runtime whose threads are all in the node's namespace, and the mesh.
    pub(crate) fn start(&mut self) {
        let runtime = in_netns(&self.netns, || {
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
        });
        self.runtime = Some(runtime);
        let config = self.config.clone();
        self.mesh = Some(self.on(async move { Mesh::start(config).await.unwrap() }));
    }

    /// Ends the daemon's life; the kernel keeps what it has.
    pub(crate) fn stop(&mut self) {
        self.mesh = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
    }

    /// Runs on a worker of the node's own runtime, so that threads it makes are in the node's namespace.
    pub(crate) fn on<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let runtime = self.runtime.as_ref().unwrap();
        runtime.block_on(runtime.spawn(work)).unwrap()
    }

    pub(crate) fn mesh(&self) -> Mesh {
        self.mesh.clone().unwrap()
    }

    pub(crate) fn apply(&self, desired: Desired) {
        let mesh = self.mesh();
        self.on(async move { mesh.apply(desired).await.unwrap() });
    }

    pub(crate) fn attach(
        &self,
        task: &str,
        want: skep_netmesh::Attach,
    ) -> Result<skep_netmesh::Attachment, skep_netmesh::MeshError> {
        let (mesh, task) = (self.mesh(), task.to_owned());
        self.on(async move { mesh.attach(&task, want).await })
    }

    pub(crate) fn detach(&self, task: &str) {
        let (mesh, task) = (self.mesh(), task.to_owned());
        self.on(async move { mesh.detach(&task).await.unwrap() });
    }

    pub(crate) fn links(&self) -> Vec<String> {
        let text = output_in(&self.netns, "ip", &["-o", "link"]);
        text.lines().map(|l| l.split([':', '@']).nth(1).unwrap().trim().to_owned()).collect()
    }
}

pub(crate) fn underlay(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, n)
}

pub(crate) fn ingress(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 255, 128, n)
}

pub(crate) fn task_addr(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 255, 0, n)
}

pub(crate) fn port(protocol: Protocol, published: u16, endpoints: &[Ipv4Addr]) -> PublishedPort {
    let endpoints = endpoints.iter().map(|addr| Endpoint { addr: *addr, weight: 1 }).collect();
    PublishedPort { protocol, published, target: 80, endpoints }
}

/// Serves TCP and UDP on port 80 of a task until the test's process ends: says its name and the client's
/// address, then gives each line back.
pub(crate) fn serve(netns: &Path, name: &str) {
    let (tcp, udp) = in_netns(netns, || {
        (
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).unwrap(),
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 80)).unwrap(),
        )
    });
    let (greeting, datagram) = (name.to_owned(), name.to_owned());
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let greeting = greeting.clone();
            std::thread::spawn(move || stream.and_then(|stream| converse(stream, &greeting)));
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, client)) = udp.recv_from(&mut buffer) {
            // A client that is gone hears nothing.
            let _ = udp.send_to(datagram.as_bytes(), client);
        }
    });
}

fn converse(mut stream: TcpStream, name: &str) -> io::Result<()> {
    writeln!(stream, "{name} {}", stream.peer_addr()?.ip())?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        stream.write_all(line.as_bytes())?;
        line.clear();
    }
    Ok(())
}

/// An open connection to a task's server.
pub(crate) struct Talk {
    pub(crate) name: String,
    pub(crate) seen_as: IpAddr,
    stream: BufReader<TcpStream>,
}

impl Talk {
    /// True if the connection still gives back what it is sent.
    pub(crate) fn is_alive(&mut self) -> bool {
        let mut line = String::new();
        let asked = self.stream.get_mut().write_all(b"ping\n");
        asked.and_then(|()| self.stream.read_line(&mut line)).is_ok() && line == "ping\n"
    }
}

pub(crate) fn talk(from: &Path, to: Ipv4Addr, port: u16) -> io::Result<Talk> {
    in_netns(from, || {
        let to = SocketAddr::V4(SocketAddrV4::new(to, port));
        let stream = TcpStream::connect_timeout(&to, CONNECT_MAX)?;
        stream.set_read_timeout(Some(CONNECT_MAX))?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let (name, seen_as) = line.trim().split_once(' ').ok_or(io::ErrorKind::UnexpectedEof)?;
        let (name, seen_as) = (name.to_owned(), seen_as.parse().unwrap());
        Ok(Talk { name, seen_as, stream })
    })
}

/// The server's name, and the address that it saw.
pub(crate) fn greet(from: &Path, to: Ipv4Addr, port: u16) -> io::Result<(String, IpAddr)> {
    talk(from, to, port).map(|t| (t.name.clone(), t.seen_as))
}

/// The same by a datagram.
pub(crate) fn greet_udp(from: &Path, to: Ipv4Addr, port: u16) -> io::Result<String> {
    in_netns(from, || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(CONNECT_MAX))?;
        socket.connect((to, port))?;
        socket.send(b"hello")?;
        let mut buffer = [0; 64];
        let n = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
    })
}
