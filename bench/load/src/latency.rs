//! Latencies of one kind of operation, with three significant digits.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest latency in microseconds; a longer one is recorded as this one.
const LONGEST_US: u64 = 600_000_000;

/// Recorded latencies.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// Records all of them.
    pub fn of(latencies: impl IntoIterator<Item = Duration>) -> Self {
        let mut histogram = Histogram::new_with_bounds(1, LONGEST_US, 3).expect("valid bounds");
        for latency in latencies {
            histogram.saturating_record(latency.as_micros() as u64);
        }
        Self(histogram)
    }

    /// Returns the latency in milliseconds that this share of the operations does not exceed.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1000.0
    }

    /// Returns the median, the 99th percentile and the maximum under names that begin with `what`.
    pub fn summary(&self, what: &str) -> Vec<(String, f64)> {
        [("p50", 0.5), ("p99", 0.99), ("max", 1.0)]
            .map(|(name, share)| (format!("{what} {name}, ms"), self.quantile_ms(share)))
            .to_vec()
    }
}

#[test]
fn quantiles_are_those_of_the_sorted_latencies() {
    let latencies = Latencies::of((1..=1000).map(Duration::from_millis));
    for (share, expected) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
        let value = latencies.quantile_ms(share);
        assert!((value / expected - 1.0).abs() < 0.002, "{share}: {value} instead of {expected}");
    }
    assert_eq!(latencies.summary("badge")[1].0, "badge p99, ms");
}
