//! Spans and points of time as Go's flags read them.

use anyhow::{Context as _, anyhow};
use skep_api::Timestamp;
pub(crate) use skep_api::span::parse;

/// A span as Go prints it: `1h0m0s`, `1m30s`, `2.5s`, `100ms`.
pub(crate) fn text(nanos: u64) -> String {
    let fraction = |nanos: u64, unit: u64, digits: usize| {
        let (whole, rest) = (nanos / unit, nanos % unit);
        let text = format!("{whole}.{rest:0digits$}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}\u{b5}s", fraction(nanos, 1_000, 3)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(nanos, 1_000_000, 6)),
        _ => {
            let seconds = fraction(nanos % 60_000_000_000, 1_000_000_000, 9);
            match (nanos / 3_600_000_000_000, nanos / 60_000_000_000 % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// The wall clock of a client's command: for ages in tables and for `--since 5m`, for no decision.
pub(crate) fn now() -> Timestamp {
    Timestamp(i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX))
}

/// `--since`: RFC 3339, a span before now, or Unix seconds, as the API's `seconds.nanoseconds`.
pub(crate) fn since(text: &str, now: Timestamp) -> anyhow::Result<String> {
    let at = match (Timestamp::parse_rfc3339(text), parse(text)) {
        (Some(at), _) => at,
        (None, Ok(span)) => Timestamp(now.0.saturating_sub(span)),
        (None, Err(_)) if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') => {
            return Ok(text.to_owned());
        }
        (None, Err(error)) => {
            return Err(anyhow!(error)).with_context(|| {
                format!("invalid value for \"since\": '{text}' is neither a time (RFC 3339) nor a span (10m)")
            });
        }
    };
    Ok(format!("{}.{:09}", at.0.div_euclid(1_000_000_000), at.0.rem_euclid(1_000_000_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_as_go_writes_them() {
        for (nanos, expect) in [
            (0, "0s"),
            (1_500, "1.5\u{b5}s"),
            (100_000_000, "100ms"),
            (5_000_000_000, "5s"),
            (2_500_000_000, "2.5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(text(nanos), expect);
        }
    }

    #[test]
    fn since_is_absolute() {
        let now = Timestamp(100_000_000_000);
        for (text, expect) in
            [("40s", "60.000000000"), ("1970-01-01T00:00:05.5Z", "5.500000000"), ("12.5", "12.5"), ("7", "7")]
        {
            assert_eq!(since(text, now).unwrap(), expect, "{text}");
        }
        assert!(since("soon", now).is_err());
    }
}
