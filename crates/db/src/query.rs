//! Statements with bound values, executed on a database or in a transaction.

use std::{sync::Arc, time::Instant};

use sqlx::{
    AssertSqlSafe, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgArguments, PgRow},
};

use crate::{Column, Db, Error, Pools, Tx, Value, sqlite, statements::Statement, tx};

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
pub struct Row(RowOf);

#[derive(Debug)]
enum RowOf {
    Sqlite(sqlite::Row),
    Postgres(PgRow),
}

impl Row {
    /// Returns the value of a column.
    ///
    /// # Errors
    /// [`Error::Bug`] if the column is absent or of another type.
    pub fn get<T: Column>(&self, name: &str) -> Result<T, Error> {
        match &self.0 {
            RowOf::Sqlite(row) => row.get(name),
            RowOf::Postgres(row) => T::from_postgres(row, name),
        }
        .map_err(Error::Bug)
    }
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
                let statement = tx.statement(self.sql);
                let result = match &mut tx.transaction {
                    tx::Transaction::Sqlite(tx) => {
                        tx.run(&statement, self.values).await.map(|outcome| outcome.changes)
                    }
                    tx::Transaction::Postgres(tx) => self.execute_postgres(&statement, tx).await,
                    // Its transaction is read-only.
                    tx::Transaction::Replica(session) => {
                        session.all(self.postgres(&statement)).await.map(|_| 0)
                    }
                };
                tx.inspect(statement.counted(result))
            }
            Executor::Db(db) => {
                let statement = db.statement(self.sql);
                let result = match &db.0.pools {
                    Pools::Sqlite(sqlite) => {
                        let outcome = sqlite::read(&sqlite.reader, &statement, self.values).await;
                        outcome.map(|outcome| outcome.changes)
                    }
                    Pools::Postgres(pool) => {
                        self.execute_postgres(&statement, &mut *acquire(pool).await?).await
                    }
                };
                statement.counted(result)
            }
        }
    }

    /// Executes the statement and returns all rows.
    ///
    /// # Errors
    /// As [`Query::execute`].
    pub async fn all(self, on: impl Into<Executor<'_>>) -> Result<Vec<Row>, Error> {
        match on.into() {
            Executor::Tx(tx) => {
                let statement = tx.statement(self.sql);
                let result = match &mut tx.transaction {
                    tx::Transaction::Sqlite(tx) => tx.run(&statement, self.values).await.map(sqlite_rows),
                    tx::Transaction::Postgres(tx) => self.all_postgres(&statement, tx).await,
                    tx::Transaction::Replica(session) => {
                        session.all(self.postgres(&statement)).await.map(postgres_rows)
                    }
                };
                tx.inspect(statement.counted(result))
            }
            Executor::Db(db) => {
                let statement = db.statement(self.sql);
                let result = match &db.0.pools {
                    Pools::Sqlite(sqlite) => {
                        sqlite::read(&sqlite.reader, &statement, self.values).await.map(sqlite_rows)
                    }
                    Pools::Postgres(pool) => self.all_postgres(&statement, &mut *acquire(pool).await?).await,
                };
                statement.counted(result)
            }
        }
    }

    /// Executes the statement and returns the first row, or `None` if there are no rows.
    ///
    /// # Errors
    /// As [`Query::execute`].
    pub async fn optional(self, on: impl Into<Executor<'_>>) -> Result<Option<Row>, Error> {
        Ok(self.all(on).await?.into_iter().next())
    }

    /// Executes the statement and returns the first row, which must exist.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if there are no rows ([`Error::row_missing`]); otherwise as
    /// [`Query::execute`].
    pub async fn one(self, on: impl Into<Executor<'_>>) -> Result<Row, Error> {
        self.optional(on).await?.ok_or_else(Error::row_missing)
    }

    /// Executes a statement that only reads, and returns all rows: on the replica if it is as new as the
    /// primary, else on the database itself.
    ///
    /// # Errors
    /// As [`Query::execute`].
    pub async fn read(self, db: &Db) -> Result<Vec<Row>, Error> {
        if let Some(mut replica) = db.replica().await {
            let rows = self.clone().all(replica.tx()).await;
            if let Some(rows) = replica.confirm(rows).await {
                return rows;
            }
        }
        self.all(db).await
    }

    async fn execute_postgres(
        self,
        statement: &Statement,
        connection: &mut PgConnection,
    ) -> Result<u64, Error> {
        Ok(self.postgres(statement).execute(connection).await?.rows_affected())
    }

    async fn all_postgres(
        self,
        statement: &Statement,
        connection: &mut PgConnection,
    ) -> Result<Vec<Row>, Error> {
        Ok(postgres_rows(self.postgres(statement).fetch_all(connection).await?))
    }

    // `AssertSqlSafe` is sound: the text is a constant of the program, and values are only ever bound.
    fn postgres(self, statement: &Statement) -> sqlx::query::Query<'static, sqlx::Postgres, PgArguments> {
        let query = sqlx::query(AssertSqlSafe(Arc::clone(&statement.text)));
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

/// Waits for a free connection.
async fn acquire(pool: &PgPool) -> Result<PoolConnection<Postgres>, Error> {
    let start = Instant::now();
    let connection = pool.acquire().await;
    record_wait(start);
    Ok(connection?)
}

/// Records the time until a query had a connection, or until a transaction had begun.
pub(crate) fn record_wait(start: Instant) {
    metrics::histogram!("database_connection_wait_seconds").record(start.elapsed().as_secs_f64());
}

fn postgres_rows(rows: Vec<PgRow>) -> Vec<Row> {
    rows.into_iter().map(|row| Row(RowOf::Postgres(row))).collect()
}

fn sqlite_rows(outcome: sqlite::Outcome) -> Vec<Row> {
    outcome.rows.into_iter().map(|row| Row(RowOf::Sqlite(row))).collect()
}

impl Db {
    /// Returns a statement in the dialect of the database.
    pub(crate) fn statement(&self, sql: &'static str) -> Arc<Statement> {
        self.0.statements.get(sql, self.dialect())
    }
}
