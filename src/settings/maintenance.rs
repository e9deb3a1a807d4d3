//! Settings of the commands that check, repair and explain the unread counts.

use std::path::PathBuf;

use clap::Args;
use proto::{DialogId, UserId};

use super::{Redis, url::Url};

/// Databases and services of a running system.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "System")]
pub struct System {
    /// Folder of `tidings serve`, whose SQLite databases are used unless COUNTER_DATABASE_URL is set
    #[arg(long, env = "DATA_DIR", value_name = "DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    /// Database of counter, in the form of AUTH_DATABASE_URL [default: SQLite in DATA_DIR]
    #[arg(long, env = "COUNTER_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub counter_database_url: Option<Url>,
    /// Database of dialog, in the form of AUTH_DATABASE_URL, if DIALOG_URL is not set
    #[arg(long, env = "DIALOG_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub dialog_database_url: Option<Url>,
    /// URLs of the dialog service: http://HOST:PORT, comma-separated; requires SERVICE_TOKEN_FILE
    #[arg(long, env = "DIALOG_URL", value_name = "URL,…")]
    pub dialog_url: Option<String>,
    /// File of the token that authenticates calls to dialog, the same as that of all roles
    #[arg(long, env = "SERVICE_TOKEN_FILE", value_name = "FILE")]
    pub service_token_file: Option<PathBuf>,
    #[command(flatten)]
    pub cache: Redis,
}

/// Settings of `reconcile`.
#[derive(Debug, Clone, Args)]
pub struct Reconcile {
    /// Make the counts of dialogs that differ again, and note each difference in the table repaired_drift
    #[arg(long)]
    pub repair: bool,
    /// Compare only the dialogs of this user
    #[arg(long, value_name = "ID", conflicts_with = "dialog")]
    pub user: Option<UserId>,
    /// Compare only this dialog
    #[arg(long, value_name = "ID")]
    pub dialog: Option<DialogId>,
    #[command(flatten)]
    pub system: System,
}

/// Settings of `rebuild`.
#[derive(Debug, Clone, Args)]
pub struct Rebuild {
    /// Make the counts of all dialogs again; goes on where an interrupted run was
    #[arg(long, conflicts_with = "dialog", required_unless_present = "dialog")]
    pub all: bool,
    /// Make the counts of this dialog again
    #[arg(long, value_name = "ID")]
    pub dialog: Option<DialogId>,
    /// Also let the consumers of dialog and counter start at the beginning of the event log: after topics
    /// were lost or recreated. Requires the databases of both, and that both services are stopped
    #[arg(long, conflicts_with = "dialog")]
    pub forget_positions: bool,
    #[command(flatten)]
    pub system: System,
}

/// Settings of `explain`.
#[derive(Debug, Clone, Args)]
pub struct Explain {
    /// User whose count is explained
    #[arg(value_name = "USER")]
    pub user: UserId,
    /// Dialog of the count
    #[arg(value_name = "DIALOG")]
    pub dialog: DialogId,
    #[command(flatten)]
    pub system: System,
}
