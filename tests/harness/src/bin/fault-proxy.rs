//! `fault-proxy TARGET [LISTEN]`: the fault proxy for tests in other languages. Prints
//! `{"listening":"127.0.0.1:PORT"}`, then obeys lines on standard input and answers each with one
//! line; ends with the input.

use std::io::{BufRead, Write, stdin, stdout};
use std::net::SocketAddr;

use anyhow::Context;
use gb6_tests_harness::proxy::{FaultProxy, obey};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let target: SocketAddr = arguments
        .next()
        .context("usage: fault-proxy TARGET [LISTEN]")?
        .parse()
        .context("TARGET is no address as in 127.0.0.1:8080")?;
    let listen = match arguments.next() {
        None => SocketAddr::from(([127, 0, 0, 1], 0)),
        Some(text) => text
            .parse()
            .context("LISTEN is no address as in 127.0.0.1:0")?,
    };
    // The proxy runs on the runtime's threads; this one only reads lines.
    let runtime = tokio::runtime::Runtime::new()?;
    let proxy = runtime
        .block_on(FaultProxy::listen(listen, target))
        .with_context(|| format!("can not listen on {listen}"))?;
    let mut out = stdout().lock();
    writeln!(out, "{{\"listening\":\"{}\"}}", proxy.address())?;
    out.flush()?;
    for line in stdin().lock().lines() {
        let answer = match obey(&proxy, &line?) {
            Ok(Some(answer)) => answer,
            Ok(None) => break,
            Err(error) => format!("error: {error}"),
        };
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}
