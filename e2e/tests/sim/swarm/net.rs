//! Nodes' connections, on turmoil's network.

use std::io;
use std::sync::Arc;

use skep_link::sim::{Stream, dial_on_this_thread};
use turmoil::net::TcpStream;

pub(crate) const PORT: u16 = 2377;

/// From now on nodes on this thread dial each other in the simulation.
pub(crate) fn simulate_this_thread() {
    dial_on_this_thread(Arc::new(|addr| {
        Box::pin(async move {
            let (host, port) = addr.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
            let port: u16 = port.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
            let stream = TcpStream::connect((host, port)).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }));
}

/// Where a machine is reached.
pub(crate) fn addr(id: u64) -> String {
    format!("{}:{PORT}", turmoil::lookup(super::world::host(id)))
}
