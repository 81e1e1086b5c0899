//! The backends of instances' applications, which are asked about connections and publications.
//!
//! Each backend has a bound of requests under way, a deadline and a circuit breaker of its own, so
//! that one that hangs, lies or floods costs its own instance alone. A question that can not be
//! asked has an answer at once: nobody waits in a queue.

pub(crate) mod answer;
pub(crate) mod question;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use gb6_core_model::snapshot::{OnFailure, Proxy, ProxyKind, Snapshot};
use gb6_core_model::{ErrorCode, InstanceId};
use gb6_core_obs::metrics::Samples;
use gb6_core_obs::{Buckets, CounterFamily, GaugeFamily, HistogramFamily, Label, Metrics};
use gb6_core_outbound::{Breaker, BreakerConfig, Limits, Outbound, Request, Target};
use gb6_edge_session::Decision;
use http::header::HeaderName;
use http::{HeaderMap, Method, StatusCode};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use answer::{ANSWER_BYTES_MAX, Garbage, Said};

/// The bounds of every backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProxyBounds {
    /// Requests to one backend under way at one edge; further commands are answered 111.
    pub under_way_max: usize,
    /// When a backend is left alone.
    pub breaker: BreakerConfig,
}

impl Default for ProxyBounds {
    fn default() -> Self {
        Self {
            under_way_max: 256,
            breaker: BreakerConfig::default(),
        }
    }
}

/// All backends of the instances that have any.
pub(crate) struct Proxies {
    outbound: Arc<Outbound>,
    bounds: ProxyBounds,
    begun: Instant,
    placed: ArcSwap<BTreeMap<InstanceId, Placed>>,
    metrics: ProxyMetrics,
}

struct ProxyMetrics {
    requests: CounterFamily,
    seconds: HistogramFamily,
    under_way: GaugeFamily,
}

/// The backends of one instance.
#[derive(Default)]
struct Placed {
    connect: Option<Arc<Backend>>,
    publish: Option<Arc<Backend>>,
}

impl Placed {
    fn of(&self, kind: ProxyKind) -> Option<&Arc<Backend>> {
        match kind {
            ProxyKind::Connect => self.connect.as_ref(),
            ProxyKind::Publish => self.publish.as_ref(),
        }
    }
}

/// One backend of one instance.
pub(crate) struct Backend {
    instance: InstanceId,
    kind: ProxyKind,
    pub(crate) settings: Proxy,
    breaker: Mutex<Breaker>,
    places: Arc<Semaphore>,
}

/// The right to ask one question.
pub(crate) struct Permit {
    _place: OwnedSemaphorePermit,
}

/// Why there is no decision of the backend.
#[derive(Debug)]
pub(crate) struct Failure {
    /// A short name for metrics and logs.
    result: &'static str,
    /// In words, without secrets; empty where the name says it all.
    why: String,
}

/// More is asked than the bound lets through.
const BUSY: &str = "busy";
/// The question has no form.
const UNWRITABLE: &str = "unwritable";

impl Failure {
    fn of(result: &'static str, why: impl ToString) -> Self {
        Self {
            result,
            why: why.to_string(),
        }
    }

    /// Whether it says something of the backend: whether that is up. An answer that makes no sense, or
    /// is too long, has cost nobody any time, and may be due to what one client sent.
    fn is_up(&self) -> Option<bool> {
        match self.result {
            "garbage" | "status" | "too_large" => Some(true),
            BUSY | UNWRITABLE => None,
            _ => Some(false),
        }
    }
}

impl From<Garbage> for Failure {
    fn from(garbage: Garbage) -> Self {
        Failure::of("garbage", garbage)
    }
}

impl Proxies {
    /// The backends of `snapshot`.
    pub(crate) fn new(
        outbound: Arc<Outbound>,
        bounds: ProxyBounds,
        snapshot: &Snapshot,
        metrics: &Metrics,
    ) -> Self {
        let proxies = Self {
            outbound,
            bounds,
            begun: Instant::now(),
            placed: ArcSwap::default(),
            metrics: ProxyMetrics {
                requests: metrics.counter_family(
                    "gb6_edge_proxy_requests_total",
                    "Questions to applications' backends, by what came of them; open and busy ones \
                     were not asked.",
                    &[Label::new("proxy", 2), Label::new("result", 20)],
                ),
                seconds: metrics.histogram_family(
                    "gb6_edge_proxy_seconds",
                    "How long applications' backends took, those without an answer included.",
                    Buckets::SECONDS,
                    &[Label::new("proxy", 2)],
                ),
                under_way: metrics.gauge_family(
                    "gb6_edge_proxy_under_way",
                    "Questions to applications' backends under way.",
                    &[Label::new("proxy", 2)],
                ),
            },
        };
        proxies.place(snapshot);
        proxies
    }

    /// A new placement. Backends that are asked as before keep what is known of them.
    pub(crate) fn place(&self, snapshot: &Snapshot) {
        let old = self.placed.load();
        let mut new = BTreeMap::new();
        for (id, instance) in &snapshot.instances {
            let mut placed = Placed::default();
            for (kind, settings) in instance.proxies.all() {
                let known = old.get(id).and_then(|placed| placed.of(kind));
                let known = known.filter(|known| known.settings == *settings);
                let backend = known.cloned().unwrap_or_else(|| {
                    Arc::new(Backend {
                        instance: id.clone(),
                        kind,
                        settings: settings.clone(),
                        breaker: Mutex::new(Breaker::new(self.bounds.breaker)),
                        places: Arc::new(Semaphore::new(self.bounds.under_way_max)),
                    })
                });
                match kind {
                    ProxyKind::Connect => placed.connect = Some(backend),
                    ProxyKind::Publish => placed.publish = Some(backend),
                }
            }
            if placed.connect.is_some() || placed.publish.is_some() {
                new.insert(id.clone(), placed);
            }
        }
        self.placed.store(Arc::new(new));
    }

    /// The backend of an instance that is asked about this, if it has one.
    pub(crate) fn of(&self, instance: &InstanceId, kind: ProxyKind) -> Option<Arc<Backend>> {
        self.placed.load().get(instance)?.of(kind).cloned()
    }

    /// Of the headers of a client's request those that backends of this instance are shown; `None`:
    /// none of them.
    pub(crate) fn shown(
        &self,
        instance: &InstanceId,
        headers: &HeaderMap,
    ) -> Option<Box<HeaderMap>> {
        let placed = self.placed.load();
        let placed = placed.get(instance)?;
        let backends = placed.connect.iter().chain(&placed.publish);
        let mut shown = HeaderMap::new();
        for name in backends.flat_map(|backend| &backend.settings.headers) {
            let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
                continue;
            };
            if !shown.contains_key(&name) {
                for value in headers.get_all(&name) {
                    shown.append(&name, value.clone());
                }
            }
        }
        (!shown.is_empty()).then(|| Box::new(shown))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether a question may be asked now. Whoever may must ask it.
    pub(crate) fn begin(&self, backend: &Backend) -> Result<Permit, Failure> {
        let begun = match backend.places.clone().try_acquire_owned() {
            Err(_) => Err(Failure::of(BUSY, "")),
            Ok(_) if !backend.breaker.lock().may_try(self.now_ms()) => Err(Failure::of("open", "")),
            Ok(place) => Ok(Permit { _place: place }),
        };
        if let Err(failure) = &begun {
            let labels = [backend.kind.name(), failure.result];
            self.metrics.requests.with(&labels).inc();
        }
        begun
    }

    /// Asks, and has the answer read.
    ///
    /// # Errors
    /// There is no answer that can be used.
    pub(crate) async fn ask<T>(
        &self,
        backend: &Backend,
        _permit: Permit,
        headers: HeaderMap,
        body: Option<Bytes>,
        read: impl FnOnce(&[u8]) -> Result<Said<T>, Garbage>,
    ) -> Result<Said<T>, Failure> {
        let kind = backend.kind.name();
        let under_way = self.metrics.under_way.with(&[kind]);
        under_way.inc();
        let begun = Instant::now();
        let answered = self.exchange(backend, headers, body).await;
        under_way.dec();
        let seconds = begun.elapsed().as_secs_f64();
        self.metrics.seconds.with(&[kind]).observe(seconds);
        let said = answered.and_then(|body| Ok(read(&body)?));
        let up = said.as_ref().err().map_or(Some(true), Failure::is_up);
        if let Some(up) = up {
            backend.breaker.lock().done(self.now_ms(), up);
        }
        let result = match &said {
            Ok(Said::Result(_)) => "allowed",
            Ok(Said::Error(_)) => "error",
            Ok(Said::Disconnect(_)) => "disconnect",
            Err(failure) => failure.result,
        };
        self.metrics.requests.with(&[kind, result]).inc();
        said
    }

    async fn exchange(
        &self,
        backend: &Backend,
        headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Bytes, Failure> {
        let target = Target::parse(&backend.settings.url);
        let target = target.map_err(|error| Failure::of(error.name(), error))?;
        let body = body.ok_or_else(|| Failure::of(UNWRITABLE, "the question has no JSON form"))?;
        let request = Request {
            method: Method::POST,
            target,
            headers,
            body,
        };
        let limits = Limits {
            deadline: Duration::from_millis(u64::from(backend.settings.timeout_ms)),
            body_bytes_max: ANSWER_BYTES_MAX,
        };
        // Instances that name the same host do not take each other's turns.
        let whose = backend.instance.as_str();
        let response = self.outbound.send_for(whose, request, limits).await;
        let response = response.map_err(|error| Failure::of(error.name(), error))?;
        match response.status {
            StatusCode::OK => Ok(response.body),
            status if status.is_server_error() => {
                let why = format!("the answer has status {}", status.as_u16());
                Err(Failure::of("server_error", why))
            }
            status => {
                let why = format!("the answer has status {}", status.as_u16());
                Err(Failure::of("status", why))
            }
        }
    }

    /// Shows which backends are left alone.
    pub(crate) fn collect(&self, out: &mut Samples<'_>) {
        let now_ms = self.now_ms();
        for (id, placed) in self.placed.load().iter() {
            for backend in placed.connect.iter().chain(&placed.publish) {
                out.gauge(
                    "gb6_edge_proxy_breaker_open",
                    "Whether an application's backend is left alone because it failed again and \
                     again.",
                    &[("instance", id.as_str()), ("proxy", backend.kind.name())],
                    f64::from(u8::from(backend.breaker.lock().is_open(now_ms))),
                );
            }
        }
    }
}

impl Backend {
    /// What stands for its decision where it gave none. A flood opens no door: what was not asked
    /// because too much was is refused, whatever the instance wants.
    pub(crate) fn instead<T>(&self, failure: &Failure, allowed: T) -> Decision<T> {
        match (failure.result, self.settings.on_failure) {
            (BUSY, _) => Decision::Error(ErrorCode::TooManyRequests.into()),
            (_, OnFailure::Allow) => Decision::Allow(allowed),
            (_, OnFailure::Refuse) => Decision::Error(ErrorCode::Internal.into()),
        }
    }

    /// Says to the operator why there is no decision.
    pub(crate) fn log(&self, failure: &Failure) {
        let (instance, proxy) = (self.instance.as_str(), self.kind.name());
        let (result, why) = (failure.result, failure.why.as_str());
        tracing::warn!(
            instance,
            proxy,
            result,
            why,
            "the application's backend gave no answer"
        );
    }
}

#[cfg(test)]
mod tests {
    use gb6_core_model::snapshot::Instance;
    use gb6_core_outbound::OutboundConfig;

    use super::*;

    /// What an operator reads of a failure: nothing that stands behind the host of the URL, in headers
    /// or in the question.
    #[tokio::test]
    async fn failures_tell_no_secrets() {
        crate::auth::install_crypto();
        for (url, result) in [
            ("http://127.0.0.1:1/hunter2?key=hunter2", "forbidden"),
            ("https://127.0.0.1:1/hunter2", "forbidden"),
            ("ftp://app.example/hunter2", "bad_url"),
            ("https://hunter2@app.example/", "bad_url"),
        ] {
            let settings = Proxy {
                url: url.into(),
                timeout_ms: 500,
                headers: Vec::new(),
                static_headers: BTreeMap::from([("x-key".into(), "hunter2".into())]),
                binary_encoding: false,
                include_meta: false,
                on_failure: OnFailure::Refuse,
            };
            let mut demo = Instance::default();
            demo.proxies.publish = Some(settings.clone());
            let snapshot = Snapshot {
                instances: BTreeMap::from([("demo".into(), demo)]),
                ..Snapshot::default()
            };
            let outbound = Arc::new(Outbound::new(OutboundConfig::default()).unwrap());
            let bounds = ProxyBounds::default();
            let proxies = Proxies::new(outbound, bounds, &snapshot, &Metrics::bare());
            let backend = proxies.of(&"demo".into(), ProxyKind::Publish).unwrap();
            let permit = proxies.begin(&backend).unwrap();
            let headers = question::headers(&settings, None, None);
            let shown = format!("{headers:?} {:?}", backend.settings);
            assert!(!shown.contains("hunter2"), "{shown}");
            let body = Some(Bytes::from_static(b"{\"data\":\"hunter2\"}"));
            let asked = proxies.ask(&backend, permit, headers, body, answer::publish);
            let failure = asked.await.unwrap_err();
            assert_eq!(failure.result, result);
            let shown = format!("{failure:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
