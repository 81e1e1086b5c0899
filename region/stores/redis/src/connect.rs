//! New connections: to one server or to a cluster, with or without TLS, each with its time.

use std::sync::Arc;
use std::time::Duration;

use gb6_core_ports::uri::Address;
use redis::aio::{AsyncPushSender, ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, ResponsePolicy, RoutingInfo};
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ErrorKind,
    IntoConnectionInfo, Pipeline, ProtocolVersion, RedisConnectionInfo, RedisError, RedisFuture,
    RedisResult, TlsCertificates, Value,
};

use crate::config::{Config, Tls};

/// Commands that wait for one connection; further ones wait for a place, within their time.
const WAITING_MAX: usize = 1024;

/// A connection that many may use at once.
#[derive(Clone)]
pub(crate) enum Connection {
    /// To one server.
    Single(MultiplexedConnection),
    /// To the masters of a cluster.
    Cluster(ClusterConnection),
}

/// How a connection is used.
pub(crate) struct Use {
    /// How long an answer may take.
    pub(crate) answer: Duration,
    /// How often a command is tried again where a cluster has moved its slot or a node is lost. 0
    /// where it must happen at most once.
    pub(crate) retries: u32,
    /// Who is handed what comes unasked.
    pub(crate) pushes: Option<Arc<dyn AsyncPushSender>>,
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Connection::Single(connection) => connection.req_packed_command(cmd),
            Connection::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Connection::Single(connection) => {
                connection.req_packed_commands(pipeline, offset, count)
            }
            Connection::Cluster(connection) => {
                connection.req_packed_commands(pipeline, offset, count)
            }
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Connection::Single(connection) => connection.get_db(),
            Connection::Cluster(connection) => connection.get_db(),
        }
    }
}

impl Connection {
    /// Connects and sees that every server answers.
    pub(crate) async fn open(config: &Config, how: &Use) -> RedisResult<Self> {
        if config.tls.is_some() {
            // The client asks for the process's provider; one that was chosen before stays.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let opened = async {
            let mut connection = match config.cluster {
                true => Connection::Cluster(cluster(config, how).await?),
                false => Connection::Single(single(config, how).await?),
            };
            connection.ping().await?;
            Ok(connection)
        };
        match tokio::time::timeout(config.connect_timeout, opened).await {
            Ok(opened) => opened,
            Err(_) => Err(late("no answer within the time of a new connection")),
        }
    }

    /// Whether every server answers: of a cluster each master.
    pub(crate) async fn ping(&mut self) -> RedisResult<()> {
        let ping = redis::cmd("PING");
        let answer = match self {
            Connection::Single(connection) => connection.send_packed_command(&ping).await?,
            Connection::Cluster(connection) => {
                let all = (
                    MultipleNodeRoutingInfo::AllMasters,
                    Some(ResponsePolicy::AllSucceeded),
                );
                connection
                    .route_command(ping, RoutingInfo::MultiNode(all))
                    .await?
            }
        };
        match answer {
            Value::SimpleString(text) if text == "PONG" => Ok(()),
            // Answers and questions no longer belong together on this connection.
            _ => Err(RedisError::from((
                ErrorKind::Parse,
                "PING was answered with something else",
            ))),
        }
    }
}

/// The error of what takes too long.
pub(crate) fn late(what: &'static str) -> RedisError {
    std::io::Error::new(std::io::ErrorKind::TimedOut, what).into()
}

/// How to log in, as the client crate wants it.
fn login(config: &Config) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default()
        .set_db(config.database)
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name("gb6", env!("CARGO_PKG_VERSION"));
    if let Some(user) = &config.user {
        login = login.set_username(user);
    }
    if let Some(password) = &config.password {
        login = login.set_password(password.reveal());
    }
    login
}

/// Without it small answers wait for what comes behind them.
fn sockets() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

fn infos(config: &Config) -> RedisResult<Vec<redis::ConnectionInfo>> {
    let info = |Address { host, port }: &Address| {
        let address = match &config.tls {
            None => ConnectionAddr::Tcp(host.clone(), *port),
            Some(_) => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            },
        };
        let info = address.into_connection_info()?;
        Ok(info
            .set_tcp_settings(sockets())
            .set_redis_settings(login(config)))
    };
    config.nodes.iter().map(info).collect()
}

fn certificates(tls: &Tls) -> TlsCertificates {
    let identity = tls.identity.clone();
    TlsCertificates {
        client_tls: identity.map(|(client_cert, client_key)| ClientTlsConfig {
            client_cert,
            client_key,
        }),
        root_cert: tls.authorities.clone(),
    }
}

async fn single(config: &Config, how: &Use) -> RedisResult<MultiplexedConnection> {
    let Some(info) = infos(config)?.pop() else {
        return Err((ErrorKind::InvalidClientConfig, "no server is named").into());
    };
    let client = match &config.tls {
        Some(tls) => Client::build_with_tls(info, certificates(tls))?,
        None => Client::open(info)?,
    };
    let mut settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(config.connect_timeout))
        .set_response_timeout(Some(how.answer))
        .set_concurrency_limit(WAITING_MAX);
    if let Some(pushes) = &how.pushes {
        settings = settings.set_push_sender(pushes.clone());
    }
    client
        .get_multiplexed_async_connection_with_config(&settings)
        .await
}

async fn cluster(config: &Config, how: &Use) -> RedisResult<ClusterConnection> {
    let mut builder = ClusterClientBuilder::new(infos(config)?)
        .connection_timeout(config.connect_timeout)
        .response_timeout(how.answer)
        .overall_response_timeout(Some(how.answer))
        .retries(how.retries)
        .min_retry_wait(10)
        .max_retry_wait(100)
        .tcp_settings(sockets())
        .use_protocol(ProtocolVersion::RESP3)
        .connection_concurrency_limit(WAITING_MAX);
    if let Some(tls) = &config.tls {
        builder = builder.certs(certificates(tls));
    }
    if let Some(pushes) = &how.pushes {
        builder = builder.push_sender(pushes.clone());
    }
    builder.build()?.get_async_connection().await
}
