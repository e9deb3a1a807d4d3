//! `DATA_DIR`: access to its files, and the claim of one process on its databases.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::json;
use tokio::process::Command;

use crate::{
    app::{App, program},
    caller::Caller,
};

const DATABASES: [&str; 3] = ["auth.db", "dialog.db", "counter.db"];

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Returns the names and modes of the files in a folder that others can access.
fn exposed(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let exposed = files.filter(|path| mode(path) & 0o077 != 0);
    exposed.map(|path| format!("{} {:o}", path.display(), mode(&path))).collect()
}

/// Runs the program on a folder until it exits, which it must do within 10 s.
async fn run(command: &str, folder: &Path) -> Output {
    let mut run = Command::new(program());
    run.arg(command).env("DATA_DIR", folder).env("LISTEN", "127.0.0.1:0").env("OPS_LISTEN", "127.0.0.1:0");
    let output = run.stdin(Stdio::null()).kill_on_drop(true).output();
    tokio::time::timeout(Duration::from_secs(10), output).await.expect("the program exits").unwrap()
}

/// Asserts that the program refuses to run on a folder, with one line that contains `reason`.
async fn assert_refused(command: &str, folder: &Path, reason: &str) {
    let output = run(command, folder).await;
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), line.lines().count()), (Some(2), 1), "{line}");
    assert!(line.contains(reason), "{line}");
}

#[tokio::test]
async fn databases_and_their_folder_are_private_whatever_the_umask() {
    for umask in ["000", "022", "777"] {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("data");
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("umask {umask}; exec \"$0\"")).arg(program());
        let app =
            App::start_by(command, tempfile::tempdir().unwrap(), &[("DATA_DIR", folder.to_str().unwrap())])
                .await;
        // A write creates the files beside the databases.
        Caller::register(&app, "ann").await;
        assert_eq!(mode(&folder), 0o700, "umask {umask}");
        for name in
            DATABASES.iter().flat_map(|name| [name.to_string(), format!("{name}-wal"), format!("{name}-shm")])
        {
            assert_eq!(mode(&folder.join(&name)), 0o600, "{name} with umask {umask}");
        }
        assert!(exposed(&folder).is_empty(), "umask {umask}: {:?}", exposed(&folder));
    }
}

#[tokio::test]
async fn the_access_of_others_to_an_existing_folder_is_removed() {
    let app = App::start().await;
    Caller::register(&app, "ann").await;
    // Killed, so that the files beside the databases stay.
    let folder = app.kill().await;
    set_mode(folder.path(), 0o755);
    for entry in fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.to_str().unwrap().contains(".db") {
            set_mode(&path, 0o644);
        }
    }
    let log = folder.path().join("log");
    let app = App::start_with_log(folder, &[], fs::File::create(&log).unwrap().into()).await;
    let folder = app.folder.path();
    assert_eq!(mode(folder), 0o700);
    set_mode(&log, 0o600);
    assert!(exposed(folder).is_empty(), "{:?}", exposed(folder));
    let lines = fs::read_to_string(&log).unwrap();
    assert_eq!(lines.matches("others had access to DATA_DIR").count(), 1, "{lines}");

    let empty = tempfile::tempdir().unwrap();
    set_mode(empty.path(), 0o777);
    assert!(run("keygen", empty.path()).await.status.success(), "an empty folder");
    assert_eq!(mode(empty.path()), 0o700);
}

#[tokio::test]
async fn a_folder_of_others_or_with_other_files_is_refused() {
    for command in ["serve", "keygen"] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("letter.txt"), "dear").unwrap();
        set_mode(folder.path(), 0o1777);
        assert_refused(command, folder.path(), "accessible to other users (mode 1777)").await;
        assert_eq!(mode(folder.path()), 0o777, "unchanged");
        set_mode(folder.path(), 0o700);
        let file = folder.path().join("letter.txt");
        assert_refused(command, &file, "is not a folder").await;
        // Only root can give a folder away.
        if chown(folder.path(), Some(12_345), None).is_ok() {
            assert_refused(command, folder.path(), "belongs to the user with the id 12345").await;
        }
    }
}

#[tokio::test]
async fn a_second_process_is_refused_whatever_file_is_removed() {
    let app = App::start().await;
    let a = Caller::register(&app, "ann").await;
    let folder = app.folder.path();
    assert_refused("serve", folder, "is in use by another Tidings process").await;
    // The file that versions up to 0.1 locked.
    let lock = folder.join("lock");
    let _absent = fs::remove_file(&lock);
    assert_refused("serve", folder, "is in use by another Tidings process").await;
    fs::write(&lock, "").unwrap();
    assert_refused("serve", folder, "is in use by another Tidings process").await;
    for name in DATABASES {
        let aside = folder.join("aside");
        fs::rename(folder.join(name), &aside).unwrap();
        assert_refused("serve", folder, "is in use by another Tidings process").await;
        fs::rename(&aside, folder.join(name)).unwrap();
    }
    // The databases under another path.
    let other = tempfile::tempdir().unwrap();
    set_mode(other.path(), 0o700);
    for name in DATABASES {
        std::os::unix::fs::symlink(folder.join(name), other.path().join(name)).unwrap();
    }
    assert_refused("serve", other.path(), "is in use by another Tidings process").await;
    assert_eq!(a.data("{ me { login } }", json!({})).await["me"]["login"], "ann", "the first one runs on");
    let (folder, _) = app.stop().await;
    App::start_in(folder, &[]).await;
}
