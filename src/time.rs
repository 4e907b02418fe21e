//! Points in time, the clock that tells them, and the ways people write them.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, ToSpan as _, Zoned};
use serde::{Deserialize, Serialize};

use crate::hint::{ErrorKind, Hint};

/// An instant in UTC with nanoseconds; covers every time a file system can hold.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z; negative before.
    pub seconds: i64,
    /// Nanoseconds after that second, below 1,000,000,000.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// The instant `seconds` and `nanoseconds` after the epoch.
    pub const fn new(seconds: i64, nanoseconds: u32) -> Self {
        Self { seconds, nanoseconds }
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        let nanos = |t: Self| i128::from(t.seconds) * 1_000_000_000 + i128::from(t.nanoseconds);
        let difference = (nanos(self) - nanos(earlier)).max(0);
        Duration::from_nanos(u64::try_from(difference).unwrap_or(u64::MAX))
    }

    /// RFC 3339 in UTC with as many fractional digits as needed: `2026-01-04T12:00:00.5Z`.
    /// Times outside the years -9999 to 9999 are clamped.
    pub fn to_rfc3339(self) -> String {
        self.jiff().to_string()
    }

    /// For people: local time to the second, with the name of the zone.
    pub fn to_local(self) -> String {
        self.jiff().to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
    }

    /// Local time with its offset, as part of a file name: `2026-01-04T12:00:00+01:00`.
    pub fn to_offset(self) -> String {
        self.jiff().to_zoned(TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    }

    fn jiff(self) -> jiff::Timestamp {
        jiff::Timestamp::new(self.seconds, i32::try_from(self.nanoseconds).unwrap_or(0))
            .unwrap_or(if self.seconds < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX })
    }
}

/// A stretch of the calendar, in the zone of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// Between two full hours.
    Hour,
    /// Between two midnights.
    Day,
    /// From Monday on, as ISO 8601 has it.
    Week,
    /// A month of the calendar.
    Month,
    /// Three months, from January on.
    Quarter,
    /// A year of the calendar.
    Year,
}

impl Timestamp {
    /// A number that two times of the same period share, and no others.
    pub fn number(self, period: Period) -> i64 {
        let local = self.jiff().to_zoned(TimeZone::system());
        let date = local.date();
        let day = (date - Date::new(1970, 1, 1).unwrap_or(date)).get_days();
        match period {
            Period::Hour => i64::from(day) * 24 + i64::from(local.hour()),
            Period::Day => i64::from(day),
            // The first of January 1970 was a Thursday.
            Period::Week => (i64::from(day) + 3).div_euclid(7),
            Period::Month => i64::from(date.year()) * 12 + i64::from(date.month()),
            Period::Quarter => {
                i64::from(date.year()) * 4 + i64::from(date.month() - 1).div_euclid(3)
            }
            Period::Year => i64::from(date.year()),
        }
    }
}

/// A time span like `30s`, `5m`, `12 hours`.
pub fn parse_span(text: &str) -> Option<Duration> {
    let span = parse_ago(text)?;
    let reference = jiff::Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC);
    let end = reference.checked_add(span).ok()?;
    Duration::try_from(end.duration_since(&reference)).ok()
}

impl From<jiff::Timestamp> for Timestamp {
    fn from(time: jiff::Timestamp) -> Self {
        let (mut seconds, mut nanoseconds) = (time.as_second(), time.subsec_nanosecond());
        if nanoseconds < 0 {
            seconds -= 1;
            nanoseconds += 1_000_000_000;
        }
        Self { seconds, nanoseconds: nanoseconds.unsigned_abs() }
    }
}

impl From<Timestamp> for std::time::SystemTime {
    /// For interfaces that want it so; the epoch where a time is beyond what it can hold.
    fn from(time: Timestamp) -> Self {
        let Timestamp { seconds, nanoseconds } = time;
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let epoch = Self::UNIX_EPOCH;
        let base = if seconds < 0 { epoch.checked_sub(whole) } else { epoch.checked_add(whole) };
        base.and_then(|base| base.checked_add(Duration::from_nanos(nanoseconds.into())))
            .unwrap_or(epoch)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

/// Tells the time. Everything that needs the time gets it from here, so tests can set it.
pub trait Clock: Send + Sync {
    /// The present instant.
    fn now(&self) -> Timestamp;
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        jiff::Timestamp::now().into()
    }
}

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    /// A clock that shows `now`.
    pub fn new(now: Timestamp) -> Self {
        Self(Mutex::new(now))
    }

    /// Moves the clock, forwards or backwards.
    pub fn set(&self, now: Timestamp) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = now;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A text that is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time")]
pub struct ParseTimeError(String);

impl Hint for ParseTimeError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Usage
    }

    fn hint(&self) -> Option<String> {
        Some(
            "write it as 2026-01-04T12:00, 2026-01-04, 2026-01, \"2 hours ago\", 3d, yesterday or now"
                .to_owned(),
        )
    }
}

/// Reads a time as people write it, relative to `now` in the local time zone.
///
/// A time that is written less precisely than to the second means the *end* of the span it
/// names, as in kopia: `2026-05` is the last nanosecond of that May, so that "the newest snapshot
/// at or before `2026-05`" is the last one of the month.
pub fn parse_time(text: &str, now: Timestamp) -> Result<Timestamp, ParseTimeError> {
    parse_in(text, &now.jiff().to_zoned(TimeZone::system()))
        .map(Into::into)
        .ok_or_else(|| ParseTimeError(text.to_owned()))
}

fn parse_in(text: &str, now: &Zoned) -> Option<jiff::Timestamp> {
    let text = text.trim();
    match text {
        "now" => return Some(now.timestamp()),
        "today" => return end_of(now.date(), 1.day(), now.time_zone()),
        "yesterday" => return end_of(now.date().yesterday().ok()?, 1.day(), now.time_zone()),
        _ => {}
    }
    if let Some(span) = parse_ago(text) {
        return Some(now.checked_sub(span).ok()?.timestamp());
    }
    if let Ok(exact) = text.parse::<jiff::Timestamp>() {
        return Some(exact);
    }
    parse_civil(text, now.time_zone())
}

/// `2 hours ago`, `2h ago`, `90m`, `3d`, `1 week`.
fn parse_ago(text: &str) -> Option<Span> {
    let text = text.strip_suffix("ago").unwrap_or(text).trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (count, unit) = text.split_at(digits);
    let count: i64 = count.parse().ok()?;
    let span = Span::new();
    match unit.trim() {
        "s" | "sec" | "second" | "seconds" => span.try_seconds(count),
        "m" | "min" | "minute" | "minutes" => span.try_minutes(count),
        "h" | "hour" | "hours" => span.try_hours(count),
        "d" | "day" | "days" => span.try_days(count),
        "w" | "week" | "weeks" => span.try_weeks(count),
        "month" | "months" => span.try_months(count),
        "y" | "year" | "years" => span.try_years(count),
        _ => return None,
    }
    .ok()
}

/// A date or a date and time without zone, in any precision from the year on.
fn parse_civil(text: &str, zone: &TimeZone) -> Option<jiff::Timestamp> {
    let number = |part: &str| part.parse::<i8>().ok();
    let fields: Vec<&str> = text.split('-').collect();
    if let [year] | [year, _] = fields[..]
        && year.len() == 4
    {
        let year: i16 = year.parse().ok()?;
        return match fields.get(1) {
            None => end_of(Date::new(year, 1, 1).ok()?, 1.year(), zone),
            Some(month) => end_of(Date::new(year, number(month)?, 1).ok()?, 1.month(), zone),
        };
    }
    if let Ok(date) = Date::strptime("%Y-%m-%d", text) {
        return end_of(date, 1.day(), zone);
    }
    let text = text.replacen(' ', "T", 1);
    for (format, precision) in [("%Y-%m-%dT%H", 1.hour()), ("%Y-%m-%dT%H:%M", 1.minute())] {
        if let Ok(time) = DateTime::strptime(format, &text) {
            return end_of(time, precision, zone);
        }
    }
    let time: DateTime = text.parse().ok()?;
    let fraction = text.contains('.');
    if fraction {
        Some(time.to_zoned(zone.clone()).ok()?.timestamp())
    } else {
        end_of(time, 1.second(), zone)
    }
}

/// The last nanosecond of the span that begins at `start`.
fn end_of(start: impl Into<DateTime>, span: Span, zone: &TimeZone) -> Option<jiff::Timestamp> {
    let end = start.into().checked_add(span).ok()?.to_zoned(zone.clone()).ok()?.timestamp();
    end.checked_sub(1.nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> String {
        let now: Zoned = "2026-03-10T15:30:00[UTC]".parse().expect("a time");
        parse_in(text, &now).map_or_else(|| "no time".to_owned(), |time| time.to_string())
    }

    #[test]
    fn imprecise_times_mean_the_end_of_their_span() {
        assert_eq!(at("2026-02"), "2026-02-28T23:59:59.999999999Z");
        assert_eq!(at("2025"), "2025-12-31T23:59:59.999999999Z");
        assert_eq!(at("2026-01-04"), "2026-01-04T23:59:59.999999999Z");
        assert_eq!(at("2026-01-04T12:00"), "2026-01-04T12:00:59.999999999Z");
        assert_eq!(at("2026-01-04 12:00:07"), "2026-01-04T12:00:07.999999999Z");
        assert_eq!(at("yesterday"), "2026-03-09T23:59:59.999999999Z");
    }

    #[test]
    fn exact_times_stay_exact() {
        assert_eq!(at("2026-01-04T12:00:00Z"), "2026-01-04T12:00:00Z");
        assert_eq!(at("2026-01-04T12:00:00.25"), "2026-01-04T12:00:00.25Z");
        assert_eq!(at("2026-01-04T12:00:00+02:00"), "2026-01-04T10:00:00Z");
    }

    #[test]
    fn relative_times_count_back_from_now() {
        assert_eq!(at("2 hours ago"), "2026-03-10T13:30:00Z");
        assert_eq!(at("90m"), "2026-03-10T14:00:00Z");
        assert_eq!(at("3d ago"), "2026-03-07T15:30:00Z");
    }

    #[test]
    fn nonsense_is_no_time() {
        for text in ["", "soon", "2026-13", "2026-02-30", "12", "-3d", "2026-1-1-1"] {
            assert_eq!(at(text), "no time", "{text}");
        }
    }

    #[test]
    fn timestamps_before_the_epoch_keep_their_nanoseconds() {
        let time: jiff::Timestamp = "1969-12-31T23:59:58.25Z".parse().expect("a time");
        assert_eq!(Timestamp::from(time), Timestamp::new(-2, 250_000_000));
        assert_eq!(Timestamp::new(-2, 250_000_000).to_rfc3339(), "1969-12-31T23:59:58.25Z");
    }
}
