//! Streams of task logs: asks the nodes for them and hands on what they publish.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use skep_api::{NodeId, TaskId, id::IdSource, wire};
use skep_store::View;
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::{SystemIds, dispatcher::Hub};

/// Lines that may wait for one reader: it is slower than the nodes, they wait for it.
const LINES_MAX: usize = 4096;
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
#[derive(Debug)]
pub(crate) struct LogReader {
    lines: mpsc::Receiver<LogItem>,
    id: String,
    nodes: Vec<NodeId>,
    broker: Arc<LogBroker>,
}

impl LogReader {
    /// The next line or warning; `None` when every node has said that it has no more.
    pub(crate) async fn recv(&mut self) -> Option<LogItem> {
        self.lines.recv().await
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        self.broker.close(&self.id, &self.nodes);
    }
}

/// The open streams.
#[derive(Debug)]
pub(crate) struct LogBroker {
    hub: Arc<Hub>,
    streams: Mutex<BTreeMap<String, LogStream>>,
}

impl LogBroker {
    pub(crate) fn new(hub: Arc<Hub>) -> Arc<Self> {
        Arc::new(Self { hub, streams: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, LogStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a stream of these tasks' lines. `None`: too many are open. It ends when every node has said
    /// that it has no more, or when the reader is dropped.
    pub(crate) fn open(
        self: &Arc<Self>,
        view: &View,
        tasks: &[TaskId],
        query: &LogQuery,
    ) -> Option<LogReader> {
        let mut by_node: BTreeMap<NodeId, Vec<TaskId>> = BTreeMap::new();
        for task in tasks.iter().filter_map(|id| view.task(*id)) {
            if let Some(node) = task.node_id {
                by_node.entry(node).or_default().push(task.id);
            }
        }
        let (lines, reader) = mpsc::channel(LINES_MAX);
        let id = SystemIds::default().next_id().to_string();
        {
            let mut streams = self.lock();
            if streams.len() >= STREAMS_MAX {
                return None;
            }
            let waiting_for =
                by_node.iter().map(|(node, tasks)| (*node, tasks.iter().copied().collect())).collect();
            streams.insert(
                id.clone(),
                LogStream { lines: lines.clone(), waiting_for, publishing: BTreeSet::new() },
            );
        }
        for (node, tasks) in &by_node {
            if !self.hub.send_aside(*node, wanted(&id, tasks, query)) {
                // The queue is empty yet: there is room for one warning a node.
                lines.try_send(unavailable(*node)).unwrap_or_default();
                self.node_ended(&id, *node);
            }
        }
        if by_node.is_empty() {
            self.lock().remove(&id);
        }
        drop(lines);
        Some(LogReader { lines: reader, id, nodes: by_node.into_keys().collect(), broker: Arc::clone(self) })
    }

    /// The reader is gone: the nodes need not send any more.
    fn close(&self, id: &str, nodes: &[NodeId]) {
        if self.lock().remove(id).is_some() {
            for node in nodes {
                let unwanted = wire::LogsUnwanted { id: id.to_owned() };
                self.hub.send_aside(*node, wire::manager_message::Message::LogsUnwanted(unwanted));
            }
        }
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

/// Swarm's words for a node whose logs cannot be had.
fn unavailable(node: NodeId) -> LogItem {
    LogItem::Warning(format!(
        "warning: incomplete log stream. some logs could not be retrieved for the following reasons: \
         node {node} is not available\n"
    ))
}

fn wanted(id: &str, tasks: &[TaskId], query: &LogQuery) -> wire::manager_message::Message {
    wire::manager_message::Message::LogsWanted(wire::LogsWanted {
        id: id.to_owned(),
        manager: String::new(),
        task_ids: tasks.iter().map(|task| task.to_bytes()).collect(),
        follow: query.follow,
        tail: query.tail.map_or(-1, |n| i64::try_from(n).unwrap_or(i64::MAX)),
        since: query.since,
        until: query.until,
        stdout: query.stdout,
        stderr: query.stderr,
    })
}
