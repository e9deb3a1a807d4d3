//! Settings of the commands that read the event log.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use proto::{TransactionId, topic};
use uuid::Uuid;

use super::url::Url;

/// Settings of `events`.
#[derive(Debug, Clone, Args)]
pub struct Events {
    /// What to do with the events
    #[command(subcommand)]
    pub command: EventsCommand,
}

/// Commands for the event log.
#[derive(Debug, Clone, Subcommand)]
pub enum EventsCommand {
    /// Print events as they are published, until interrupted
    Follow(Follow),
    /// Print the dead letters: events that no consumer could apply
    Dead(Dead),
    /// Publish the events of dead letters again, in their order, after the cause was removed. Repeating it
    /// changes nothing that was applied
    Redrive(Redrive),
}

/// Event log of a running system.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "System")]
pub struct EventLog {
    /// Folder of `tidings serve`, whose SQLite databases hold the events unless KAFKA_URL is set
    #[arg(long, env = "DATA_DIR", value_name = "DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    /// Kafka brokers of the event log: kafka://HOST:PORT, more as ,HOST:PORT
    #[arg(long, env = "KAFKA_URL", value_name = "URL")]
    pub kafka_url: Option<String>,
}

/// Databases beside Kafka.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "System")]
pub struct LogDatabases {
    /// Database of auth, if KAFKA_URL is set
    #[arg(long, env = "AUTH_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub auth_database_url: Option<Url>,
    /// Database of dialog, if KAFKA_URL is set
    #[arg(long, env = "DIALOG_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub dialog_database_url: Option<Url>,
    /// Database of counter, if KAFKA_URL is set
    #[arg(long, env = "COUNTER_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub counter_database_url: Option<Url>,
}

/// Topic of the event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TopicName {
    /// Users and sessions.
    Auth,
    /// Dialogs, memberships and messages.
    Dialog,
    /// Replies about messages, and read pointers.
    Counter,
    /// Changes of unread counts.
    Unread,
}

impl TopicName {
    /// Returns the name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auth => topic::AUTH,
            Self::Dialog => topic::DIALOG,
            Self::Counter => topic::COUNTER,
            Self::Unread => topic::UNREAD,
        }
    }
}

/// Settings of `events follow`.
#[derive(Debug, Clone, Args)]
pub struct Follow {
    /// Topic to follow; may be repeated [default: all]
    #[arg(long = "topic", value_name = "TOPIC", value_enum)]
    pub topics: Vec<TopicName>,
    /// Print only events with this key: the id of a dialog or of a user
    #[arg(long, value_name = "ID")]
    pub key: Option<String>,
    /// Print each event as one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub log: EventLog,
}

/// Settings of `events dead`.
#[derive(Debug, Clone, Args)]
pub struct Dead {
    /// Print each dead letter as one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub log: EventLog,
}

/// Settings of `events redrive`.
#[derive(Debug, Clone, Args)]
pub struct Redrive {
    /// Ids of dead letters, as `events dead` prints them
    #[arg(value_name = "ID", required_unless_present = "all")]
    pub ids: Vec<Uuid>,
    /// Publish all dead letters again
    #[arg(long, conflicts_with = "ids")]
    pub all: bool,
    #[command(flatten)]
    pub log: EventLog,
    #[command(flatten)]
    pub databases: LogDatabases,
}

/// Settings of `saga`.
#[derive(Debug, Clone, Args)]
pub struct Saga {
    /// Saga, as `Message.transactionId` shows it
    #[arg(value_name = "TRANSACTION_ID")]
    pub transaction: TransactionId,
    #[command(flatten)]
    pub log: EventLog,
    #[command(flatten)]
    pub databases: LogDatabases,
}
