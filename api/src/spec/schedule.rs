//! When a job runs: five fields of cron in a time zone, as labels of its service say.
//!
//! The zones are those that are built in, so every manager reads them alike, whatever is installed beside it. A time
//! that a change of clocks leaves out is the first one after the gap; one that comes twice is the first of both, but
//! what runs each so many minutes goes on through it.

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{
    Zoned,
    tz::{TimeZone, TimeZoneDatabase},
};

use super::{ServiceSpec, SkepLabel};
use crate::Timestamp;

/// Where schedules are meant, if no label says so.
const ZONE_DEFAULT: &str = "UTC";

/// When a job runs.
#[derive(Clone, Debug)]
pub struct Schedule {
    cron: Cron,
    zone: TimeZone,
}

impl Schedule {
    /// Reads `m h dom mon dow` or a word like `@daily`, meant in a zone like `Europe/Berlin`.
    ///
    /// # Errors
    /// Which of both is wrong, and how.
    pub fn parse(text: &str, zone: &str) -> Result<Self, (SkepLabel, String)> {
        let zone = TimeZoneDatabase::bundled().get(zone).map_err(|_| {
            (SkepLabel::CronZone, "unknown time zone; names are those of the tz database".to_owned())
        })?;
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let wrong = |error: &dyn std::fmt::Display| {
            (SkepLabel::Cron, format!("{error}; 'm h dom mon dow' expected, or a word like @daily"))
        };
        let cron = parser.parse(text).map_err(|error| wrong(&error))?;
        let schedule = Self { cron, zone };
        // The thirtieth of February.
        if schedule.next(Timestamp(1)).is_none() {
            return Err((SkepLabel::Cron, "that time never comes".to_owned()));
        }
        Ok(schedule)
    }

    /// That of a service, if it has one.
    #[must_use]
    pub fn of(spec: &ServiceSpec) -> Option<Self> {
        Self::parse(spec.label(SkepLabel::Cron)?, zone(spec)).ok()
    }

    /// The first time after another one.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        told(&self.cron.find_next_occurrence(&self.local(after)?, false).ok()?)
    }

    /// The last time that is not after another one.
    #[must_use]
    pub fn last(&self, until: Timestamp) -> Option<Timestamp> {
        told(&self.cron.find_previous_occurrence(&self.local(until)?, true).ok()?)
    }

    fn local(&self, at: Timestamp) -> Option<Zoned> {
        let at = jiff::Timestamp::from_nanosecond(i128::from(at.0)).ok()?;
        Some(at.to_zoned(self.zone.clone()))
    }
}

fn told(at: &Zoned) -> Option<Timestamp> {
    i64::try_from(at.timestamp().as_nanosecond()).ok().map(Timestamp)
}

fn zone(spec: &ServiceSpec) -> &str {
    spec.label(SkepLabel::CronZone).unwrap_or(ZONE_DEFAULT)
}

impl ServiceSpec {
    /// Whether a schedule says when it runs.
    #[must_use]
    pub fn is_scheduled(&self) -> bool {
        self.label(SkepLabel::Cron).is_some()
    }

    /// Whether both run at the same times.
    #[must_use]
    pub fn has_schedule_of(&self, other: &Self) -> bool {
        self.label(SkepLabel::Cron) == other.label(SkepLabel::Cron) && zone(self) == zone(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    /// What comes after a time, one after the other.
    #[track_caller]
    fn check(text: &str, zone: &str, from: &str, expect: &[&str]) {
        let schedule = Schedule::parse(text, zone).unwrap();
        let mut time = at(from);
        for next in expect {
            time = schedule.next(time).unwrap();
            assert_eq!(time.to_string(), at(next).to_string(), "{text} {zone}");
            assert_eq!(schedule.last(time), Some(time), "{text} {zone}");
            assert_eq!(schedule.last(Timestamp(time.0 + 999_999_999)), Some(time), "{text} {zone}");
        }
    }

    #[test]
    fn times_are_those_of_cron() {
        let year = "2026-01-01T00:00:00Z";
        check("30 4 * * *", "UTC", year, &["2026-01-01T04:30:00Z", "2026-01-02T04:30:00Z"]);
        check("@hourly", "UTC", year, &["2026-01-01T01:00:00Z"]);
        check("@daily", "UTC", "2026-01-01T23:59:59.999999999Z", &["2026-01-02T00:00:00Z"]);
        check("@weekly", "UTC", year, &["2026-01-04T00:00:00Z"]);
        check("@monthly", "UTC", year, &["2026-02-01T00:00:00Z"]);
        check("@yearly", "UTC", year, &["2027-01-01T00:00:00Z"]);
        check(
            "*/25 8-9 * * mon-fri",
            "UTC",
            year,
            &["2026-01-01T08:00:00Z", "2026-01-01T08:25:00Z", "2026-01-01T08:50:00Z", "2026-01-01T09:00:00Z"],
        );
        // Either day will do where both are said.
        check(
            "0 0 13 * fri",
            "UTC",
            year,
            &["2026-01-02T00:00:00Z", "2026-01-09T00:00:00Z", "2026-01-13T00:00:00Z"],
        );
        check("0 0 29 2 *", "UTC", year, &["2028-02-29T00:00:00Z"]);
        check("0 0 * * 7", "UTC", year, &["2026-01-04T00:00:00Z"]);
        check("15 6 * * *", "Asia/Kathmandu", year, &["2026-01-01T00:30:00Z"]);
    }

    #[test]
    fn a_time_that_is_left_out_is_the_next_one_that_there_is() {
        // At 2:00 it becomes 3:00, which is 1:00 UTC.
        let before = "2026-03-28T12:00:00Z";
        check("30 2 * * *", "Europe/Berlin", before, &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
        check(
            "*/20 * * * *",
            "Europe/Berlin",
            "2026-03-29T00:30:00Z",
            &["2026-03-29T00:40:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:20:00Z"],
        );
    }

    #[test]
    fn a_time_that_comes_twice_is_once() {
        // At 3:00 it becomes 2:00, which is 1:00 UTC.
        let before = "2026-10-24T12:00:00Z";
        check("30 2 * * *", "Europe/Berlin", before, &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
        // What runs all the time does not stand still for an hour.
        check(
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-10-25T00:15:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"],
        );
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in [
            "",
            "x",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "5-1 * * * *",
            "*/0 * * * *",
            "@reboot",
            "0 0 30 2 *",
        ] {
            let (label, words) = Schedule::parse(text, "UTC").unwrap_err();
            assert_eq!(label, SkepLabel::Cron, "{text}: {words}");
        }
        let (label, _) = Schedule::parse("@daily", "Europe/Atlantis").unwrap_err();
        assert_eq!(label, SkepLabel::CronZone);
    }
}
