//! `DATA_DIR`: the folder of the SQLite databases and the key files. Only the user of this process has access
//! to it, and the databases serve one process at a time.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::Path,
};

use anyhow::{Context, bail, ensure};
use db::Claim;

use crate::keygen::{SERVICE_TOKEN, SIGNING_KEY};

/// Databases of auth, dialog and counter.
pub const DATABASES: [&str; 3] = ["auth.db", "dialog.db", "counter.db"];
/// Permission bits of the folder.
const MODE: u32 = 0o700;

/// Creates the folder with mode 0700 if it is absent, whatever the umask: it holds messages and keys. If
/// others have access to an existing one, their access is removed with a log line.
///
/// # Errors
/// Fails if the folder belongs to another user, who could replace its files, or if others have access to one
/// that is not empty and holds no files of Tidings: it may be a folder such as `/tmp` that must not change.
pub fn create(path: &Path) -> anyhow::Result<()> {
    let context = || format!("DATA_DIR {}", path.display());
    if !path.try_exists().with_context(context)? {
        DirBuilder::new().recursive(true).mode(MODE).create(path).with_context(context)?;
        // The umask may have removed bits of the owner.
        return fs::set_permissions(path, Permissions::from_mode(MODE)).with_context(context);
    }
    let folder = fs::metadata(path).with_context(context)?;
    ensure!(folder.is_dir(), "{} is not a folder", context());
    let user = rustix::process::geteuid().as_raw();
    ensure!(
        folder.uid() == user,
        "{} belongs to the user with the id {}, and this process runs as {user}: set another folder or \
         chown it",
        context(),
        folder.uid(),
    );
    let mode = folder.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    ensure!(
        is_ours(path).with_context(context)?,
        "{} is accessible to other users (mode {mode:03o}) and holds other files: set another folder or run \
         chmod 700",
        context(),
    );
    fs::set_permissions(path, Permissions::from_mode(MODE)).with_context(context)?;
    let mode = format!("{mode:03o}");
    tracing::warn!(path = %path.display(), mode, "others had access to DATA_DIR, which is removed");
    Ok(())
}

/// Returns true for a folder that is empty or holds files of Tidings.
fn is_ours(path: &Path) -> io::Result<bool> {
    let mut files = DATABASES.into_iter().chain([SIGNING_KEY, SERVICE_TOKEN]);
    Ok(fs::read_dir(path)?.next().is_none() || files.any(|name| path.join(name).exists()))
}

/// Claims the databases of the folder for this process until the claims are dropped.
///
/// # Errors
/// Fails if another process has claimed one of them.
pub fn claim_databases(path: &Path) -> anyhow::Result<[Claim; 3]> {
    let claim = |name| -> anyhow::Result<Claim> {
        let file = path.join(name);
        match db::claim(&file).with_context(|| format!("DATA_DIR: cannot lock {}", file.display()))? {
            Some(claim) => Ok(claim),
            None => bail!("DATA_DIR {} is in use by another Tidings process", path.display()),
        }
    };
    let [auth, dialog, counter] = DATABASES;
    Ok([claim(auth)?, claim(dialog)?, claim(counter)?])
}
