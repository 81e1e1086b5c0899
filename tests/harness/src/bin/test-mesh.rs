//! `test-mesh`: a mesh for tests in other languages. Prints one JSON object with the HTTP address of
//! every node, then obeys lines on standard input (`kill r1`, `start r1`, `pause e1`, `resume e1`,
//! `quit`) and answers each with one line when it is done; ends with the input.

use std::io::{BufRead, Write, stdin, stdout};

use anyhow::bail;
use gb6_tests_harness::process::{Mesh, MeshOptions, PATIENCE};

const NODES: [&str; 4] = ["g1", "r1", "e1", "e2"];

fn main() -> anyhow::Result<()> {
    // The processes are watched on the runtime's threads; this one only reads lines.
    let runtime = tokio::runtime::Runtime::new()?;
    let mut mesh = runtime.block_on(Mesh::start(MeshOptions::new("mesh")))?;
    let mut addresses = serde_json::Map::new();
    for name in NODES {
        let http = format!("http://{}", mesh.node(name).http());
        addresses.insert(name.to_owned(), http.into());
    }
    let directory = mesh.directory().display().to_string();
    addresses.insert("directory".to_owned(), directory.into());
    let mut out = stdout().lock();
    writeln!(out, "{}", serde_json::Value::Object(addresses))?;
    out.flush()?;
    for line in stdin().lock().lines() {
        let line = line?;
        if line.trim() == "quit" {
            break;
        }
        let answer = match runtime.block_on(obey(&mut mesh, &line)) {
            Ok(()) => "ok".to_owned(),
            Err(error) => format!("error: {error}").replace('\n', " | "),
        };
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    // Killing needs the runtime.
    let _guard = runtime.enter();
    drop(mesh);
    Ok(())
}

async fn obey(mesh: &mut Mesh, line: &str) -> anyhow::Result<()> {
    let Some((command, name)) = line.trim().split_once(' ') else {
        bail!("say a command and a node: kill, start, pause or resume, and one of {NODES:?}");
    };
    if !NODES.contains(&name) {
        bail!("no node {name}; nodes are {NODES:?}");
    }
    let node = mesh.node(name);
    match command {
        "kill" => node.kill().await?,
        "start" => {
            node.start()?;
            node.ready(PATIENCE).await?;
        }
        "pause" => node.running().pause(),
        "resume" => node.running().resume(),
        other => bail!("no command {other}; commands are kill, start, pause, resume, quit"),
    }
    Ok(())
}
