//! Files of secrets: read only where their owner alone can read them, written whole or not at all, with mode 0600.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::Error;

/// The permission bits of a file of secrets.
const MODE: u32 = 0o600;
/// The largest file that is read, in bytes.
const SIZE_MAX: u64 = 64 * 1024;

/// Reads the file.
///
/// # Errors
/// Where it is absent, open to others, larger than 64 kB or not UTF-8.
pub(crate) fn read(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::Exposed { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    let size = file.take(SIZE_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if size as u64 > SIZE_MAX {
        return Err(Error::Malformed {
            path: path.to_owned(),
            reason: "too large for a file of keys".to_owned(),
        });
    }
    Ok(text)
}

/// Reads the file, or makes it with what `make` gives. Of two processes that come at once one makes it and both read the
/// same.
///
/// # Errors
/// As [`read`], and where the folder is absent or cannot be written.
pub(crate) fn read_or_create(path: &Path, make: impl FnOnce() -> String) -> Result<String, Error> {
    match read(path) {
        Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let draft = Draft::write(path, &make())?;
    // A link, unlike a rename, does not replace what another process has made meanwhile.
    match fs::hard_link(&draft.path, path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::File { path: path.to_owned(), source });
        }
        _ => drop(draft),
    }
    sync_folder(path)?;
    read(path)
}

/// Replaces the file, or makes it.
///
/// # Errors
/// Where the folder is absent or cannot be written.
pub(crate) fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let draft = Draft::write(path, text)?;
    fs::rename(&draft.path, path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    sync_folder(path)
}

/// A whole file beside the one that it will become. Gone when dropped.
struct Draft {
    path: PathBuf,
}

impl Draft {
    fn write(target: &Path, text: &str) -> Result<Self, Error> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = target.with_file_name(format!(".{name}.{}", uuid::Uuid::new_v4().simple()));
        let failed = |source| Error::File { path: target.to_owned(), source };
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(MODE).open(&path).map_err(failed)?;
        let draft = Self { path };
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(draft)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove.
        let _absent = fs::remove_file(&self.path);
    }
}

/// Makes the new name survive a power cut.
fn sync_folder(path: &Path) -> Result<(), Error> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| Error::File { path: folder.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("a file").permissions().mode() & 0o777
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_file_is_made_once_with_mode_0600_and_nothing_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        assert_eq!(read_or_create(&path, || "first".to_owned()).expect("made"), "first");
        assert_eq!(read_or_create(&path, || "second".to_owned()).expect("read"), "first");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(names(folder.path()), ["secret"]);
    }

    #[test]
    fn of_many_that_make_it_at_once_all_read_the_same() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        let texts: Vec<String> = std::thread::scope(|scope| {
            let make = |number: u32| {
                let path = &path;
                scope.spawn(move || read_or_create(path, || number.to_string()).expect("made or read"))
            };
            let threads: Vec<_> = (0..16).map(make).collect();
            threads.into_iter().map(|thread| thread.join().expect("joined")).collect()
        });
        assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
        assert_eq!(names(folder.path()), ["secret"]);
    }

    #[test]
    fn a_file_that_others_can_read_or_write_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        replace(&path, "text").expect("written");
        for open in [0o640, 0o604, 0o660, 0o620, 0o601, 0o777] {
            fs::set_permissions(&path, fs::Permissions::from_mode(open)).expect("changed");
            let error = read(&path).expect_err("refused");
            assert!(matches!(error, Error::Exposed { mode, .. } if mode == open), "{error}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
            assert!(read_or_create(&path, || unreachable!("there is one")).is_err());
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("changed");
        assert_eq!(read(&path).expect("read"), "text");
    }

    #[test]
    fn replacing_is_whole_and_closes_the_file_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        fs::write(&path, "old").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("changed");
        replace(&path, "new").expect("replaced");
        assert_eq!((read(&path).expect("read").as_str(), mode(&path)), ("new", 0o600));
        assert_eq!(names(folder.path()), ["secret"]);
    }

    #[test]
    fn what_cannot_be_read_is_said_with_its_path() {
        let folder = tempfile::tempdir().expect("a folder");
        let absent = folder.path().join("absent/secret");
        for error in [
            read(&absent).expect_err("absent"),
            read_or_create(&absent, || "text".to_owned()).expect_err("no folder"),
            replace(&absent, "text").expect_err("no folder"),
        ] {
            assert!(error.to_string().contains("absent/secret"), "{error}");
        }
        let large = folder.path().join("large");
        replace(&large, &"x".repeat(64 * 1024 + 1)).expect("written");
        assert!(matches!(read(&large), Err(Error::Malformed { .. })));
    }
}
