//! The port on which other nodes reach this one. It stays open while the node changes its role; what is
//! served on it changes.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use skep_link::{Identity, SharedRoutes};
use tokio::{
    net::TcpListener,
    sync::{Mutex, watch},
    task::JoinHandle,
};
use tonic::service::Routes;

/// Takes the port.
pub(super) async fn bind(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(addr).await.map_err(|error| {
        let is_taken = error.kind() == std::io::ErrorKind::AddrInUse;
        // Docker's words, which its clients' tests look for.
        if is_taken { anyhow::anyhow!("bind: address already in use") } else { error.into() }
    });
    bound.with_context(|| {
        format!("cannot listen on {addr} for other nodes; stop what uses it, or choose another --listen-addr")
    })
}

/// The served port. Clones share it.
#[derive(Clone)]
pub(super) struct Listener(Arc<Inner>);

struct Inner {
    routes: SharedRoutes,
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Listener {
    /// Serves `routes` under `identity` from now on.
    pub(super) fn serve(listener: TcpListener, identity: Identity, routes: Routes) -> Self {
        let routes = SharedRoutes::from(routes);
        let (stop, mut stopped) = watch::channel(false);
        let served = routes.clone();
        let task = tokio::spawn(async move {
            // An error means that the daemon is gone: stop as well.
            let until = async { stopped.wait_for(|stop| *stop).await.map_or((), |_| ()) };
            if let Err(error) = skep_link::serve(listener, identity, served, until).await {
                tracing::error!(err = %error, "the listener for nodes ended; restart the daemon");
            }
        });
        Self(Arc::new(Inner { routes, stop, task: Mutex::new(Some(task)) }))
    }

    /// Serves these from the next request on.
    pub(super) fn set(&self, routes: Routes) {
        self.0.routes.set(routes);
    }

    /// Ends it, and frees the port.
    pub(super) async fn stop(&self) {
        self.0.stop.send_replace(true);
        if let Some(task) = self.0.task.lock().await.take()
            && let Err(error) = task.await
        {
            tracing::error!(err = %error, "the listener for nodes failed");
        }
    }
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn a_port_that_is_taken_is_told_in_dockers_words() {
        let first = super::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = super::bind(first.local_addr().unwrap()).await.unwrap_err();
        assert!(format!("{error:#}").ends_with(": bind: address already in use"), "{error:#}");
    }
}
