//! A container's output as Docker's logs API gives it.
//!
//! That takes whole seconds for a window's bounds, so the window is asked for a little wider and cut here.

use bollard::{Docker, container::LogOutput, query_parameters::LogsOptionsBuilder};
use futures::{StreamExt, stream::BoxStream};
use skep_api::Timestamp;

use crate::engine::{EngineError, LogLine, LogWindow};

const NANOS_PER_SECOND: i64 = 1_000_000_000;

pub(super) async fn read(
    docker: &Docker,
    name: &str,
    window: LogWindow,
) -> Result<BoxStream<'static, LogLine>, EngineError> {
    let seconds = |nanos: i64| i32::try_from(nanos / NANOS_PER_SECOND).unwrap_or(i32::MAX);
    let mut options = LogsOptionsBuilder::new()
        .follow(window.follow)
        .stdout(window.stdout)
        .stderr(window.stderr)
        .timestamps(true)
        .tail(&window.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string()));
    if window.since != 0 {
        options = options.since(seconds(window.since));
    }
    if window.until != 0 {
        options = options.until(seconds(window.until).saturating_add(1));
    }
    let mut output = docker.logs(name, Some(options.build())).boxed().peekable();
    // What is wrong with the request is known with the first piece.
    if let Some(Err(_)) = std::pin::Pin::new(&mut output).peek().await
        && let Some(Err(error)) = output.next().await
    {
        return Err(super::failed(error));
    }
    let within = move |line: &LogLine| {
        (window.since == 0 || line.time >= window.since) && (window.until == 0 || line.time < window.until)
    };
    let lines = output.filter_map(move |piece| {
        let read = piece.ok().and_then(line).filter(within);
        async move { read }
    });
    Ok(lines.boxed())
}

/// `2026-01-02T03:04:05.678901234Z text`; what has no time is no line of a container.
fn line(piece: LogOutput) -> Option<LogLine> {
    let (stderr, message) = match piece {
        LogOutput::StdErr { message } => (true, message),
        LogOutput::StdOut { message } | LogOutput::Console { message } => (false, message),
        LogOutput::StdIn { .. } => return None,
    };
    let space = message.iter().position(|byte| *byte == b' ')?;
    let time = Timestamp::parse_rfc3339(std::str::from_utf8(&message[..space]).ok()?)?;
    Some(LogLine { time: time.0, stderr, data: message[space + 1..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_its_time_its_stream_and_its_text() {
        let out = |text: &'static str| LogOutput::StdOut { message: text.into() };
        let read = line(out("1970-01-01T00:00:01.000000002Z a b\n")).unwrap();
        assert_eq!(read, LogLine { time: 1_000_000_002, stderr: false, data: b"a b\n".to_vec() });
        let err = LogOutput::StdErr { message: "1970-01-01T00:00:01Z \n".into() };
        assert_eq!(
            line(err).unwrap(),
            LogLine { time: NANOS_PER_SECOND, stderr: true, data: b"\n".to_vec() }
        );
        for bad in ["", "no time here\n", "1970-01-01T00:00:01Z"] {
            assert_eq!(line(out(bad)), None, "{bad}");
        }
    }
}
