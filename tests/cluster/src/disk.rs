//! File systems of a test's own, which it may fill, and cut the power of. They need root.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What fills a disk.
const BALLAST: &str = "ballast";
/// How much is written at once where much fits.
const BLOCK: usize = 1 << 16;

/// A file system that only this test uses, unmounted when it is dropped.
#[derive(Debug)]
pub struct Disk {
    volume: Volume,
    mount_point: PathBuf,
    // After the mount is gone.
    directory: tempfile::TempDir,
}

/// What kind of file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Volume {
    /// XFS in a file, through a loop device: it survives a power cut as a disk does.
    Xfs {
        /// Its size in MiB; XFS wants 300 at least.
        mib: u64,
    },
    /// Memory.
    Tmpfs {
        /// Its size in MiB.
        mib: u64,
    },
}

/// Why there is no such disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Mounting is for root.
    #[error(
        "this test mounts a file system and needs root: run its script with `sudo -E`, or in CI as root"
    )]
    NotRoot,
    /// A command failed.
    #[error("`{command}` failed: {reason}; scripts/install-test-deps.sh installs what is missing")]
    Command {
        /// Which one.
        command: String,
        /// Why.
        reason: String,
    },
    /// A file can not be made.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Disk {
    /// Makes and mounts a file system, with its files below `parent`.
    ///
    /// # Errors
    /// This process is not root, or a tool is missing or fails.
    pub fn new(volume: Volume, parent: &Path) -> Result<Self, DiskError> {
        if !rustix::process::geteuid().is_root() {
            return Err(DiskError::NotRoot);
        }
        let io = |what: &str| {
            let what = format!("{what} in {}", parent.display());
            |source| DiskError::Io { what, source }
        };
        std::fs::create_dir_all(parent).map_err(io("can not make a directory"))?;
        // An engine may run as a user of its own.
        let directory = tempfile::Builder::new()
            .prefix("disk-")
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir_in(parent)
            .map_err(io("can not make a directory"))?;
        let mount_point = directory.path().join("mnt");
        std::fs::create_dir(&mount_point).map_err(io("can not make a directory"))?;
        if let Volume::Xfs { mib } = volume {
            let image = directory.path().join("image");
            std::fs::File::create(&image)
                .and_then(|file| file.set_len(mib * 1024 * 1024))
                .map_err(io("can not make an image"))?;
            run("mkfs.xfs", &["-q", "-f", &text(&image)])?;
        }
        let disk = Disk {
            volume,
            mount_point,
            directory,
        };
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Fills it until so many bytes are free, with 0 until nothing fits any more. Once more, it takes
    /// what has become free since.
    ///
    /// # Errors
    /// It can not be written, for another reason than that it is full.
    pub fn fill(&self, free: u64) -> Result<(), DiskError> {
        let path = self.mount_point.join(BALLAST);
        let io = |source| DiskError::Io {
            what: format!("can not write {}", path.display()),
            source,
        };
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(&path);
        let mut file = file.map_err(io)?;
        let block = vec![b'x'; BLOCK];
        loop {
            let left = self.free().map_err(io)?.saturating_sub(free);
            if free > 0 && left == 0 {
                return Ok(());
            }
            // What the system says is free need not be all.
            let next = match free {
                0 => BLOCK,
                _ => left.min(BLOCK as u64) as usize,
            };
            match file.write_all(&block[..next]) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(e) => return Err(io(e)),
            }
        }
    }

    /// Removes what [`Disk::fill`] has written.
    ///
    /// # Errors
    /// The system refuses.
    pub fn make_room(&self) -> Result<(), DiskError> {
        let path = self.mount_point.join(BALLAST);
        std::fs::remove_file(&path).map_err(|source| DiskError::Io {
            what: format!("can not remove {}", path.display()),
            source,
        })
    }

    /// How many bytes are free.
    fn free(&self) -> std::io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.mount_point)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Cuts the power: what was not synced is gone, and everything fails until the disk is mounted
    /// again.
    ///
    /// # Errors
    /// It is not XFS, or the tool fails.
    pub fn cut_power(&self) -> Result<(), DiskError> {
        run(
            "xfs_io",
            &["-x", "-c", "shutdown", &text(&self.mount_point)],
        )
    }

    /// Unmounts it; nobody may have files open on it.
    ///
    /// # Errors
    /// Somebody has.
    pub fn unmount(&self) -> Result<(), DiskError> {
        run("umount", &[&text(&self.mount_point)])
    }

    /// Mounts it, as at first and after [`Disk::unmount`].
    ///
    /// # Errors
    /// The system refuses.
    pub fn mount(&self) -> Result<(), DiskError> {
        let point = text(&self.mount_point);
        match self.volume {
            Volume::Xfs { .. } => {
                let image = text(&self.directory.path().join("image"));
                run("mount", &["-o", "loop", &image, &point])
            }
            Volume::Tmpfs { mib } => {
                let options = format!("size={mib}m");
                run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", &point])
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that is being killed may still hold it.
        let _ = run("umount", &["-l", &text(&self.mount_point)]);
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn run(program: &str, arguments: &[&str]) -> Result<(), DiskError> {
    let failed = |reason: String| DiskError::Command {
        command: format!("{program} {}", arguments.join(" ")),
        reason,
    };
    // Debian puts these tools where only root's PATH looks.
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .output()
        .map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(failed(format!("{} {words}", output.status)))
}
