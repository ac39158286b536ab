//! The shim's life: prepare, start, report, copy output until the container ends, record, clean up.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::cgroup::{self, Hierarchy};
use crate::handoff::{
    ERROR_FILE, EXIT_FILE, Exit, LOG_FILE, Report, SHIM_FILE, STARTED_FILE, ShimConfig, Started, read_json,
    start_ticks, write_json,
};
use crate::log::{Lines, Log};
use crate::{exec, root, stamp};

/// libcontainer's own state, made and removed by the shim.
const STATE_DIR: &str = "oci";
/// As much as a pipe holds by default.
const READ_BYTES: usize = 64 * 1024;

/// Why the container never ran.
struct Failure {
    code: i32,
    words: String,
}

impl From<String> for Failure {
    fn from(words: String) -> Failure {
        Failure { code: exec::NOT_FOUND, words }
    }
}

/// The container's ends of its output pipes, or ours.
struct Output<T> {
    stdout: T,
    stderr: T,
}

/// Runs the container of `dir` to its end. `lock` is held until the process ends; that is its only use.
pub(crate) fn run(dir: &Path, lock: File, mut report: File) -> ExitCode {
    let config: ShimConfig = match read_json(&dir.join(SHIM_FILE)) {
        Ok(Some(config)) => config,
        Ok(None) | Err(_) => {
            eprintln!("failed to read {SHIM_FILE} in {}", dir.display());
            return ExitCode::FAILURE;
        }
    };
    let hierarchies = cgroup::hierarchies().unwrap_or_default();
    let result = start(dir, &config, &hierarchies);
    let (exit, ended) = match result {
        Ok((started, output, home)) => {
            // Best done before the report: whoever hears of it may look for the file.
            let _engine_asks_again = write_json(&dir.join(STARTED_FILE), &started);
            send(&mut report, &Report::Started(started.clone()));
            drop(report);
            if let Err(e) = home.go() {
                // Copies of others' mounts stay busy until the container ends; nothing else depends on it.
                eprintln!("failed to return to the first mount namespace: {e}");
            }
            trim_memory();
            let exit = attend(dir, &config, &hierarchies, &started, output);
            (exit, None)
        }
        Err(failure) => (
            Exit {
                code: failure.code,
                oom_killed: cgroup::oom_killed(&hierarchies, &config.cgroup),
                finished_at_unix_nanos: stamp::now_unix_nanos(),
                error: Some(failure.words),
            },
            Some(report),
        ),
    };
    if let Err(e) = write_json(&dir.join(EXIT_FILE), &exit) {
        eprintln!("failed to write {EXIT_FILE}: {e}");
    }
    if let Some(mut report) = ended {
        send(&mut report, &Report::Failed(exit));
    }
    cgroup::remove(&hierarchies, &config.cgroup);
    let _left_for_the_engine = std::fs::remove_dir_all(dir.join(STATE_DIR));
    drop(lock);
    ExitCode::SUCCESS
}

fn send(report: &mut File, what: &Report) {
    // The engine may have died meanwhile; the files tell the next one.
    let _unheard = report.write_all(&serde_json::to_vec(what).unwrap_or_default());
}

fn start(
    dir: &Path,
    config: &ShimConfig,
    hierarchies: &[Hierarchy],
) -> Result<(Started, Output<File>, root::Home), Failure> {
    let shim_pid = Pid::this().as_raw();
    cgroup::join(hierarchies, &config.shim_cgroup, shim_pid)
        .map_err(|e| format!("failed to join the shims' cgroup {}: {e}", config.shim_cgroup))?;
    // What an earlier attempt of the same id may have left.
    cgroup::remove(hierarchies, &config.cgroup);
    let _absent = std::fs::remove_dir_all(dir.join(STATE_DIR));
    let home = root::prepare(dir, config)?;

    let io = |what: &str, e: rustix::io::Errno| format!("failed to make the {what} pipe: {e}");
    let (stdout, stdout_write) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| io("stdout", e))?;
    let (stderr, stderr_write) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| io("stderr", e))?;
    let (failure, failure_write) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| io("exec", e))?;
    let null = File::open("/dev/null").map_err(|e| format!("failed to open /dev/null: {e}"))?;
    let command = exec::Command { failure: Rc::new(File::from(failure_write)) };
    let write = Output { stdout: stdout_write, stderr: stderr_write };

    let mut failure = File::from(failure);
    let mut told = String::new();
    let pid = match launch(dir, config, null.into(), write, command) {
        Ok(pid) => pid,
        Err(words) => {
            // The command's own reason is better than libcontainer's account of it.
            let _no_better_reason = failure.read_to_string(&mut told);
            return Err(parse_failure(&told).unwrap_or_else(|| Failure::from(with_cause(dir, words))));
        }
    };
    // Ends without a word when the command runs.
    failure.read_to_string(&mut told).map_err(|e| format!("failed to read the exec pipe: {e}"))?;
    if let Some(failure) = parse_failure(&told) {
        let _reaped = waitpid(pid, None);
        return Err(failure);
    }
    let pid = pid.as_raw();
    let started = Started {
        pid,
        // Only this process can reap it, so it is still there.
        pid_start_ticks: start_ticks(pid).unwrap_or(0),
        shim_pid,
        started_at_unix_nanos: stamp::now_unix_nanos(),
    };
    Ok((started, Output { stdout: File::from(stdout), stderr: File::from(stderr) }, home))
}

/// Creates and starts the container; all ends of the pipes given are closed afterwards.
fn launch(
    dir: &Path,
    config: &ShimConfig,
    stdin: OwnedFd,
    output: Output<OwnedFd>,
    command: exec::Command,
) -> Result<Pid, String> {
    let describe = |e: libcontainer::error::LibcontainerError| {
        let mut words = e.to_string();
        let mut source = std::error::Error::source(&e);
        while let Some(e) = source {
            let next = e.to_string();
            if !words.contains(&next) {
                words = format!("{words}: {next}");
            }
            source = e.source();
        }
        words
    };
    let mut container = ContainerBuilder::new(config.id.clone(), SyscallType::default())
        .with_root_path(dir.join(STATE_DIR))
        .map_err(describe)?
        .with_executor(command)
        .with_stdin(stdin)
        .with_stdout(output.stdout)
        .with_stderr(output.stderr)
        .validate_id()
        .map_err(describe)?
        .as_init(dir)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(describe)?;
    let pid = container.pid().ok_or("libcontainer gave no process id")?;
    container.start().map_err(describe)?;
    Ok(pid)
}

/// The innermost error is logged first, its fields sometimes only by the next.
fn with_cause(dir: &Path, words: String) -> String {
    let log = std::fs::read_to_string(dir.join(ERROR_FILE)).unwrap_or_default();
    log.lines().take(2).fold(words, |words, cause| format!("{words}: {cause}"))
}

fn parse_failure(told: &str) -> Option<Failure> {
    let (code, words) = told.split_once(' ')?;
    Some(Failure { code: code.parse().ok()?, words: words.to_owned() })
}

/// Copies output to the log until the container's first process has ended, and with it all others.
fn attend(
    dir: &Path,
    config: &ShimConfig,
    cgroups: &[Hierarchy],
    started: &Started,
    output: Output<File>,
) -> Exit {
    let mut log = Log::open(dir.join(LOG_FILE), config.log_max_size, config.log_max_file);
    let mut streams = [("stdout", Some(output.stdout)), ("stderr", Some(output.stderr))];
    let mut lines = [Lines::default(), Lines::default()];
    let pid = Pid::from_raw(started.pid);
    let ended = rustix::process::Pid::from_raw(started.pid)
        .and_then(|p| rustix::process::pidfd_open(p, rustix::process::PidfdFlags::empty()).ok());
    let mut buffer = vec![0; READ_BYTES];
    if let Some(ended) = &ended {
        while !wait_readable(ended, &streams) {
            copy_ready(&mut streams, &mut lines, &mut log, &mut buffer, false);
        }
    }
    let status = waitpid(pid, None);
    let finished_at_unix_nanos = stamp::now_unix_nanos();
    copy_ready(&mut streams, &mut lines, &mut log, &mut buffer, true);
    for ((name, _), lines) in streams.iter().zip(&mut lines) {
        log.finish(name, lines);
    }
    let (code, error) = match status {
        Ok(WaitStatus::Exited(_, code)) => (code, None),
        Ok(WaitStatus::Signaled(_, signal, _)) => (128 + signal as i32, None),
        Ok(
            WaitStatus::Stopped(..)
            | WaitStatus::PtraceEvent(..)
            | WaitStatus::PtraceSyscall(_)
            | WaitStatus::Continued(_)
            | WaitStatus::StillAlive,
        ) => (137, Some("unexpected wait status".to_owned())),
        Err(e) => (137, Some(format!("failed to wait for the container: {e}"))),
    };
    Exit { code, oom_killed: cgroup::oom_killed(cgroups, &config.cgroup), finished_at_unix_nanos, error }
}

type Streams = [(&'static str, Option<File>); 2];

/// Waits until there is something to do; true when the container has ended.
fn wait_readable(ended: &OwnedFd, streams: &Streams) -> bool {
    let mut fds = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
    for stream in streams.iter().filter_map(|(_, s)| s.as_ref()) {
        fds.push(PollFd::new(stream.as_fd(), PollFlags::POLLIN));
    }
    // An interrupted wait looks as if nothing were ready, which is handled like any other spurious wake.
    let _interrupted = poll(&mut fds, PollTimeout::NONE);
    fds[0].any().unwrap_or(false)
}

/// Reads each stream that has something, once; with `all`, until it is empty. An ended stream is closed.
fn copy_ready(streams: &mut Streams, lines: &mut [Lines; 2], log: &mut Log, buffer: &mut [u8], all: bool) {
    for ((name, stream), lines) in streams.iter_mut().zip(lines) {
        while let Some(file) = stream {
            let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut fds, PollTimeout::ZERO).unwrap_or(0) > 0;
            if !ready {
                break;
            }
            match file.read(buffer) {
                Ok(0) | Err(_) => *stream = None,
                Ok(n) => log.take(name, lines, &buffer[..n]),
            }
            if !all {
                break;
            }
        }
    }
}

/// Gives back what starting the container took; fifty shims on one machine are meant to be cheap.
fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: has no preconditions.
    #[expect(unsafe_code, reason = "glibc's call has no safe form")]
    let _nothing_to_give = unsafe { libc::malloc_trim(0) };
}
