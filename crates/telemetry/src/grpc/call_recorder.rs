//! Recorder of one gRPC call: writes its access-log line and its metrics exactly once, also if the call
//! is dropped before it is answered.

use std::time::Instant;

use tonic::Code;

use super::code;
use crate::trace::Span;

/// Side of the call that records it; decides the names of the metrics.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Server { service: &'static str },
    Client { peer: &'static str },
}

impl Side {
    /// Returns true if a call that ends with this code is an error of its span: to a client every code but
    /// OK, to a server one that says that it has failed.
    fn is_fault(self, code: Code) -> bool {
        match self {
            Self::Client { .. } => code != Code::Ok,
            Self::Server { .. } => matches!(
                code,
                Code::Unknown
                    | Code::DeadlineExceeded
                    | Code::Unimplemented
                    | Code::Internal
                    | Code::Unavailable
                    | Code::DataLoss
            ),
        }
    }
}

/// Running call. If it is dropped before [`CallRecorder::finish`], it is recorded as CANCELLED.
pub(super) struct CallRecorder {
    side: Side,
    /// Path without the first slash, for the log.
    rpc: String,
    method: String,
    start: Instant,
    recorded: bool,
    span: Option<Span>,
}

impl CallRecorder {
    /// Label of a method that may not exist. Callers choose the path, so unknown names must not become
    /// labels.
    pub(super) const UNKNOWN_METHOD: &str = "unknown";

    /// Starts recording a call of this path, `/package.Service/Method`.
    pub(super) fn start(side: Side, path: &str, mut span: Option<Span>) -> Self {
        let method = path.rsplit('/').next().unwrap_or_default().to_owned();
        let rpc = path.trim_start_matches('/').to_owned();
        if let Some(span) = span.as_mut().filter(|span| span.is_recorded()) {
            span.set("rpc.system.name", "grpc");
            span.set("rpc.method", rpc.clone());
        }
        Self { side, rpc, method, start: Instant::now(), recorded: false, span }
    }

    /// Records that the call ended with this code.
    pub(super) fn finish(mut self, code: Code) {
        self.record(code);
    }

    fn record(&mut self, code: Code) {
        self.recorded = true;
        let seconds = self.start.elapsed().as_secs_f64();
        let unknown = code == Code::Unimplemented;
        let method = if unknown { Self::UNKNOWN_METHOD.to_owned() } else { std::mem::take(&mut self.method) };
        let is_fault = self.side.is_fault(code);
        let code = code::name(code);
        if let Some(mut span) = self.span.take() {
            span.set("rpc.response.status_code", code);
            if is_fault {
                span.fail(code);
            }
        }
        match self.side {
            Side::Server { service } => {
                let duration_ms = seconds * 1000.0;
                tracing::info!(target: "access", rpc = self.rpc, code, duration_ms, "call");
                metrics::counter!(
                    "grpc_server_calls_total",
                    "service" => service, "method" => method.clone(), "code" => code
                )
                .increment(1);
                metrics::histogram!("grpc_server_call_seconds", "service" => service, "method" => method)
                    .record(seconds);
            }
            Side::Client { peer } => {
                metrics::counter!(
                    "grpc_client_calls_total",
                    "peer" => peer, "method" => method.clone(), "code" => code
                )
                .increment(1);
                metrics::histogram!("grpc_client_call_seconds", "peer" => peer, "method" => method)
                    .record(seconds);
            }
        }
    }
}

impl Drop for CallRecorder {
    fn drop(&mut self) {
        if !self.recorded {
            self.record(Code::Cancelled);
        }
    }
}
