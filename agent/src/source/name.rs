//! Names of a live log and its rotated siblings, and their order in time.
//!
//! Three schemes: lumberjack's, which kube-apiserver uses (`audit-2026-11-21T02-17-46.037.log`: base name, rotation time
//! in UTC or local time with milliseconds, extension), logrotate's numbers (`audit.log.1` is younger than
//! `audit.log.2`) and its dates (`audit.log-20261121`); each also with `.gz`.

/// Where a file stands in the history of its log. Orders oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// Rotated at this time: milliseconds since the epoch, as far as the name tells.
    Time(i64),
    /// Rotated this many times; stored negated so that a higher number is older.
    Number(std::cmp::Reverse<u32>),
    /// The file the writer appends to.
    Live,
}

/// A directory entry that belongs to a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sibling {
    /// Place in the history.
    pub order: Order,
    /// Whether the content is gzip.
    pub compressed: bool,
}

/// What `name` is to the log whose live file is called `base`; `None` where it does not belong to it.
pub fn classify(base: &str, name: &str) -> Option<Sibling> {
    if name == base {
        return Some(Sibling { order: Order::Live, compressed: false });
    }
    let (plain, compressed) = match name.strip_suffix(".gz") {
        Some(plain) => (plain, true),
        None => (name, false),
    };
    let order = lumberjack(base, plain).or_else(|| logrotate(base, plain))?;
    Some(Sibling { order, compressed })
}

/// Whether a name looks like a rotated log of any base: a glob that catches it must not take it for a live log.
pub fn looks_rotated(name: &str) -> bool {
    let plain = name.strip_suffix(".gz").unwrap_or(name);
    if plain.len() < name.len() {
        return true;
    }
    let (stem, _) = split_extension(plain);
    let stamped = stem.len() > STAMP_LEN && stem.is_char_boundary(stem.len() - STAMP_LEN) && {
        let (head, stamp) = stem.split_at(stem.len() - STAMP_LEN);
        head.ends_with('-') && parse_stamp(stamp).is_some()
    };
    let numbered =
        plain.rsplit_once('.').is_some_and(|(head, number)| head.contains('.') && small_number(number).is_some());
    let dated = plain.rsplit_once('-').is_some_and(|(head, date)| head.contains('.') && parse_date(date).is_some());
    stamped || numbered || dated
}

/// Name of the live file that a rotated one was rotated from; other names without their `.gz`.
pub fn live_name(name: &str) -> String {
    let plain = name.strip_suffix(".gz").unwrap_or(name);
    let (stem, extension) = split_extension(plain);
    let stamped = stem.len().checked_sub(STAMP_LEN).and_then(|at| stem.split_at_checked(at));
    let stamped = stamped.and_then(|(head, stamp)| parse_stamp(stamp).and(head.strip_suffix('-')));
    if let Some(head) = stamped {
        return format!("{head}{extension}");
    }
    let numbered = plain.rsplit_once('.').filter(|(_, number)| small_number(number).is_some());
    let dated = || plain.rsplit_once('-').filter(|(_, date)| parse_date(date).is_some());
    numbered.or_else(dated).map_or(plain, |(head, _)| head).to_owned()
}

/// Length of `2006-01-02T15-04-05.000`.
const STAMP_LEN: usize = 23;

/// As Go's `filepath.Ext`: the extension starts at the last dot.
fn split_extension(name: &str) -> (&str, &str) {
    name.rfind('.').map_or((name, ""), |dot| name.split_at(dot))
}

fn lumberjack(base: &str, plain: &str) -> Option<Order> {
    let (stem, extension) = split_extension(base);
    let stamp = plain.strip_prefix(stem)?.strip_prefix('-')?.strip_suffix(extension)?;
    parse_stamp(stamp).map(Order::Time)
}

fn logrotate(base: &str, plain: &str) -> Option<Order> {
    let rest = plain.strip_prefix(base)?;
    if let Some(number) = rest.strip_prefix('.') {
        return small_number(number).map(|n| Order::Number(std::cmp::Reverse(n)));
    }
    parse_date(rest.strip_prefix('-')?).map(Order::Time)
}

fn small_number(text: &str) -> Option<u32> {
    (text.len() <= 6 && digits(text).is_some()).then(|| text.parse().ok())?
}

/// `20261121`, or with a second counter behind it as logrotate's `dateformat -%Y%m%d-%s` writes: milliseconds.
fn parse_date(text: &str) -> Option<i64> {
    let (day, seconds) = match text.split_once('-') {
        Some((day, seconds)) => (day, Some(digits(seconds)?)),
        None => (text, None),
    };
    if day.len() != 8 || !day.is_ascii() {
        return None;
    }
    let midnight = days_from_civil(digits(&day[..4])?, digits(&day[4..6])?, digits(&day[6..])?)? * 86_400_000;
    Some(seconds.map_or(midnight, |s| s.saturating_mul(1000)))
}

fn parse_stamp(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() != STAMP_LEN || !text.is_ascii() {
        return None;
    }
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b'-'), (16, b'-'), (19, b'.')];
    if separators.iter().any(|&(at, separator)| bytes[at] != separator) {
        return None;
    }
    let days = days_from_civil(digits(&text[..4])?, digits(&text[5..7])?, digits(&text[8..10])?)?;
    let (hour, minute, second) = (digits(&text[11..13])?, digits(&text[14..16])?, digits(&text[17..19])?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + digits(&text[20..])?)
}

fn digits(text: &str) -> Option<i64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years that start in March put the leap day last, so that the month lengths follow one formula.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468)
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use proptest::prelude::*;

    use super::*;

    fn order(base: &str, name: &str) -> Option<(Order, bool)> {
        classify(base, name).map(|sibling| (sibling.order, sibling.compressed))
    }

    // Fails if a rotation scheme the issue names is not recognised, or a stranger is taken for a sibling.
    #[test]
    fn names_of_every_scheme() {
        let time = Order::Time(1_795_227_466_037);
        assert_eq!(order("audit.log", "audit.log"), Some((Order::Live, false)));
        assert_eq!(order("audit.log", "audit-2026-11-21T02-17-46.037.log"), Some((time, false)));
        assert_eq!(order("audit.log", "audit-2026-11-21T02-17-46.037.log.gz"), Some((time, true)));
        assert_eq!(order("audit-log.json", "audit-log-2026-11-21T02-17-46.037.json"), Some((time, false)));
        assert_eq!(order("audit", "audit-2026-11-21T02-17-46.037"), Some((time, false)));
        assert_eq!(order("audit.log", "audit.log.12"), Some((Order::Number(Reverse(12)), false)));
        assert_eq!(order("audit.log", "audit.log.2.gz"), Some((Order::Number(Reverse(2)), true)));
        assert_eq!(order("audit.log", "audit.log-20261121"), Some((Order::Time(1_795_219_200_000), false)));
        for stranger in
            ["other.log", "audit.log.bak", "audit.log.gz.tmp", "audit-2026-13-21T02-17-46.037.log", "audit-.log"]
        {
            assert_eq!(order("audit.log", stranger), None, "{stranger}");
        }
    }

    // Fails if rotated files would be read in another order than they were written.
    #[test]
    fn history_is_ordered_oldest_first() {
        let mut names = vec!["audit.log", "audit.log.1", "audit.log.10.gz", "audit.log.2.gz"];
        names.sort_by_key(|name| classify("audit.log", name).map(|s| s.order));
        assert_eq!(names, ["audit.log.10.gz", "audit.log.2.gz", "audit.log.1", "audit.log"]);
    }

    // Fails if a glob like *.log would take rotated files for logs of their own.
    #[test]
    fn rotated_names_are_told_from_live_ones() {
        for rotated in ["audit-2026-11-21T02-17-46.037.log", "audit.log.3", "audit.log.gz", "audit.log-20261121"] {
            assert!(looks_rotated(rotated), "{rotated}");
        }
        for live in ["audit.log", "kube-apiserver-audit.log", "audit-log.json", "audit-2026.log", "v1.2"] {
            assert!(!looks_rotated(live), "{live}");
        }
    }

    // Fails if backups without their live file would not be put in order, or be put with another log.
    #[test]
    fn a_rotated_name_leads_to_its_live_name() {
        for (name, live) in [
            ("audit-2026-11-21T02-17-46.037.log.gz", "audit.log"),
            ("audit.log.12", "audit.log"),
            ("audit.log-20261121.gz", "audit.log"),
            ("audit-log.json.gz", "audit-log.json"),
            ("audit.log", "audit.log"),
            ("é", "é"),
        ] {
            assert_eq!(live_name(name), live);
        }
    }

    proptest! {
        // Fails if any name can panic the parser.
        #[test]
        fn no_name_panics(base in "\\PC{0,20}", name in "\\PC{0,60}") {
            let _ = (classify(&base, &name), looks_rotated(&name), live_name(&name));
        }
    }
}
