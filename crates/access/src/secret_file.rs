//! Secret files. A file is refused if any user but its owner has access to it, and is written atomically
//! with mode 0600. A file of root may be readable for its group: this is how Kubernetes gives a Secret to a
//! process of another user.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::Error;

/// Permission bits of a secret file.
const MODE: u32 = 0o600;
/// Maximum size of a file that is read, in bytes.
const SIZE_MAX: u64 = 64 * 1024;

/// Reads a file.
///
/// # Errors
/// [`Error::File`] if the file is absent or not UTF-8; [`Error::Exposed`] if other users have access to
/// it; [`Error::Malformed`] if it is larger than 64 KiB.
pub(crate) fn read(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o777;
    if is_exposed(mode, metadata.uid(), rustix::process::geteuid().as_raw()) {
        return Err(Error::Exposed { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    let size = file.take(SIZE_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if size as u64 > SIZE_MAX {
        return Err(Error::Malformed { path: path.to_owned(), reason: "larger than 64 KiB".to_owned() });
    }
    Ok(text)
}

/// Returns true if other users than the owner have access. A reader who is not root may read a file of root
/// through its group, as PostgreSQL allows for its keys.
fn is_exposed(mode: u32, owner: u32, reader: u32) -> bool {
    let allowed = if owner == 0 && reader != 0 { 0o740 } else { 0o700 };
    mode & !allowed != 0
}

/// Reads a file, or creates it with the text of `generate`. If two processes do so at the same time, one
/// of them creates it and both return the same text.
///
/// # Errors
/// As [`read`], and [`Error::File`] if the directory is absent or cannot be written.
pub(crate) fn read_or_create(path: &Path, generate: impl FnOnce() -> String) -> Result<String, Error> {
    match read(path) {
        Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let draft = Draft::write(path, &generate())?;
    // A link, unlike a rename, does not replace a file that another process has just created.
    match fs::hard_link(&draft.path, path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::File { path: path.to_owned(), source });
        }
        _ => drop(draft),
    }
    sync_directory(path)?;
    read(path)
}

/// Replaces a file, or creates it.
///
/// # Errors
/// [`Error::File`] if the directory is absent or cannot be written.
pub(crate) fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let draft = Draft::write(path, text)?;
    fs::rename(&draft.path, path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    sync_directory(path)
}

/// Complete temporary file in the target's directory, to be linked or renamed to the target. Removed on
/// drop.
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
        // The umask may have removed bits of the owner.
        file.set_permissions(Permissions::from_mode(MODE)).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(draft)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Absent after a rename.
        let _absent = fs::remove_file(&self.path);
    }
}

/// Flushes the file's directory to disk, so that the new file survives a power failure.
fn sync_directory(path: &Path) -> Result<(), Error> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|source| Error::File { path: directory.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("the file exists").permissions().mode() & 0o777
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("the directory can be read");
        entries
            .map(|entry| entry.expect("the entry can be read").file_name().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn a_file_is_created_once_with_mode_0600_and_leaves_no_temporary_file() {
        let directory = tempfile::tempdir().expect("a temporary directory is created");
        let path = directory.path().join("secret");
        assert_eq!(read_or_create(&path, || "first".to_owned()).expect("the file is created"), "first");
        assert_eq!(read_or_create(&path, || "second".to_owned()).expect("the file is read"), "first");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(names(directory.path()), ["secret"]);
    }

    #[test]
    fn concurrent_creators_all_read_the_same_text() {
        let directory = tempfile::tempdir().expect("a temporary directory is created");
        let path = directory.path().join("secret");
        let texts: Vec<String> = std::thread::scope(|scope| {
            let create = |number: u32| {
                let path = &path;
                scope.spawn(move || {
                    read_or_create(path, || number.to_string()).expect("the file is created or read")
                })
            };
            let threads: Vec<_> = (0..16).map(create).collect();
            threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
        });
        assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
        assert_eq!(names(directory.path()), ["secret"]);
    }

    #[test]
    fn a_file_accessible_to_other_users_is_refused() {
        let directory = tempfile::tempdir().expect("a temporary directory is created");
        let path = directory.path().join("secret");
        replace(&path, "text").expect("the file is written");
        for exposed in [0o640, 0o604, 0o660, 0o620, 0o601, 0o777] {
            fs::set_permissions(&path, fs::Permissions::from_mode(exposed)).expect("chmod succeeds");
            let error = read(&path).expect_err("the file is refused");
            assert!(matches!(error, Error::Exposed { mode, .. } if mode == exposed), "{error}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
            assert!(read_or_create(&path, || unreachable!("the file exists")).is_err());
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("chmod succeeds");
        assert_eq!(read(&path).expect("the file is read"), "text");
    }

    #[test]
    fn only_a_file_of_root_may_be_readable_for_the_group_of_another_user() {
        const USER: u32 = 10_001;
        let exposed =
            |mode| (is_exposed(mode, 0, USER), is_exposed(mode, USER, USER), is_exposed(mode, 0, 0));
        assert_eq!(exposed(0o400), (false, false, false));
        assert_eq!(exposed(0o440), (false, true, true));
        assert_eq!(exposed(0o640), (false, true, true));
        for mode in [0o404, 0o460, 0o450, 0o444, 0o660, 0o644] {
            assert_eq!(exposed(mode), (true, true, true), "{mode:o}");
        }
        assert!(is_exposed(0o440, 10_002, USER), "the file of a third user");
    }

    #[test]
    fn replacing_a_file_restores_mode_0600_and_leaves_no_temporary_file() {
        let directory = tempfile::tempdir().expect("a temporary directory is created");
        let path = directory.path().join("secret");
        fs::write(&path, "old").expect("the file is written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod succeeds");
        replace(&path, "new").expect("the file is replaced");
        assert_eq!((read(&path).expect("the file is read").as_str(), mode(&path)), ("new", 0o600));
        assert_eq!(names(directory.path()), ["secret"]);
    }

    #[test]
    fn errors_name_the_path() {
        let directory = tempfile::tempdir().expect("a temporary directory is created");
        let absent = directory.path().join("absent/secret");
        for error in [
            read(&absent).expect_err("the file is absent"),
            read_or_create(&absent, || "text".to_owned()).expect_err("the directory is absent"),
            replace(&absent, "text").expect_err("the directory is absent"),
        ] {
            assert!(error.to_string().contains("absent/secret"), "{error}");
        }
        let large = directory.path().join("large");
        replace(&large, &"x".repeat(64 * 1024 + 1)).expect("the file is written");
        assert!(matches!(read(&large), Err(Error::Malformed { .. })));
    }
}
