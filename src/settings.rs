//! Settings of every command, each a flag and an environment variable. The doc comments are the text of
//! `--help` and of the table in docs/operations.md, which a test keeps up to date
//! (`crate::operations_doc`).

mod demo;
mod engines;
mod events;
mod gateway;
mod maintenance;
mod parse;
mod rate_limits;
#[cfg(test)]
mod tests;
mod tokens;
mod upstream;
mod url;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{ArgAction, Args, Parser, Subcommand};

pub use self::{
    demo::{Demo, PublicUrl},
    engines::{Databases, Kafka, Redis, Replica},
    events::{Dead, EventLog, Events, EventsCommand, Follow, LogDatabases, Redrive, Saga, TopicName},
    gateway::Gateway,
    maintenance::{Explain, Rebuild, Reconcile, System},
    tokens::{Keys, Tokens},
};
use self::{
    parse::{address, duration, instance, switch},
    url::Url,
};

/// A chat backend whose unread counts are exact and live.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    after_help = "DURATION is a whole number from 1 with a unit (ms, s, m, h or d), such as 10s, at most ten \
        years. LIMIT is NUMBER/UNIT[:BURST], such as 100/s:200: NUMBER operations per second (s), minute (m) \
        or hour (h), and BURST at a time, by default NUMBER; 0 switches the limit off. A flag takes \
        precedence over its variable. An invalid setting is one line on standard error and exit status 2."
)]
pub struct Cli {
    /// Command to run; without one, serve
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub serve: Serve,
    #[command(flatten)]
    pub log: Log,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run all roles in this process, on SQLite unless database URLs are set (the default command)
    Serve(Box<Serve>),
    /// Run the auth service
    Auth(Auth),
    /// Run the dialog service
    Dialog(Dialog),
    /// Run the counter service
    Counter(Counter),
    /// Run the gateway
    Gateway(Box<GatewayRole>),
    /// Migrate the databases and create the Kafka topics
    Migrate(Migrate),
    /// Create the signing key and the service token, or rotate the signing key
    Keygen(Keygen),
    /// Check that a role on this machine is ready: exit status 0 if it is, 1 if not
    Healthcheck(Healthcheck),
    /// Compare all unread counts with the messages, memberships and read pointers while the system runs:
    /// exit status 0 if nothing differs, 1 if something does
    Reconcile(Box<Reconcile>),
    /// Make the unread counts again from the messages and memberships of dialog while the system runs
    Rebuild(Box<Rebuild>),
    /// Print the messages that a user's unread count in a dialog consists of
    Explain(Box<Explain>),
    /// Follow the event log, list dead letters and publish them again
    Events(Events),
    /// Print the path of a message from its storage to the clients, with times
    Saga(Saga),
    /// Let people chat through the public API for a while, then compare their live unread counts with the
    /// query: exit status 0 if nothing differs, 1 if something does
    Demo(Demo),
}

impl Command {
    /// Returns the name of the service in log lines and traces, and if the command runs until it is stopped.
    fn kind(&self) -> (&'static str, bool) {
        match self {
            Self::Serve(_) => ("tidings", true),
            Self::Auth(_) => ("tidings-auth", true),
            Self::Dialog(_) => ("tidings-dialog", true),
            Self::Counter(_) => ("tidings-counter", true),
            Self::Gateway(_) => ("tidings-gateway", true),
            Self::Migrate(_)
            | Self::Keygen(_)
            | Self::Healthcheck(_)
            | Self::Reconcile(_)
            | Self::Rebuild(_)
            | Self::Explain(_)
            | Self::Events(_)
            | Self::Saga(_)
            | Self::Demo(_) => ("tidings-command", false),
        }
    }

    /// Returns the name of the service in log lines and traces.
    pub fn service(&self) -> &'static str {
        self.kind().0
    }

    /// Returns true if the command runs until it is stopped.
    pub fn is_server(&self) -> bool {
        self.kind().1
    }
}

/// Logging of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub struct Log {
    /// Format of the log on standard error: text or json [default: text on a terminal, else json]
    #[arg(
        long = "log-format",
        env = "LOG_FORMAT",
        global = true,
        value_name = "FORMAT",
        hide_default_value = true
    )]
    pub format: Option<telemetry::log::Format>,
    /// Filter of the log: a level, or directives of tracing's EnvFilter such as info,sqlx=warn
    #[arg(
        long = "log-filter",
        env = "RUST_LOG",
        global = true,
        value_name = "FILTER",
        default_value = "info"
    )]
    pub filter: String,
}

/// Settings of `serve`.
#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// Address that serves HTTP and WebSocket; port 0 picks a free port
    #[arg(
        long,
        env = "LISTEN",
        value_name = "IP:PORT",
        default_value = "127.0.0.1:8080",
        value_parser = address
    )]
    pub listen: SocketAddr,
    /// Address that serves /healthz, /readyz and /metrics without authentication, and profiles to holders of
    /// the service token: keep it private
    #[arg(
        long,
        env = "OPS_LISTEN",
        value_name = "IP:PORT",
        default_value = "127.0.0.1:9090",
        value_parser = address
    )]
    pub ops_listen: SocketAddr,
    /// Folder of the SQLite databases and the key files, created with mode 0700 if absent; other users
    /// lose access to it. One process at a time can use its databases
    #[arg(long, env = "DATA_DIR", value_name = "DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    #[command(flatten)]
    pub databases: Databases,
    #[command(flatten)]
    pub log: Kafka,
    #[command(flatten)]
    pub cache: Redis,
    #[command(flatten)]
    pub keys: Keys,
    #[command(flatten)]
    pub tokens: Tokens,
    #[command(flatten)]
    pub gateway: Gateway,
    /// Age at which the outcome of a PENDING message is requested from the counter, instead of waiting
    /// for its event
    #[arg(
        long,
        env = "SAGA_DEADLINE",
        value_name = "DURATION",
        default_value = "10m",
        value_parser = duration
    )]
    pub saga_deadline: Duration,
    /// Time over which a shutdown closes the open WebSockets and streams; the process exits within this
    /// time plus 10 s
    #[arg(
        long,
        env = "DRAIN_WINDOW",
        value_name = "DURATION",
        default_value = "10s",
        value_parser = duration
    )]
    pub drain_window: Duration,
}

/// Settings that the three services have in common.
#[derive(Debug, Clone, Args)]
pub struct Service {
    /// Address that serves gRPC [default: 127.0.0.1, port 7051 for auth, 7052 for dialog, 7053 for
    /// counter]
    #[arg(long, env = "LISTEN", value_name = "IP:PORT", value_parser = address)]
    pub listen: Option<SocketAddr>,
    /// Address that serves /healthz, /readyz and /metrics without authentication, and profiles to holders of
    /// the service token: keep it private
    /// [default: 127.0.0.1, port 9091 for auth, 9092 for dialog, 9093 for counter]
    #[arg(long, env = "OPS_LISTEN", value_name = "IP:PORT", value_parser = address)]
    pub ops_listen: Option<SocketAddr>,
    /// Database of the service: postgres://USER:PASSWORD@HOST:PORT/DATABASE. At most 16 connections are
    /// opened
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Url,
    /// URL of the same database for migrations, where DATABASE_URL leads to a pooler such as PgBouncer
    /// [default: DATABASE_URL]
    #[arg(long, env = "DATABASE_DIRECT_URL", value_name = "URL", hide_env_values = true)]
    pub database_direct_url: Option<Url>,
    #[command(flatten)]
    pub cluster: Cluster,
    /// Name of this process, unique among the processes of its role and the same after a restart: 1 to
    /// 64 letters, digits, dots, dashes and underscores. A named process gets its Kafka partitions back
    /// immediately after a restart; those of an unnamed process that was killed are idle for 15 s
    /// [default: unnamed]
    #[arg(long, env = "INSTANCE", value_name = "NAME", value_parser = instance)]
    pub instance: Option<String>,
    /// gRPC reflection: on or off
    #[arg(
        long,
        env = "INTROSPECTION",
        value_name = "on|off",
        default_value = "off",
        value_parser = switch,
        action = ArgAction::Set
    )]
    pub introspection: bool,
}

/// Settings that all roles have in common when each is a process.
#[derive(Debug, Clone, Args)]
pub struct Cluster {
    /// Kafka brokers of the event log: kafka://HOST:PORT, more as ,HOST:PORT
    #[arg(long, env = "KAFKA_URL", value_name = "URL")]
    pub kafka_url: String,
    /// File of the token that authenticates calls between services, the same for all roles; mode 0600 or
    /// stricter, or 0640 if it belongs to root
    #[arg(long, env = "SERVICE_TOKEN_FILE", value_name = "FILE")]
    pub service_token_file: PathBuf,
    /// Time over which a shutdown closes the open WebSockets and streams of a gateway; every role exits
    /// within this time plus 10 s
    #[arg(
        long,
        env = "DRAIN_WINDOW",
        value_name = "DURATION",
        default_value = "10s",
        value_parser = duration
    )]
    pub drain_window: Duration,
}

/// Settings of `auth`.
#[derive(Debug, Clone, Args)]
pub struct Auth {
    #[command(flatten)]
    pub service: Service,
    #[command(flatten)]
    pub replica: Replica,
    /// File of the Ed25519 keys that sign access tokens, in PEM (PKCS#8): one or two, newest first; mode
    /// 0600 or stricter, or 0640 if it belongs to root. Read at startup
    #[arg(long, env = "SIGNING_KEY_FILE", value_name = "FILE")]
    pub signing_key_file: PathBuf,
    #[command(flatten)]
    pub tokens: Tokens,
}

/// Settings of `dialog`.
#[derive(Debug, Clone, Args)]
pub struct Dialog {
    #[command(flatten)]
    pub service: Service,
    #[command(flatten)]
    pub replica: Replica,
    /// URLs of the auth service: http://HOST:PORT, comma-separated. Calls are balanced over all
    /// addresses that they resolve to
    #[arg(long, env = "AUTH_URL", value_name = "URL,…")]
    pub auth_url: String,
    /// URLs of the counter service, in the form of AUTH_URL
    #[arg(long, env = "COUNTER_URL", value_name = "URL,…")]
    pub counter_url: String,
    /// Issuer that access tokens must name, as set for auth
    #[arg(long, env = "TOKEN_ISSUER", value_name = "NAME", default_value = "tidings")]
    pub token_issuer: String,
    /// Age at which the outcome of a PENDING message is requested from the counter, instead of waiting
    /// for its event
    #[arg(
        long,
        env = "SAGA_DEADLINE",
        value_name = "DURATION",
        default_value = "10m",
        value_parser = duration
    )]
    pub saga_deadline: Duration,
}

/// Settings of `counter`.
#[derive(Debug, Clone, Args)]
pub struct Counter {
    #[command(flatten)]
    pub service: Service,
    #[command(flatten)]
    pub cache: Redis,
    /// URLs of the auth service: http://HOST:PORT, comma-separated. Calls are balanced over all
    /// addresses that they resolve to
    #[arg(long, env = "AUTH_URL", value_name = "URL,…")]
    pub auth_url: String,
    /// URLs of the dialog service, in the form of AUTH_URL
    #[arg(long, env = "DIALOG_URL", value_name = "URL,…")]
    pub dialog_url: String,
    /// Issuer that access tokens must name, as set for auth
    #[arg(long, env = "TOKEN_ISSUER", value_name = "NAME", default_value = "tidings")]
    pub token_issuer: String,
}

/// Settings of `gateway`.
#[derive(Debug, Clone, Args)]
pub struct GatewayRole {
    /// Address that serves HTTP and WebSocket; port 0 picks a free port
    #[arg(
        long,
        env = "LISTEN",
        value_name = "IP:PORT",
        default_value = "127.0.0.1:8080",
        value_parser = address
    )]
    pub listen: SocketAddr,
    /// Address that serves /healthz, /readyz and /metrics without authentication, and profiles to holders of
    /// the service token: keep it private
    #[arg(
        long,
        env = "OPS_LISTEN",
        value_name = "IP:PORT",
        default_value = "127.0.0.1:9090",
        value_parser = address
    )]
    pub ops_listen: SocketAddr,
    #[command(flatten)]
    pub cluster: Cluster,
    /// URLs of the auth service: http://HOST:PORT, comma-separated. Calls are balanced over all
    /// addresses that they resolve to
    #[arg(long, env = "AUTH_URL", value_name = "URL,…")]
    pub auth_url: String,
    /// URLs of the dialog service, in the form of AUTH_URL
    #[arg(long, env = "DIALOG_URL", value_name = "URL,…")]
    pub dialog_url: String,
    /// URLs of the counter service, in the form of AUTH_URL
    #[arg(long, env = "COUNTER_URL", value_name = "URL,…")]
    pub counter_url: String,
    #[command(flatten)]
    pub cache: Redis,
    #[command(flatten)]
    pub tokens: Tokens,
    #[command(flatten)]
    pub gateway: Gateway,
}

/// Settings of `migrate`.
#[derive(Debug, Clone, Args)]
pub struct Migrate {
    #[command(flatten)]
    pub databases: Databases,
    #[command(flatten)]
    pub log: Kafka,
}

/// Settings of `keygen`.
#[derive(Debug, Clone, Args)]
pub struct Keygen {
    /// Folder for the key files whose path is not set, created with mode 0700 if absent; other users lose
    /// access to it
    #[arg(long, env = "DATA_DIR", value_name = "DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    #[command(flatten)]
    pub keys: Keys,
    /// Replace the signing key by a new one; the current one stays valid for verification, an older one is
    /// dropped. With several auth processes in two steps, each followed by a restart of all of them:
    /// --rotate=publish adds the new key for verification only, --rotate=sign then signs with it
    #[arg(
        long,
        value_name = "STEP",
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "at-once",
        hide_possible_values = true
    )]
    pub rotate: Option<Rotation>,
}

/// Step of a rotation of the signing key.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Rotation {
    /// Both steps, for one auth process.
    AtOnce,
    /// Publishes the next key.
    Publish,
    /// Signs with the next key.
    Sign,
}

/// Settings of `healthcheck`.
#[derive(Debug, Clone, Args)]
pub struct Healthcheck {
    /// Address of the role's /readyz; an unspecified IP such as 0.0.0.0 means loopback
    #[arg(
        long,
        env = "OPS_LISTEN",
        value_name = "IP:PORT",
        default_value = "127.0.0.1:9090",
        value_parser = address
    )]
    pub ops_listen: SocketAddr,
}
