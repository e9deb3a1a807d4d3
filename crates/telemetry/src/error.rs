//! What can go wrong while telemetry is set up: settings that say nothing sensible.

/// A setting of the log that cannot be used. The text is written for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither `text` nor `json`.
    #[error("`{0}` is no log format: text or json")]
    Format(String),
    /// Directives that do not parse.
    #[error("`{filter}` is no log filter: {reason}")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
}
