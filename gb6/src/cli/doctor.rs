//! `gb6 doctor`: whether this machine can do what GB6 needs, and what to do where it can not.

mod checks;
mod disk;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::exit::{Failure, print};

#[derive(Args, Debug)]
pub(crate) struct Doctor {
    /// Where the logs are to be: their disk is measured
    #[arg(
        long,
        value_name = "DIR",
        env = "GB6_DATA_DIR",
        default_value = "gb6-data"
    )]
    data_dir: PathBuf,
    /// The address for clients (TCP)
    #[arg(
        long,
        value_name = "ADDR",
        env = "GB6_HTTP",
        default_value = "127.0.0.1:8080"
    )]
    http: SocketAddr,
    /// The addresses of mesh listeners that are to be on this machine (UDP). Without it those of
    /// make mesh are looked at
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    mesh: Vec<SocketAddr>,
}

/// Ports of the mesh listeners of `make mesh`: the region's and geo's.
const MESH_PORTS: [u16; 2] = [7600, 7700];

/// How a check ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Verdict {
    /// All is well.
    Good,
    /// It works, but less well than it could.
    Doubtful,
    /// It will not work.
    Bad,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Good => "ok  ",
            Verdict::Doubtful => "warn",
            Verdict::Bad => "FAIL",
        })
    }
}

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Finding {
    verdict: Verdict,
    /// What was looked at: one word.
    subject: &'static str,
    /// What was found.
    found: String,
    /// What to do about it.
    advice: Option<String>,
}

impl Finding {
    fn good(subject: &'static str, found: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Good,
            subject,
            found: found.into(),
            advice: None,
        }
    }

    fn but(mut self, verdict: Verdict, advice: impl Into<String>) -> Self {
        self.verdict = verdict;
        self.advice = Some(advice.into());
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}  {:<6} {}", self.verdict, self.subject, self.found)?;
        if let Some(advice) = &self.advice {
            writeln!(f, "             {advice}")?;
        }
        Ok(())
    }
}

impl Doctor {
    /// Exit code 0 unless something will not work.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let mut findings = vec![checks::files()];
        findings.push(checks::tcp_port(self.http));
        if self.mesh.is_empty() {
            let usual = MESH_PORTS.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
            // Nobody said that there is to be a mesh here.
            findings.extend(usual.map(|addr| checks::udp_port(addr, Verdict::Doubtful)));
        } else {
            let named = self.mesh.iter();
            findings.extend(named.map(|addr| checks::udp_port(*addr, Verdict::Bad)));
        }
        findings.push(checks::udp_buffers());
        findings.push(checks::clock());
        findings.extend(disk::check(&self.data_dir));
        for finding in &findings {
            print(&finding.to_string())?;
        }
        let count = |verdict| findings.iter().filter(|f| f.verdict == verdict).count();
        match (count(Verdict::Bad), count(Verdict::Doubtful)) {
            (0, 0) => print("All is well.\n"),
            (0, doubtful) => print(&format!("It will work; {doubtful} to look at.\n")),
            (bad, _) => {
                print(&format!("{bad} will not work.\n"))?;
                Err(Failure::Said)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_line_up() {
        let finding = Finding::good("disk", "slow").but(Verdict::Doubtful, "use another");
        assert_eq!(
            finding.to_string(),
            "warn  disk   slow\n             use another\n"
        );
    }
}
