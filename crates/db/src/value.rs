//! Values of statements and columns. A UUID is `uuid` in PostgreSQL and hyphenated text in SQLite; every
//! integer has 64 bits; a time is an integer of microseconds since the Unix epoch.

use std::fmt;

use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;

/// Value to bind. A null has a type, because PostgreSQL requires one.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// `boolean`
    Bool(Option<bool>),
    /// `bigint`
    Int(Option<i64>),
    /// `text`
    Text(Option<String>),
    /// `uuid`; `text` in SQLite
    Uuid(Option<Uuid>),
    /// `bytea`; `blob` in SQLite
    Bytes(Option<Vec<u8>>),
    /// A JSON array of objects, for `rows(…)` in the statement
    Rows(serde_json::Value),
}

impl fmt::Debug for Value {
    /// Shows only the length of texts, bytes and rows: they hold messages and hashes of secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value:?}"),
            Self::Int(value) => write!(f, "{value:?}"),
            Self::Uuid(value) => write!(f, "{value:?}"),
            Self::Text(value) => write!(f, "Text({:?} bytes)", value.as_ref().map(String::len)),
            Self::Bytes(value) => write!(f, "Bytes({:?})", value.as_ref().map(Vec::len)),
            Self::Rows(rows) => write!(f, "Rows({:?})", rows.as_array().map(Vec::len)),
        }
    }
}

macro_rules! value {
    ($($type:ty => $variant:ident, $into:expr;)*) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$variant(Some($into(value)))
            }
        }
        impl From<Option<$type>> for Value {
            fn from(value: Option<$type>) -> Self {
                Self::$variant(value.map($into))
            }
        }
    )*};
}

value! {
    bool => Bool, std::convert::identity;
    i64 => Int, std::convert::identity;
    &str => Text, str::to_owned;
    String => Text, std::convert::identity;
    Uuid => Uuid, std::convert::identity;
    &[u8] => Bytes, <[u8]>::to_vec;
    Vec<u8> => Bytes, std::convert::identity;
}

impl From<serde_json::Value> for Value {
    fn from(rows: serde_json::Value) -> Self {
        Self::Rows(rows)
    }
}

/// Type of a column value.
pub trait Column: Sized {
    /// Decodes a value of SQLite. Returns `None` if it is of another type.
    fn from_sqlite(value: &rusqlite::types::Value) -> Option<Self>;

    /// Decodes a column of a PostgreSQL row.
    ///
    /// # Errors
    /// The error of sqlx if the column is absent or of another type.
    fn from_postgres(row: &PgRow, name: &str) -> Result<Self, sqlx::Error>;
}

macro_rules! column {
    ($($type:ty, $pattern:pat => $value:expr;)*) => {$(
        impl Column for $type {
            fn from_sqlite(value: &rusqlite::types::Value) -> Option<Self> {
                match value {
                    $pattern => $value,
                    _ => None,
                }
            }
            fn from_postgres(row: &PgRow, name: &str) -> Result<Self, sqlx::Error> {
                row.try_get(name)
            }
        }
        impl Column for Option<$type> {
            fn from_sqlite(value: &rusqlite::types::Value) -> Option<Self> {
                match value {
                    rusqlite::types::Value::Null => Some(None),
                    value => <$type>::from_sqlite(value).map(Some),
                }
            }
            fn from_postgres(row: &PgRow, name: &str) -> Result<Self, sqlx::Error> {
                row.try_get(name)
            }
        }
    )*};
}

column! {
    bool, rusqlite::types::Value::Integer(number) => Some(*number != 0);
    i64, rusqlite::types::Value::Integer(number) => Some(*number);
    String, rusqlite::types::Value::Text(text) => Some(text.clone());
    Vec<u8>, rusqlite::types::Value::Blob(bytes) => Some(bytes.clone());
    Uuid, rusqlite::types::Value::Text(text) => Uuid::try_parse(text).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_hides_bound_texts_and_bytes() {
        let values = [
            Value::from("hidden"),
            Value::from(b"hidden".as_slice()),
            Value::from(serde_json::json!([{ "text": "hidden" }])),
        ];
        let shown = format!("{values:?} {:?}", Value::from(b"hidden".to_vec()));
        assert_eq!(shown, "[Text(Some(6) bytes), Bytes(Some(6)), Rows(Some(1))] Bytes(Some(6))");
    }
}
