//! Takes away what a task had: its network, its container.
//!
//! An engine may be away for a while (Docker restarts in some seconds), and whatever is not removed then is
//! removed by nobody until the daemon starts anew. So it is tried for minutes, with growing pauses; only then
//! is what is left named in the log.

use std::{sync::Arc, time::Duration};

use skep_api::TaskId;
use tokio::sync::watch;

use super::{Order, Runner};
use crate::{
    engine::chain,
    task::{container::container_id, step::Container},
};

/// Tries where somebody waits for the end of it: two seconds,
pub(super) const QUICK_TRIES: u32 = 3;
/// and where nobody does: three minutes.
pub(super) const PATIENT_TRIES: u32 = 22;
/// The first pause between two tries; each is twice as long as the last
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// up to this.
const PAUSE_MAX: Duration = Duration::from_secs(10);

impl Runner {
    /// Whether the task's network is gone now.
    pub(super) async fn detach(&mut self, tries: u32) -> bool {
        let (host, task) = (Arc::clone(&self.host), self.task);
        let attempt = move || {
            let host = Arc::clone(&host);
            async move {
                host.network.detach(task).await.map_err(|e| chain(&e))?;
                host.engine.remove_sandbox(&container_id(task)).await.map_err(|e| chain(&e))
            }
        };
        clean(task, tries, self.orders.clone(), attempt).await
    }

    pub(super) async fn remove_container(&mut self) {
        let (host, id) = (Arc::clone(&self.host), container_id(self.task));
        let attempt = move || {
            let (host, id) = (Arc::clone(&host), id.clone());
            async move { host.engine.remove(&id).await.map_err(|e| chain(&e)) }
        };
        clean(self.task, PATIENT_TRIES, self.orders.clone(), attempt).await;
        self.facts.container = Container::Missing;
    }
}

/// Tries until it is done, or so often, or until the daemon stops: the next one finds what is left.
async fn clean<F: Future<Output = Result<(), String>>>(
    task: TaskId,
    tries: u32,
    mut orders: watch::Receiver<Order>,
    attempt: impl Fn() -> F,
) -> bool {
    let mut pause = PAUSE_MIN;
    for tried in 1..=tries {
        let Err(err) = attempt().await else { return true };
        tracing::warn!(task.id = %task, tried, err, "cleaning up after a task failed");
        if tried < tries {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Err(_) = orders.wait_for(|_| false) => return false,
            }
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
    false
}
