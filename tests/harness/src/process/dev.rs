//! `gb6 dev`: every role in one process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{PATIENCE, Process, ProcessError, drain, free_port, gb6_binary, http_get};

/// What `gb6 dev --ready-json` prints; keys that are not here are passed over.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Ready {
    /// Always true.
    pub ready: bool,
    /// The version.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// The demo instance.
    pub instance: String,
    /// `http://` and the bound address.
    pub http: String,
    /// The WebSocket's address.
    pub ws: String,
    /// A key of the instance's server API.
    pub api_key: String,
    /// The secret that signs the instance's tokens.
    pub hmac_secret: String,
    /// Tokens of `alice` and `bob`.
    pub tokens: BTreeMap<String, String>,
    /// Where the data is.
    pub data_dir: String,
}

impl Ready {
    /// The bound address.
    ///
    /// # Errors
    /// `http` is no address.
    pub fn address(&self) -> Result<SocketAddr, ProcessError> {
        let text = self.http.trim_start_matches("http://");
        text.trim_end_matches('/')
            .parse()
            .map_err(|_| ProcessError::Answer {
                name: "gb6 dev".into(),
                answer: self.http.clone(),
                wanted: "http://ADDRESS:PORT".into(),
            })
    }
}

/// How to start a `gb6 dev`.
#[derive(Clone, Debug)]
pub struct DevOptions {
    /// The data directory; it stays when the server ends.
    pub data_dir: PathBuf,
    /// The address to listen on; with port 0 one that [`free_port`] gives, so that the server can
    /// come back to it.
    pub http: SocketAddr,
    /// Further arguments.
    pub arguments: Vec<String>,
    /// What the server is started through, such as `prlimit --nofile=64`.
    pub wrapper: Vec<String>,
    /// How long it may take to be ready.
    pub patience: Duration,
}

impl DevOptions {
    /// A server on a free port.
    pub fn new(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            http: SocketAddr::from(([127, 0, 0, 1], 0)),
            arguments: Vec::new(),
            wrapper: Vec::new(),
            patience: PATIENCE,
        }
    }
}

/// A running `gb6 dev`.
#[derive(Debug)]
pub struct DevServer {
    /// The process.
    pub process: Process,
    /// What it printed.
    pub ready: Ready,
    /// Where it listens.
    pub address: SocketAddr,
    options: DevOptions,
}

impl DevServer {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// It does not get ready in time.
    pub async fn start(mut options: DevOptions) -> Result<Self, ProcessError> {
        if options.http.port() == 0 {
            let port = free_port().map_err(ProcessError::io("no port is free"))?;
            options.http.set_port(port);
        }
        let binary = gb6_binary()?;
        let parent = options.data_dir.parent().unwrap_or(Path::new("."));
        let what = format!("can not make {}", parent.display());
        std::fs::create_dir_all(parent).map_err(ProcessError::io(what))?;
        let mut program = options.wrapper.clone();
        program.extend([
            binary.display().to_string(),
            "dev".into(),
            "--ready-json".into(),
            "--data-dir".into(),
            options.data_dir.display().to_string(),
            "--http".into(),
            options.http.to_string(),
        ]);
        program.extend(options.arguments.clone());
        let log = options.data_dir.with_extension("log");
        let (mut process, stdout) = Process::spawn("gb6 dev", &program, parent, &log)?;
        let mut line = String::new();
        let mut stdout = BufReader::new(stdout);
        let read = tokio::time::timeout(options.patience, stdout.read_line(&mut line)).await;
        match read {
            Err(_) => return Err(process.late("the line of --ready-json", options.patience)),
            Ok(Err(source)) => return Err(ProcessError::io("can not read its output")(source)),
            Ok(Ok(0)) => {
                process.wait(PATIENCE).await?;
                let late = process.late("the line of --ready-json", options.patience);
                return Err(process.ended().unwrap_or(late));
            }
            Ok(Ok(_)) => {}
        }
        let ready: Ready = serde_json::from_str(&line).map_err(|e| ProcessError::Answer {
            name: "gb6 dev".into(),
            answer: line.clone(),
            wanted: format!("the object of --ready-json ({e})"),
        })?;
        let address = ready.address()?;
        drain(stdout);
        Ok(Self {
            process,
            ready,
            address,
            options,
        })
    }

    /// Starts it again after it ended, on the same address and data.
    ///
    /// # Errors
    /// It does not get ready in time.
    pub async fn restart(&mut self) -> Result<(), ProcessError> {
        *self = Self::start(self.options.clone()).await?;
        Ok(())
    }

    /// Whether `/readyz` answers 200.
    pub async fn is_ready(&self) -> bool {
        http_get(self.address, "/readyz", Duration::from_secs(5))
            .await
            .is_ok_and(|a| a.status == 200)
    }
}
