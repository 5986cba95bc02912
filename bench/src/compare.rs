//! What was written against what arrived, counted by serial numbers.

use std::collections::HashMap;
use std::io::{self, BufRead};

use crate::generate::parse_serial;

/// The outcome of [`compare`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Events written.
    pub written: u64,
    /// Written events that arrived, each counted once.
    pub delivered: u64,
    /// Serial numbers that were written and did not arrive, in the order of writing.
    pub lost: Vec<u64>,
    /// Arrivals beyond the first, summed over all events.
    pub duplicated: u64,
    /// Lines that arrived and are no event that was written.
    pub foreign: u64,
    /// Whether the events arrived in the order in which they were written, repeats aside.
    pub in_order: bool,
}

impl Comparison {
    /// Whether every event arrived exactly once and nothing else did. Order is a separate question.
    pub fn is_exact(&self) -> bool {
        self.lost.is_empty() && self.duplicated == 0 && self.foreign == 0
    }
}

/// Compares the serial numbers written, each of which occurs once, with the lines that arrived.
///
/// # Errors
/// The reader's.
pub fn compare(written: &[u64], mut arrived: impl BufRead) -> io::Result<Comparison> {
    let positions: HashMap<u64, usize> = written.iter().enumerate().map(|(at, serial)| (*serial, at)).collect();
    let mut seen = vec![false; written.len()];
    let mut result = Comparison { written: written.len() as u64, in_order: true, ..Comparison::default() };
    let mut next = 0;
    let mut line = Vec::new();
    while arrived.read_until(b'\n', &mut line)? > 0 {
        match parse_serial(&line).and_then(|serial| positions.get(&serial).copied()) {
            None => result.foreign += 1,
            Some(at) if seen[at] => result.duplicated += 1,
            Some(at) => {
                seen[at] = true;
                result.delivered += 1;
                result.in_order &= at >= next;
                next = at + 1;
            }
        }
        line.clear();
    }
    result.lost = written.iter().zip(seen).filter(|(_, seen)| !seen).map(|(serial, _)| *serial).collect();
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Generator;

    fn lines(count: usize) -> Vec<Vec<u8>> {
        let mut generator = Generator::new(1);
        let mut line = || {
            let mut out = Vec::new();
            generator.next_line(0, &mut out);
            out
        };
        (0..count).map(|_| line()).collect()
    }

    // Fails if a loss, a repeat, a stranger or a wrong order is overlooked or counted twice.
    #[test]
    fn every_difference_is_counted() {
        let lines = lines(4);
        let arrived = [lines[0].as_slice(), &lines[3], &lines[1], &lines[1], &lines[1], b"{\"kind\":\"malformed\"}\n"];
        let expected =
            Comparison { written: 4, delivered: 3, lost: vec![2], duplicated: 2, foreign: 1, in_order: false };
        let result = compare(&[0, 1, 2, 3], arrived.concat().as_slice()).unwrap();
        assert_eq!(result, expected);
        assert!(!result.is_exact());
    }

    // Fails if a complete, ordered delivery is not recognised as one.
    #[test]
    fn a_complete_delivery_is_exact() {
        let result = compare(&[0, 1, 2, 3], lines(4).concat().as_slice()).unwrap();
        assert!(result.is_exact() && result.in_order, "{result:?}");
        assert_eq!(result.delivered, 4);
    }
}
