//! Logs of services and tasks: Docker's frames, each an 8-byte head (stream, length) and one line.
//!
//! Followed logs of a service take in tasks that start later. What a node cannot give is a line of its
//! own on stderr, never an error: the rest of the logs still comes.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{Uri, header},
    response::IntoResponse,
    routing::get,
};
use skep_api::{
    ApiError, ErrorKind, ServiceId, TaskId, Timestamp,
    object::{NodeState, Task},
};
use skep_manager::{LogItem, LogQuery, View};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Api, ControlPlane, Version,
    answer::{Answer, Params},
    lookup,
};

/// How often a followed service is looked at for new tasks.
const NEW_TASKS_EVERY: Duration = Duration::from_millis(500);

/// Frames that wait for a slow client; then the source waits.
const FRAMES_WAITING_MAX: usize = 256;

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/services/{id}/logs", get(of_service)).route("/tasks/{id}/logs", get(of_task))
}

async fn of_service(State(api): State<Api>, version: Version, Path(word): Path<String>, uri: Uri) -> Answer {
    let (control, request) = (api.manager()?, LogRequest::new(&Params::of(&uri)?)?);
    let view = control.view().await?;
    let service = lookup::service(&view, &word)?;
    let tasks = view.tasks_of_service(service.id).cloned().collect();
    start(&api, control, version, request, &view, tasks, Some(service.id)).await
}

async fn of_task(State(api): State<Api>, version: Version, Path(word): Path<String>, uri: Uri) -> Answer {
    let (control, request) = (api.manager()?, LogRequest::new(&Params::of(&uri)?)?);
    let view = control.view().await?;
    let task = lookup::task(&view, &word)?;
    start(&api, control, version, request, &view, vec![task], None).await
}

/// What the client asked for.
#[derive(Clone, Debug)]
struct LogRequest {
    query: LogQuery,
    timestamps: bool,
    details: bool,
}

impl LogRequest {
    fn new(params: &Params) -> Result<Self, ApiError> {
        let (stdout, stderr) = (params.flag("stdout"), params.flag("stderr"));
        if !stdout && !stderr {
            return Err(ApiError::invalid("Bad parameters: you must choose at least one stream"));
        }
        let tail = match params.text("tail") {
            "" | "all" => None,
            // Docker reads what is no number as "all".
            text => text.parse().ok(),
        };
        Ok(Self {
            query: LogQuery {
                follow: params.flag("follow"),
                tail,
                since: unix_nanos("since", params.text("since"))?,
                until: unix_nanos("until", params.text("until"))?,
                stdout,
                stderr,
            },
            timestamps: params.flag("timestamps"),
            details: params.flag("details"),
        })
    }
}

/// Reads `seconds[.fraction]` or RFC 3339; 0 for none.
fn unix_nanos(what: &str, text: &str) -> Result<i64, ApiError> {
    if text.is_empty() || text == "0" {
        return Ok(0);
    }
    if let Some(time) = Timestamp::parse_rfc3339(text) {
        return Ok(time.0);
    }
    let invalid = || ApiError::invalid(format!("invalid value for '{what}': '{text}' is no time"));
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let seconds: i64 = seconds.parse().map_err(|_| invalid())?;
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid());
    }
    let nanos: i64 = format!("{fraction:0<9}").parse().map_err(|_| invalid())?;
    seconds.checked_mul(1_000_000_000).and_then(|all| all.checked_add(nanos)).ok_or_else(invalid)
}

/// Whether there is a container whose output could be read.
fn has_output(task: &Task) -> bool {
    task.node_id.is_some() && !task.status.container_id.is_empty()
}

async fn start(
    api: &Api,
    control: Arc<dyn ControlPlane>,
    version: Version,
    request: LogRequest,
    view: &View,
    tasks: Vec<Arc<Task>>,
    service: Option<ServiceId>,
) -> Answer {
    if !request.query.follow && tasks.is_empty() && service.is_none() {
        return Err(ApiError::new(ErrorKind::NotFound, "no task to read the logs of").into());
    }
    let (frames, receiver) = mpsc::channel(FRAMES_WAITING_MAX);
    let mut pump = Pump {
        seen: BTreeSet::new(),
        control,
        request,
        service,
        fallback: unavailable(view, &tasks).or_else(|| tasks.first().cloned()),
        frames,
    };
    let first = pump.open(tasks, false).await?;
    let stop = api.stop.clone();
    // Ends when the client goes (its channel closes), when the sources end, or with the server.
    tokio::spawn(async move {
        tokio::select! {
            () = pump.run(first) => {}
            () = stop.cancelled() => {}
        }
    });
    let kind = if version.0.0 >= (1, 42) {
        "application/vnd.docker.multiplexed-stream"
    } else {
        "application/vnd.docker.raw-stream"
    };
    let body = Body::from_stream(ReceiverStream::new(receiver));
    Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
}

/// A task whose node is not there: a warning is told in its name.
fn unavailable(view: &View, tasks: &[Arc<Task>]) -> Option<Arc<Task>> {
    let is_gone = |task: &&Arc<Task>| {
        let node = task.node_id.map(|id| view.node(id));
        node.is_some_and(|node| node.is_none_or(|node| node.status.state != NodeState::Ready))
    };
    tasks.iter().find(|task| has_output(task) && is_gone(task)).cloned()
}

type Frame = Result<Bytes, std::io::Error>;
type Items = mpsc::Receiver<LogItem>;

/// Moves lines from the sources to the client.
struct Pump {
    /// Tasks whose logs were asked for.
    seen: BTreeSet<TaskId>,
    control: Arc<dyn ControlPlane>,
    request: LogRequest,
    /// `None` for the logs of one task.
    service: Option<ServiceId>,
    fallback: Option<Arc<Task>>,
    frames: mpsc::Sender<Frame>,
}

impl Pump {
    /// Asks for the logs of those tasks that have output and were not asked for yet.
    async fn open(&mut self, tasks: Vec<Arc<Task>>, whole: bool) -> Result<Option<Items>, ApiError> {
        let fresh: Vec<TaskId> = tasks
            .iter()
            .filter(|task| has_output(task) && self.seen.insert(task.id))
            .map(|task| task.id)
            .collect();
        if fresh.is_empty() {
            return Ok(None);
        }
        let mut query = self.request.query.clone();
        if whole {
            query.tail = None;
        }
        self.control.logs(fresh, query).await.map(Some)
    }

    async fn run(mut self, first: Option<Items>) {
        let (items, mut merged) = mpsc::channel(FRAMES_WAITING_MAX);
        let mut sources = tokio::task::JoinSet::new();
        if let Some(source) = first {
            sources.spawn(forward(source, items.clone()));
        }
        let mut ticks = tokio::time::interval(NEW_TASKS_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let follows_service = self.request.query.follow && self.service.is_some();
            if sources.is_empty() && merged.is_empty() && !follows_service {
                return;
            }
            tokio::select! {
                biased;
                () = self.frames.closed() => return,
                Some(item) = merged.recv() => {
                    if !self.send(item).await {
                        return;
                    }
                }
                Some(_) = sources.join_next() => {}
                _ = ticks.tick(), if follows_service => match self.later_tasks().await {
                    Later::Source(source) => {
                        sources.spawn(forward(source, items.clone()));
                    }
                    Later::Nothing => {}
                    Later::Gone => self.service = None,
                },
            }
        }
    }

    /// Tasks that came to run since.
    async fn later_tasks(&mut self) -> Later {
        let view = self.control.stale_view();
        let Some(service) = self.service.and_then(|id| view.service(id)) else { return Later::Gone };
        let tasks = view.tasks_of_service(service.id).cloned().collect();
        match self.open(tasks, true).await {
            Ok(Some(source)) => Later::Source(source),
            Ok(None) => Later::Nothing,
            Err(error) => {
                tracing::warn!(service.id = %service.id, err = %error, "the logs of new tasks cannot be read");
                Later::Nothing
            }
        }
    }

    async fn send(&self, item: LogItem) -> bool {
        let frame = match item {
            LogItem::Line { task, time, stderr, data } => {
                let object = self.control.stale_view().task(task).cloned();
                self.frame(object.as_deref(), task, Timestamp(time), stderr, &data)
            }
            LogItem::Warning(words) => {
                let task = self.fallback.as_deref();
                let line = format!("{words}\n");
                self.frame(
                    task,
                    task.map(|task| task.id).unwrap_or_default(),
                    Timestamp::ZERO,
                    true,
                    line.as_bytes(),
                )
            }
        };
        self.frames.send(Ok(frame)).await.is_ok()
    }

    fn frame(&self, task: Option<&Task>, id: TaskId, time: Timestamp, stderr: bool, data: &[u8]) -> Bytes {
        let mut line = Vec::with_capacity(data.len() + 64);
        if self.request.timestamps {
            line.extend_from_slice(fixed_width(time).as_bytes());
            line.push(b' ');
        }
        if self.request.details {
            let node = task.and_then(|task| task.node_id).unwrap_or_default();
            let service = task.map(|task| task.service_id).or(self.service).unwrap_or_default();
            let details = format!(
                "com.docker.swarm.node.id={node},com.docker.swarm.service.id={service},com.docker.swarm.task.id={id} "
            );
            line.extend_from_slice(details.as_bytes());
        }
        line.extend_from_slice(data);
        let mut frame = Vec::with_capacity(line.len() + 8);
        frame.extend_from_slice(&[if stderr { 2 } else { 1 }, 0, 0, 0]);
        frame.extend_from_slice(&u32::try_from(line.len()).unwrap_or(u32::MAX).to_be_bytes());
        frame.extend_from_slice(&line);
        frame.into()
    }
}

/// What came since a followed service was looked at.
enum Later {
    Source(Items),
    Nothing,
    /// The service was removed.
    Gone,
}

async fn forward(mut source: Items, items: mpsc::Sender<LogItem>) {
    while let Some(item) = source.recv().await {
        if items.send(item).await.is_err() {
            return;
        }
    }
}

/// RFC 3339 with all nine digits, so that columns line up.
fn fixed_width(time: Timestamp) -> String {
    let text = time.to_string();
    let (seconds, fraction) = match text.trim_end_matches('Z').split_once('.') {
        Some((seconds, fraction)) => (seconds.to_owned(), fraction.to_owned()),
        None => (text.trim_end_matches('Z').to_owned(), String::new()),
    };
    format!("{seconds}.{fraction:0<9}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_both_forms() {
        for (text, expect) in [
            ("", Some(0)),
            ("1700000000", Some(1_700_000_000_000_000_000)),
            ("1700000000.5", Some(1_700_000_000_500_000_000)),
            ("1700000000.000000001", Some(1_700_000_000_000_000_001)),
            ("2026-01-02T03:04:05Z", Some(1_767_323_045_000_000_000)),
            ("soon", None),
            ("1.x", None),
        ] {
            assert_eq!(unix_nanos("since", text).ok(), expect, "{text}");
        }
    }

    #[test]
    fn timestamps_have_all_digits() {
        assert_eq!(fixed_width(Timestamp(1_500_000_000)), "1970-01-01T00:00:01.500000000Z");
        assert_eq!(fixed_width(Timestamp(2_000_000_000)), "1970-01-01T00:00:02.000000000Z");
    }
}
