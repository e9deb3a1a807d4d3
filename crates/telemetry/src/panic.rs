//! Panics of handlers: counted, logged once, and answered as an internal error by the layer that caught them. The process
//! lives on, since a handler shares nothing with the next one but databases and channels.

use std::any::Any;

/// Counts and logs a panic that was caught in `place`. Called inside the request's span.
pub(crate) fn report(place: &'static str, payload: &(dyn Any + Send)) {
    let message = payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    metrics::counter!("panics_total", "place" => place).increment(1);
    tracing::error!(place, panic = message, "a handler panicked");
}
