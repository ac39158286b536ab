//! Streams of task logs: asks the nodes for them and hands on what they publish.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use skep_api::{NodeId, TaskId, id::IdSource, wire};
use skep_store::View;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

use crate::{
    SystemIds,
    dispatcher::{Shared, Whereabouts},
    tell,
};

/// Lines that may wait for one reader: it is slower than the nodes, they wait for it.
const LINES_MAX: usize = 4096;
/// A node that has not begun to publish by then cannot reach this manager: its lines are not waited for.
const BEGIN_MAX: Duration = Duration::from_secs(5);
/// A node that broke off is waited for so long: it goes on by another connection (`agent/src/logs.rs`).
const RESUME_MAX: Duration = Duration::from_secs(10);
/// Streams that may be open at once.
const STREAMS_MAX: usize = 256;

/// Which lines are wanted.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// Stay until all tasks have ended.
    pub follow: bool,
    /// The last lines of each task; `None`: all.
    pub tail: Option<u64>,
    /// Unix nanoseconds; 0: from the start.
    pub since: i64,
    /// Unix nanoseconds; 0: to the end.
    pub until: i64,
    /// Lines of standard output.
    pub stdout: bool,
    /// Lines of standard error.
    pub stderr: bool,
}

/// What a reader gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogItem {
    /// A line with its end.
    Line {
        /// Whose.
        task: TaskId,
        /// Unix nanoseconds.
        time: i64,
        /// Or standard output.
        stderr: bool,
        /// As written.
        data: Vec<u8>,
    },
    /// Something is missing.
    Warning(String),
}

#[derive(Debug)]
struct LogStream {
    lines: mpsc::Sender<LogItem>,
    /// The nodes that have not said that they have no more.
    waiting_for: BTreeMap<NodeId, Source>,
}

/// What one node feeds into a stream.
#[derive(Debug)]
struct Source {
    /// It may speak for these.
    tasks: BTreeSet<TaskId>,
    /// How often it has begun to publish; the last of these calls counts.
    n_calls: u32,
    /// The lines that were taken in.
    n_lines: u64,
}

/// One call of a node that publishes. Dropped before its end, as with its connection, it is a break.
struct Publishing {
    broker: Arc<LogBroker>,
    id: String,
    node: NodeId,
    call: u32,
    lines: mpsc::Sender<LogItem>,
    is_over: bool,
}

/// One reader's end of a stream; dropping it tells the nodes to stop.
pub(crate) struct LogReader {
    lines: mpsc::Receiver<LogItem>,
    id: String,
    nodes: Vec<NodeId>,
    shared: Arc<Shared>,
}

impl LogReader {
    /// Opens a stream of these tasks' lines. `None`: too many are open. It ends when every node has said
    /// that it has no more, or when the reader is dropped.
    pub(crate) fn open(
        shared: &Arc<Shared>,
        view: &View,
        tasks: &[TaskId],
        query: &LogQuery,
    ) -> Option<Self> {
        let mut by_node: BTreeMap<NodeId, Vec<TaskId>> = BTreeMap::new();
        for task in tasks.iter().filter_map(|id| view.task(*id)) {
            if let Some(node) = task.node_id {
                by_node.entry(node).or_default().push(task.id);
            }
        }
        let (lines, reader) = mpsc::channel(LINES_MAX);
        let id = SystemIds::default().next_id().to_string();
        if !by_node.is_empty() && !shared.logs.insert(&id, &by_node, lines) {
            return None;
        }
        for (node, tasks) in &by_node {
            ask(shared, view, *node, wanted(&id, tasks, query));
        }
        let (logs, stream) = (Arc::clone(&shared.logs), id.clone());
        tokio::spawn(async move {
            tokio::time::sleep(BEGIN_MAX).await;
            logs.give_up_silent(&stream);
        });
        Some(Self { lines: reader, id, nodes: by_node.into_keys().collect(), shared: Arc::clone(shared) })
    }

    /// The next line or warning; `None` when every node has said that it has no more.
    pub(crate) async fn recv(&mut self) -> Option<LogItem> {
        self.lines.recv().await
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        if !self.shared.logs.remove(&self.id) {
            return;
        }
        // The nodes need not send any more.
        for node in &self.nodes {
            let unwanted = wire::LogsUnwanted { id: self.id.clone() };
            let message = wire::manager_message::Message::LogsUnwanted(unwanted);
            if let Whereabouts::Here = self.shared.hub.whereabouts(*node) {
                self.shared.hub.send_aside(*node, message);
            } else {
                let (shared, node) = (Arc::clone(&self.shared), *node);
                // A word that is lost costs its node what it sends until we break that off.
                tokio::spawn(async move { tell::send(&shared, node, message).await });
            }
        }
    }
}

/// The open streams.
#[derive(Debug, Default)]
pub(crate) struct LogBroker {
    streams: Mutex<BTreeMap<String, LogStream>>,
}

impl LogBroker {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, LogStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream begins. False: too many are open.
    fn insert(
        &self,
        id: &str,
        by_node: &BTreeMap<NodeId, Vec<TaskId>>,
        lines: mpsc::Sender<LogItem>,
    ) -> bool {
        let mut streams = self.lock();
        if streams.len() >= STREAMS_MAX {
            return false;
        }
        let source =
            |tasks: &Vec<TaskId>| Source { tasks: tasks.iter().copied().collect(), n_calls: 0, n_lines: 0 };
        let waiting_for = by_node.iter().map(|(node, tasks)| (*node, source(tasks))).collect();
        streams.insert(id.to_owned(), LogStream { lines, waiting_for });
        true
    }

    /// A stream ends. Says whether some node still feeds it.
    fn remove(&self, id: &str) -> bool {
        self.lock().remove(id).is_some()
    }

    /// A node cannot be asked: what it has will not come.
    fn node_unavailable(&self, id: &str, node: NodeId) {
        if let Some(stream) = self.lock().get(id) {
            // A reader whose queue is full sees the end all the same.
            stream.lines.try_send(unavailable(node)).unwrap_or_default();
        }
        self.node_ended(id, node);
    }

    /// A node's session is over: what it has not begun to publish will not come.
    pub(crate) fn node_gone(&self, node: NodeId) {
        let mut streams = self.lock();
        for stream in streams.values_mut() {
            if stream.waiting_for.get(&node).is_some_and(|source| source.n_calls == 0) {
                stream.waiting_for.remove(&node);
                // A reader whose queue is full sees the end all the same.
                stream.lines.try_send(unavailable(node)).unwrap_or_default();
            }
        }
        streams.retain(|_, stream| !stream.waiting_for.is_empty());
    }

    /// What nodes that have not begun to publish have will not come.
    fn give_up_silent(&self, id: &str) {
        let silent: Vec<NodeId> = {
            let streams = self.lock();
            let Some(stream) = streams.get(id) else { return };
            let silent = stream.waiting_for.iter().filter(|(_, source)| source.n_calls == 0);
            silent.map(|(node, _)| *node).collect()
        };
        silent.into_iter().for_each(|node| self.node_unavailable(id, node));
    }

    fn node_ended(&self, id: &str, node: NodeId) {
        let mut streams = self.lock();
        let Some(stream) = streams.get_mut(id) else { return };
        stream.waiting_for.remove(&node);
        if stream.waiting_for.is_empty() {
            streams.remove(id);
        }
    }

    /// Takes in what a node publishes, up to the end of one call.
    pub(crate) async fn take_in(
        self: &Arc<Self>,
        node: NodeId,
        mut batches: impl Stream<Item = Result<wire::LogBatch, Status>> + Unpin,
    ) {
        let mut call: Option<Publishing> = None;
        while let Some(Ok(batch)) = batches.next().await {
            let begun = call.take().or_else(|| Publishing::begin(self, &batch.id, node));
            let Some(mut publishing) = begun.filter(|call| call.id == batch.id) else { return };
            let is_end = batch.end;
            publishing.is_over = !publishing.take_in(batch).await || is_end;
            if publishing.is_over {
                return;
            }
            call = Some(publishing);
        }
    }

    /// The call is over; a later one of the node may have taken its place.
    fn call_ended(&self, id: &str, node: NodeId, call: u32, is_complete: bool) {
        let is_last = {
            let streams = self.lock();
            let source = streams.get(id).and_then(|stream| stream.waiting_for.get(&node));
            source.is_some_and(|source| source.n_calls == call)
        };
        match is_complete {
            true if is_last => self.node_ended(id, node),
            false if is_last => self.node_unavailable(id, node),
            true | false => {}
        }
    }
}

impl Publishing {
    /// `None`: nobody wants it (any more).
    fn begin(broker: &Arc<LogBroker>, id: &str, node: NodeId) -> Option<Self> {
        let mut streams = broker.lock();
        let stream = streams.get_mut(id)?;
        let source = stream.waiting_for.get_mut(&node)?;
        source.n_calls += 1;
        let (broker, id, call) = (Arc::clone(broker), id.to_owned(), source.n_calls);
        Some(Self { broker, id, node, call, lines: stream.lines.clone(), is_over: false })
    }

    /// Looks at what is known of the node, while this is its last call.
    fn with<T>(&self, look: impl FnOnce(&mut Source) -> T) -> Option<T> {
        let mut streams = self.broker.lock();
        let source = streams.get_mut(&self.id)?.waiting_for.get_mut(&self.node)?;
        (source.n_calls == self.call).then(|| look(source))
    }

    /// False: nobody wants more of this call.
    async fn take_in(&self, batch: wire::LogBatch) -> bool {
        let Some((taken, own)) = self.with(|source| (source.n_lines, source.tasks.clone())) else {
            return false;
        };
        if batch.first > taken {
            let n = batch.first - taken;
            let words = format!("warning: incomplete log stream: node {}: {n} lines were lost\n", self.node);
            self.with(|source| source.n_lines = batch.first);
            if self.lines.send(LogItem::Warning(words)).await.is_err() {
                return false;
            }
        }
        // Those that came before a break are known.
        let known = usize::try_from(taken.saturating_sub(batch.first)).unwrap_or(usize::MAX);
        for line in batch.lines.into_iter().skip(known) {
            // A node speaks for its own tasks alone.
            if let Some(task) = TaskId::from_bytes(&line.task_id).filter(|task| own.contains(task)) {
                let item = LogItem::Line { task, time: line.time, stderr: line.stderr, data: line.data };
                if self.lines.send(item).await.is_err() {
                    return false;
                }
            }
            // Line by line: the connection may end, and this with it, at each wait.
            if self.with(|source| source.n_lines += 1).is_none() {
                return false;
            }
        }
        if !batch.error.is_empty() {
            let words = format!("warning: incomplete log stream: node {}: {}\n", self.node, batch.error);
            return self.lines.send(LogItem::Warning(words)).await.is_ok();
        }
        true
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        let (broker, id) = (Arc::clone(&self.broker), self.id.clone());
        let (node, call) = (self.node, self.call);
        if self.is_over {
            broker.call_ended(&id, node, call, true);
        } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::time::sleep(RESUME_MAX).await;
                broker.call_ended(&id, node, call, false);
            });
        }
    }
}

/// Asks a node for lines: through its session here, or through the manager that holds it, so that the node
/// dials us.
fn ask(shared: &Arc<Shared>, view: &View, node: NodeId, mut wanted: wire::LogsWanted) {
    let id = wanted.id.clone();
    if let Whereabouts::Here = shared.hub.whereabouts(node) {
        if !shared.hub.send_aside(node, wire::manager_message::Message::LogsWanted(wanted)) {
            shared.logs.node_unavailable(&id, node);
        }
        return;
    }
    wanted.manager = view.node(shared.peers.own()).map(|own| own.advertise_addr.clone()).unwrap_or_default();
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        if !tell::send(&shared, node, wire::manager_message::Message::LogsWanted(wanted)).await {
            shared.logs.node_unavailable(&id, node);
        }
    });
}

/// Swarm's words for a node whose logs cannot be had.
fn unavailable(node: NodeId) -> LogItem {
    LogItem::Warning(format!(
        "warning: incomplete log stream. some logs could not be retrieved for the following reasons: \
         node {node} is not available\n"
    ))
}

fn wanted(id: &str, tasks: &[TaskId], query: &LogQuery) -> wire::LogsWanted {
    wire::LogsWanted {
        id: id.to_owned(),
        manager: String::new(),
        task_ids: tasks.iter().map(|task| task.to_bytes()).collect(),
        follow: query.follow,
        tail: query.tail.map_or(-1, |n| i64::try_from(n).unwrap_or(i64::MAX)),
        since: query.since,
        until: query.until,
        stdout: query.stdout,
        stderr: query.stderr,
    }
}

#[cfg(test)]
mod tests {
    use skep_api::Id;

    use super::*;

    #[test]
    fn a_node_that_does_not_begin_is_not_waited_for() {
        let (here, cut_off) = (NodeId(Id(1)), NodeId(Id(2)));
        let by_node = [(here, vec![TaskId(Id(11))]), (cut_off, vec![TaskId(Id(12))])].into();
        let (lines, mut reader) = mpsc::channel(LINES_MAX);
        let broker = LogBroker::default();
        assert!(broker.insert("x", &by_node, lines));
        broker.lock().get_mut("x").unwrap().waiting_for.get_mut(&here).unwrap().n_calls = 1;
        broker.give_up_silent("x");
        assert_eq!(reader.try_recv(), Ok(unavailable(cut_off)));
        assert_eq!(reader.try_recv(), Err(mpsc::error::TryRecvError::Empty), "the other one goes on");
        broker.node_ended("x", here);
        assert_eq!(reader.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
    }

    /// Lines of the only node of a stream, from the line `first` on.
    fn batch(first: u64, lines: &[&str]) -> Result<wire::LogBatch, Status> {
        let line = |text: &&str| wire::LogLine {
            task_id: TaskId(Id(11)).to_bytes(),
            data: text.as_bytes().to_vec(),
            ..Default::default()
        };
        let lines = lines.iter().map(line).collect();
        Ok(wire::LogBatch { id: "x".to_owned(), lines, first, ..Default::default() })
    }

    async fn next(reader: &mut mpsc::Receiver<LogItem>) -> Option<String> {
        Some(match reader.recv().await? {
            LogItem::Line { data, .. } => String::from_utf8(data).unwrap(),
            LogItem::Warning(words) => words,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_goes_on_after_a_break_without_a_line_twice_or_lost() {
        let node = NodeId(Id(1));
        let (lines, mut reader) = mpsc::channel(LINES_MAX);
        let broker = Arc::new(LogBroker::default());
        assert!(broker.insert("x", &[(node, vec![TaskId(Id(11))])].into(), lines));
        let cut = || Err(Status::unavailable("the connection ended"));
        broker.take_in(node, tokio_stream::iter([batch(0, &["a", "b"]), cut()])).await;
        broker.node_gone(node);
        tokio::time::sleep(RESUME_MAX / 2).await;
        broker.take_in(node, tokio_stream::iter([batch(0, &["a", "b"]), batch(2, &["c"])])).await;
        for expect in ["a", "b", "c"] {
            assert_eq!(next(&mut reader).await.as_deref(), Some(expect));
        }
        // Half way from the last break on, though the first is long past.
        tokio::time::sleep(RESUME_MAX * 3 / 4).await;
        broker.take_in(node, tokio_stream::iter([batch(5, &["f"]), cut()])).await;
        assert!(next(&mut reader).await.unwrap().ends_with("2 lines were lost\n"));
        assert_eq!(next(&mut reader).await.as_deref(), Some("f"));
        // It does not come back.
        assert!(next(&mut reader).await.unwrap().contains("is not available"));
        assert_eq!(next(&mut reader).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_another_one_replaced_says_nothing_more() {
        let node = NodeId(Id(1));
        let (lines, mut reader) = mpsc::channel(LINES_MAX);
        let broker = Arc::new(LogBroker::default());
        assert!(broker.insert("x", &[(node, vec![TaskId(Id(11))])].into(), lines));
        let old = Publishing::begin(&broker, "x", node).unwrap();
        let new = Publishing::begin(&broker, "x", node).unwrap();
        assert!(!old.take_in(batch(0, &["a"]).unwrap()).await);
        assert!(new.take_in(batch(0, &["a"]).unwrap()).await);
        drop(old);
        tokio::time::sleep(RESUME_MAX * 2).await;
        assert_eq!(next(&mut reader).await.as_deref(), Some("a"));
        assert_eq!(reader.try_recv(), Err(mpsc::error::TryRecvError::Empty), "it is still fed");
        drop(new);
        tokio::time::sleep(RESUME_MAX * 2).await;
        assert!(next(&mut reader).await.unwrap().contains("is not available"));
    }
}
