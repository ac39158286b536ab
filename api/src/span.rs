//! Spans of time as Go's flags write them: `1h30m`, `1.5s`, `10ms`.

/// Units of a span in nanoseconds.
const UNITS: [(&str, u128); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Nanoseconds of `1h30m`, `1.5s`, `10ms`, `0`.
///
/// # Errors
/// Go's words for what is none.
pub fn parse(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration \"{text}\"");
    if text == "0" {
        return Ok(0);
    }
    let mut rest = text;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(|| format!("time: missing unit in duration \"{text}\""))?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, after) = tail.split_at(unit_end);
        let (_, factor) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| format!("time: unknown unit \"{unit}\" in duration \"{text}\""))?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.len() > 18 {
            return Err(invalid());
        }
        let digits =
            |text: &str| if text.is_empty() { Ok(0) } else { text.parse::<u128>().map_err(|_| invalid()) };
        let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| invalid())?);
        let part = digits(whole)?.checked_mul(*factor).ok_or_else(invalid)?;
        let fraction = digits(fraction)? * factor / scale;
        total = total.checked_add(part).and_then(|sum| sum.checked_add(fraction)).ok_or_else(invalid)?;
        rest = after;
    }
    if text.is_empty() {
        return Err(invalid());
    }
    i64::try_from(total).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_go_reads_them() {
        let most = format!("{}ns1.5s", u128::MAX);
        for (text, expect) in [
            ("0", Some(0)),
            ("1ms", Some(1_000_000)),
            ("1.5s", Some(1_500_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("10us", Some(10_000)),
            ("5", None),
            ("", None),
            ("s", None),
            ("1x", None),
            ("-1s", None),
            (most.as_str(), None),
        ] {
            assert_eq!(parse(text).ok(), expect, "{text}");
        }
    }
}
