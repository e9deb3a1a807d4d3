//! Statements with bound values, executed on a database or in a transaction.

use sqlx::{
    AssertSqlSafe, PgConnection, SqliteConnection,
    postgres::{PgArguments, PgRow},
    sqlite::{SqliteArguments, SqliteRow},
};
use uuid::fmt::Hyphenated;

use crate::{Column, Db, Dialect, Error, Pools, Tx, Value, rows, tx};

/// Creates a statement with no values bound yet. `sql` uses `$1` placeholders and must be valid for both
/// SQLite and PostgreSQL; keywords are in lower case by convention.
pub fn query(sql: &'static str) -> Query {
    Query { sql, values: Vec::new() }
}

/// Statement and the values bound so far.
#[derive(Debug, Clone)]
pub struct Query {
    sql: &'static str,
    values: Vec<Value>,
}

/// Target of a statement.
#[derive(Debug)]
pub enum Executor<'a> {
    /// Any connection of the pool, for reads only: the SQLite connections are read-only. On PostgreSQL a
    /// write is not refused.
    Db(&'a Db),
    /// The connection of a transaction.
    Tx(&'a mut Tx),
}

impl<'a> From<&'a Db> for Executor<'a> {
    fn from(db: &'a Db) -> Self {
        Self::Db(db)
    }
}

impl<'a> From<&'a mut Tx> for Executor<'a> {
    fn from(tx: &'a mut Tx) -> Self {
        Self::Tx(tx)
    }
}

/// Row of a result.
#[derive(Debug)]
pub enum Row {
    /// Row of SQLite.
    Sqlite(SqliteRow),
    /// Row of PostgreSQL.
    Postgres(PgRow),
}

impl Row {
    /// Returns the value of a column.
    ///
    /// # Errors
    /// [`Error::Bug`] if the column is absent or of another type.
    pub fn get<T: Column>(&self, name: &str) -> Result<T, Error> {
        match self {
            Self::Sqlite(row) => T::from_sqlite(row, name),
            Self::Postgres(row) => T::from_postgres(row, name),
        }
        .map_err(Error::Bug)
    }
}

/// Pooled connection of either database.
enum Connection {
    Sqlite(sqlx::pool::PoolConnection<sqlx::Sqlite>),
    Postgres(sqlx::pool::PoolConnection<sqlx::Postgres>),
}

impl Query {
    /// Binds the value of the next placeholder.
    #[must_use]
    pub fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Executes the statement and returns the number of rows that it changed.
    ///
    /// # Errors
    /// Every [`Error`] except [`Error::Url`] and [`Error::Migrate`].
    pub async fn execute(self, on: impl Into<Executor<'_>>) -> Result<u64, Error> {
        match on.into() {
            Executor::Tx(tx) => {
                let result = match &mut tx.transaction {
                    tx::Transaction::Sqlite(tx) => self.execute_sqlite(tx).await,
                    tx::Transaction::Postgres(tx) => self.execute_postgres(tx).await,
                };
                tx.inspect(result)
            }
            Executor::Db(db) => match connection(db).await? {
                Connection::Sqlite(mut connection) => self.execute_sqlite(&mut connection).await,
                Connection::Postgres(mut connection) => self.execute_postgres(&mut connection).await,
            },
        }
    }

    /// Executes the statement and returns all rows.
    ///
    /// # Errors
    /// As [`Query::execute`].
    pub async fn all(self, on: impl Into<Executor<'_>>) -> Result<Vec<Row>, Error> {
        match on.into() {
            Executor::Tx(tx) => {
                let result = match &mut tx.transaction {
                    tx::Transaction::Sqlite(tx) => self.all_sqlite(tx).await,
                    tx::Transaction::Postgres(tx) => self.all_postgres(tx).await,
                };
                tx.inspect(result)
            }
            Executor::Db(db) => match connection(db).await? {
                Connection::Sqlite(mut connection) => self.all_sqlite(&mut connection).await,
                Connection::Postgres(mut connection) => self.all_postgres(&mut connection).await,
            },
        }
    }

    /// Executes the statement and returns the first row, or `None` if there are no rows.
    ///
    /// # Errors
    /// As [`Query::execute`].
    pub async fn optional(self, on: impl Into<Executor<'_>>) -> Result<Option<Row>, Error> {
        Ok(self.all(on).await?.into_iter().next())
    }

    /// Executes the statement and returns the first row.
    ///
    /// # Errors
    /// [`Error::Bug`] if there are no rows; otherwise as [`Query::execute`].
    pub async fn one(self, on: impl Into<Executor<'_>>) -> Result<Row, Error> {
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

    // `AssertSqlSafe` is sound: the text is a constant of the program, and values are only ever bound.
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
