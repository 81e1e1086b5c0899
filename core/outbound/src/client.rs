//! The client: resolve, check, connect, ask, read, all within one deadline; connections are kept
//! for the next request to the same host.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hickory_resolver::TokioResolver;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::OutboundError;
use crate::reach::Reach;
use crate::target::Target;

/// Bytes that hyper buffers of an answer's head.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Header lines of an answer.
const HEADERS_MAX: usize = 100;
/// How long a connection that nobody uses is kept.
const KEPT: Duration = Duration::from_secs(30);
/// Addresses of one host that are tried.
const ADDRESSES_MAX: usize = 8;

/// What a client may do.
#[derive(Clone, Debug)]
pub struct OutboundConfig {
    /// Which addresses it may reach.
    pub reach: Reach,
    /// Authorities that it trusts besides the public ones.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Requests to one host for one customer under way at once; further ones are refused.
    pub per_host_max: usize,
    /// Connections without a request that are kept for one host and customer.
    pub idle_per_host_max: usize,
    /// Hosts for which connections are kept.
    pub hosts_max: usize,
}

impl Default for OutboundConfig {
    fn default() -> Self {
        Self {
            reach: Reach::default(),
            authorities: Vec::new(),
            per_host_max: 256,
            idle_per_host_max: 16,
            hosts_max: 1024,
        }
    }
}

/// The bounds of one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// From the resolver to the last byte of the answer.
    pub deadline: Duration,
    /// Bytes of the answer's body.
    pub body_bytes_max: usize,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: Method,
    /// Where it goes.
    pub target: Target,
    /// Its headers; `Host` and `Content-Length` are made here.
    pub headers: HeaderMap,
    /// Its body; empty: none.
    pub body: Bytes,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its status. Redirects are answers like others.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, within the bound.
    pub body: Bytes,
}

/// A client of other people's servers; cheap to share behind an `Arc`.
pub struct Outbound {
    config: OutboundConfig,
    tls: TlsConnector,
    resolver: Option<TokioResolver>,
    hosts: Mutex<BTreeMap<Key, Host>>,
}

impl std::fmt::Debug for Outbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbound")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// For whom, scheme, host and port.
type Key = (String, bool, String, u16);
type Sender = SendRequest<Full<Bytes>>;

#[derive(Default)]
struct Host {
    under_way: usize,
    /// The newest last.
    idle: Vec<(Instant, Sender)>,
}

impl Outbound {
    /// A client. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// An authority is no certificate.
    pub fn new(config: OutboundConfig) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        for authority in &config.authorities {
            roots.add(authority.clone())?;
        }
        let mut tls = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let resolver = TokioResolver::builder_tokio().and_then(|builder| builder.build());
        let resolver = resolver
            .inspect_err(|error| {
                tracing::warn!(%error, "no names can be resolved: only addresses are reached");
            })
            .ok();
        Ok(Self {
            config,
            tls: TlsConnector::from(Arc::new(tls)),
            resolver,
            hosts: Mutex::default(),
        })
    }

    /// Sends a request and waits for its answer. A request that fails on a connection which was
    /// kept from before is not repeated: whether it was carried out is not known.
    ///
    /// # Errors
    /// There is no answer within the limits.
    pub async fn send(&self, request: Request, limits: Limits) -> Result<Response, OutboundError> {
        self.send_for("", request, limits).await
    }

    /// The same for somebody, whose requests and kept connections are bounded apart from those of
    /// others to the same host.
    ///
    /// # Errors
    /// There is no answer within the limits.
    pub async fn send_for(
        &self,
        whose: &str,
        request: Request,
        limits: Limits,
    ) -> Result<Response, OutboundError> {
        let target = request.target.clone();
        let host = || target.host().to_owned();
        let under_way = self.begin(whose, &target)?;
        let exchange = self.exchange(request, limits.body_bytes_max, &under_way);
        tokio::time::timeout(limits.deadline, exchange)
            .await
            .unwrap_or_else(|_| {
                let ms = u64::try_from(limits.deadline.as_millis()).unwrap_or(u64::MAX);
                Err(OutboundError::Timeout { host: host(), ms })
            })
    }

    /// Counts a request in; it counts itself out.
    fn begin(&self, whose: &str, target: &Target) -> Result<UnderWay<'_>, OutboundError> {
        let host = target.host().to_owned();
        let key = (whose.to_owned(), target.is_tls(), host, target.port());
        let busy = || OutboundError::Busy {
            host: target.host().to_owned(),
        };
        let mut hosts = self.hosts.lock();
        if !hosts.contains_key(&key) && hosts.len() >= self.config.hosts_max {
            let now = Instant::now();
            hosts.retain(|_, host| {
                host.idle.retain(|(since, _)| now - *since < KEPT);
                host.under_way > 0 || !host.idle.is_empty()
            });
            if hosts.len() >= self.config.hosts_max {
                // Kept connections of whom nobody asks now make room.
                hosts.retain(|_, host| host.under_way > 0);
            }
            if hosts.len() >= self.config.hosts_max {
                return Err(busy());
            }
        }
        let host = hosts.entry(key.clone()).or_default();
        if host.under_way >= self.config.per_host_max {
            return Err(busy());
        }
        host.under_way += 1;
        Ok(UnderWay { of: self, key })
    }

    async fn exchange(
        &self,
        request: Request,
        body_bytes_max: usize,
        under_way: &UnderWay<'_>,
    ) -> Result<Response, OutboundError> {
        let target = request.target;
        let broken = |why: String| OutboundError::Broken {
            host: target.host().to_owned(),
            why,
        };
        let mut sender = match under_way.idle() {
            Some(sender) => sender,
            None => self.connect(&target).await?,
        };
        let mut builder = http::Request::builder()
            .method(request.method)
            .uri(target.path().clone());
        if let Some(headers) = builder.headers_mut() {
            *headers = request.headers;
            let authority = target.authority().try_into();
            headers.insert(
                header::HOST,
                authority.map_err(|_| OutboundError::BadUrl("its host is no header"))?,
            );
        }
        let request = builder
            .body(Full::new(request.body))
            .map_err(|error| broken(error.to_string()))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| broken(error.to_string()))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, body_bytes_max).collect().await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => OutboundError::TooLarge {
                host: target.host().to_owned(),
                max: body_bytes_max,
            },
            false => broken(error.to_string()),
        })?;
        under_way.keep(sender);
        Ok(Response {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
        })
    }

    async fn connect(&self, target: &Target) -> Result<Sender, OutboundError> {
        let addresses = self.addresses(target).await?;
        let failed = |why: String| OutboundError::Connect {
            host: target.host().to_owned(),
            why,
        };
        let mut last = failed("it has no address".to_owned());
        for address in addresses {
            let tcp = match TcpStream::connect(SocketAddr::new(address, target.port())).await {
                Ok(tcp) => tcp,
                Err(error) => {
                    last = failed(error.to_string());
                    continue;
                }
            };
            let connected = async {
                tcp.set_nodelay(true)?;
                if !target.is_tls() {
                    return self.handshake(TokioIo::new(tcp)).await;
                }
                let name = ServerName::try_from(target.host().to_owned())
                    .map_err(std::io::Error::other)?;
                let stream = self.tls.connect(name, tcp).await?;
                self.handshake(TokioIo::new(stream)).await
            };
            match connected.await {
                Ok(sender) => return Ok(sender),
                Err(error) => last = failed(error.to_string()),
            }
        }
        Err(last)
    }

    async fn handshake<T>(&self, io: T) -> std::io::Result<Sender>
    where
        T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .handshake(io)
            .await
            .map_err(std::io::Error::other)?;
        // It ends with its sender, or with the server. Errors reach whoever waits for an answer.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    /// The addresses of the target's host that may be reached.
    async fn addresses(&self, target: &Target) -> Result<Vec<IpAddr>, OutboundError> {
        let host = target.host();
        let all: Vec<IpAddr> = match (target.address(), &self.resolver) {
            (Some(address), _) => vec![address],
            (None, None) => {
                return Err(OutboundError::Unresolved {
                    host: host.to_owned(),
                    why: "this node has no resolver".to_owned(),
                });
            }
            (None, Some(resolver)) => {
                let found = resolver.lookup_ip(host).await;
                let found = found.map_err(|error| OutboundError::Unresolved {
                    host: host.to_owned(),
                    why: error.to_string(),
                })?;
                found.iter().collect()
            }
        };
        let allowed = |address: &&IpAddr| self.config.reach.allows(**address, target.is_tls());
        let reached: Vec<IpAddr> = all
            .iter()
            .filter(allowed)
            .take(ADDRESSES_MAX)
            .copied()
            .collect();
        match (reached.is_empty(), all.first()) {
            (true, Some(address)) => Err(OutboundError::Forbidden {
                host: host.to_owned(),
                address: *address,
            }),
            _ => Ok(reached),
        }
    }
}

/// A request that is under way.
struct UnderWay<'a> {
    of: &'a Outbound,
    key: Key,
}

impl UnderWay<'_> {
    /// A connection of before that is still open.
    fn idle(&self) -> Option<Sender> {
        let mut hosts = self.of.hosts.lock();
        let host = hosts.get_mut(&self.key)?;
        let now = Instant::now();
        while let Some((since, sender)) = host.idle.pop() {
            if now - since < KEPT && sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, sender: Sender) {
        let mut hosts = self.of.hosts.lock();
        if let Some(host) = hosts.get_mut(&self.key)
            && host.idle.len() < self.of.config.idle_per_host_max
        {
            host.idle.push((Instant::now(), sender));
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut hosts = self.of.hosts.lock();
        if let Some(host) = hosts.get_mut(&self.key) {
            host.under_way -= 1;
            if host.under_way == 0 && host.idle.is_empty() {
                hosts.remove(&self.key);
            }
        }
    }
}
