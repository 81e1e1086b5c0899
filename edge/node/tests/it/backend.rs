//! A backend of an application over real HTTP, which does what a test tells it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What a backend does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Does {
    /// Answers with status 200 and this.
    Says(String),
    /// The same when the gate of this number has been opened.
    SaysBehind(usize, String),
    /// Answers with this status line, further header lines and body.
    Head(&'static str, String, String),
    /// Takes requests and says nothing.
    Hangs,
    /// A byte now and then, without end.
    Drips,
    /// Closes the connection.
    Closes,
}

impl Does {
    pub(crate) fn says(answer: &Value) -> Self {
        Does::Says(answer.to_string())
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The request line.
    pub(crate) line: String,
    /// Header lines, in lower case.
    pub(crate) head: Vec<String>,
    pub(crate) body: Value,
}

impl Asked {
    /// The values of a header.
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        let lines = self.head.iter();
        lines
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .collect()
    }
}

#[derive(Default)]
struct State {
    does: Option<Does>,
    /// What it does with the next requests, before that.
    next: VecDeque<Does>,
    asked: Vec<Asked>,
}

/// A backend.
#[derive(Clone)]
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    gates: watch::Sender<usize>,
}

impl Backend {
    pub(crate) async fn start(does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::default(),
            gates: watch::channel(0).0,
        };
        backend.does(does);
        let serving = backend.clone();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                tokio::spawn(serving.clone().serve(tcp));
            }
        });
        backend
    }

    /// Does this from now on.
    pub(crate) fn does(&self, does: Does) {
        self.state.lock().does = Some(does);
    }

    /// Does these with the next requests.
    pub(crate) fn does_next(&self, does: impl IntoIterator<Item = Does>) {
        self.state.lock().next.extend(does);
    }

    /// Opens the gates up to this number.
    pub(crate) fn open(&self, gate: usize) {
        self.gates.send_replace(gate);
    }

    /// What it was asked, and forgets it.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().asked)
    }

    /// How often it was asked since that was taken.
    pub(crate) fn count(&self) -> usize {
        self.state.lock().asked.len()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/gb6?key=hunter2", self.address)
    }

    async fn serve(self, tcp: TcpStream) {
        let mut tcp = BufReader::new(tcp);
        loop {
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                match tcp.read_line(&mut line).await {
                    Ok(n) if n > 0 => {}
                    _ => return,
                }
                match line.trim_end() {
                    "" => break,
                    line => head.push(line.to_owned()),
                }
            }
            let line = head.remove(0);
            let head: Vec<String> = head
                .iter()
                .map(|line| {
                    let (name, value) = line.split_once(':').unwrap();
                    format!("{}: {}", name.to_ascii_lowercase(), value.trim())
                })
                .collect();
            let length = head.iter().find_map(|l| l.strip_prefix("content-length: "));
            let mut body = vec![0; length.map_or(0, |n| n.parse().unwrap())];
            if tcp.read_exact(&mut body).await.is_err() {
                return;
            }
            let body = serde_json::from_slice(&body).unwrap();
            let does = {
                let mut state = self.state.lock();
                state.asked.push(Asked { line, head, body });
                let next = state.next.pop_front();
                next.or_else(|| state.does.clone()).unwrap()
            };
            if !self.answer(&mut tcp, does).await {
                return;
            }
        }
    }

    /// `false`: the connection is over.
    async fn answer(&self, tcp: &mut BufReader<TcpStream>, does: Does) -> bool {
        let (status, headers, body) = match does {
            Does::Says(body) => ("200 OK", String::new(), body),
            Does::SaysBehind(gate, body) => {
                let mut gates = self.gates.subscribe();
                let _ = gates.wait_for(|open| *open >= gate).await;
                ("200 OK", String::new(), body)
            }
            Does::Head(status, headers, body) => (status, headers, body),
            Does::Hangs => std::future::pending().await,
            Does::Drips => {
                let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\n\r\n{").await;
                while tcp.write_all(b" ").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                return false;
            }
            Does::Closes => return false,
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        tcp.write_all(head.as_bytes()).await.is_ok() && tcp.write_all(body.as_bytes()).await.is_ok()
    }
}

/// The answer that lets `user` in, with what else is said of it.
pub(crate) fn user(user: &str, more: Value) -> Does {
    let mut result = more;
    result["user"] = json!(user);
    Does::says(&json!({ "result": result }))
}
