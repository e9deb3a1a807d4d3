//! Error of the database, classified by the reaction of the caller.

use sqlx::error::ErrorKind;

/// Error of the database. Each variant calls for a different reaction of the caller.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Violation of a unique constraint, with its name: `table_column_column` in both databases.
    #[error("not unique: {0}")]
    Unique(String),
    /// The database refused the data: a check constraint (23514), a data exception (class 22) or an
    /// operator's trigger. Repeating the statement cannot succeed.
    #[error("refused by the database: {0}")]
    Refused(String),
    /// The database does not answer, is overloaded or being restored, or aborted this transaction because
    /// of others: try again later.
    #[error("the database is unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// The URL is malformed or has another scheme.
    #[error("invalid database URL: it must start with sqlite: or postgres:")]
    Url,
    /// A replica of a SQLite database, or a URL of a replica that is malformed or has another scheme.
    #[error("only a PostgreSQL database has replicas, with URLs that start with postgres:")]
    ReplicaUrl,
    /// A schema migration failed.
    #[error("migration failed: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The database has not the migrations of this build. Numbers are those of the newest migration, 0 if
    /// there is none.
    #[error(
        "the database is at migration {found} and this build at {expected}: {}",
        if found < expected { "run `tidings migrate`, or start the service" } else { "use the newer build" }
    )]
    OtherVersion {
        /// Newest migration of the database.
        found: i64,
        /// Newest migration of this build.
        expected: i64,
    },
    /// Programming error: an invalid statement, a wrong column type, or a constraint that the code does
    /// not expect.
    #[error("unexpected database error: {0}")]
    Bug(#[source] sqlx::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) => match classify(database.as_ref()) {
                Class::Unique => Self::Unique(constraint(database.as_ref())),
                Class::Refused => Self::Refused(constraint(database.as_ref())),
                Class::Unavailable => Self::Unavailable(error),
                Class::Bug => Self::Bug(error),
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

impl Error {
    /// Returns the error of a row that must exist and does not. It is missing only while a backup is being
    /// restored.
    pub fn row_missing() -> Self {
        Self::Unavailable(sqlx::Error::RowNotFound)
    }
}

enum Class {
    Unique,
    Refused,
    Unavailable,
    Bug,
}

/// Distinguishes the databases by their codes: a SQLSTATE of PostgreSQL has five characters, an extended
/// result code of SQLite at most four digits.
fn classify(error: &dyn sqlx::error::DatabaseError) -> Class {
    match error.kind() {
        ErrorKind::UniqueViolation => return Class::Unique,
        ErrorKind::CheckViolation => return Class::Refused,
        _ => {}
    }
    match error.code().as_deref() {
        Some(code) if code.len() == 5 => classify_sqlstate(code),
        Some(code) => classify_sqlite_code(code),
        None => Class::Bug,
    }
}

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn classify_sqlstate(state: &str) -> Class {
    match (state, state.get(..2)) {
        // serialization failure, statement completion unknown, deadlock, lock timeout
        ("40001" | "40003" | "40P01" | "55P03", _) => Class::Unavailable,
        // A standby, or a server that its host has made read-only because the disk is full; timeouts that
        // the server ends a session with.
        ("25006" | "25P03" | "25P04", _) => Class::Unavailable,
        // A table is missing while a backup is being restored.
        ("42P01", _) => Class::Unavailable,
        (_, Some("22")) => Class::Refused,
        // connection, resources (53100: disk full), operator intervention, system error (58030: I/O)
        (_, Some("08" | "53" | "57" | "58")) => Class::Unavailable,
        _ => Class::Bug,
    }
}

/// The lowest byte of an extended result code is the primary code (<https://sqlite.org/rescode.html>).
fn classify_sqlite_code(code: &str) -> Class {
    const CONSTRAINT_TRIGGER: i32 = 1811;
    match code.parse::<i32>().map(|code| (code, code & 0xff)) {
        // SQLITE_TOOBIG
        Ok((CONSTRAINT_TRIGGER, _) | (_, 18)) => Class::Refused,
        // SQLITE_BUSY, SQLITE_LOCKED, SQLITE_NOMEM, SQLITE_READONLY, SQLITE_INTERRUPT, SQLITE_IOERR,
        // SQLITE_FULL, SQLITE_CANTOPEN, SQLITE_PROTOCOL. A file is opened read-only while its file system
        // is mounted so, which the kernel does after an I/O error.
        Ok((_, 5 | 6 | 7 | 8 | 9 | 10 | 13 | 14 | 15)) => Class::Unavailable,
        _ => Class::Bug,
    }
}

/// Returns the name of the violated constraint. SQLite reports the columns, `message.dialog_id,
/// message.seq`; they are joined to the name of the constraint in PostgreSQL, `message_dialog_id_seq`.
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

    fn name(class: &Class) -> &'static str {
        match class {
            Class::Unique => "unique",
            Class::Refused => "refused",
            Class::Unavailable => "unavailable",
            Class::Bug => "bug",
        }
    }

    #[test]
    fn codes_are_classified_by_the_reaction_of_the_caller() {
        // SQLITE_ERROR, _CORRUPT, _CONSTRAINT_NOTNULL, _MISMATCH, _NOTADB
        for code in ["1", "11", "1299", "20", "26", "", "x"] {
            assert_eq!(name(&classify_sqlite_code(code)), "bug", "{code}");
        }
        for primary in [5, 6, 7, 8, 9, 10, 13, 14, 15] {
            // The primary code and all extended ones: _IOERR alone has 34.
            for extended in 0..=40 {
                let code = (extended << 8 | primary).to_string();
                assert_eq!(name(&classify_sqlite_code(&code)), "unavailable", "{code}");
            }
        }
        for code in ["18", "1811"] {
            assert_eq!(name(&classify_sqlite_code(code)), "refused", "{code}");
        }
        for (state, class) in [
            ("22003", "refused"),
            ("25006", "unavailable"),
            ("25P02", "bug"),
            ("25P03", "unavailable"),
            ("40001", "unavailable"),
            ("40003", "unavailable"),
            ("40P01", "unavailable"),
            ("55P03", "unavailable"),
            ("57014", "unavailable"),
            ("57P01", "unavailable"),
            ("57P02", "unavailable"),
            ("57P03", "unavailable"),
            ("53100", "unavailable"),
            ("53200", "unavailable"),
            ("53300", "unavailable"),
            ("58000", "unavailable"),
            ("58030", "unavailable"),
            ("58P01", "unavailable"),
            ("08006", "unavailable"),
            ("42P01", "unavailable"),
            ("42703", "bug"),
            ("23502", "bug"),
            ("40002", "bug"),
        ] {
            assert_eq!(name(&classify_sqlstate(state)), class, "{state}");
        }
    }
}
