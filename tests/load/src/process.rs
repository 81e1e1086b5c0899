//! What Linux knows about a server process: processor time and memory, from `/proc`; and what this
//! process must be given before it opens ten thousand sockets.

use std::fs;

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

/// Something whose processor time is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    /// What it is in reports: `edge`, `region`, `nats-server`.
    pub name: String,
    /// The process.
    pub pid: u32,
    /// One thread of it, where a floor runs inside this process.
    pub thread: Option<u32>,
}

impl Watched {
    /// A whole process.
    pub(crate) fn process(name: &str, pid: u32) -> Self {
        Watched {
            name: name.to_owned(),
            pid,
            thread: None,
        }
    }

    /// User and system time so far, in nanoseconds (in steps of the clock tick, 10 ms).
    ///
    /// # Errors
    /// The process is gone.
    pub(crate) fn cpu_ns(&self) -> Result<u64> {
        let path = match self.thread {
            None => format!("/proc/{}/stat", self.pid),
            Some(thread) => format!("/proc/{}/task/{thread}/stat", self.pid),
        };
        let text = fs::read_to_string(&path).with_context(|| {
            format!("{} (process {}) has ended: no {path}", self.name, self.pid)
        })?;
        let ticks =
            cpu_ticks(&text).with_context(|| format!("{path} reads otherwise than proc(5)"))?;
        Ok(ticks.saturating_mul(1_000_000_000 / rustix::param::clock_ticks_per_second().max(1)))
    }

    /// Resident memory now and at most so far, in bytes.
    ///
    /// # Errors
    /// The process is gone.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let path = format!("/proc/{}/status", self.pid);
        let text = fs::read_to_string(&path).with_context(|| {
            format!("{} (process {}) has ended: no {path}", self.name, self.pid)
        })?;
        Ok(Memory {
            resident: status_bytes(&text, "VmRSS:")
                .with_context(|| format!("{path} reads otherwise than proc(5)"))?,
            peak: status_bytes(&text, "VmHWM:").unwrap_or(0),
        })
    }

    /// Lets the peak of [`Watched::memory`] begin again at what is resident now. Not every user
    /// may: then the peak is the one since the start of the process.
    pub(crate) fn reset_peak(&self) {
        let _ = fs::write(format!("/proc/{}/clear_refs", self.pid), "5");
    }
}

/// Resident memory in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub(crate) struct Memory {
    /// Now.
    pub resident: u64,
    /// At most.
    pub peak: u64,
}

/// User and system time in clock ticks from the text of a `stat` file (proc(5)).
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses and may hold anything.
    let (_, behind_name) = stat.rsplit_once(") ")?;
    let mut fields = behind_name.split(' ');
    // Fields 14 and 15; the first here is field 3.
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// A value of a `status` file in bytes (proc(5) gives kB).
fn status_bytes(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Raises the limit of open files as far as it goes and checks that `needed` sockets fit.
///
/// # Errors
/// Too few files may be open.
pub(crate) fn raise_file_limit(needed: usize) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        setrlimit(Resource::Nofile, raised).context("raising the limit of open files")?;
    }
    // What a process has open besides: listeners, logs, /proc.
    let needed = needed as u64 + 64;
    if let Some(may) = getrlimit(Resource::Nofile).current
        && may < needed
    {
        bail!(
            "{needed} open files are needed and this process may have {may}: raise the hard limit \
             (ulimit -Hn {needed}) or ask for fewer connections"
        );
    }
    Ok(())
}

/// The processors that this process may use: those of its first caller, so before it is pinned.
pub(crate) fn processors() -> &'static [usize] {
    use rustix::thread::{CpuSet, sched_getaffinity};
    static ALLOWED: std::sync::OnceLock<Vec<usize>> = std::sync::OnceLock::new();
    ALLOWED.get_or_init(|| {
        let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        let all = 0..CpuSet::MAX_CPU;
        all.filter(|cpu| set.is_set(*cpu)).collect()
    })
}

/// Which processors the two sides of a run use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Pinning {
    /// Wherever the scheduler puts them.
    #[default]
    Off,
    /// Servers on the first processor, load on the second.
    Split,
}

impl Pinning {
    /// `Split` where there are two processors.
    pub(crate) fn auto() -> Self {
        if processors().len() >= 2 {
            Pinning::Split
        } else {
            Pinning::Off
        }
    }

    /// Puts the calling thread, and the processes and threads that it starts, where servers run.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn as_server(self) -> Result<()> {
        self.pin(0)
    }

    /// Puts the calling thread where the load runs.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn as_load(self) -> Result<()> {
        self.pin(1)
    }

    fn pin(self, nth: usize) -> Result<()> {
        use rustix::thread::{CpuSet, sched_setaffinity};
        if self == Pinning::Off {
            return Ok(());
        }
        let allowed = processors();
        let Some(cpu) = allowed.get(nth).or(allowed.last()) else {
            return Ok(());
        };
        let mut set = CpuSet::new();
        set.set(*cpu);
        sched_setaffinity(None, &set).with_context(|| format!("choosing processor {cpu}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_past_odd_program_names() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 7 5 0 0 20 0 1 0 9 1 2 3";
        assert_eq!(cpu_ticks(stat), Some(12));
        assert_eq!(cpu_ticks("42 (x) S 1"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(status_bytes(status, "VmRSS:"), Some(1024 * 1024));
        assert_eq!(status_bytes(status, "VmHWM:"), Some(2048 * 1024));
        assert_eq!(status_bytes(status, "VmSwap:"), None);
    }

    #[test]
    fn this_process_has_time_and_memory() {
        let me = Watched::process("test", std::process::id());
        let before = me.cpu_ns().unwrap();
        let mut sum = 0u64;
        while me.cpu_ns().unwrap() == before {
            sum = std::hint::black_box((0..100_000u64).fold(sum, u64::wrapping_add));
        }
        let memory = me.memory().unwrap();
        assert!(memory.resident > 0 && memory.peak >= memory.resident);
    }

    #[test]
    fn a_process_that_is_gone_is_named() {
        let gone = Watched::process("ghost", u32::MAX);
        assert!(gone.cpu_ns().unwrap_err().to_string().contains("ghost"));
        assert!(gone.memory().is_err());
    }
}
