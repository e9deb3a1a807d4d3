//! A statement with its binds, run on a database or inside a transaction.

use sqlx::{
    AssertSqlSafe, PgConnection, SqliteConnection,
    postgres::{PgArguments, PgRow},
    sqlite::{SqliteArguments, SqliteRow},
};
use uuid::fmt::Hyphenated;

use crate::{Column, Db, Dialect, Error, Pools, Tx, Value, rows, tx};

/// A statement: lower-case SQL with `$1` binds, the same for both databases.
pub fn query(sql: &'static str) -> Query {
    Query { sql, values: Vec::new() }
}

/// A statement and its binds so far.
#[derive(Debug, Clone)]
pub struct Query {
    sql: &'static str,
    values: Vec<Value>,
}

/// Where a statement runs.
#[derive(Debug)]
pub enum On<'a> {
    /// On any connection, for reading: on SQLite these connections refuse writes.
    Db(&'a Db),
    /// In a transaction.
    Tx(&'a mut Tx),
}

impl<'a> From<&'a Db> for On<'a> {
    fn from(db: &'a Db) -> Self {
        Self::Db(db)
    }
}

impl<'a> From<&'a mut Tx> for On<'a> {
    fn from(tx: &'a mut Tx) -> Self {
        Self::Tx(tx)
    }
}

/// A row of an answer.
#[derive(Debug)]
pub enum Row {
    /// Of SQLite.
    Sqlite(SqliteRow),
    /// Of Postgres.
    Postgres(PgRow),
}

impl Row {
    /// The column of this name.
    ///
    /// # Errors
    /// [`Error::Bug`] where it is absent or of another type.
    pub fn get<T: Column>(&self, name: &str) -> Result<T, Error> {
        match self {
            Self::Sqlite(row) => T::from_sqlite(row, name),
            Self::Postgres(row) => T::from_postgres(row, name),
        }
        .map_err(Error::Bug)
    }
}

/// A pooled connection of either database.
enum Connection {
    Sqlite(sqlx::pool::PoolConnection<sqlx::Sqlite>),
    Postgres(sqlx::pool::PoolConnection<sqlx::Postgres>),
}

impl Query {
    /// Binds the next value.
    #[must_use]
    pub fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Runs the statement and counts the rows it changed.
    ///
    /// # Errors
    /// As [`Error`] tells them apart.
    pub async fn execute(self, on: impl Into<On<'_>>) -> Result<u64, Error> {
        match on.into() {
            On::Tx(tx) => match &mut tx.inner {
                tx::Inner::Sqlite(tx) => self.execute_sqlite(tx).await,
                tx::Inner::Postgres(tx) => self.execute_postgres(tx).await,
            },
            On::Db(db) => match connection(db).await? {
                Connection::Sqlite(mut connection) => self.execute_sqlite(&mut connection).await,
                Connection::Postgres(mut connection) => self.execute_postgres(&mut connection).await,
            },
        }
    }

    /// All rows of the answer.
    ///
    /// # Errors
    /// As [`Error`] tells them apart.
    pub async fn all(self, on: impl Into<On<'_>>) -> Result<Vec<Row>, Error> {
        match on.into() {
            On::Tx(tx) => match &mut tx.inner {
                tx::Inner::Sqlite(tx) => self.all_sqlite(tx).await,
                tx::Inner::Postgres(tx) => self.all_postgres(tx).await,
            },
            On::Db(db) => match connection(db).await? {
                Connection::Sqlite(mut connection) => self.all_sqlite(&mut connection).await,
                Connection::Postgres(mut connection) => self.all_postgres(&mut connection).await,
            },
        }
    }

    /// The first row of the answer, where there is one.
    ///
    /// # Errors
    /// As [`Error`] tells them apart.
    pub async fn optional(self, on: impl Into<On<'_>>) -> Result<Option<Row>, Error> {
        Ok(self.all(on).await?.into_iter().next())
    }

    /// The one row of the answer.
    ///
    /// # Errors
    /// [`Error::Bug`] where there is none; else as [`Error`] tells them apart.
    pub async fn one(self, on: impl Into<On<'_>>) -> Result<Row, Error> {
        self.optional(on).await?.ok_or(Error::Bug(sqlx::Error::RowNotFound))
    }

    async fn execute_sqlite(self, connection: &mut SqliteConnection) -> Result<u64, Error> {
        Ok(self.sqlite().execute(connection).await?.rows_affected())
    }

    async fn execute_postgres(self, connection: &mut PgConnection) -> Result<u64, Error> {
        Ok(self.postgres().execute(connection).await?.rows_affected())
    }

    async fn all_sqlite(self, connection: &mut SqliteConnection) -> Result<Vec<Row>, Error> {
        Ok(self.sqlite().fetch_all(connection).await?.into_iter().map(Row::Sqlite).collect())
    }

    async fn all_postgres(self, connection: &mut PgConnection) -> Result<Vec<Row>, Error> {
        Ok(self.postgres().fetch_all(connection).await?.into_iter().map(Row::Postgres).collect())
    }

    /// The statement's text is the program's own (`&'static str`); binds never become part of it.
    fn sqlite(self) -> sqlx::query::Query<'static, sqlx::Sqlite, SqliteArguments> {
        let query = sqlx::query(AssertSqlSafe(rows::expand(self.sql, Dialect::Sqlite)));
        self.values.into_iter().fold(query, |query, value| match value {
            Value::Bool(value) => query.bind(value),
            Value::Int(value) => query.bind(value),
            Value::Text(value) => query.bind(value),
            Value::Uuid(value) => query.bind(value.map(Hyphenated::from)),
            Value::Bytes(value) => query.bind(value),
            Value::Rows(value) => query.bind(value.to_string()),
        })
    }

    fn postgres(self) -> sqlx::query::Query<'static, sqlx::Postgres, PgArguments> {
        let query = sqlx::query(AssertSqlSafe(rows::expand(self.sql, Dialect::Postgres)));
        self.values.into_iter().fold(query, |query, value| match value {
            Value::Bool(value) => query.bind(value),
            Value::Int(value) => query.bind(value),
            Value::Text(value) => query.bind(value),
            Value::Uuid(value) => query.bind(value),
            Value::Bytes(value) => query.bind(value),
            Value::Rows(value) => query.bind(value.to_string()),
        })
    }
}

async fn connection(db: &Db) -> Result<Connection, Error> {
    Ok(match &db.0.pools {
        Pools::Sqlite { reader, .. } => Connection::Sqlite(reader.acquire().await?),
        Pools::Postgres(pool) => Connection::Postgres(pool.acquire().await?),
    })
}
