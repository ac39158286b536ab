//! When a job runs: five fields of cron in a time zone, as labels of its service say.
//!
//! The zones are those that are built in, so every manager reads them alike, whatever is installed beside it. As with
//! cron, fixed times, with no `*` for minutes or hours, are times of the wall clock: those that a change of clocks
//! leaves out are one run right after the gap, and one that comes twice is the first of both. All others run by real
//! time, through a change of clocks as well.

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{
    SignedDuration, Zoned,
    civil::DateTime,
    tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase},
};

use super::{ServiceSpec, SkepLabel};
use crate::Timestamp;

/// Where schedules are meant, if no label says so.
const ZONE_DEFAULT: &str = "UTC";

const SECOND: SignedDuration = SignedDuration::from_secs(1);

/// The longest text that is read: far more than any schedule needs, and reading takes a time that grows with it.
const TEXT_MAX: usize = 256;

/// When a job runs.
#[derive(Clone, Debug)]
pub struct Schedule {
    cron: Cron,
    zone: TimeZone,
    /// All its times are such by the wall clock, none is by the time that goes by.
    is_fixed: bool,
}

impl Schedule {
    /// Reads `m h dom mon dow` or a word like `@daily`, meant in a zone like `Europe/Berlin`.
    ///
    /// # Errors
    /// Which of both is wrong, and how.
    pub fn parse(text: &str, zone: &str) -> Result<Self, (SkepLabel, String)> {
        if text.len() > TEXT_MAX {
            return Err((SkepLabel::Cron, format!("longer than {TEXT_MAX} characters")));
        }
        let zone = TimeZoneDatabase::bundled().get(zone).map_err(|_| {
            (SkepLabel::CronZone, "unknown time zone; names are those of the tz database".to_owned())
        })?;
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let wrong = |error: &dyn std::fmt::Display| {
            (SkepLabel::Cron, format!("{error}; 'm h dom mon dow' expected, or a word like @daily"))
        };
        let cron = parser.parse(text).map_err(|error| wrong(&error))?;
        let is_fixed = !cron.pattern.minutes.from_wildcard && !cron.pattern.hours.from_wildcard;
        let schedule = Self { cron, zone, is_fixed };
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
        let local = self.local(after)?;
        if !self.is_fixed {
            return told(self.cron.find_next_occurrence(&local, false).ok()?.timestamp());
        }
        let mut wall = as_shown(local.datetime())?;
        loop {
            // What is shown grows with the time, but where it is shown twice: then the first of both may be over.
            wall = self.cron.find_next_occurrence(&wall, false).ok()?;
            let at = told(self.first(wall.datetime())?)?;
            if at > after {
                return Some(at);
            }
        }
    }

    /// The last time that is not after another one.
    #[must_use]
    pub fn last(&self, until: Timestamp) -> Option<Timestamp> {
        let local = self.local(until)?;
        if !self.is_fixed {
            return told(self.cron.find_previous_occurrence(&local, true).ok()?.timestamp());
        }
        let mut wall = as_shown(local.datetime().max(self.shown_before(&local)?))?;
        loop {
            wall = self.cron.find_previous_occurrence(&wall, true).ok()?;
            let at = told(self.first(wall.datetime())?)?;
            if at <= until {
                return Some(at);
            }
            wall = wall.checked_sub(SECOND).ok()?;
        }
    }

    /// When the wall clock shows that first, or passes over it.
    fn first(&self, shown: DateTime) -> Option<jiff::Timestamp> {
        let at = self.zone.to_ambiguous_timestamp(shown);
        let earlier = at.earlier().ok()?;
        match at.offset() {
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => Some(earlier),
            AmbiguousOffset::Gap { .. } => Some(self.zone.following(earlier).next()?.timestamp()),
        }
    }

    /// What the wall clock showed before it was changed last.
    fn shown_before(&self, local: &Zoned) -> Option<DateTime> {
        // Strictly before, but the change itself may be now.
        let until = local.timestamp().checked_add(SECOND).ok()?;
        let Some(change) = self.zone.preceding(until).next() else { return Some(local.datetime()) };
        let before = change.timestamp().checked_sub(SECOND).ok()?;
        Some(self.zone.to_datetime(before))
    }

    fn local(&self, at: Timestamp) -> Option<Zoned> {
        let at = jiff::Timestamp::from_nanosecond(i128::from(at.0)).ok()?;
        Some(at.to_zoned(self.zone.clone()))
    }
}

/// What a wall clock shows, as a time of a zone in which it is never changed.
fn as_shown(shown: DateTime) -> Option<Zoned> {
    shown.to_zoned(TimeZone::UTC).ok()
}

fn told(at: jiff::Timestamp) -> Option<Timestamp> {
    i64::try_from(at.as_nanosecond()).ok().map(Timestamp)
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
    fn fixed_times_are_once_however_many_they_are() {
        // New York: at 2:00 it becomes 3:00 on March 8, which is 7:00 UTC, and at 2:00 1:00 on November 1, 6:00 UTC.
        let (gap, fold) = ("2026-03-08T06:00:00Z", "2026-11-01T04:30:00Z");
        let zone = "America/New_York";
        check("0,30 2 * * *", zone, gap, &["2026-03-08T07:00:00Z", "2026-03-09T06:00:00Z"]);
        check(
            "30 1-3 * * *",
            zone,
            gap,
            &["2026-03-08T06:30:00Z", "2026-03-08T07:00:00Z", "2026-03-08T07:30:00Z"],
        );
        // One in the gap and one right after it are one run.
        check(
            "0 2,3 * * *",
            zone,
            gap,
            &["2026-03-08T07:00:00Z", "2026-03-09T06:00:00Z", "2026-03-09T07:00:00Z"],
        );
        check(
            "0,30 1 * * *",
            zone,
            fold,
            &["2026-11-01T05:00:00Z", "2026-11-01T05:30:00Z", "2026-11-02T06:00:00Z"],
        );
        check(
            "30 1,2 * * *",
            zone,
            fold,
            &["2026-11-01T05:30:00Z", "2026-11-01T07:30:00Z", "2026-11-02T06:30:00Z"],
        );
        // In the second half of what comes twice.
        check("15,45 1 * * *", zone, "2026-11-01T06:20:00Z", &["2026-11-02T06:15:00Z"]);
        let twice = Schedule::parse("15,45 1 * * *", zone).unwrap();
        assert_eq!(twice.last(at("2026-11-01T06:20:00Z")), Some(at("2026-11-01T05:45:00Z")));
        assert_eq!(twice.last(at("2026-11-01T06:00:00Z")), Some(at("2026-11-01T05:45:00Z")));
        assert_eq!(twice.last(at("2026-11-01T05:44:59Z")), Some(at("2026-11-01T05:15:00Z")));
    }

    #[test]
    fn a_change_of_half_an_hour() {
        // Lord Howe: at 2:00 it becomes 1:30 on April 5, which is 15:00 UTC, and at 2:00 2:30 on October 4, 15:30 UTC.
        let (fold, gap) = ("2026-04-04T13:30:00Z", "2026-10-03T14:30:00Z");
        let zone = "Australia/Lord_Howe";
        check(
            "15,45 1 * * *",
            zone,
            fold,
            &["2026-04-04T14:15:00Z", "2026-04-04T14:45:00Z", "2026-04-05T14:45:00Z"],
        );
        check(
            "15,45 2 * * *",
            zone,
            gap,
            &["2026-10-03T15:30:00Z", "2026-10-03T15:45:00Z", "2026-10-04T15:15:00Z"],
        );
        check(
            "45 * * * *",
            zone,
            fold,
            &["2026-04-04T13:45:00Z", "2026-04-04T14:45:00Z", "2026-04-04T15:15:00Z"],
        );
        check("10 * * * *", zone, gap, &["2026-10-03T14:40:00Z", "2026-10-03T16:10:00Z"]);
    }

    #[test]
    fn what_runs_by_real_time_leaves_a_gap_out_and_runs_twice_in_a_fold() {
        let zone = "Europe/Berlin";
        check(
            "*/30 2 * * *",
            zone,
            "2026-03-28T12:00:00Z",
            &["2026-03-30T00:00:00Z", "2026-03-30T00:30:00Z"],
        );
        check(
            "30 */2 * * *",
            zone,
            "2026-10-24T23:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"],
        );
    }

    #[test]
    fn a_text_without_end_is_not_read() {
        let commas = format!("1{}2 * * * *", ",".repeat(1_000_000));
        let (label, words) = Schedule::parse(&commas, "UTC").unwrap_err();
        assert_eq!((label, words.as_str()), (SkepLabel::Cron, "longer than 256 characters"));
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
