//! An edge in a process of its own: for what belongs to a whole process, such as its files and its
//! memory.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::quic::with_quic;
use crate::tls::with_tls;
use crate::world::{World, config};

/// How many files the child may have open; empty: as many as this process.
const FILES: &str = "GB6_TEST_EDGE_FILES";

/// What the child speaks, where that is not plain HTTP.
const SPEAKS: &str = "GB6_TEST_EDGE_SPEAKS";

/// The child: does nothing where it was not asked for.
#[test]
fn child() {
    let Ok(files) = std::env::var(FILES) else {
        return;
    };
    let mut settings = match std::env::var(SPEAKS).as_deref() {
        Ok("tls") => with_tls(),
        Ok("quic") => with_quic(),
        _ => config(),
    };
    if let Ok(files) = files.parse() {
        let limit = rustix::process::Rlimit {
            current: Some(files),
            maximum: Some(files),
        };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
        // No reserve: the edge believes that all files are for clients, so it does run out.
        settings.file_reserve = 0;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = World::start(settings);
        let address = world.edge.quic_addr().unwrap_or(world.address);
        println!("listens on {} {}", address, world.token("a"));
        std::io::stdout().flush().unwrap();
        // Ends with the parent.
        let _ = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await;
    });
}

/// A running child; it ends when this is dropped.
pub(crate) struct Child {
    process: std::process::Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
}

impl Child {
    /// Starts a child that may open `files` files.
    pub(crate) fn start(files: Option<u64>) -> Self {
        Self::start_with(files, "http")
    }

    /// Starts a child that speaks TLS.
    pub(crate) fn start_tls() -> Self {
        Self::start_with(None, "tls")
    }

    /// Starts a child that speaks QUIC.
    pub(crate) fn start_quic() -> Self {
        Self::start_with(None, "quic")
    }

    fn start_with(files: Option<u64>, speaks: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["child::child", "--exact", "--nocapture", "--test-threads=1"])
            .env(FILES, files.map_or(String::new(), |f| f.to_string()))
            .env(SPEAKS, speaks)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (address, token) = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let (address, token) = line.split_once("listens on ")?.1.split_once(' ')?;
                let address: SocketAddr = address.parse().unwrap();
                Some((address, token.to_owned()))
            })
            .expect("the child listens");
        Self {
            process,
            lines,
            address,
            token,
        }
    }

    /// Its resident memory in bytes.
    pub(crate) fn resident(&self) -> usize {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.process.id())).unwrap();
        let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
        pages * 4096
    }

    /// Ends it and says whether it ended well.
    pub(crate) fn end(mut self) -> bool {
        drop(self.process.stdin.take());
        // It must be able to say how it ended.
        self.lines.by_ref().for_each(drop);
        self.process.wait().unwrap().success()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
