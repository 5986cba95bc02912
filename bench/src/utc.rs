//! Calendar time in the three written forms an audit log and HTTP need. UTC only, from 1970 on.

use std::fmt::Write;

/// Microseconds in a second.
pub const SECOND_US: u64 = 1_000_000;

const DAY_S: u64 = 86_400;

/// A point in time, split into calendar fields.
struct Civil {
    year: u64,
    month: u64,
    day: u64,
    weekday: usize,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Civil {
    /// The calendar fields of a number of seconds since the epoch, after Hinnant's `civil_from_days`.
    fn of(seconds: u64) -> Self {
        let days = seconds / DAY_S;
        let shifted = days + 719_468; // Days since 0000-03-01: leap days come last in such a year.
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let of_day = seconds % DAY_S;
        Self {
            year: year_of_era + era * 400 + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * from_march + 2) / 5 + 1,
            weekday: ((days + 4) % 7) as usize, // The epoch was a Thursday.
            hour: of_day / 3_600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
        }
    }
}

/// `2026-11-21T02:09:13.969811Z`: how an audit event writes the time, always with six fraction digits.
pub fn event_time(epoch_us: u64) -> String {
    let Civil { year, month, day, hour, minute, second, .. } = Civil::of(epoch_us / SECOND_US);
    let fraction = epoch_us % SECOND_US;
    let mut text = String::with_capacity(27);
    // Writing to a String cannot fail.
    let _ = write!(text, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:06}Z");
    text
}

/// `2026-11-21T02:09:13Z`: how an API object writes the time.
pub fn object_time(epoch_us: u64) -> String {
    let mut text = event_time(epoch_us);
    text.truncate(19);
    text.push('Z');
    text
}

/// `2026-11-21T02-17-46.037`: how a rotated audit log carries the time of its rotation in its name.
pub fn backup_stamp(epoch_ms: u64) -> String {
    let Civil { year, month, day, hour, minute, second, .. } = Civil::of(epoch_ms / 1_000);
    let fraction = epoch_ms % 1_000;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}-{minute:02}-{second:02}.{fraction:03}")
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`: how HTTP writes the time (RFC 9110, 5.6.7).
pub fn http_date(epoch_s: u64) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let Civil { year, month, day, weekday, hour, minute, second } = Civil::of(epoch_s);
    let (weekday, month) = (DAYS[weekday], MONTHS[(month - 1) as usize]);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails if the calendar is off, at the epoch, around leap days or at the end of a year.
    #[test]
    fn known_moments_are_written_as_everyone_writes_them() {
        for (epoch_s, expected) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_767_225_599, "Wed, 31 Dec 2025 23:59:59 GMT"),
        ] {
            assert_eq!(http_date(epoch_s), expected);
        }
    }

    // Fails if fraction digits are dropped or not padded: the server always writes them all.
    #[test]
    fn fractions_keep_their_zeros() {
        assert_eq!(event_time(1_000_037), "1970-01-01T00:00:01.000037Z");
        assert_eq!(object_time(1_000_037), "1970-01-01T00:00:01Z");
        assert_eq!(backup_stamp(1_007), "1970-01-01T00-00-01.007");
    }
}
