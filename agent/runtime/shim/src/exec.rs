//! Finds and runs the container's command, in its init process, with Docker's words when it cannot.
//!
//! The words go through a pipe of our own that closes by itself when the command starts running: so the
//! shim knows that it really runs, and the reason is not buried in libcontainer's chain of errors.

use std::ffi::CString;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::unistd::{AccessFlags, eaccess};

/// Exit codes of a command that never ran, as shells and Docker have them.
pub(crate) const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// Runs the command; what stops it is written to `failure` as `<code> <words>`.
#[derive(Clone)]
pub(crate) struct Command {
    pub(crate) failure: Rc<std::fs::File>,
}

impl Command {
    fn fail(&self, (code, words): (i32, String)) -> String {
        // If nobody reads any more, libcontainer's own error still tells.
        let _unread = write!(&*self.failure, "{code} {words}");
        words
    }
}

impl Executor for Command {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        match find(spec) {
            Ok(_) => Ok(()),
            Err(e) => Err(ExecutorValidationError::ArgValidationError(self.fail(e))),
        }
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let failed = |e| Err(ExecutorError::Other(self.fail(e)));
        let path = match find(spec) {
            Ok(path) => path,
            Err(e) => return failed(e),
        };
        let args = args(spec);
        let name = args.first().cloned().unwrap_or_default();
        let words = |why: &str| (NOT_EXECUTABLE, format!("exec: {name:?}: {why}"));
        let args: Result<Vec<CString>, _> = args.iter().map(|a| CString::new(a.as_bytes())).collect();
        let path = CString::new(path.as_os_str().as_encoded_bytes());
        let (Ok(args), Ok(path)) = (args, path) else {
            return failed(words("an argument holds a zero byte"));
        };
        reset_signals();
        // Returns only when it failed. Not execvp: that would hand a file of no known format to a shell.
        match nix::unistd::execv(&path, &args) {
            Ok(never) => match never {},
            Err(nix::Error::ENOEXEC) => failed(words("exec format error")),
            Err(nix::Error::EACCES) => failed(words("permission denied")),
            // The file is there: what is missing is its interpreter.
            Err(nix::Error::ENOENT) => {
                failed((NOT_FOUND, format!("exec: {name:?}: no such file or directory")))
            }
            Err(e) => failed(words(e.desc())),
        }
    }
}

/// An ignored signal stays ignored across exec: SIGPIPE is, in every Rust program, and others may be by
/// whoever started the daemon. Being told to die with the shim keeps a container from running on unseen when
/// the shim is killed.
fn reset_signals() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    for each in Signal::iterator() {
        // SAFETY: the default disposition runs no code of ours.
        #[expect(unsafe_code, reason = "signal has no safe form")]
        // Two of them cannot be changed, and have never been.
        let _kill_and_stop = unsafe { signal(each, SigHandler::SigDfl) };
    }
    let _cannot_fail = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
}

fn args(spec: &Spec) -> Vec<String> {
    spec.process().as_ref().and_then(|p| p.args().clone()).unwrap_or_default()
}

fn find(spec: &Spec) -> Result<PathBuf, (i32, String)> {
    let args = args(spec);
    let name = args.first().map_or("", String::as_str);
    if name.contains('/') {
        return match check(Path::new(name)) {
            Found::Yes => Ok(PathBuf::from(name)),
            Found::NotExecutable(why) => Err((NOT_EXECUTABLE, format!("exec: {name:?}: {why}"))),
            Found::No => Err((NOT_FOUND, format!("exec: {name:?}: stat {name}: no such file or directory"))),
        };
    }
    let env = spec.process().as_ref().and_then(|p| p.env().clone()).unwrap_or_default();
    let path = env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or("");
    let mut refused = None;
    for dir in path.split(':').filter(|_| !name.is_empty()) {
        let dir = if dir.is_empty() { "." } else { dir };
        match check(&Path::new(dir).join(name)) {
            Found::Yes => return Ok(Path::new(dir).join(name)),
            Found::NotExecutable(why) => refused = Some(why),
            Found::No => {}
        }
    }
    match refused {
        Some(why) if why != "is a directory" => Err((NOT_EXECUTABLE, format!("exec: {name:?}: {why}"))),
        Some(_) | None => Err((NOT_FOUND, format!("exec: {name:?}: executable file not found in $PATH"))),
    }
}

enum Found {
    Yes,
    No,
    NotExecutable(&'static str),
}

fn check(path: &Path) -> Found {
    match path.metadata() {
        Err(_) => Found::No,
        Ok(m) if m.is_dir() => Found::NotExecutable("is a directory"),
        // Root may do anything but run a file that nobody may run.
        Ok(m) if m.permissions().mode() & 0o111 == 0 => Found::NotExecutable("permission denied"),
        Ok(_) if eaccess(path, AccessFlags::X_OK).is_err() => Found::NotExecutable("permission denied"),
        Ok(_) => Found::Yes,
    }
}
