//! Schema migrations, embedded in the binary. All crates that have tables in the same database
//! share one sequence of migration numbers: shared crates use 1–99, the service itself 101 and above.

use sqlx::{
    Connection, SqliteConnection,
    migrate::{Migration, Migrator},
};

use crate::{Db, Dialect, Error, Pools, query};

/// Migrations of one crate. The numbers are the same for SQLite and PostgreSQL.
#[derive(Debug)]
pub struct Migrations {
    /// Migrations for SQLite.
    pub sqlite: Migrator,
    /// Migrations for PostgreSQL.
    pub postgres: Migrator,
}

/// Migrations of this crate: the view `clock`, and a planner setting of PostgreSQL.
pub static MIGRATIONS: Migrations = Migrations {
    sqlite: sqlx::migrate!("./migrations/sqlite"),
    postgres: sqlx::migrate!("./migrations/postgres"),
};

impl Db {
    /// Applies the missing migrations under a lock of the database: one of several processes applies
    /// them, and the others wait for it.
    ///
    /// # Errors
    /// [`Error::Migrate`] if a migration fails, was changed after it was applied, or is unknown to this
    /// build.
    pub async fn migrate(&self, sets: &[&'static Migrations]) -> Result<(), Error> {
        let all: Vec<Migration> = sets.iter().flat_map(|set| self.migrator(set).iter().cloned()).collect();
        let migrator = Migrator::with_migrations(all);
        match &self.0.pools {
            Pools::Sqlite(sqlite) => {
                let mut connection = SqliteConnection::connect_with(&sqlite.options).await?;
                migrator.run(&mut connection).await?;
                connection.close().await?;
            }
            Pools::Postgres(pool) => migrator.run(pool).await?,
        }
        Ok(())
    }

    /// Checks that the newest migration of these sets is applied, and no newer one. Changes nothing.
    ///
    /// # Errors
    /// [`Error::OtherVersion`] if it is not; [`Error::Unavailable`].
    pub async fn require_migrations(&self, sets: &[&'static Migrations]) -> Result<(), Error> {
        let newest = |migrator: &Migrator| migrator.iter().map(|migration| migration.version).max();
        let expected = sets.iter().filter_map(|set| newest(self.migrator(set))).max().unwrap_or(0);
        let table = match self.dialect() {
            Dialect::Sqlite => "select count(*) as tables from sqlite_schema where name = '_sqlx_migrations'",
            Dialect::Postgres => {
                "select count(*) as tables from pg_tables
                 where tablename = '_sqlx_migrations' and schemaname = any(current_schemas(false))"
            }
        };
        let found = if query(table).one(self).await?.get::<i64>("tables")? == 0 {
            0
        } else {
            let newest = query("select coalesce(max(version), 0) as newest from _sqlx_migrations");
            newest.one(self).await?.get("newest")?
        };
        if found == expected { Ok(()) } else { Err(Error::OtherVersion { found, expected }) }
    }

    fn migrator(&self, set: &'static Migrations) -> &'static Migrator {
        match self.dialect() {
            Dialect::Sqlite => &set.sqlite,
            Dialect::Postgres => &set.postgres,
        }
    }
}
