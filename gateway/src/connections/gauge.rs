//! Gauge guard: counts a value in a gauge from its creation until it is dropped.

use metrics::Gauge;

/// Increments a gauge when created and decrements it when dropped.
#[derive(Debug)]
pub(crate) struct GaugeGuard(Gauge);

impl GaugeGuard {
    /// Increments the gauge of this name, which has no labels.
    pub(crate) fn new(name: &'static str) -> Self {
        Self::of(metrics::gauge!(name))
    }

    /// Increments a gauge.
    pub(crate) fn of(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
