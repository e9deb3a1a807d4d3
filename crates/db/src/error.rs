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
        Some(code) if code.len() == 5 => of_postgres(code),
        Some(code) => of_sqlite(code),
        None => Verdict::Bug,
    }
}

fn of_postgres(state: &str) -> Verdict {
    match (state, state.get(..2)) {
        // serialization failure, deadlock, lock timeout
        ("40001" | "40P01" | "55P03", _) => Verdict::Unavailable,
        (_, Some("22")) => Verdict::Refused,
        // connection, resources, operator intervention, system error
        (_, Some("08" | "53" | "57" | "58")) => Verdict::Unavailable,
        _ => Verdict::Bug,
    }
}

/// The lowest byte is the kind of error; what stands above it says which of that kind.
fn of_sqlite(code: &str) -> Verdict {
    const CONSTRAINT_TRIGGER: i32 = 1811;
    match code.parse::<i32>().map(|code| (code, code & 0xff)) {
        // SQLITE_TOOBIG
        Ok((CONSTRAINT_TRIGGER, _) | (_, 18)) => Verdict::Refused,
        // SQLITE_BUSY, SQLITE_LOCKED, SQLITE_IOERR, SQLITE_FULL, SQLITE_CANTOPEN
        Ok((_, 5 | 6 | 10 | 13 | 14)) => Verdict::Unavailable,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn name(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Unique => "unique",
            Verdict::Refused => "refused",
            Verdict::Unavailable => "unavailable",
            Verdict::Bug => "bug",
        }
    }

    #[test]
    fn codes_are_told_apart_by_what_helps_against_them() {
        // SQLITE_ERROR, _READONLY, _CORRUPT, _CONSTRAINT_NOTNULL, _MISMATCH
        for code in ["1", "8", "11", "1299", "20", "", "x"] {
            assert_eq!(name(&of_sqlite(code)), "bug", "{code}");
        }
        // each kind alone, and of _BUSY _RECOVERY, _SNAPSHOT and _TIMEOUT, of _IOERR _READ, _WRITE, _FSYNC and _LOCK
        for code in
            ["5", "6", "10", "13", "14", "261", "517", "773", "262", "266", "778", "1034", "3850", "270"]
        {
            assert_eq!(name(&of_sqlite(code)), "unavailable", "{code}");
        }
        for code in ["18", "1811"] {
            assert_eq!(name(&of_sqlite(code)), "refused", "{code}");
        }
        for (state, verdict) in [
            ("22003", "refused"),
            ("40001", "unavailable"),
            ("40P01", "unavailable"),
            ("55P03", "unavailable"),
            ("57P01", "unavailable"),
            ("53300", "unavailable"),
            ("08006", "unavailable"),
            ("42P01", "bug"),
            ("23502", "bug"),
            ("40002", "bug"),
        ] {
            assert_eq!(name(&of_postgres(state)), verdict, "{state}");
        }
    }
}
