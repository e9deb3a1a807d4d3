//! Settings that the gateway has both in `serve` and as a separate role.

use std::path::PathBuf;

use clap::Args;
use gateway::Origins;

use super::{parse::switch, rate_limits::RateLimits, upstream::Upstream};

/// Access and limits of the gateway's port.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Gateway")]
pub struct Gateway {
    /// Origins whose web pages may use the API, comma-separated, such as `https://app.example.com`;
    /// loopback stands for all pages served by the browser's own machine. A client that sends no Origin
    /// header is not a web page and is allowed [default: loopback in serve, none in gateway]
    #[arg(long, env = "ALLOWED_ORIGINS", value_name = "ORIGIN,…")]
    pub allowed_origins: Option<Origins>,
    /// Introspection, the pages at /graphiql and /playground, and suggestions in error messages: on or
    /// off [default: on in serve, off in gateway]
    #[arg(long, env = "INTROSPECTION", value_name = "on|off", value_parser = switch)]
    pub introspection: Option<bool>,
    /// File with the documents that may be executed; all others are refused, except those of the page at /.
    /// A JSON object from id to document, or an Apollo persisted-query manifest; at most 16 MiB, read at
    /// startup. GraphiQL then needs its introspection query in the file [default: every document may be
    /// executed]
    #[arg(long, env = "TRUSTED_DOCUMENTS", value_name = "FILE")]
    pub trusted_documents: Option<PathBuf>,
    /// WebSockets and streams that a user may have open at this gateway, 1 to 10000
    #[arg(
        long,
        env = "MAX_SOCKETS_PER_USER",
        value_name = "NUMBER",
        default_value = "20",
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    pub max_sockets_per_user: u32,
    /// WebSockets that may be open at this gateway before authentication, 1 to 100000; more are refused
    /// with 503. One address may have a tenth of them, but at least 10; more are refused with 429
    #[arg(
        long,
        env = "MAX_ANONYMOUS_SOCKETS",
        value_name = "NUMBER",
        default_value = "2000",
        value_parser = clap::value_parser!(u32).range(1..=100_000)
    )]
    pub max_anonymous_sockets: u32,
    /// Memory for answers that clients have not read yet, in MiB, 8 to 65536; one user, or one address
    /// without a user, has at most 8 of it. Without room an operation waits, for 2 s at most, and is then
    /// refused as UNAVAILABLE
    #[arg(
        long,
        env = "ANSWER_MEMORY_MIB",
        value_name = "MIB",
        default_value = "256",
        value_parser = clap::value_parser!(u32).range(8..=65_536)
    )]
    pub answer_memory_mib: u32,
    /// Connections that may be open at this gateway, WebSockets included, 1 to 1000000; more are
    /// answered 503. A value above the hard limit on open files minus 256 is lowered to that number
    #[arg(
        long,
        env = "MAX_CONNECTIONS",
        value_name = "NUMBER",
        default_value = "19000",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    pub max_connections: u32,
    #[command(flatten)]
    pub upstream: Upstream,
    #[command(flatten)]
    pub rates: RateLimits,
}
