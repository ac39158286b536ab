//! Streams of task logs: asks the nodes for them and hands on what they publish.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use skep_api::{NodeId, TaskId, id::IdSource, wire};
use skep_store::View;
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::{
    SystemIds,
    dispatcher::{Shared, Whereabouts},
    tell,
};

/// Lines that may wait for one reader: it is slower than the nodes, they wait for it.
const LINES_MAX: usize = 4096;
/// A node that has not begun to publish by then cannot reach this manager: its lines are not waited for.
const BEGIN_MAX: Duration = Duration::from_secs(5);
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
    /// The nodes that have not said that they have no more, with the tasks that they may speak for.
    waiting_for: BTreeMap<NodeId, BTreeSet<TaskId>>,
    publishing: BTreeSet<NodeId>,
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
        let waiting_for =
            by_node.iter().map(|(node, tasks)| (*node, tasks.iter().copied().collect())).collect();
        streams.insert(id.to_owned(), LogStream { lines, waiting_for, publishing: BTreeSet::new() });
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
            if !stream.publishing.contains(&node) && stream.waiting_for.remove(&node).is_some() {
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
            stream.waiting_for.keys().copied().filter(|node| !stream.publishing.contains(node)).collect()
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

    /// Takes in what a node publishes.
    pub(crate) async fn take_in(&self, node: NodeId, mut batches: Streaming<wire::LogBatch>) {
        let mut open: BTreeSet<String> = BTreeSet::new();
        while let Ok(Some(batch)) = batches.message().await {
            open.insert(batch.id.clone());
            let (lines, own) = {
                let mut streams = self.lock();
                let Some(stream) = streams.get_mut(&batch.id) else { break };
                let Some(own) = stream.waiting_for.get(&node).cloned() else { break };
                stream.publishing.insert(node);
                (stream.lines.clone(), own)
            };
            for line in batch.lines {
                // A node speaks for its own tasks alone.
                let Some(task) = TaskId::from_bytes(&line.task_id).filter(|task| own.contains(task)) else {
                    continue;
                };
                let item = LogItem::Line { task, time: line.time, stderr: line.stderr, data: line.data };
                if lines.send(item).await.is_err() {
                    return;
                }
            }
            if !batch.error.is_empty() {
                let words = format!("warning: incomplete log stream: node {node}: {}\n", batch.error);
                if lines.send(LogItem::Warning(words)).await.is_err() {
                    return;
                }
            }
            if batch.end {
                break;
            }
        }
        for id in open {
            self.node_ended(&id, node);
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
        broker.lock().get_mut("x").unwrap().publishing.insert(here);
        broker.give_up_silent("x");
        assert_eq!(reader.try_recv(), Ok(unavailable(cut_off)));
        assert_eq!(reader.try_recv(), Err(mpsc::error::TryRecvError::Empty), "the other one goes on");
        broker.node_ended("x", here);
        assert_eq!(reader.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
    }
}
