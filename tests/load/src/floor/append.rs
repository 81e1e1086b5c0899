//! The floor of a durable publish: records written to a preallocated file, and one fdatasync for a
//! batch of them.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::clock::{now_ns, ns};
use crate::histogram::Histogram;
use crate::load::figures::AppendFigures;
use crate::payload::{Payload, Stamp};
use crate::process::Watched;

/// The file's bytes: written once before the measurement, then over and over.
const FILE_BYTES: u64 = 64 * 1024 * 1024;

/// How to append.
#[derive(Clone, Debug)]
pub(crate) struct AppendPlan {
    /// Bytes of a record.
    pub(crate) size: usize,
    /// Records for one sync.
    pub(crate) batch: usize,
    /// How long to measure.
    pub(crate) duration: Duration,
    /// How long to go on before.
    pub(crate) warm_up: Duration,
}

/// A file whose blocks are written once, and then over and over.
pub(crate) struct AppendFile {
    file: File,
    at: u64,
}

impl AppendFile {
    /// Makes the file.
    ///
    /// # Errors
    /// The disk fails or is full.
    pub(crate) fn create(path: &Path) -> std::io::Result<Self> {
        let file = File::create(path)?;
        let zeros = vec![0; 1024 * 1024];
        for at in (0..FILE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, at)?;
        }
        file.sync_all()?;
        Ok(Self { file, at: 0 })
    }

    /// Writes `batch` behind the last one and syncs it.
    ///
    /// # Errors
    /// The disk fails.
    pub(crate) fn append(&mut self, batch: &[u8]) -> std::io::Result<()> {
        if self.at + batch.len() as u64 > FILE_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(batch, self.at)?;
        self.file.sync_data()?;
        self.at += batch.len() as u64;
        Ok(())
    }
}

/// Appends in `dir`; the file is removed afterwards.
///
/// # Errors
/// The disk fails or is full.
pub(crate) fn run(dir: &Path, plan: &AppendPlan) -> Result<AppendFigures> {
    let path = dir.join("append.floor");
    let result = append(&path, plan).with_context(|| format!("writing {}", path.display()));
    let _ = std::fs::remove_file(&path);
    result
}

fn append(path: &Path, plan: &AppendPlan) -> Result<AppendFigures> {
    let mut file = AppendFile::create(path)?;
    let mut batch = Vec::with_capacity(plan.size * plan.batch);
    let mut payload = Payload::new(plan.size, 1);
    for number in 0..plan.batch.max(1) as u64 {
        let sent_ns = 0;
        batch.extend_from_slice(payload.stamped(Stamp { number, sent_ns }));
    }
    let me = Watched {
        name: "append".to_owned(),
        pid: std::process::id(),
        thread: u32::try_from(rustix::thread::gettid().as_raw_nonzero().get()).ok(),
    };
    let mut latency = Histogram::default();
    let warm = now_ns() + ns(plan.warm_up);
    let end = warm + ns(plan.duration);
    let mut began = None;
    loop {
        let before = now_ns();
        if before >= end {
            break;
        }
        if began.is_none() && before >= warm {
            latency.clear();
            began = Some((before, me.cpu_ns()?));
        }
        file.append(&batch)?;
        latency.record(now_ns() - before);
    }
    let (from, cpu) = began.unwrap_or((warm, 0));
    let seconds = (now_ns() - from) as f64 / 1e9;
    let syncs = latency.count();
    let records = syncs * plan.batch.max(1) as u64;
    Ok(AppendFigures {
        batch: plan.batch,
        size: plan.size,
        records_per_s: records as f64 / seconds,
        syncs_per_s: syncs as f64 / seconds,
        latency: latency.summary(),
        cpu_us_per_sync: (me.cpu_ns()? - cpu) as f64 / 1000.0 / syncs.max(1) as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_syncs_batches_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let plan = AppendPlan {
            size: 300,
            batch: 16,
            duration: Duration::from_millis(60),
            warm_up: Duration::from_millis(10),
        };
        let figures = run(dir.path(), &plan).unwrap();
        assert!(figures.latency.count > 0);
        assert!(figures.records_per_s >= 15.9 * figures.syncs_per_s);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(run(&dir.path().join("absent"), &plan).is_err());
    }
}
