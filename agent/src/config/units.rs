//! Sizes and durations as people write them.

use std::time::Duration;

/// What a size looks like, for messages.
pub const SIZE_FORM: &str = "write a size such as 50MB, 24MiB or 50_000_000 (bytes)";

/// What a duration looks like, for messages.
pub const DURATION_FORM: &str = "write a duration such as 500ms, 60s or 1h30m";

/// Bytes in each unit of size. Decimal and binary units are told apart: `MB` is 10^6, `MiB` is 2^20.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
];

/// Milliseconds in each unit of time.
const TIME_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Bytes written as a whole number with an optional unit: `50MB`, `24 MiB`, `50_000_000`. `None` where the text is
/// something else or does not fit 64 bits.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, rest) = leading_number(text.trim())?;
    let unit = rest.trim_start();
    let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*bytes)
}

/// A sequence of whole numbers, each with a unit, the larger first: `500ms`, `60s`, `1h30m`. `None` where the text is
/// something else. A number without a unit is not a duration: `60` could be anything.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total_ms = 0u64;
    let mut previous_ms = u64::MAX;
    while !rest.is_empty() || previous_ms == u64::MAX {
        let (number, behind) = leading_number(rest)?;
        let unit_len = behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit_len);
        let (_, unit_ms) = TIME_UNITS.iter().find(|(name, _)| *name == unit)?;
        if *unit_ms >= previous_ms {
            return None;
        }
        total_ms = total_ms.checked_add(number.checked_mul(*unit_ms)?)?;
        previous_ms = *unit_ms;
        rest = behind.trim_start();
    }
    Some(Duration::from_millis(total_ms))
}

/// Bytes in the largest binary unit that shows them exactly: `24MiB`, `512KiB`, `50000000B`.
pub fn format_size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let exact = units.iter().find(|(_, shift)| bytes != 0 && bytes.trailing_zeros() >= *shift);
    match exact {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None => format!("{bytes}B"),
    }
}

/// Milliseconds in the largest unit that shows them exactly: `90s`, `500ms`, `1d`. What is finer is cut off.
pub fn format_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    let exact = TIME_UNITS.iter().rev().find(|(_, unit_ms)| ms != 0 && ms.is_multiple_of(u128::from(*unit_ms)));
    match exact {
        Some((unit, unit_ms)) => format!("{}{unit}", ms / u128::from(*unit_ms)),
        None => "0s".to_owned(),
    }
}

/// Splits off the decimal number a text starts with; underscores between digits are for the eye.
fn leading_number(text: &str) -> Option<(u64, &str)> {
    let len = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (digits, rest) = text.split_at(len);
    if digits.starts_with('_') || digits.ends_with('_') {
        return None;
    }
    let number = digits.replace('_', "").parse().ok()?;
    Some((number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails if a unit is worth something else or a form an operator may write is refused.
    #[test]
    fn sizes() {
        let cases = [
            ("50MB", Some(50_000_000)),
            ("50MiB", Some(52_428_800)),
            ("50 MiB", Some(52_428_800)),
            ("50_000_000", Some(50_000_000)),
            ("512KiB", Some(524_288)),
            ("0", Some(0)),
            ("1kB", Some(1000)),
            ("50mb", None),
            ("MB", None),
            ("-1", None),
            ("1.5GB", None),
            ("_1", None),
            ("", None),
            ("99999999999GiB", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_size(text), expected, "{text:?}");
        }
    }

    // Fails if a unit is worth something else, or a bare number is guessed to be seconds.
    #[test]
    fn durations() {
        let cases = [
            ("60s", Some(60_000)),
            ("500ms", Some(500)),
            ("2m", Some(120_000)),
            ("1h30m", Some(5_400_000)),
            ("1d 1ms", Some(86_400_001)),
            ("0s", Some(0)),
            ("60", None),
            ("30m1h", None),
            ("1s1s", None),
            ("1h30", None),
            ("s", None),
            ("", None),
            ("999999999999999999d", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text), expected.map(Duration::from_millis), "{text:?}");
        }
    }

    // Fails if a size or duration in a message would not be accepted back, or reads as another one.
    #[test]
    fn what_is_shown_parses_back() {
        for ms in [0, 1, 500, 60_000, 90_000, 86_400_000, 90_000_000] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }
        assert_eq!(format_duration(Duration::from_secs(90)), "90s");
        for bytes in [0, 1, 1024, 1536, 24 << 20, 50_000_000, 3 << 30, u64::MAX] {
            assert_eq!(parse_size(&format_size(bytes)), Some(bytes));
        }
        assert_eq!(format_size(24 << 20), "24MiB");
    }
}
