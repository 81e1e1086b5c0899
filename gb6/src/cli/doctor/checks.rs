//! Checks of the process's limits, its ports and its clocks.

use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};

use super::{Finding, Verdict};
use crate::assemble::{Holder, Protocol, who_listens};

/// Files below which a node can hardly serve anybody.
const FILES_MIN: u64 = 1_024;
/// Files that a busy edge should be allowed.
const FILES_WANTED: u64 = 65_536;
/// Bytes of a socket's receive buffer that the mesh asks for.
const SOCKET_BUFFER: u64 = gb6_core_mesh::transport::SOCKET_BUFFER as u64;
/// Seconds since 1970 before which a clock was certainly never set: 1 January 2026.
const CLOCK_MIN_S: u64 = 1_767_225_600;
/// The name that the kernel gives a running GB6.
const OURS: &str = "gb6";
/// How long the clocks are watched.
const CLOCK_WATCH: Duration = Duration::from_millis(200);
/// Most by which they may disagree after that.
const CLOCK_DRIFT: Duration = Duration::from_millis(20);

/// The limit of open files: every client is one.
pub(super) fn files() -> Finding {
    let hard = getrlimit(Resource::Nofile).maximum;
    judge_files(hard)
}

fn judge_files(hard: Option<u64>) -> Finding {
    let Some(hard) = hard else {
        return Finding::good("files", "any number may be open");
    };
    let found = Finding::good("files", format!("{hard} may be open, each client is one"));
    let advice = format!("for more clients: ulimit -Hn {FILES_WANTED}, or LimitNOFILE= of systemd");
    match hard {
        FILES_WANTED.. => found,
        FILES_MIN.. => found.but(Verdict::Doubtful, advice),
        _ => found.but(Verdict::Bad, advice),
    }
}

/// Whether the address for clients is free, or GB6's already.
pub(super) fn tcp_port(addr: SocketAddr) -> Finding {
    let bound = TcpListener::bind(addr).map(drop);
    let advice = "choose another with --http";
    port("tcp", Protocol::Tcp, addr, bound, (Verdict::Bad, advice))
}

/// Whether the address of a mesh listener is free, or GB6's already; `busy`: what it means if
/// neither.
pub(super) fn udp_port(addr: SocketAddr, busy: Verdict) -> Finding {
    let bound = UdpSocket::bind(addr).map(drop);
    let advice = "choose another with --mesh-listen, and in the snapshot";
    port("udp", Protocol::Udp, addr, bound, (busy, advice))
}

fn port(
    subject: &'static str,
    protocol: Protocol,
    addr: SocketAddr,
    bound: std::io::Result<()>,
    (verdict, advice): (Verdict, &str),
) -> Finding {
    match bound {
        Ok(()) => Finding::good(subject, format!("{addr} is free")),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => judge_holder(
            subject,
            addr,
            who_listens(protocol, addr),
            (verdict, advice),
        ),
        Err(e) => {
            Finding::good(subject, format!("{addr} can not be used: {e}")).but(verdict, advice)
        }
    }
}

fn judge_holder(
    subject: &'static str,
    addr: SocketAddr,
    holder: Option<Holder>,
    (verdict, advice): (Verdict, &str),
) -> Finding {
    match holder {
        Some(holder) if holder.name == OURS => Finding::good(
            subject,
            format!("{addr} is in use by a gb6 that runs, {holder}"),
        ),
        Some(holder) => Finding::good(subject, format!("{addr} is in use by {holder}"))
            .but(verdict, format!("end it, or {advice}")),
        None => Finding::good(
            subject,
            format!("{addr} is in use by a process of another user"),
        )
        .but(verdict, format!("end it, or {advice}")),
    }
}

/// How much the kernel keeps for a mesh socket while the process is busy.
pub(super) fn udp_buffers() -> Finding {
    const SETTING: &str = "/proc/sys/net/core/rmem_max";
    let max = fs::read_to_string(SETTING)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    judge_udp_buffers(max)
}

fn judge_udp_buffers(max: Option<u64>) -> Finding {
    match max {
        None => Finding::good("buffer", "the bound of receive buffers is not known"),
        Some(max) if max >= SOCKET_BUFFER => {
            Finding::good("buffer", format!("a socket may have {max} bytes of receive buffer"))
        }
        Some(max) => Finding::good("buffer", format!("a socket may have only {max} bytes of receive buffer"))
            .but(
                Verdict::Doubtful,
                format!("for a mesh under load: sysctl -w net.core.rmem_max={SOCKET_BUFFER} net.core.wmem_max={SOCKET_BUFFER}"),
            ),
    }
}

/// Whether the clocks run, and run alike.
pub(super) fn clock() -> Finding {
    let (wall, monotonic) = (SystemTime::now(), Instant::now());
    std::thread::sleep(CLOCK_WATCH);
    let monotonic = monotonic.elapsed();
    let since_1970 = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    judge_clock(since_1970, wall.elapsed().ok(), monotonic)
}

/// `wall`: how far the wall clock went in `monotonic`; `None`: backwards.
fn judge_clock(since_1970: Duration, wall: Option<Duration>, monotonic: Duration) -> Finding {
    let advice =
        "let the machine keep its time: systemctl enable --now systemd-timesyncd, or chrony";
    if since_1970.as_secs() < CLOCK_MIN_S {
        return Finding::good("clock", "it was never set: tokens would not be valid yet")
            .but(Verdict::Bad, advice);
    }
    let Some(wall) = wall else {
        return Finding::good("clock", "it ran backwards while it was watched")
            .but(Verdict::Bad, advice);
    };
    let drift = wall.abs_diff(monotonic);
    if drift > CLOCK_DRIFT {
        let found = format!(
            "it was off by {} ms within {} ms",
            drift.as_millis(),
            monotonic.as_millis()
        );
        return Finding::good("clock", found).but(Verdict::Doubtful, advice);
    }
    Finding::good("clock", "it is set, and runs forwards at its speed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_files() {
        for (hard, verdict) in [
            (None, Verdict::Good),
            (Some(1 << 20), Verdict::Good),
            (Some(4096), Verdict::Doubtful),
            (Some(256), Verdict::Bad),
        ] {
            assert_eq!(judge_files(hard).verdict, verdict, "{hard:?}");
        }
    }

    #[test]
    fn a_busy_port_names_its_holder() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let finding = tcp_port(addr);
        assert_eq!(finding.verdict, Verdict::Bad);
        assert!(
            finding
                .found
                .contains(&format!("process {}", std::process::id())),
            "{finding}"
        );
        drop(listener);
        // A child that another test starts has it until it runs its program.
        let began = std::time::Instant::now();
        while tcp_port(addr).verdict != Verdict::Good {
            assert!(began.elapsed().as_secs() < 20, "{}", tcp_port(addr));
        }
        for verdict in [Verdict::Bad, Verdict::Doubtful] {
            let unreachable = udp_port(SocketAddr::from(([192, 0, 2, 1], 7600)), verdict);
            assert_eq!(unreachable.verdict, verdict);
        }
    }

    #[test]
    fn a_port_that_gb6_serves_is_well() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 8080));
        for (holder, verdict, words) in [
            (Some("gb6"), Verdict::Good, "process 7 (gb6)"),
            (Some("gb6-load"), Verdict::Bad, "process 7 (gb6-load)"),
            (None, Verdict::Bad, "another user"),
        ] {
            let holder = holder.map(|name| Holder {
                pid: 7,
                name: name.to_owned(),
            });
            let finding = judge_holder("tcp", addr, holder, (Verdict::Bad, "move"));
            assert_eq!(finding.verdict, verdict);
            assert!(finding.found.contains(words), "{finding}");
        }
    }

    #[test]
    fn clocks() {
        let (now, s) = (
            Duration::from_secs(CLOCK_MIN_S + 1),
            Duration::from_millis(200),
        );
        for (since, wall, verdict) in [
            (now, Some(s), Verdict::Good),
            (now, None, Verdict::Bad),
            (now, Some(s * 2), Verdict::Doubtful),
            (Duration::from_secs(5), Some(s), Verdict::Bad),
        ] {
            assert_eq!(judge_clock(since, wall, s).verdict, verdict);
        }
    }

    #[test]
    fn buffers() {
        assert_eq!(judge_udp_buffers(Some(212_992)).verdict, Verdict::Doubtful);
        assert_eq!(
            judge_udp_buffers(Some(SOCKET_BUFFER)).verdict,
            Verdict::Good
        );
    }
}
