//! The shim: one small process a container, which starts it, holds its output, reaps it and records its end.
//!
//! Started by the engine as `skep-shim <container directory>` with the container's lock file as stdin, a
//! pipe for its one report as stdout and a file for what goes wrong as stderr. It leaves the engine's
//! session and parentage at once, so that neither the engine's end nor its restart touches the container.
//! Invariant: one thread. libcontainer clones without exec and runs allocating code in the child, which
//! is sound only while no other thread can hold a lock.

#[path = "../../src/cgroup.rs"]
#[expect(dead_code, reason = "shared with the engine, which uses the rest")]
mod cgroup;
mod exec;
#[path = "../../src/handoff.rs"]
#[expect(dead_code, reason = "shared with the engine, which uses the rest")]
mod handoff;
mod log;
mod root;
mod run;
#[path = "../../src/stamp.rs"]
#[cfg_attr(not(test), expect(dead_code, reason = "shared with the engine, which uses the rest"))]
mod stamp;
mod trace;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::unistd::{ForkResult, fork, setsid};

/// Lowest descriptor that is none of stdin, stdout and stderr.
const FIRST_FD: i32 = 3;

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: skep-shim <container directory> (started by the skep engine, not by hand)");
        return ExitCode::from(2);
    };
    close_inherited();
    // SAFETY: no other thread exists, and the parent only exits.
    #[expect(unsafe_code, reason = "fork has no safe form")]
    match unsafe { fork() } {
        Ok(ForkResult::Parent { .. }) => return ExitCode::SUCCESS,
        Ok(ForkResult::Child) => {}
        Err(e) => {
            eprintln!("failed to fork: {e}");
            return ExitCode::FAILURE;
        }
    }
    match take_stdio() {
        Ok((mut lock, report)) => {
            // For an engine that finds the lock held for too long.
            let _only_informs = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
            run::run(&dir, lock, report)
        }
        Err(e) => {
            eprintln!("failed to set up: {e}");
            ExitCode::FAILURE
        }
    }
}

/// The engine's sockets and files must not live on in here, whatever a library forgot to mark.
fn close_inherited() {
    // SAFETY: nothing of this process has opened a descriptor yet.
    #[expect(unsafe_code, reason = "close_range has no safe form")]
    // A kernel without it leaves what was inherited open: a leak, not a failure.
    let _unsupported = unsafe { libc::close_range(FIRST_FD.cast_unsigned(), u32::MAX, 0) };
}

/// Moves the lock and the report pipe away from stdin and stdout, which become `/dev/null`.
fn take_stdio() -> std::io::Result<(File, File)> {
    setsid()?;
    // As Docker's, whatever the daemon's is; the container inherits it.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let lock = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), FIRST_FD)?;
    let report = rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), FIRST_FD)?;
    trace::install(File::from(rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), FIRST_FD)?));
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok((File::from(lock), File::from(report)))
}
