//! Panic reporting. A panic is counted and logged where it is caught, and answered there as an internal
//! error. The process keeps running: handlers share nothing but databases and channels, so a panic
//! leaves no broken state behind.

use std::{any::Any, panic::PanicHookInfo};

/// Counts (`panics_total`, labelled with `place`) and logs a caught panic. Call it inside the request's
/// span, so that the log line carries the request id.
pub fn report(place: &'static str, payload: &(dyn Any + Send)) {
    let message = payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    metrics::counter!("panics_total", "place" => place).increment(1);
    tracing::error!(place, panic = message, "caught a panic");
}

/// Starts the counters of these places at 0: Prometheus sees no increase in the first value of a series.
pub fn count_from_zero(places: &[&'static str]) {
    for place in places {
        metrics::counter!("panics_total", "place" => *place).increment(0);
    }
}

/// Installs a panic hook that logs the location instead of printing to standard error. [`report`] logs
/// the message.
pub(crate) fn install_hook() {
    std::panic::set_hook(Box::new(|panic: &PanicHookInfo<'_>| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(location, "panic");
    }));
}
