//! Checks of the disk that the logs are to be on: room, and how fast it really writes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Finding, Verdict};

/// Writes that are measured: enough for a median, over soon on a slow disk too.
const SYNCS: usize = 64;
/// When measuring stops all the same.
const SYNCS_TIME_MAX: Duration = Duration::from_secs(3);
/// Bytes of one write: a small batch.
const WRITE_BYTES: usize = 4096;
/// A sync slower than this makes every publish wait noticeably.
const SYNC_SLOW: Duration = Duration::from_millis(10);
/// A sync faster than this reached no medium: a system call alone takes about as long.
const SYNC_UNREAL: Duration = Duration::from_micros(15);
/// Free space below which segments can not grow.
const FREE_MIN: u64 = 256 * 1024 * 1024;
/// Free space that is soon used up.
const FREE_WANTED: u64 = 2 * 1024 * 1024 * 1024;
/// The magic number of a file system in memory (`man 2 statfs`).
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// Measures the disk of `data_dir`, or of the nearest directory above it that exists.
pub(super) fn check(data_dir: &Path) -> Vec<Finding> {
    let dir = existing(data_dir);
    let mut findings = vec![space(&dir)];
    let in_memory = rustix::fs::statfs(&dir).is_ok_and(|fs| fs.f_type == TMPFS_MAGIC);
    findings.push(match measure(&dir) {
        Ok(times) => judge_syncs(&dir, times, in_memory),
        Err(e) => Finding::good(
            "disk",
            format!("writing and syncing in {} fails: {e}", dir.display()),
        )
        .but(
            Verdict::Bad,
            "name a directory that this user may write to with --data-dir",
        ),
    });
    findings
}

fn existing(data_dir: &Path) -> PathBuf {
    let absolute = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_path_buf());
    let found = absolute.ancestors().find(|dir| dir.is_dir());
    found.unwrap_or(Path::new("/")).to_path_buf()
}

fn space(dir: &Path) -> Finding {
    match rustix::fs::statvfs(dir) {
        Ok(fs) => judge_space(
            fs.f_bavail.saturating_mul(fs.f_frsize),
            fs.f_files,
            fs.f_favail,
        ),
        Err(e) => Finding::good(
            "space",
            format!("that of {} is not known: {e}", dir.display()),
        )
        .but(Verdict::Doubtful, "look with df"),
    }
}

fn judge_space(free: u64, inodes: u64, inodes_free: u64) -> Finding {
    let finding = Finding::good("space", format!("{} MiB are free", free / (1024 * 1024)));
    if inodes > 0 && inodes_free < 1_000 {
        let advice = format!("only {inodes_free} more files can be made there: delete some");
        return finding.but(Verdict::Bad, advice);
    }
    match free {
        FREE_WANTED.. => finding,
        FREE_MIN.. => finding.but(
            Verdict::Doubtful,
            "publishes fail with 1001 when it is full; reads go on",
        ),
        _ => finding.but(
            Verdict::Bad,
            "make room, or name another disk with --data-dir",
        ),
    }
}

/// The times of writing and syncing a small batch, as a log does it.
fn measure(dir: &Path) -> io::Result<Vec<Duration>> {
    let path = dir.join(format!(".gb6-doctor-{}", std::process::id()));
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).open(&path)?;
    let times = measure_in(file);
    fs::remove_file(&path)?;
    times
}

fn measure_in(mut file: File) -> io::Result<Vec<Duration>> {
    let batch = [0x5a; WRITE_BYTES];
    // The room is made before, as for a log's segment: then a sync writes no metadata.
    for _ in 0..=SYNCS {
        file.write_all(&batch)?;
    }
    file.sync_all()?;
    io::Seek::rewind(&mut file)?;
    let (began, mut times) = (Instant::now(), Vec::new());
    while times.len() < SYNCS && began.elapsed() < SYNCS_TIME_MAX {
        let sync = Instant::now();
        file.write_all(&batch)?;
        file.sync_data()?;
        times.push(sync.elapsed());
    }
    Ok(times)
}

fn judge_syncs(dir: &Path, mut times: Vec<Duration>, in_memory: bool) -> Finding {
    times.sort_unstable();
    let (Some(median), Some(worst)) = (times.get(times.len() / 2), times.last()) else {
        return Finding::good("disk", "nothing was measured").but(Verdict::Doubtful, "try again");
    };
    let finding = Finding::good(
        "disk",
        format!(
            "a durable write in {} takes {} µs (median of {}), {} µs at worst",
            dir.display(),
            median.as_micros(),
            times.len(),
            worst.as_micros()
        ),
    );
    if in_memory {
        finding.but(
            Verdict::Doubtful,
            "it is memory: nothing of it survives the end of the machine",
        )
    } else if *median < SYNC_UNREAL {
        finding.but(
            Verdict::Doubtful,
            "too fast to be true: a file system or virtual disk that does not sync loses messages",
        )
    } else if *median > SYNC_SLOW {
        finding.but(
            Verdict::Doubtful,
            "slow: publishes wait for it, batches make up for some; an SSD does it in 0.1 to 1 ms",
        )
    } else {
        finding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_directory_is_measured_and_left_clean() {
        let dir = tempfile::tempdir().unwrap();
        let findings = check(&dir.path().join("not/yet/there"));
        assert_eq!(findings.len(), 2);
        assert!(
            findings[1]
                .found
                .contains(&dir.path().display().to_string()),
            "{}",
            findings[1]
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn speeds() {
        let dir = Path::new("/d");
        let times = |us| vec![Duration::from_micros(us); 9];
        for (us, in_memory, verdict) in [
            (300, false, Verdict::Good),
            (300, true, Verdict::Doubtful),
            (2, false, Verdict::Doubtful),
            (20_000, false, Verdict::Doubtful),
        ] {
            assert_eq!(
                judge_syncs(dir, times(us), in_memory).verdict,
                verdict,
                "{us}"
            );
        }
    }

    #[test]
    fn room() {
        for (free, inodes, inodes_free, verdict) in [
            (1 << 40, 1000, 5000, Verdict::Good),
            (1 << 40, 0, 0, Verdict::Good),
            (1 << 40, 1000, 10, Verdict::Bad),
            (1 << 30, 1000, 5000, Verdict::Doubtful),
            (1 << 20, 1000, 5000, Verdict::Bad),
        ] {
            assert_eq!(
                judge_space(free, inodes, inodes_free).verdict,
                verdict,
                "{free}"
            );
        }
    }
}
