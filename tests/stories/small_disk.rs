//! A disk that a test fills: a small tmpfs of its own. Mounting one requires root.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// A mounted file system of a few MiB, unmounted when dropped.
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// Mounts an empty disk. Prints a line and returns `None` where that is not permitted.
    pub fn mount(size_mib: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size_mib}m,mode=755"), "tmpfs"]).arg(folder.path());
        if mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
            return Some(Self(folder));
        }
        println!("skipped: a full disk (only root may mount a tmpfs)");
        None
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Creates a folder on the disk that belongs to a user of the system.
    pub fn folder_of(&self, user: &str) -> PathBuf {
        let folder = self.path().join(user);
        std::fs::create_dir(&folder).unwrap();
        let done = Command::new("chown").arg(user).arg(&folder).status().unwrap();
        assert!(done.success(), "chown {user}");
        // Other users must reach the folder, and a temporary folder is private.
        let done = Command::new("chmod").arg("755").arg(self.path()).status().unwrap();
        assert!(done.success(), "chmod");
        folder
    }

    /// Fills the disk to its last page.
    pub fn fill(&self) {
        let mut ballast = File::create(self.ballast()).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            let block = vec![b'x'; size];
            while ballast.write_all(&block).is_ok() {}
        }
    }

    /// Frees what [`fill`](Self::fill) has taken.
    pub fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a killed process may still hold a file for a moment.
        drop(Command::new("umount").arg("--lazy").arg(self.path()).status());
    }
}
