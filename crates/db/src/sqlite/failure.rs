//! Errors of SQLite as errors of sqlx, by which [`Error`] is classified for both databases.

use std::{borrow::Cow, fmt};

use rusqlite::ffi;
use sqlx::error::{DatabaseError, ErrorKind};

use crate::Error;

/// Error that SQLite reported.
#[derive(Debug)]
struct Failure {
    /// Extended result code.
    code: i32,
    message: String,
}

/// Converts an error of the driver.
pub(super) fn error(error: rusqlite::Error) -> Error {
    match error {
        rusqlite::Error::SqliteFailure(failure, message) => {
            let message = message.unwrap_or_else(|| failure.to_string());
            Error::from(sqlx::Error::Database(Box::new(Failure { code: failure.extended_code, message })))
        }
        // A value or a statement that the driver does not accept.
        error => Error::Bug(sqlx::Error::Decode(error.into())),
    }
}

/// Returns the error of a statement that has no value for its n-th placeholder.
pub(super) fn unbound(index: usize) -> sqlx::Error {
    sqlx::Error::Encode(format!("placeholder {index} has no value").into())
}

/// Returns the error of a statement after SQLite has rolled its transaction back: the disk is full, an I/O
/// error, no memory (<https://sqlite.org/lang_transaction.html#response_to_errors_within_a_transaction>).
pub(super) fn transaction_has_ended() -> sqlx::Error {
    sqlx::Error::Protocol("SQLite has rolled the transaction back".to_owned())
}

/// Returns true if another connection has the lock that a statement needs.
pub(super) fn is_locked(error: &Error) -> bool {
    primary_code(error) == Some(ffi::SQLITE_BUSY)
}

/// Returns true if a connection may keep failing, while a new one may not: its file was opened read-only,
/// or its disk reported an error.
pub(super) fn is_persistent(error: &Error) -> bool {
    let waits = [ffi::SQLITE_BUSY, ffi::SQLITE_LOCKED, ffi::SQLITE_INTERRUPT];
    matches!(error, Error::Unavailable(_)) && primary_code(error).is_none_or(|code| !waits.contains(&code))
}

/// Returns the lowest byte of the extended result code (<https://sqlite.org/rescode.html>).
fn primary_code(error: &Error) -> Option<i32> {
    let (Error::Unavailable(source) | Error::Bug(source)) = error else { return None };
    let failure = source.as_database_error()?.try_downcast_ref::<Failure>()?;
    Some(failure.code & 0xff)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Some messages are ambiguous without the code.
        write!(f, "(code: {}) {}", self.code, self.message)
    }
}

impl std::error::Error for Failure {}

impl DatabaseError for Failure {
    fn message(&self) -> &str {
        &self.message
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(self.code.to_string().into())
    }

    fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> ErrorKind {
        match self.code {
            ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY => ErrorKind::UniqueViolation,
            ffi::SQLITE_CONSTRAINT_FOREIGNKEY => ErrorKind::ForeignKeyViolation,
            ffi::SQLITE_CONSTRAINT_NOTNULL => ErrorKind::NotNullViolation,
            ffi::SQLITE_CONSTRAINT_CHECK => ErrorKind::CheckViolation,
            _ => ErrorKind::Other,
        }
    }
}
