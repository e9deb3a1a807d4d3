//! Settings of the engines that `serve` and `migrate` share: databases, Kafka and Redis.

use clap::Args;

use super::url::Url;

/// Databases of all services: none, which means SQLite in `DATA_DIR`, or all three.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Engines")]
pub struct Databases {
    /// Database of auth: postgres://USER:PASSWORD@HOST:PORT/DATABASE. The three database URLs are set
    /// together or not at all [default: SQLite in DATA_DIR]
    #[arg(
        long,
        env = "AUTH_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true,
        requires_all = ["dialog_database_url", "counter_database_url"]
    )]
    pub auth_database_url: Option<Url>,
    /// Database of dialog, in the form of AUTH_DATABASE_URL [default: SQLite in DATA_DIR]
    #[arg(
        long,
        env = "DIALOG_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true,
        requires_all = ["auth_database_url", "counter_database_url"]
    )]
    pub dialog_database_url: Option<Url>,
    /// Database of counter, in the form of AUTH_DATABASE_URL [default: SQLite in DATA_DIR]
    #[arg(
        long,
        env = "COUNTER_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true,
        requires_all = ["auth_database_url", "dialog_database_url"]
    )]
    pub counter_database_url: Option<Url>,
}

/// Replica of the database of auth and dialog.
#[derive(Debug, Clone, Args)]
pub struct Replica {
    /// Streaming replica of the database, in the form of DATABASE_URL: PostgreSQL only. Histories, dialogs,
    /// searches and users are read there while it shows what DATABASE_URL shows. At most 16 connections are
    /// opened, and one more to DATABASE_URL [default: all reads use DATABASE_URL]
    #[arg(long, env = "DATABASE_REPLICA_URL", value_name = "URL", hide_env_values = true)]
    pub database_replica_url: Option<Url>,
}

/// Event log of `serve` and `migrate`.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Engines")]
pub struct Kafka {
    /// Kafka brokers of the event log: kafka://HOST:PORT, more as ,HOST:PORT. Required with PostgreSQL,
    /// refused with SQLite [default: the outbox tables of the databases]
    #[arg(long, env = "KAFKA_URL", value_name = "URL")]
    pub kafka_url: Option<String>,
}

/// Redis, which processes of a role share.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Engines")]
pub struct Redis {
    /// Redis for the counter's cache of unread counts and for rate limits across gateways:
    /// redis://HOST:PORT/DATABASE. A Redis database must serve one counter database only. Nothing is
    /// lost when it is down or flushed [default: bounded maps in each process]
    #[arg(long, env = "REDIS_URL", value_name = "URL", hide_env_values = true)]
    pub redis_url: Option<Url>,
}
