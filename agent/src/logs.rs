//! Streams of tasks' output towards the manager that asked for them.
//!
//! A stream holds little: what the manager does not take in, the engine does not read. It ends with its
//! last task's log, when nobody wants it any more, or when the manager breaks it off; a connection that ends
//! does not end it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use prost::Message as _;
use skep_api::{TaskId, TaskState, wire};
use skep_link::{Identity, stubs::dispatcher_client::DispatcherClient};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, transport::Channel};

use crate::{
    board::Board,
    engine::{Engine, LogLine, LogWindow, chain},
};

/// Streams at the same time; who asks for more is told so.
const STREAMS_MAX: usize = 64;
/// Lines in one batch,
const BATCH_LINES: usize = 256;
/// and bytes, about: it is closed by the line that passes this.
const BATCH_BYTES: usize = 256 << 10;
/// Lines read ahead of the batch under way, of all tasks of a stream.
const READ_AHEAD: usize = 256;
/// Batches on their way.
const BATCHES_AHEAD: usize = 4;
/// What is kept for a manager that may not have got it: what a connection holds (HTTP/2's window of 1 MiB) and
/// the batches around it.
const KEPT_BYTES: usize = (1 << 20) + 4 * BATCH_BYTES;
/// Between a break and the next attempt,
const RESUME_PAUSE: Duration = Duration::from_millis(250);
/// of which there are so many: the manager waits as long (`manager/src/logs.rs`).
const RESUMES_MAX: u32 = 40;

/// The streams of this node.
#[derive(Debug)]
pub(crate) struct LogStreams {
    engine: Arc<dyn Engine>,
    board: Arc<Board>,
    identity: Identity,
    running: BTreeMap<String, AbortHandle>,
    streams: JoinSet<()>,
}

impl LogStreams {
    pub(crate) fn new(engine: Arc<dyn Engine>, board: Arc<Board>, identity: Identity) -> Self {
        Self { engine, board, identity, running: BTreeMap::new(), streams: JoinSet::new() }
    }

    /// Opens a stream; `session` is the channel to the session's own manager.
    pub(crate) fn open(&mut self, wanted: wire::LogsWanted, session: &DispatcherClient<Channel>) {
        while self.streams.try_join_next().is_some() {}
        self.running.retain(|_, stream| !stream.is_finished());
        self.close(&wanted.id);
        let id = wanted.id.clone();
        let is_full = self.running.len() >= STREAMS_MAX;
        let dial = (!wanted.manager.is_empty()).then(|| (wanted.manager.clone(), self.identity.clone()));
        let (engine, board, session) = (Arc::clone(&self.engine), Arc::clone(&self.board), session.clone());
        let stream = self.streams.spawn(async move {
            let client = match dial {
                None => session,
                Some((manager, identity)) => match skep_link::connect(&manager, &identity).await {
                    Ok(channel) => skep_link::dispatcher(channel),
                    Err(e) => {
                        tracing::warn!(
                            manager,
                            err = chain(&e),
                            "the manager that wants logs cannot be reached"
                        );
                        return;
                    }
                },
            };
            publish(client, engine, board, wanted, is_full).await;
        });
        self.running.insert(id, stream);
    }

    /// Ends a stream, if it runs.
    pub(crate) fn close(&mut self, id: &str) {
        if let Some(stream) = self.running.remove(id) {
            stream.abort();
        }
    }
}

async fn publish(
    client: DispatcherClient<Channel>,
    engine: Arc<dyn Engine>,
    board: Arc<Board>,
    wanted: wire::LogsWanted,
    is_full: bool,
) {
    let (batches, made) = mpsc::channel(BATCHES_AHEAD);
    let pump = async move {
        // At once, though there may be nothing to say yet: who does not begin is given up. A manager that is
        // gone needs no beginning.
        let first = wire::LogBatch { id: wanted.id.clone(), ..Default::default() };
        let _gone = batches.send(first).await;
        let mut last = wire::LogBatch { id: wanted.id.clone(), end: true, ..Default::default() };
        if is_full {
            last.error = format!("this node feeds {STREAMS_MAX} streams of logs already: end one of them");
        } else if let Err(error) = feed(engine, board, &wanted, &batches).await {
            last.error = error;
        }
        // A manager that is gone needs no end.
        let _gone = batches.send(last).await;
    };
    // The second ends first only when the manager breaks it off; then the pump's channel is closed.
    tokio::join!(pump, carry(client, made));
}

/// Brings batches to the manager. A connection may end with the certificates that it was made under: then they
/// go on by the next one, from those that may not have arrived.
async fn carry(mut client: DispatcherClient<Channel>, mut made: mpsc::Receiver<wire::LogBatch>) {
    let mut kept = Kept::default();
    let mut n_breaks = 0;
    loop {
        let began = Instant::now();
        let (out, outgoing) = mpsc::channel(1);
        let mut call = std::pin::pin!(client.publish_logs(ReceiverStream::new(outgoing)));
        let ended = tokio::select! {
            ended = &mut call => ended,
            () = send_all(&mut kept, &mut made, out) => call.await,
        };
        let Err(status) = ended else { return };
        n_breaks = if began.elapsed() > RESUME_PAUSE * RESUMES_MAX { 1 } else { n_breaks + 1 };
        let is_broken =
            matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal);
        tracing::debug!(err = chain(&status), n_breaks, "a stream of logs was broken off");
        if !is_broken || n_breaks > RESUMES_MAX {
            return;
        }
        sleep(RESUME_PAUSE).await;
    }
}

/// What may not have arrived, and then what is made, until all is sent or the call takes no more.
async fn send_all(
    kept: &mut Kept,
    made: &mut mpsc::Receiver<wire::LogBatch>,
    out: mpsc::Sender<wire::LogBatch>,
) {
    for batch in kept.batches.clone() {
        if out.send(batch).await.is_err() {
            return;
        }
    }
    while let Some(batch) = made.recv().await {
        if out.send(kept.keep(batch)).await.is_err() {
            return;
        }
    }
}

/// The last batches that were sent.
#[derive(Default)]
struct Kept {
    batches: VecDeque<wire::LogBatch>,
    bytes: usize,
    n_lines: u64,
}

impl Kept {
    /// The batch as it is to be sent, with its place in the stream.
    fn keep(&mut self, mut batch: wire::LogBatch) -> wire::LogBatch {
        batch.first = self.n_lines;
        self.n_lines += u64::try_from(batch.lines.len()).unwrap_or_default();
        self.bytes += batch.encoded_len();
        self.batches.push_back(batch.clone());
        while self.bytes > KEPT_BYTES
            && let Some(oldest) = self.batches.pop_front()
        {
            self.bytes -= oldest.encoded_len();
        }
        batch
    }
}

/// All wanted tasks' lines into batches, until they end or nobody takes them.
async fn feed(
    engine: Arc<dyn Engine>,
    board: Arc<Board>,
    wanted: &wire::LogsWanted,
    batches: &mpsc::Sender<wire::LogBatch>,
) -> Result<(), String> {
    let (lines, mut read) = mpsc::channel::<Result<wire::LogLine, String>>(READ_AHEAD);
    let mut readers = JoinSet::new();
    for task in wanted.task_ids.iter().filter_map(|id| TaskId::from_bytes(id)) {
        let window = window(wanted);
        readers.spawn(read_task(Arc::clone(&engine), Arc::clone(&board), task, window, lines.clone()));
    }
    drop(lines);
    let mut found = Vec::new();
    let mut error = Ok(());
    loop {
        let n = tokio::select! {
            n = read.recv_many(&mut found, BATCH_LINES) => n,
            () = batches.closed() => return Ok(()),
        };
        if n == 0 {
            return error;
        }
        let mut batch = wire::LogBatch { id: wanted.id.clone(), ..Default::default() };
        let mut bytes = 0;
        for line in found.drain(..) {
            match line {
                Ok(line) => {
                    bytes += line.data.len();
                    batch.lines.push(line);
                }
                Err(e) => error = Err(e),
            }
            if bytes >= BATCH_BYTES {
                let full = wire::LogBatch { lines: std::mem::take(&mut batch.lines), ..batch.clone() };
                bytes = 0;
                if batches.send(full).await.is_err() {
                    return Ok(());
                }
            }
        }
        if !batch.lines.is_empty() && batches.send(batch).await.is_err() {
            return Ok(());
        }
    }
}

fn window(wanted: &wire::LogsWanted) -> LogWindow {
    LogWindow {
        follow: wanted.follow,
        tail: usize::try_from(wanted.tail).ok(),
        since: wanted.since,
        until: wanted.until,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
    }
}

async fn read_task(
    engine: Arc<dyn Engine>,
    board: Arc<Board>,
    task: TaskId,
    window: LogWindow,
    lines: mpsc::Sender<Result<wire::LogLine, String>>,
) {
    let Some(mut status) = board.status(task) else { return };
    // Who follows may have come before the container.
    let is_there = |status: &wire::TaskStatus| status.state >= TaskState::Running.number();
    if window.follow {
        tokio::select! {
            there = status.wait_for(is_there) => if there.is_err() { return },
            () = lines.closed() => return,
        }
    }
    let container = status.borrow().container_id.clone();
    if container.is_empty() {
        return;
    }
    let mut log = match engine.logs(&container, window).await {
        Ok(log) => log,
        Err(e) => {
            let _gone = lines.send(Err(format!("logs of task {task}: {}", chain(&e)))).await;
            return;
        }
    };
    loop {
        let next = tokio::select! {
            next = log.next() => next,
            () = lines.closed() => return,
        };
        let Some(LogLine { time, stderr, data }) = next else { return };
        let line = wire::LogLine { task_id: task.to_bytes(), time, stderr, data };
        if lines.send(Ok(line)).await.is_err() {
            return;
        }
    }
}
