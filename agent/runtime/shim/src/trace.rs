//! Writes libcontainer's error events into the shim's own log.
//!
//! Its error values lose their causes on the way from the container's init process; its events have them.
//! They go to a descriptor of their own, because the init process's stderr is the container's.

use std::fmt::{Debug, Write as _};
use std::fs::File;
use std::io::Write as _;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Sends all errors to `file` from now on.
pub(crate) fn install(file: File) {
    // Fails only if called twice, and then the first stands.
    let _already_set = tracing::subscriber::set_global_default(Errors { file });
}

struct Errors {
    file: File,
}

impl Subscriber for Errors {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        // One write, so that lines of parent and child do not mix.
        let _disk_full = writeln!(&self.file, "{}", line.0.trim_start().replace('\n', " "));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _infallible = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
