//! What went wrong in the database, by what the caller can do about it.

use sqlx::error::ErrorKind;

/// An error of the database: one variant per reaction of the caller.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A uniqueness rule said no: `table_column_column` in both databases.
    #[error("not unique: {0}")]
    Unique(String),
    /// The data itself was refused: a check violation (23514), a data exception (class 22) or a trigger of an operator.
    #[error("refused by the database: {0}")]
    Refused(String),
    /// The database is away, overloaded, or chose this transaction as a victim: try again later.
    #[error("the database is unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// A URL that names no database.
    #[error("a database URL begins with sqlite: or postgres:")]
    Url,
    /// The schema could not be brought up to date.
    #[error("migration failed: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A bug of ours: a statement, a type, a constraint that the code does not expect.
    #[error("unexpected database error: {0}")]
    Bug(#[source] sqlx::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) => match verdict(database.as_ref()) {
                Verdict::Unique => Self::Unique(constraint(database.as_ref())),
                Verdict::Refused => Self::Refused(constraint(database.as_ref())),
                Verdict::Unavailable => Self::Unavailable(error),
                Verdict::Bug => Self::Bug(error),
            },
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(error),
            _ => Self::Bug(error),
        }
    }
}

enum Verdict {
    Unique,
    Refused,
    Unavailable,
    Bug,
}

/// Postgres speaks in SQLSTATEs of five characters, SQLite in extended result codes.
fn verdict(error: &dyn sqlx::error::DatabaseError) -> Verdict {
    match error.kind() {
        ErrorKind::UniqueViolation => return Verdict::Unique,
        ErrorKind::CheckViolation => return Verdict::Refused,
        _ => {}
    }
    match error.code().as_deref() {
        // SQLITE_CONSTRAINT_TRIGGER, SQLITE_TOOBIG
        Some("1811" | "18") => Verdict::Refused,
        // SQLITE_BUSY and its kin, SQLITE_LOCKED, SQLITE_IOERR, SQLITE_FULL, SQLITE_CANTOPEN
        Some("5" | "261" | "517" | "6" | "10" | "13" | "14") => Verdict::Unavailable,
        // serialization failure, deadlock, lock timeout
        Some("40001" | "40P01" | "55P03") => Verdict::Unavailable,
        Some(code) if code.len() == 5 => match &code[..2] {
            "22" => Verdict::Refused,
            // connection, resources, operator intervention, system error
            "08" | "53" | "57" | "58" => Verdict::Unavailable,
            _ => Verdict::Bug,
        },
        _ => Verdict::Bug,
    }
}

/// The rule's name: Postgres gives it; SQLite names the columns, `message.dialog_id, message.seq`, which is spelled
/// `message_dialog_id_seq` here, the name that the rule has in Postgres.
fn constraint(error: &dyn sqlx::error::DatabaseError) -> String {
    if let Some(name) = error.constraint() {
        return name.to_owned();
    }
    let message = error.message();
    let Some((_, columns)) = message.split_once("constraint failed: ") else {
        return message.to_owned();
    };
    let mut name = String::new();
    for column in columns.split(", ") {
        match column.split_once('.') {
            Some((table, column)) if name.is_empty() => name = format!("{table}_{column}"),
            Some((_, column)) => name = format!("{name}_{column}"),
            None => name.push_str(column),
        }
    }
    name
}
