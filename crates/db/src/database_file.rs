//! File of a SQLite database: only its owner has access, and one process at a time can claim it.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Permission bits of a database.
const MODE: u32 = 0o600;
/// Files beside a database, to which SQLite gives the mode of the database when it creates them.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Claim of a database for this process, which ends when it is dropped. Drop it after the database is
/// closed: closing a file ends SQLite's own locks of this process on it.
///
/// The lock is on the database itself. A lock on another file would end with that file, which anyone who
/// tidies the folder may remove.
#[derive(Debug)]
pub struct Claim(#[expect(dead_code, reason = "holds the lock")] File);

/// Creates the database with mode 0600 if it is absent, whatever the umask. Removes the access of others to
/// an existing one and to the files beside it, with a log line.
///
/// # Errors
/// The file cannot be created, or belongs to another user.
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(MODE).open(path) {
        // The umask may have removed bits of the owner.
        Ok(file) => return file.set_permissions(Permissions::from_mode(MODE)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    narrow(path)?;
    for companion in COMPANIONS {
        let mut name = path.as_os_str().to_owned();
        name.push(companion);
        match narrow(&PathBuf::from(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Sets the mode by path: opening and closing the file would end the locks of a database that is open.
fn narrow(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(mode & 0o700))?;
    let mode = format!("{mode:03o}");
    tracing::warn!(path = %path.display(), mode, "others had access to a database, which is removed");
    Ok(())
}

/// Claims a database for this process; creates the file if it is absent. Returns `None` if another process
/// has claimed it. Claims are independent of SQLite's locks, so tools such as `sqlite3` can read the
/// database.
///
/// # Errors
/// The file cannot be created or locked, or belongs to another user.
pub fn claim(path: &Path) -> io::Result<Option<Claim>> {
    make_private(path)?;
    let file = File::open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Claim(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
