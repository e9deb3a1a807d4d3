//! Databases of a running system, as commands open them: nothing is created and nothing is migrated.

use std::path::Path;

use anyhow::{Context, ensure};
use db::{Db, Migrations};

use crate::private_folder;

/// Maximum number of connections to each database.
const CONNECTIONS_MAX: u32 = 4;

/// Opens the database at the URL of a setting.
///
/// # Errors
/// Fails if the URL is malformed or of SQLite, the database does not answer, or it has not the migrations
/// of this build.
pub async fn open(setting: &'static str, url: &str, migrations: &'static Migrations) -> anyhow::Result<Db> {
    ensure!(!url.starts_with("sqlite:"), "{setting}: SQLite is opened by DATA_DIR");
    let db = Db::open(url, CONNECTIONS_MAX).await.context(setting)?;
    require_migrations(&db, migrations).await.context(setting)?;
    Ok(db)
}

/// Opens the SQLite database of auth in `DATA_DIR`.
///
/// # Errors
/// Fails if there is no such file, or it has not the migrations of this build.
pub async fn auth(data_dir: &Path) -> anyhow::Result<Db> {
    open_file(data_dir, private_folder::DATABASES[0], &::auth::MIGRATIONS).await
}

/// Opens the SQLite database of dialog in `DATA_DIR`.
///
/// # Errors
/// As [`auth()`].
pub async fn dialog(data_dir: &Path) -> anyhow::Result<Db> {
    open_file(data_dir, private_folder::DATABASES[1], &::dialog::MIGRATIONS).await
}

/// Opens the SQLite database of counter in `DATA_DIR`.
///
/// # Errors
/// As [`auth()`].
pub async fn counter(data_dir: &Path) -> anyhow::Result<Db> {
    open_file(data_dir, private_folder::DATABASES[2], &::counter::MIGRATIONS).await
}

async fn open_file(data_dir: &Path, name: &str, migrations: &'static Migrations) -> anyhow::Result<Db> {
    let path = data_dir.join(name);
    let context = || format!("DATA_DIR: {}", path.display());
    ensure!(path.is_file(), "{}: there is no such file", context());
    let db = Db::open_file(&path).await.with_context(context)?;
    require_migrations(&db, migrations).await.with_context(context)?;
    Ok(db)
}

async fn require_migrations(db: &Db, migrations: &'static Migrations) -> Result<(), db::Error> {
    db.require_migrations(&[&db::MIGRATIONS, &events::MIGRATIONS, migrations]).await
}
