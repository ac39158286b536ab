//! How people read spans of time and sizes: Docker's words.

use std::time::Duration;

/// `About a minute`, `3 hours`: rounded down, one unit.
pub(crate) fn human_duration(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match (seconds, minutes, hours) {
        (0, _, _) => "Less than a second".to_owned(),
        (1, _, _) => "1 second".to_owned(),
        (2..60, _, _) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".to_owned(),
        (_, _, 0..48) => format!("{hours} hours"),
        (_, _, 48..336) => format!("{} days", hours / 24),
        (_, _, 336..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, 1440..17_520) => format!("{} months", hours / 24 / 30),
        (_, _, _) => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// `1.952GiB`: binary, four digits.
pub(crate) fn bytes_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    let digits = match amount {
        ..10.0 => format!("{amount:.3}"),
        10.0..100.0 => format!("{amount:.2}"),
        100.0..1000.0 => format!("{amount:.1}"),
        _ => format!("{amount:.0}"),
    };
    let digits =
        if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { &digits };
    format!("{digits}{}", UNITS[unit])
}

/// `4.43MB`: decimal, three digits.
pub(crate) fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1000.0 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    let digits = match amount {
        ..10.0 => format!("{amount:.2}"),
        10.0..100.0 => format!("{amount:.1}"),
        _ => format!("{amount:.0}"),
    };
    let digits =
        if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { &digits };
    format!("{digits}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_reads_as_docker_writes_it() {
        for (bytes, expect) in
            [(0, "0B"), (64 << 20, "64MiB"), (4 << 30, "4GiB"), (2_097_000_448, "1.953GiB"), (1000, "1000B")]
        {
            assert_eq!(bytes_size(bytes), expect);
        }
    }

    #[test]
    fn spans_read_as_docker_writes_them() {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        const DAY: u64 = 24 * HOUR;
        for (seconds, expect) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (90, "About a minute"),
            (45 * MINUTE, "45 minutes"),
            (HOUR, "About an hour"),
            (5 * HOUR, "5 hours"),
            (3 * DAY, "3 days"),
            (21 * DAY, "3 weeks"),
            (90 * DAY, "3 months"),
            (800 * DAY, "2 years"),
        ] {
            assert_eq!(human_duration(Duration::from_secs(seconds)), expect, "{seconds}");
        }
    }

    #[test]
    fn sizes_read_as_docker_writes_them() {
        for (bytes, expect) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (4_428_000, "4.43MB"),
            (123_456_789, "123MB"),
            (2_000_000_000, "2GB"),
        ] {
            assert_eq!(human_size(bytes), expect, "{bytes}");
        }
    }
}
