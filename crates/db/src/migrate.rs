//! Schema migrations, embedded in the binary. A database gets those of the crates that keep tables in it as one numbered
//! list: 1–99 from the shared crates, 101 and up from the service.

use sqlx::migrate::{Migration, Migrator};

use crate::{Db, Dialect, Error, Pools};

/// One crate's migrations, numbered alike in both dialects.
#[derive(Debug)]
pub struct Migrations {
    /// For SQLite.
    pub sqlite: Migrator,
    /// For Postgres.
    pub postgres: Migrator,
}

/// This crate's own: the `clock` view.
pub static MIGRATIONS: Migrations = Migrations {
    sqlite: sqlx::migrate!("./migrations/sqlite"),
    postgres: sqlx::migrate!("./migrations/postgres"),
};

impl Db {
    /// Brings the schema up to date, under a lock of the database: of several processes one migrates and the others wait.
    ///
    /// # Errors
    /// [`Error::Migrate`] where a migration fails, was changed after it ran, or comes from a newer build.
    pub async fn migrate(&self, sets: &[&'static Migrations]) -> Result<(), Error> {
        let of = |set: &'static Migrations| match self.dialect() {
            Dialect::Sqlite => &set.sqlite,
            Dialect::Postgres => &set.postgres,
        };
        let all: Vec<Migration> = sets.iter().flat_map(|set| of(set).iter().cloned()).collect();
        let migrator = Migrator::with_migrations(all);
        match &self.0.pools {
            Pools::Sqlite { writer, .. } => migrator.run(writer).await?,
            Pools::Postgres(pool) => migrator.run(pool).await?,
        }
        Ok(())
    }
}
