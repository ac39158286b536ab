//! `skep daemon stop`: asks a daemon to stop and waits until it is gone.

use std::time::Duration;

use anyhow::{Context as _, bail};
use hyper::StatusCode;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    connection::{Connection, Refused},
    output::print,
};

/// A daemon sends what it still has to tell, hands over its lead, and ends.
const GONE_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) async fn stop(host: &str, shutdown: bool) -> anyhow::Result<()> {
    let daemon = Connection::negotiate(host).await?;
    let path = if shutdown { "/skep/daemon/stop?shutdown=1" } else { "/skep/daemon/stop" };
    if let Err(error) = daemon.post(path, &Value::Null).await {
        let is_other = error.downcast_ref::<Refused>().is_some_and(|no| no.status == StatusCode::NOT_FOUND);
        return if is_other {
            Err(error).context("the daemon there is none of skep's; stop it by its own means")
        } else {
            Err(error)
        };
    }
    let began = Instant::now();
    while Connection::negotiate(host).await.is_ok() {
        if began.elapsed() > GONE_WITHIN {
            bail!(
                "the daemon was asked to stop and still answers after {} s; see its log",
                GONE_WITHIN.as_secs()
            );
        }
        sleep(LOOK_EVERY).await;
    }
    print(if shutdown {
        "The daemon stopped. Its tasks are replaced on other nodes, and end here when it starts again.\n"
    } else {
        "The daemon stopped. Its tasks run on; after a minute without a daemon they are replaced.\n"
    })
}
