//! What the process itself uses, read from /proc (Linux, proc(5)) under the names that
//! dashboards already know. Where /proc can not be read a metric is left out.

use std::fs;

use super::Samples;

/// Clock ticks a second in /proc: USER_HZ, which Linux keeps at 100 for its interface to programs
/// whatever its internal clock.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) fn collect(out: &mut Samples) {
    if let Ok(status) = fs::read_to_string("/proc/self/status") {
        if let Some(kib) = status_field(&status, "VmRSS:") {
            out.gauge(
                "process_resident_memory_bytes",
                "Resident memory in bytes.",
                &[],
                kib * 1024.0,
            );
        }
        if let Some(threads) = status_field(&status, "Threads:") {
            out.gauge("process_threads", "Threads of the process.", &[], threads);
        }
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // One of them is the descriptor that this reading itself uses.
        let open = entries.count().saturating_sub(1);
        out.gauge(
            "process_open_fds",
            "Open file descriptors.",
            &[],
            open as f64,
        );
    }
    if let Ok(limits) = fs::read_to_string("/proc/self/limits")
        && let Some(max) = max_open_files(&limits)
    {
        out.gauge(
            "process_max_fds",
            "Open file descriptors allowed.",
            &[],
            max,
        );
    }
    if let Ok(stat) = fs::read_to_string("/proc/self/stat")
        && let Some(times) = Times::parse(&stat)
    {
        out.counter_f64(
            "process_cpu_seconds_total",
            "CPU time used, user and system, in seconds.",
            &[],
            times.cpu_seconds,
        );
        if let Ok(stat) = fs::read_to_string("/proc/stat")
            && let Some(boot) = boot_time(&stat)
        {
            out.gauge(
                "process_start_time_seconds",
                "When the process started, in Unix seconds.",
                &[],
                boot + times.started_after_boot_seconds,
            );
        }
    }
}

fn status_field(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|l| l.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

fn max_open_files(limits: &str) -> Option<f64> {
    let line = limits
        .lines()
        .find_map(|l| l.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(f64::INFINITY),
        soft => soft.parse().ok(),
    }
}

fn boot_time(stat: &str) -> Option<f64> {
    stat.lines()
        .find_map(|l| l.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

struct Times {
    cpu_seconds: f64,
    started_after_boot_seconds: f64,
}

impl Times {
    /// The second field, the program's name, may hold spaces and brackets: fields are counted from
    /// the last `)`, behind which stands the third.
    fn parse(stat: &str) -> Option<Self> {
        let (_, tail) = stat.rsplit_once(')')?;
        let ticks =
            |field: usize| -> Option<f64> { tail.split_whitespace().nth(field - 3)?.parse().ok() };
        Some(Self {
            cpu_seconds: (ticks(14)? + ticks(15)?) / TICKS_PER_SECOND,
            started_after_boot_seconds: ticks(22)? / TICKS_PER_SECOND,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn value(text: &str, name: &str) -> f64 {
        text.lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
            .unwrap_or_else(|| panic!("{name} is missing in\n{text}"))
    }

    #[test]
    fn names_with_brackets_do_not_shift_the_fields() {
        let t = Times::parse("42 (a) b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 8 0 12345 0")
            .unwrap();
        assert_eq!(t.cpu_seconds, 2.0);
        assert_eq!(t.started_after_boot_seconds, 123.45);
        assert!(Times::parse("").is_none());
    }

    #[test]
    fn limits_without_an_end() {
        let line = "Max open files            unlimited            unlimited            files\n";
        assert_eq!(max_open_files(line), Some(f64::INFINITY));
    }

    #[test]
    fn figures_are_those_of_this_process() {
        let m = Metrics::new();
        let before = value(&m.text(), "process_open_fds");
        let held: Vec<fs::File> = (0..20)
            .map(|_| fs::File::open("/proc/self/stat").unwrap())
            .collect();
        let text = m.text();
        // Other tests of this binary open and close files meanwhile, but not twenty.
        assert!(value(&text, "process_open_fds") > before + 10.0);
        drop(held);
        assert!(value(&text, "process_resident_memory_bytes") > 1e6);
        assert!(value(&text, "process_threads") >= 1.0);
        assert!(value(&text, "process_max_fds") >= value(&text, "process_open_fds"));
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs_f64();
        let started = value(&text, "process_start_time_seconds");
        assert!(
            (now - 3600.0..now + 5.0).contains(&started),
            "{started} against {now}"
        );
    }
}
