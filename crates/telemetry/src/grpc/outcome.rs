//! How one call went: recorded exactly once, also where the caller leaves before the answer is there.

use std::time::Instant;

use tonic::Code;

use super::code;

/// Which side of the call speaks, with its metrics.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Server { service: &'static str },
    Client { peer: &'static str },
}

/// A call under way. Dropped before [`Outcome::is`] it counts as CANCELLED.
pub(super) struct Outcome {
    side: Side,
    method: String,
    begun: Instant,
    recorded: bool,
}

impl Outcome {
    /// The method of a call that may be none: a caller chooses the path, and what is not there must not become a label.
    pub(super) const UNKNOWN: &str = "unknown";

    /// A call of this path, `/package.Service/Method`, begins now.
    pub(super) fn begin(side: Side, path: &str) -> Self {
        let method = path.rsplit('/').next().unwrap_or_default().to_owned();
        Self { side, method, begun: Instant::now(), recorded: false }
    }

    /// The call ends with this code.
    pub(super) fn is(mut self, code: Code) {
        self.record(code);
    }

    fn record(&mut self, code: Code) {
        self.recorded = true;
        let seconds = self.begun.elapsed().as_secs_f64();
        let absent = code == Code::Unimplemented;
        let method = if absent { Self::UNKNOWN.to_owned() } else { std::mem::take(&mut self.method) };
        let code = code::name(code);
        match self.side {
            Side::Server { service } => {
                let duration_ms = seconds * 1000.0;
                tracing::info!(target: "access", code, duration_ms, "call");
                metrics::counter!("grpc_server_calls_total", "service" => service, "method" => method.clone(), "code" => code)
                    .increment(1);
                metrics::histogram!("grpc_server_call_seconds", "service" => service, "method" => method)
                    .record(seconds);
            }
            Side::Client { peer } => {
                metrics::counter!("grpc_client_calls_total", "peer" => peer, "method" => method.clone(), "code" => code)
                    .increment(1);
                metrics::histogram!("grpc_client_call_seconds", "peer" => peer, "method" => method)
                    .record(seconds);
            }
        }
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if !self.recorded {
            self.record(Code::Cancelled);
        }
    }
}
