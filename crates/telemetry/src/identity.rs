//! Identity of this process, as log lines, spans and metrics say it.

/// Service, instance and version.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Name of the service, such as `tidings-dialog`.
    pub service: &'static str,
    /// Name that tells instances of the service apart: host and process id.
    pub instance: String,
    /// Version of the program.
    pub version: &'static str,
}

impl Identity {
    /// Creates the identity of this process.
    pub fn new(service: &'static str, version: &'static str) -> Self {
        let name = rustix::system::uname();
        let host = name.nodename().to_string_lossy();
        Self { service, instance: format!("{host}:{}", std::process::id()), version }
    }
}
