//! Errors of the telemetry settings.

/// Invalid setting. The message is written for operators.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The format is neither `text` nor `json`.
    #[error("invalid log format `{0}`: expected text or json")]
    Format(String),
    /// The filter's directives do not parse.
    #[error("invalid log filter `{filter}`: {reason}")]
    Filter {
        /// Filter as given.
        filter: String,
        /// Error of the parser.
        reason: String,
    },
    /// The variables of OpenTelemetry do not name a collector that can be reached by gRPC.
    #[error("invalid setting of traces (OTEL_…): {0}")]
    Traces(String),
}
