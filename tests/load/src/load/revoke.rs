//! A user with connections at every edge of a mesh is blocked by the server API: until the last of
//! them is cut off, and whether anybody else is.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use gb6_core_model::Disconnect;
use gb6_core_wire::client::Dialect;

use super::figures::{RevokeFigures, cpu_shares, peaks};
use super::{SETUP_AT_ONCE, run_name};
use crate::clock::{now_ns, ns};
use crate::codec::{Codec, Event, Gb6, Method};
use crate::histogram::Histogram;
use crate::process::raise_file_limit;
use crate::subject::{Mesh, Speech, Tokens};
use crate::swarm::Swarm;

/// Until the last connection must be cut off.
const CUT: Duration = Duration::from_secs(20);
/// How long the others are watched after that.
const WATCHED: Duration = Duration::from_millis(500);
/// How long the server API may take.
const API_TIMEOUT: Duration = Duration::from_secs(10);
/// Rooms of the connections of each edge, which has the same ones.
const ROOMS: usize = 64;
/// The user's number; those of others come behind it.
const BLOCKED: usize = 0;

/// A user to be blocked.
#[derive(Clone, Debug)]
pub(crate) struct RevokePlan {
    /// Connections of the user, at all edges by turns.
    pub(crate) connections: usize,
    /// Connections of other users.
    pub(crate) others: usize,
}

/// What was seen at the connections of one edge.
struct Side {
    swarm: Swarm,
    /// The first of them are the user's.
    blocked: usize,
    cut: usize,
    otherwise: usize,
    others_cut: usize,
    last: u64,
}

impl Side {
    fn turn(&mut self, wait: Duration, since: u64, ends: &mut Histogram) -> Result<()> {
        let right = format!(" {} ", Disconnect::InvalidToken.code());
        self.swarm.turn(wait, &mut |number, now, event| {
            let Event::Closed { why } = event else {
                return;
            };
            if number >= self.blocked {
                self.others_cut += 1;
                return;
            }
            self.cut += 1;
            self.otherwise += usize::from(!why.contains(&right));
            self.last = now;
            ends.record(now.saturating_sub(since));
        })
    }
}

/// Blocks the user.
///
/// # Errors
/// Connections fail before that, or the server API does not do it.
pub(crate) fn run(mesh: &Mesh, plan: &RevokePlan) -> Result<RevokeFigures> {
    let subject = &mesh.subject;
    let Speech::Gb6(tokens, _) = &subject.speech else {
        bail!("only GB6 has users to block");
    };
    raise_file_limit(plan.connections + plan.others)?;
    let run = run_name();
    let edges = mesh.edges.len();
    let mut sides = Vec::with_capacity(edges);
    for (nth, edge) in mesh.edges.iter().enumerate() {
        let mine = |all: usize| all / edges + usize::from(nth < all % edges);
        let (blocked, others) = (mine(plan.connections), mine(plan.others));
        let mut swarm = Swarm::new(edge.clone())?;
        swarm.open_all(
            blocked + others,
            SETUP_AT_ONCE,
            &mut |n| {
                // Other users are others at each edge, too.
                let user = match n < blocked {
                    true => BLOCKED,
                    false => 1 + nth + edges * (n - blocked),
                };
                codec(tokens, user, &subject.room_prefix)
            },
            &|n| vec![subject.room(&run, n % ROOMS)],
            &mut |_, _, _| (),
        )?;
        sides.push(Side {
            swarm,
            blocked,
            cut: 0,
            otherwise: 0,
            others_cut: 0,
            last: 0,
        });
    }
    for watched in &subject.watched {
        watched.reset_peak();
    }
    let (memory, cpu) = (subject.memory()?, subject.cpu()?);
    let mut ends = Histogram::default();
    let body = format!(r#"{{"user":"{}"}}"#, Tokens::user(BLOCKED));
    let start = now_ns();
    let mut answered = None;
    std::thread::scope(|scope| {
        let call = scope.spawn(|| {
            call(mesh.api, "block_user", &mesh.api_key, &body)?;
            anyhow::Ok(now_ns())
        });
        let mut call = Some(call);
        // All are cut off, and then the others are watched for a while.
        let mut until = start + ns(CUT);
        let mut over = false;
        while now_ns() < until {
            for side in &mut sides {
                side.turn(Duration::from_millis(1), start, &mut ends)?;
            }
            if let Some(done) = call.take_if(|call| call.is_finished()) {
                let done = done.join();
                answered = Some(done.unwrap_or_else(|_| Err(anyhow!("the call has panicked")))?);
            }
            let cut: usize = sides.iter().map(|side| side.cut).sum();
            if !over && cut == plan.connections && answered.is_some() {
                over = true;
                until = now_ns() + ns(WATCHED);
            }
        }
        anyhow::Ok(())
    })?;
    let answered = answered.context("the server API has not answered in time")?;
    let (after, peak) = (subject.cpu()?, subject.memory()?);
    let sum = |of: fn(&Side) -> usize| sides.iter().map(of).sum::<usize>();
    let cut = sum(|side| side.cut);
    let last = sides.iter().map(|side| side.last).max().unwrap_or(0);
    Ok(RevokeFigures {
        side: subject.name.clone(),
        edges,
        connections: plan.connections,
        cut,
        otherwise: sum(|side| side.otherwise),
        others_cut: sum(|side| side.others_cut),
        answered_ms: (answered - start) as f64 / 1e6,
        last_s: last.saturating_sub(answered) as f64 / 1e9,
        ends: ends.summary(),
        cpu: cpu_shares(
            &subject.watched,
            &cpu,
            &after,
            cut as u64,
            (now_ns() - start) as f64 / 1e9,
        ),
        memory: peaks(&subject.watched, &memory, &peak),
    })
}

fn codec(tokens: &Tokens, user: usize, room_prefix: &str) -> Codec {
    Codec::Gb6(Gb6::new(
        Dialect::Protobuf,
        tokens.of(user, room_prefix),
        Method::Publish,
        String::new(),
    ))
}

/// Calls a method of the server API.
///
/// # Errors
/// It does not answer, or with an error.
fn call(api: SocketAddr, method: &str, key: &str, body: &str) -> Result<()> {
    let ask = || -> std::io::Result<String> {
        let mut socket = TcpStream::connect_timeout(&api, API_TIMEOUT)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(API_TIMEOUT))?;
        let head = format!(
            "POST /api/{method} HTTP/1.1\r\nHost: {api}\r\nX-API-Key: {key}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
        let mut answer = String::new();
        socket.take(64 * 1024).read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().with_context(|| format!("calling {method} of the server API at {api}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let parsed: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    if !head.starts_with("HTTP/1.1 200") || parsed.get("result").is_none() {
        bail!("{method} of the server API at {api} was answered {body:?}");
    }
    Ok(())
}
