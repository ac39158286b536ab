//! The example service: answers every HTTP request with who served it and what was asked.
//!
//! Small on purpose (threads and the standard library, `libc` for the one signal call), because it is
//! packed into an image on every `skep dev`. On SIGTERM it finishes running requests, says
//! `Connection: close`, ends idle keep-alive connections and exits 0: what a service that is updated
//! without a failed request has to do.
//! Invariant: SIGTERM is blocked before the first thread starts, so as PID 1 it is never lost.

mod connections;
mod request;

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::{env, io, process, thread};

use connections::Connections;
use request::Request;

fn main() {
    if let Err(err) = block_stop_signals().and_then(|()| serve()) {
        eprintln!("skep-whoami: {err}");
        process::exit(1);
    }
}

fn serve() -> io::Result<()> {
    let port = match env::var("PORT") {
        Ok(text) => {
            text.parse().map_err(|_| io::Error::other(format!("PORT={text} is not a port number")))?
        }
        Err(_) => 80_u16,
    };
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    eprintln!("skep-whoami: listening on port {port}");
    let connections = Arc::new(Connections::default());
    let stopping = Arc::clone(&connections);
    thread::spawn(move || {
        let signal = wait_for_stop_signal();
        eprintln!("skep-whoami: signal {signal}, finishing {} requests", stopping.n_busy());
        stopping.stop();
        process::exit(0);
    });
    loop {
        // A failed accept is the client's or a limit's doing; the next one may go well.
        let Ok((stream, _)) = listener.accept() else { continue };
        let connections = Arc::clone(&connections);
        thread::spawn(move || answer_all(&stream, &connections));
    }
}

/// Answers the requests of one connection until the client or a stop ends it.
fn answer_all(stream: &TcpStream, connections: &Connections) {
    let Ok(id) = connections.add(stream) else { return };
    let mut reader = io::BufReader::new(stream);
    // The request counts as running from its first byte, so a stop never cuts it.
    while let Ok(Some(request)) = Request::read(&mut reader, || connections.busy(id)) {
        if request.wait_ms > 0 {
            pause(request.wait_ms);
        }
        let close = request.close || connections.is_stopping();
        if request.answer(stream, close).is_err() || close {
            break;
        }
        connections.idle(id);
        if connections.is_stopping() {
            break;
        }
    }
    connections.remove(id);
}

/// Holds one request for a while: `/?wait_ms=500` is how a slow request is made.
#[expect(clippy::disallowed_methods, reason = "a thread that plays a slow program; nothing waits on it")]
fn pause(ms: u64) {
    thread::sleep(std::time::Duration::from_millis(ms));
}

/// Blocks SIGTERM and SIGINT in this thread and all that it starts.
#[expect(unsafe_code, reason = "the standard library has no signal mask")]
fn block_stop_signals() -> io::Result<()> {
    // SAFETY: the set is a plain local value, initialised by sigemptyset before use.
    let code = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
    };
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

/// Waits for one of the blocked signals and returns its number.
#[expect(unsafe_code, reason = "the standard library cannot wait for a signal")]
fn wait_for_stop_signal() -> i32 {
    // SAFETY: set and signal are plain local values; sigwait writes only to `signal`.
    unsafe {
        let mut set = std::mem::zeroed();
        let mut signal = 0;
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::sigwait(&raw const set, &raw mut signal);
        signal
    }
}
