//! Reads single numbers from a `/metrics` page.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Bytes of a page that are read.
const PAGE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The page, or `None` while nobody serves it.
pub(crate) fn page(address: SocketAddr) -> Option<String> {
    let limit = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&address, limit).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.take(PAGE_BYTES_MAX).read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.1 200").then_some(answer)
}

/// The sum of a metric over all its label sets; `None` where the page has none of it.
pub(crate) fn sum(page: &str, metric: &str) -> Option<f64> {
    let samples = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(metric)?;
        let labelled = rest.starts_with('{') || rest.starts_with(' ');
        labelled.then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    });
    samples.reduce(|total, sample| total + sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails if a comment, another metric with the same beginning, or a label is taken for a value.
    #[test]
    fn samples_of_one_metric_are_added_up() {
        let page = "# HELP events_total 7 events\nevents_total_other 100\nevents_total 1\n\
                    events_total{source=\"/a b\"} 2\nevents_total{source=\"/c\"} 3e1\nmore_events_total 50\n";
        assert_eq!(sum(page, "events_total"), Some(33.0));
        assert_eq!(sum(page, "absent_total"), None);
    }
}
