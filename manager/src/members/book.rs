//! Who the raft members are and where they are reached: from the applied state, and from a file that a
//! member needs whose state is behind, as after a restart or when it is new.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use skep_api::{NodeId, wire};
use skep_store::View;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

const FILE: &str = "peers.json";
const FORMAT: u32 = 1;

/// A raft member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// The node that it is.
    pub(crate) node: NodeId,
    /// `host:port`.
    pub(crate) addr: String,
}

#[derive(Serialize, Deserialize)]
struct File {
    format: u32,
    peers: Vec<FilePeer>,
}

#[derive(Serialize, Deserialize)]
struct FilePeer {
    raft_id: u64,
    node_id: String,
    addr: String,
}

/// Members by raft id.
type Entries = BTreeMap<u64, Entry>;

/// The book.
#[derive(Debug)]
pub(crate) struct Book {
    path: PathBuf,
    /// What the applied state says.
    stored: ArcSwap<Entries>,
    /// What the file or a manager said; of no weight any more once the state has caught up.
    told: ArcSwap<Entries>,
    /// Something was told.
    learned: Notify,
    /// Where members are, of either, the applied state's first.
    named: watch::Sender<Vec<String>>,
    /// What the file holds.
    filed: Mutex<Entries>,
    heard: Mutex<BTreeMap<NodeId, Instant>>,
    /// Why this manager is none any more: the swarm was made anew without it.
    dropped: watch::Sender<Option<String>>,
}

impl Book {
    /// With what an earlier start left in `dir`. A damaged file is as none: it only speeds up.
    pub(crate) fn open(dir: &Path) -> Arc<Self> {
        let path = dir.join(FILE);
        let told = read(&path).unwrap_or_default();
        Arc::new(Self {
            path,
            stored: ArcSwap::default(),
            filed: Mutex::new(told.clone()),
            named: watch::Sender::new(addrs(&Entries::new(), &told)),
            told: ArcSwap::from_pointee(told),
            learned: Notify::new(),
            heard: Mutex::default(),
            dropped: watch::Sender::new(None),
        })
    }

    /// Another manager said that the swarm was made anew without this one.
    pub(crate) fn drop_out(&self, words: &str) {
        self.dropped.send_if_modified(|dropped| {
            let is_news = dropped.is_none();
            dropped.get_or_insert_with(|| words.to_owned());
            is_news
        });
    }

    /// Follows whether that was said.
    pub(crate) fn dropped(&self) -> watch::Receiver<Option<String>> {
        self.dropped.subscribe()
    }

    /// Where a member is reached.
    pub(crate) fn addr(&self, raft_id: u64) -> Option<String> {
        let stored = self.stored.load();
        if let Some(entry) = stored.get(&raft_id) {
            return Some(entry.addr.clone());
        }
        self.told.load().get(&raft_id).map(|entry| entry.addr.clone())
    }

    /// Whether a manager, or the file, named this node as a member, and the state here may be older.
    pub(crate) fn is_introduced(&self, node: NodeId) -> bool {
        self.told.load().values().any(|entry| entry.node == node)
    }

    /// What a manager said of the members.
    pub(crate) fn learn(&self, peers: &[wire::RaftPeer]) {
        let entry = |peer: &wire::RaftPeer| {
            let node = NodeId::from_bytes(&peer.node_id)?;
            Some((peer.raft_id, Entry { node, addr: peer.addr.clone() }))
        };
        let entries: Entries = peers.iter().filter_map(entry).collect();
        write(&self.path, &entries);
        self.filed.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&entries);
        self.told.store(Arc::new(entries));
        self.name();
        self.learned.notify_one();
    }

    /// Waits until a manager says who the members are.
    pub(crate) async fn learned(&self) {
        self.learned.notified().await;
    }

    /// Takes over the applied state. From when it has caught up it alone counts, and is what the file holds.
    pub(crate) fn follow(&self, view: &View, caught_up: bool) {
        let stored = members(view);
        self.know(stored.values().map(|entry| entry.node).collect());
        if caught_up && view.cluster().is_some() {
            let mut filed = self.filed.lock().unwrap_or_else(PoisonError::into_inner);
            if stored != *filed {
                write(&self.path, &stored);
                filed.clone_from(&stored);
            }
            // Emptied: nobody is introduced to a member that knows for itself.
            self.told.store(Arc::default());
        }
        if stored != **self.stored.load() {
            self.stored.store(Arc::new(stored));
        }
        self.name();
    }

    fn name(&self) {
        let addrs = self.addrs();
        self.named.send_if_modified(|named| {
            let is_news = *named != addrs;
            *named = addrs;
            is_news
        });
    }

    /// Follows where members were last known to be.
    pub(crate) fn named(&self) -> watch::Receiver<Vec<String>> {
        self.named.subscribe()
    }

    /// Members that are new to this one count as heard for now; those that are none any more are forgotten.
    fn know(&self, members: BTreeSet<NodeId>) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|node, _| members.contains(node));
        for node in members {
            heard.entry(node).or_insert_with(Instant::now);
        }
    }

    /// Where a member was last known to be, by node: for whoever looks for any of them.
    pub(crate) fn addrs(&self) -> Vec<String> {
        addrs(&self.stored.load(), &self.told.load())
    }

    /// A member called this one.
    pub(crate) fn heard(&self, node: NodeId) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(node, Instant::now());
    }

    /// When a member last called this one, or when this one learnt of it; `None` of what is no member.
    pub(crate) fn last_heard(&self, node: NodeId) -> Option<Instant> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).get(&node).copied()
    }
}

/// The members and those about to be, by the applied state.
pub(crate) fn members(view: &View) -> Entries {
    let members = view.nodes().filter(|node| node.raft_id != 0 && !node.advertise_addr.is_empty());
    members.map(|node| (node.raft_id, Entry { node: node.id, addr: node.advertise_addr.clone() })).collect()
}

fn addrs(stored: &Entries, told: &Entries) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let all = stored.values().chain(told.values()).map(|entry| &entry.addr);
    all.filter(|addr| seen.insert(*addr)).cloned().collect()
}

/// How many peers the file in `dir` names; `None` if it cannot be read.
pub(crate) fn read_peers(dir: &Path) -> Option<usize> {
    read(&dir.join(FILE)).map(|entries| entries.len())
}

fn read(path: &Path) -> Option<Entries> {
    let file: File = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let entry =
        |peer: FilePeer| Some((peer.raft_id, Entry { node: peer.node_id.parse().ok()?, addr: peer.addr }));
    (file.format == FORMAT).then(|| file.peers.into_iter().filter_map(entry).collect())
}

fn write(path: &Path, entries: &Entries) {
    let peer = |(raft_id, entry): (&u64, &Entry)| FilePeer {
        raft_id: *raft_id,
        node_id: entry.node.to_string(),
        addr: entry.addr.clone(),
    };
    let file = File { format: FORMAT, peers: entries.iter().map(peer).collect() };
    let new = path.with_extension("json.new");
    let written = serde_json::to_vec_pretty(&file)
        .map_err(std::io::Error::other)
        .and_then(|bytes| std::fs::write(&new, bytes))
        .and_then(|()| std::fs::rename(&new, path));
    // It is an aid for the next start, which also asks the managers that the agent knows.
    if let Err(error) = written {
        tracing::warn!(err = %error, file = %path.display(), "cannot keep the managers' addresses");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skep_api::{
        Id,
        object::{Cluster, Node},
    };
    use skep_store::{Change, Proposal, Store};

    use super::*;

    fn peer(raft_id: u64, node: u128, addr: &str) -> wire::RaftPeer {
        wire::RaftPeer { raft_id, addr: addr.to_owned(), node_id: NodeId(Id(node)).to_bytes() }
    }

    fn view(nodes: &[(u128, u64, &str)]) -> View {
        let mut store = Store::default();
        let node = |(id, raft_id, addr): &(u128, u64, &str)| {
            let advertise_addr = (*addr).to_owned();
            Change::PutNode(Arc::new(Node {
                id: NodeId(Id(*id)),
                raft_id: *raft_id,
                advertise_addr,
                ..Node::default()
            }))
        };
        let mut changes = vec![Change::PutCluster(Arc::new(Cluster::default()))];
        changes.extend(nodes.iter().map(node));
        store.apply(&Proposal { changes, ..Proposal::default() }.encode());
        store.view()
    }

    #[test]
    fn what_was_told_counts_until_the_state_has_caught_up() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::open(dir.path());
        assert_eq!(book.addr(1), None);
        book.learn(&[peer(1, 1, "a:1"), peer(2, 2, "b:1")]);
        // The state is older: node 2 is not in it, node 1 was elsewhere.
        book.follow(&view(&[(1, 1, "old:1"), (9, 0, "")]), false);
        assert_eq!((book.addr(1).as_deref(), book.addr(2).as_deref()), (Some("old:1"), Some("b:1")));
        assert!(book.is_introduced(NodeId(Id(2))) && !book.is_introduced(NodeId(Id(9))));

        book.follow(&view(&[(1, 1, "a:1"), (3, 3, "c:1")]), true);
        assert_eq!((book.addr(2), book.addr(3).as_deref()), (None, Some("c:1")));
        assert!(!book.is_introduced(NodeId(Id(2))), "it is not in the state, which is whole");

        assert!(book.last_heard(NodeId(Id(3))).is_some(), "it has had no time to call yet");
        assert!(book.last_heard(NodeId(Id(2))).is_none());

        assert_eq!(*book.named().borrow(), ["a:1", "c:1"]);
        let again = Book::open(dir.path());
        let mut named = again.named();
        assert_eq!(*named.borrow_and_update(), ["a:1", "c:1"], "as the file says, until its state is there");
        again.follow(&view(&[(1, 1, "moved:1")]), false);
        assert_eq!(*named.borrow_and_update(), ["moved:1", "a:1", "c:1"]);
        again.follow(&view(&[(1, 1, "moved:1")]), false);
        assert!(!named.has_changed().unwrap(), "nothing is new");
        assert_eq!((again.addr(1).as_deref(), again.addr(3).as_deref()), (Some("moved:1"), Some("c:1")));
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(Book::open(dir.path()).addr(1), None);
    }
}
