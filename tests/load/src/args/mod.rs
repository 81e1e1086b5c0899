//! The command line of `gb6 bench`.

mod own;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use gb6_core_wire::client::Dialect;

pub use own::{AppendArgs, DeltaArgs, Floor, RevokeArgs, SecureArgs};

use crate::codec::Method;

/// What names of rooms begin with unless said: the namespace of `gb6 dev`.
pub const ROOM_PREFIX: &str = "room:";

/// Measure a server, a peer or a floor.
#[derive(Clone, Debug, Subcommand)]
pub enum Bench {
    /// Acknowledged publishes: rate, latency, processor time.
    Publish(PublishArgs),
    /// One publisher, many subscribers: processor time for each delivery.
    Fanout(FanoutArgs),
    /// Idle connections, each subscribed to one room: memory for each.
    Idle(IdleArgs),
    /// Connections over TLS or QUIC, each with a full handshake: processor time to accept one, and
    /// memory for each.
    Secure(SecureArgs),
    /// Clients with positions that all reconnect at once: whether anything is lost.
    Reconnect(ReconnectArgs),
    /// A user with connections at every edge of a mesh is blocked: until the last of them is cut off.
    Revoke(RevokeArgs),
    /// What deltas cost and save: a JSON state of 2 kB, of which three fields change each time.
    Delta(DeltaArgs),
    /// One instance beside another that floods.
    Fairness(FairnessArgs),
    /// The least that the same work costs on this machine.
    #[command(subcommand)]
    Floor(Floor),
    /// Everything that has a goal, ours and the peers by turns, as a table.
    All(AllArgs),
}

/// Which server is measured. Without any of these, `gb6 dev` is started for the run.
#[derive(Clone, Debug, Args)]
pub struct ServerArgs {
    /// A server that runs: ws://host:port/connection/websocket. TLS (wss://) is not spoken.
    #[arg(long, conflicts_with_all = ["ready_file", "mesh", "peer"])]
    pub url: Option<String>,
    /// A file with the line that `gb6 dev --ready-json` prints; `-`: standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["mesh", "peer"])]
    pub ready_file: Option<PathBuf>,
    /// The connection token for --url. Without it and without --hmac-secret connections are
    /// anonymous, which not every server allows.
    #[arg(long, requires = "url")]
    pub token: Option<String>,
    /// The instance's secret for --url: a token is signed for each connection.
    #[arg(
        long,
        requires = "url",
        conflicts_with = "token",
        env = "GB6_BENCH_HMAC_SECRET"
    )]
    pub hmac_secret: Option<String>,
    /// The id of the key that --hmac-secret is, where the server has several.
    #[arg(long, requires = "hmac_secret")]
    pub key_id: Option<String>,
    /// What names of rooms begin with: the server's namespace for them; may be empty.
    #[arg(
        long,
        value_name = "PREFIX",
        default_value = ROOM_PREFIX,
        value_parser = room_prefix,
        conflicts_with = "peer"
    )]
    pub room_prefix: String,
    /// The server's process, for its processor time and memory: PID or NAME=PID. Repeatable.
    #[arg(long, value_name = "[NAME=]PID")]
    pub server_pid: Vec<String>,
    /// Start a mesh (geo, region, edge: a process each) instead of `gb6 dev`.
    #[arg(long, conflicts_with = "peer")]
    pub mesh: bool,
    /// Start and measure another server instead of GB6.
    #[arg(long)]
    pub peer: Option<Peer>,
    /// How servers are started, and the figures shown.
    #[command(flatten)]
    pub start: StartArgs,
}

/// How a bench starts servers, and shows its figures.
#[derive(Clone, Debug, Args)]
pub struct StartArgs {
    /// The gb6 binary to start; this program unless said.
    #[arg(long, value_name = "PROGRAM")]
    pub gb6: Option<PathBuf>,
    /// Where servers that are started keep their data: on the disk that is to be measured. A
    /// directory is made in it and removed in the end.
    #[arg(long, value_name = "DIR", default_value = "bench-results")]
    pub work_dir: PathBuf,
    /// Leave it to the scheduler where servers and load run, instead of a processor for each.
    #[arg(long)]
    pub no_pin: bool,
    /// Print the figures as JSON.
    #[arg(long)]
    pub json: bool,
}

/// How the client protocol is encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Protocol {
    /// Text messages, a reply on each line.
    Json,
    /// Binary messages.
    Protobuf,
}

impl From<Protocol> for Dialect {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Json => Dialect::Json,
            Protocol::Protobuf => Dialect::Protobuf,
        }
    }
}

/// Another server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Peer {
    /// nats-server over WebSocket.
    NatsWs,
    /// nats-server with JetStream: file storage, one replica, over TCP.
    Jetstream,
}

/// A publish load.
#[derive(Clone, Debug, Args)]
pub struct PublishArgs {
    /// The server.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Connections.
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Rooms.
    #[arg(long, default_value_t = 64)]
    pub rooms: usize,
    /// Publishes unanswered at any time, over all connections.
    #[arg(long, default_value_t = 1, value_parser = in_flight)]
    pub in_flight: usize,
    /// So many publishes a second instead, on time whatever happens.
    #[arg(long, conflicts_with = "in_flight")]
    pub pace: Option<f64>,
    /// Bytes of the data.
    #[arg(long, default_value_t = 300)]
    pub size: usize,
    /// How a publish is said.
    #[arg(long, value_enum, default_value_t = Method::Publish)]
    pub method: Method,
    /// Seconds.
    #[arg(long, default_value = "5", value_parser = seconds)]
    pub duration: Duration,
    /// Seconds before that which are not measured.
    #[arg(long, default_value = "1", value_parser = seconds)]
    pub warm_up: Duration,
}

/// A fan-out load.
#[derive(Clone, Debug, Args)]
pub struct FanoutArgs {
    /// The server.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Measure the bare epoll server instead.
    #[arg(long, conflicts_with_all = ["url", "ready_file", "mesh", "peer"])]
    pub floor: bool,
    /// Subscribers of the one room.
    #[arg(long, default_value_t = 1000)]
    pub subscribers: usize,
    /// How the client protocol is encoded; Protobuf unless said.
    #[arg(long, value_enum, conflicts_with_all = ["floor", "peer"])]
    pub protocol: Option<Protocol>,
    /// Publications that have not reached every subscriber, at any time. Unless said: 16, and 4
    /// for more than 5,000 subscribers.
    #[arg(long, value_parser = in_flight)]
    pub in_flight: Option<usize>,
    /// So many deliveries a second instead, in publications on time whatever happens.
    #[arg(long, conflicts_with = "in_flight")]
    pub pace: Option<f64>,
    /// Bytes of the data.
    #[arg(long, default_value_t = 200)]
    pub size: usize,
    /// Seconds.
    #[arg(long, default_value = "5", value_parser = seconds)]
    pub duration: Duration,
    /// Seconds before that which are not measured.
    #[arg(long, default_value = "1", value_parser = seconds)]
    pub warm_up: Duration,
}

/// Idle connections.
#[derive(Clone, Debug, Args)]
pub struct IdleArgs {
    /// The server.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Connections.
    #[arg(long, default_value_t = 10_000)]
    pub connections: usize,
    /// Rooms that they are spread over.
    #[arg(long, default_value_t = 64)]
    pub rooms: usize,
    /// Seconds that they are left alone before memory is read.
    #[arg(long, default_value = "3", value_parser = seconds)]
    pub settle: Duration,
}

/// A reconnect storm.
#[derive(Clone, Debug, Args)]
pub struct ReconnectArgs {
    /// The server.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Clients.
    #[arg(long, default_value_t = 10_000)]
    pub clients: usize,
    /// Rooms that they are spread over.
    #[arg(long, default_value_t = 100)]
    pub rooms: usize,
    /// Rooms that each of them is subscribed to.
    #[arg(long, default_value_t = 1)]
    pub each: usize,
    /// Publications for each room while the clients are away.
    #[arg(long, default_value_t = 10)]
    pub missed: usize,
    /// Publications for each room and second while they come back.
    #[arg(long, default_value_t = 1.0)]
    pub storm_rate: f64,
    /// Bytes of the data.
    #[arg(long, default_value_t = 200)]
    pub size: usize,
}

/// A load beside a flood.
#[derive(Clone, Debug, Args)]
pub struct FairnessArgs {
    /// The server. Started for the run, it is a mesh with two instances.
    #[command(flatten)]
    pub server: ServerArgs,
    /// A token of the flooding instance, for --url.
    #[arg(long, requires = "url")]
    pub flood_token: Option<String>,
    /// Cores of the server that the flood may keep busy.
    #[arg(long, default_value_t = 0.5)]
    pub flood_cores: f64,
    /// Publishes a second of the instance that is measured.
    #[arg(long, default_value_t = 500.0)]
    pub pace: f64,
    /// Seconds.
    #[arg(long, default_value = "6", value_parser = seconds)]
    pub duration: Duration,
}

/// A part of `all`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Part {
    /// Durable publishes.
    Publish,
    /// Fan-out.
    Fanout,
    /// Memory of idle connections.
    Idle,
    /// The reconnect storms.
    Reconnect,
    /// One instance beside a flood.
    Fairness,
    /// Handshakes and idle connections over TLS and QUIC.
    Secure,
    /// A user who is blocked.
    Revoke,
    /// Fan-out in both encodings of the client protocol.
    Protocols,
    /// Deltas.
    Delta,
}

impl Part {
    /// Every part, in the order of the table.
    pub const ALL: [Part; 9] = [
        Part::Publish,
        Part::Fanout,
        Part::Idle,
        Part::Reconnect,
        Part::Fairness,
        Part::Secure,
        Part::Revoke,
        Part::Protocols,
        Part::Delta,
    ];
}

/// Everything.
#[derive(Clone, Debug, Args)]
pub struct AllArgs {
    /// One short round: under three minutes.
    #[arg(long)]
    pub quick: bool,
    /// How often each side has its turn. Unless said: 3, or 1 with --quick.
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Only these parts.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<Part>,
    /// The gb6 binary to start; this program unless said.
    #[arg(long, value_name = "PROGRAM")]
    pub gb6: Option<PathBuf>,
    /// Leave the peers out: goals that name one stay open.
    #[arg(long)]
    pub no_peers: bool,
    /// Leave it to the scheduler where servers and load run, instead of a processor for each.
    #[arg(long)]
    pub no_pin: bool,
    /// Where the results are written, and where servers keep their data meanwhile.
    #[arg(long, value_name = "DIR", default_value = "bench-results")]
    pub out: PathBuf,
}

/// A number of seconds, also with a fraction, at most a day.
fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text
        .strip_suffix('s')
        .unwrap_or(text)
        .parse()
        .map_err(|_| format!("`{text}` is no number of seconds"))?;
    if (0.0..=86_400.0).contains(&number) {
        Ok(Duration::from_secs_f64(number))
    } else {
        Err(format!("`{text}` is not between 0 and 86400 seconds"))
    }
}

/// What a name of a room may begin with, in every protocol that is spoken.
fn room_prefix(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_graphic() && !b"\"\\*>".contains(&b);
    if text.len() <= 64 && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is not up to 64 printable ASCII characters without blanks, quotes, \\, * and >"
        ))
    }
}

/// How many may be in flight.
fn in_flight(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=32_768) => Ok(count),
        _ => Err(format!("`{text}` is no number from 1 to 32768")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        bench: Bench,
    }

    fn parse(line: &str) -> Result<Bench, clap::Error> {
        Cli::try_parse_from(std::iter::once("bench").chain(line.split(' '))).map(|cli| cli.bench)
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_the_load_of_the_goals() {
        let Ok(Bench::Publish(publish)) = parse("publish") else {
            panic!("no publish")
        };
        assert_eq!((publish.connections, publish.rooms), (64, 64));
        assert_eq!((publish.size, publish.in_flight), (300, 1));
        let Ok(Bench::Fanout(fanout)) = parse("fanout --peer nats-ws --pace 20000") else {
            panic!("no fanout")
        };
        assert_eq!((fanout.size, fanout.subscribers), (200, 1000));
        assert_eq!(fanout.server.peer, Some(Peer::NatsWs));
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "publish --url ws://x --peer jetstream",
            "publish --token T",
            "publish --in-flight 0",
            "publish --duration -1",
            "publish --duration 1e300",
            "fanout --in-flight 4 --pace 1",
            "all --only nothing",
            "publish --room-prefix a*",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        for prefix in ["", "chat:", "a.b/"] {
            let line = ["bench", "publish", "--room-prefix", prefix];
            let Ok(Bench::Publish(publish)) = Cli::try_parse_from(line).map(|cli| cli.bench) else {
                panic!("{prefix:?} is refused")
            };
            assert_eq!(publish.server.room_prefix, prefix);
        }
        assert!(parse("all --quick --only publish,idle").is_ok());
        assert!(parse("floor append --batch 256 --duration 0.5s").is_ok());
    }
}
