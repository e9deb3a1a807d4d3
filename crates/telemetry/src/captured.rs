//! Captured log output of a test's thread.

use std::{
    io,
    sync::{Arc, Once},
};

use parking_lot::Mutex;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    Identity,
    log::{self, Format},
};

/// Captures the log lines of the current thread until it is dropped.
pub(crate) struct Captured {
    lines: Lines,
    _guard: DefaultGuard,
}

impl Captured {
    /// Captures lines from INFO on.
    pub(crate) fn start(format: Format) -> Self {
        Self::start_with(format, "info")
    }

    /// Captures the lines that pass a filter with the syntax of `RUST_LOG`.
    pub(crate) fn start_with(format: Format, filter: &str) -> Self {
        keep_callsites_enabled();
        let lines = Lines::default();
        let layer = log::lines(format, false, &Identity::new("tidings-test", "0"), lines.clone());
        let subscriber = tracing_subscriber::registry().with(EnvFilter::new(filter)).with(layer);
        Self { lines, _guard: subscriber.set_default() }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.lines.0.lock().clone()).expect("text")
    }
}

/// Installs a default subscriber for the whole process that enables every callsite and writes nothing.
///
/// Without it, a thread that captures nothing and is the first to reach a callsite disables that callsite
/// for all threads: tracing caches whether the only known subscriber is interested.
pub(crate) fn keep_callsites_enabled() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| tracing_subscriber::registry().init());
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Lines {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}
