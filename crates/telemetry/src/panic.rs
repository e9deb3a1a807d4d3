//! Panics: each is counted and logged where it is caught, and answered there as an internal error. The process lives on,
//! since a handler shares nothing with the next one but databases and channels.

use std::{any::Any, panic::PanicHookInfo};

/// Counts (`panics_total`, by `place`) and logs a panic that was caught. To be called inside the request's span, so that
/// the line carries its id.
pub fn report(place: &'static str, payload: &(dyn Any + Send)) {
    let message = payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    metrics::counter!("panics_total", "place" => place).increment(1);
    tracing::error!(place, panic = message, "a panic was caught");
}

/// From now on a panic is a line of the log that says where it began, and no text on standard error; what it was about
/// says who catches it.
pub(crate) fn hook() {
    std::panic::set_hook(Box::new(|panic: &PanicHookInfo<'_>| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(location, "a panic");
    }));
}
