//! From the command line to a measurement and its figures.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;

use crate::args::{
    AppendArgs, Bench, DeltaArgs, FairnessArgs, FanoutArgs, Floor, IdleArgs, Peer, PublishArgs,
    ReconnectArgs, RevokeArgs, SecureArgs, ServerArgs, StartArgs,
};
use crate::codec::Method;
use crate::floor::append::{AppendFile, AppendPlan};
use crate::load::fairness::FairnessPlan;
use crate::load::fanout::FanoutPlan;
use crate::load::idle::IdlePlan;
use crate::load::publish::PublishPlan;
use crate::load::reconnect::ReconnectPlan;
use crate::load::revoke::RevokePlan;
use crate::load::{fairness, fanout, idle, publish, reconnect, revoke};
use crate::process::{Pinning, Watched, raise_file_limit};
use crate::secure::{self, Carrier, SecurePlan};
use crate::subject::{self, ReadyLine, Subject, Tokens, Workspace};
use crate::{all, delta, floor};

/// Subscribers above which fewer publications are in flight unless said: their deliveries are
/// already many.
const MANY_SUBSCRIBERS: usize = 5_000;

/// Runs a benchmark and prints its figures. Blocks until it is done; needs no runtime.
///
/// # Errors
/// What could not be measured, and what to do about it. A missed goal is none.
pub fn run(bench: Bench) -> Result<()> {
    raise_file_limit(0)?;
    match bench {
        Bench::Publish(args) => run_publish(&args, false),
        Bench::Fanout(args) => run_fanout(&args),
        Bench::Idle(args) => run_idle(&args),
        Bench::Secure(args) => run_secure(&args, args.over, false),
        Bench::Reconnect(args) => run_reconnect(&args),
        Bench::Revoke(args) => run_revoke(&args),
        Bench::Delta(args) => run_delta(&args),
        Bench::Fairness(args) => run_fairness(&args),
        Bench::Floor(Floor::Epoll(mut args)) => {
            args.floor = true;
            run_fanout(&args)
        }
        Bench::Floor(Floor::Append(args)) => run_append(&args),
        Bench::Floor(Floor::Publish(args)) => run_publish(&args, true),
        Bench::Floor(Floor::Tls(args)) => run_secure(&args, Carrier::Tls, true),
        Bench::Floor(Floor::Quinn(args)) => run_secure(&args, Carrier::Quic, true),
        Bench::Floor(Floor::Serve { log, over }) => match over {
            Some(carrier) => secure::serve(carrier),
            None => serve_floor(log.as_deref()),
        },
        Bench::All(args) => all::run(&args),
    }
}

/// Prints figures for people or for programs.
fn show(figures: &(impl Serialize + std::fmt::Display), json: bool) -> Result<()> {
    let text = if json {
        serde_json::to_string_pretty(figures).context("writing the figures")?
    } else {
        figures.to_string()
    };
    writeln!(std::io::stdout(), "{text}").context("printing the figures")
}

/// The workspace of a run, with the load on its processor from here on.
fn workspace(args: &ServerArgs) -> Result<Workspace> {
    let started_here = args.url.is_none() && args.ready_file.is_none();
    workspace_of(&args.start, started_here)
}

/// The same where it is known whether the server is started here.
fn workspace_of(start: &StartArgs, started_here: bool) -> Result<Workspace> {
    let pinning = if start.no_pin || !started_here {
        Pinning::Off
    } else {
        Pinning::auto()
    };
    pinning.as_load()?;
    Workspace::new(&start.work_dir, start.gb6.clone(), pinning)
}

/// The server that is meant, and the tokens of a second instance where there is one.
fn subject(
    args: &ServerArgs,
    workspace: &Workspace,
    method: Method,
) -> Result<(Subject, Option<Tokens>)> {
    let (mut subject, second) = server(args, workspace, method)?;
    subject.room_prefix.clone_from(&args.room_prefix);
    Ok((subject, second))
}

fn server(
    args: &ServerArgs,
    workspace: &Workspace,
    method: Method,
) -> Result<(Subject, Option<Tokens>)> {
    let mut watched = args
        .server_pid
        .iter()
        .map(|text| watched(text))
        .collect::<Result<Vec<_>>>()?;
    if let Some(url) = &args.url {
        let tokens = match (&args.token, &args.hmac_secret) {
            (Some(token), _) => Tokens::Given(token.clone()),
            (None, Some(secret)) => Tokens::Signed {
                secret: secret.clone(),
                key_id: args.key_id.clone(),
            },
            (None, None) => Tokens::Nobody,
        };
        return Ok((subject::running(url, tokens, method, watched)?, None));
    }
    if let Some(file) = &args.ready_file {
        let ready = ReadyLine::parse(&first_line(file)?)?;
        if watched.is_empty()
            && let Some(pid) = ready.pid
        {
            watched.push(Watched::process("gb6", pid));
        }
        let tokens = ready.tokens()?;
        return Ok((subject::running(&ready.ws, tokens, method, watched)?, None));
    }
    match args.peer {
        Some(Peer::NatsWs) => Ok((subject::nats_websocket(workspace)?, None)),
        Some(Peer::Jetstream) => Ok((subject::jetstream(workspace)?, None)),
        None if args.mesh => {
            let mesh = subject::mesh(workspace, method)?;
            Ok((mesh.subject, Some(mesh.second)))
        }
        None => Ok((subject::dev(workspace, method)?, None)),
    }
}

fn first_line(file: &PathBuf) -> Result<String> {
    let mut text = String::new();
    if file.as_os_str() == "-" {
        std::io::stdin()
            .read_line(&mut text)
            .context("reading standard input")?;
    } else {
        std::fs::File::open(file)
            .and_then(|file| file.take(1 << 20).read_to_string(&mut text))
            .with_context(|| format!("reading {}", file.display()))?;
    }
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// `4711` or `edge=4711`.
fn watched(text: &str) -> Result<Watched> {
    let (name, pid) = text.split_once('=').unwrap_or(("server", text));
    let pid = pid
        .parse()
        .map_err(|_| anyhow!("`{text}` is no process: write PID or NAME=PID"))?;
    let watched = Watched::process(name, pid);
    watched.cpu_ns()?;
    Ok(watched)
}

fn run_publish(args: &PublishArgs, floor: bool) -> Result<()> {
    if args.server.peer == Some(Peer::NatsWs) {
        bail!("nats-ws acknowledges no publishes: use --peer jetstream");
    }
    let workspace = workspace(&args.server)?;
    let subject = if floor {
        subject::durable_floor(&workspace)?
    } else {
        subject(&args.server, &workspace, args.method)?.0
    };
    let pressure = match args.pace {
        Some(rate) => publish::Pressure::PerSecond(rate),
        None => publish::Pressure::InFlight(args.in_flight),
    };
    let plan = PublishPlan {
        connections: args.connections,
        rooms: args.rooms,
        pressure,
        size: args.size,
        duration: args.duration,
        warm_up: args.warm_up,
    };
    let figures = publish::run(&subject, &plan).map_err(|e| subject.explain(e))?;
    show(&figures, args.server.start.json)
}

fn run_fanout(args: &FanoutArgs) -> Result<()> {
    if args.server.peer == Some(Peer::Jetstream) {
        bail!("fan-out is measured against nats-server's WebSocket: use --peer nats-ws");
    }
    let workspace = workspace(&args.server)?;
    let mut subject = if args.floor {
        subject::epoll_floor(&workspace)?
    } else {
        subject(&args.server, &workspace, Method::Publish)?.0
    };
    if let Some(protocol) = args.protocol {
        subject.speak(protocol.into())?;
    }
    let plan = FanoutPlan {
        subscribers: args.subscribers,
        pressure: match args.pace {
            Some(rate) => fanout::Pressure::DeliveriesPerSecond(rate),
            None => fanout::Pressure::InFlight(
                args.in_flight.unwrap_or(usual_in_flight(args.subscribers)),
            ),
        },
        size: args.size,
        duration: args.duration,
        warm_up: args.warm_up,
    };
    let figures = fanout::run(&subject, &plan).map_err(|e| subject.explain(e))?;
    show(&figures, args.server.start.json)
}

/// Publications in flight unless said.
pub(crate) fn usual_in_flight(subscribers: usize) -> usize {
    if subscribers > MANY_SUBSCRIBERS {
        4
    } else {
        16
    }
}

fn run_idle(args: &IdleArgs) -> Result<()> {
    let workspace = workspace(&args.server)?;
    let (subject, _) = subject(&args.server, &workspace, Method::Publish)?;
    let plan = IdlePlan {
        connections: args.connections,
        rooms: args.rooms,
        settle: args.settle,
    };
    let figures = idle::run(&subject, &plan).map_err(|e| subject.explain(e))?;
    show(&figures, args.server.start.json)
}

fn run_secure(args: &SecureArgs, carrier: Carrier, floor: bool) -> Result<()> {
    let workspace = workspace_of(&args.start, true)?;
    let (subject, target) = if floor {
        subject::secure_floor(&workspace, carrier)?
    } else {
        subject::secure(&workspace, carrier)?
    };
    let plan = SecurePlan {
        connections: args.connections,
        rooms: args.rooms,
        settle: args.settle,
    };
    show(&secure::run(&subject, &target, &plan)?, args.start.json)
}

fn run_reconnect(args: &ReconnectArgs) -> Result<()> {
    let workspace = workspace(&args.server)?;
    let (subject, _) = subject(&args.server, &workspace, Method::Publish)?;
    let plan = ReconnectPlan {
        clients: args.clients,
        rooms: args.rooms,
        each: args.each,
        missed: args.missed,
        storm_rate: args.storm_rate,
        size: args.size,
    };
    let figures = reconnect::run(&subject, &plan).map_err(|e| subject.explain(e))?;
    show(&figures, args.server.start.json)
}

fn run_revoke(args: &RevokeArgs) -> Result<()> {
    let workspace = workspace_of(&args.start, true)?;
    let mesh = subject::mesh_of(&workspace, Method::Publish, args.edges)?;
    let plan = RevokePlan {
        connections: args.connections,
        others: args.others,
    };
    show(&revoke::run(&mesh, &plan)?, args.start.json)
}

fn run_delta(args: &DeltaArgs) -> Result<()> {
    Pinning::auto().as_load()?;
    for figures in delta::run(args.publications) {
        show(&figures, args.json)?;
    }
    Ok(())
}

fn run_fairness(args: &FairnessArgs) -> Result<()> {
    let workspace = workspace(&args.server)?;
    let mut server = args.server.clone();
    server.mesh = server.url.is_none() && server.ready_file.is_none();
    let (subject, second) = subject(&server, &workspace, Method::Publish)?;
    let flood = match (&args.flood_token, second) {
        (Some(token), _) => Tokens::Given(token.clone()),
        (None, Some(tokens)) => tokens,
        (None, None) => bail!(
            "a server that runs already needs a second instance: give one of its tokens with \
             --flood-token, or let a mesh be started"
        ),
    };
    let plan = FairnessPlan {
        publish: fairness_load(args.pace, args.duration),
        flood_cores: args.flood_cores,
    };
    let figures = fairness::run(&subject, &flood, &plan, workspace.pinning)?;
    show(&figures, args.server.start.json)
}

/// The load of the instance beside the flood.
pub(crate) fn fairness_load(pace: f64, duration: Duration) -> PublishPlan {
    PublishPlan {
        connections: 16,
        rooms: 16,
        pressure: publish::Pressure::PerSecond(pace),
        size: 300,
        duration,
        warm_up: Duration::from_secs(1),
    }
}

fn run_append(args: &AppendArgs) -> Result<()> {
    let workspace = Workspace::new(&args.work_dir, None, Pinning::auto())?;
    let plan = AppendPlan {
        size: args.size,
        batch: args.batch.max(1),
        duration: args.duration,
        warm_up: (args.duration / 5).min(Duration::from_secs(1)),
    };
    workspace.pinning.as_server()?;
    show(
        &floor::append::run(&workspace.fresh("append")?, &plan)?,
        args.json,
    )
}

fn serve_floor(log: Option<&Path>) -> Result<()> {
    raise_file_limit(0)?;
    let listener = floor::epoll::listen()?;
    let address = listener.local_addr().context("finding the own address")?;
    let mut output = std::io::stdout();
    writeln!(output, "{address}")
        .and_then(|()| output.flush())
        .context("printing the address")?;
    let log = log
        .map(|path| AppendFile::create(path).with_context(|| format!("making {}", path.display())))
        .transpose()?;
    floor::epoll::serve(&listener, &AtomicBool::new(false), log)
}
