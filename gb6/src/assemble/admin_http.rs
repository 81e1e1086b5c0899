//! Health and metrics of the nodes that serve no clients.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gb6_core_obs::metrics::CONTENT_TYPE;
use gb6_core_obs::{Health, HealthAnswer, Metrics};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::busy::{Busy, explain};
use super::port_owner::Protocol;

/// Connections at once. A scraper needs one; further ones wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 32;
/// How long a connection may live: a scrape takes milliseconds.
const CONNECTION_TIME: Duration = Duration::from_secs(30);
/// How long the head of a request may take.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// Wait after accepting failed, as it does when files run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until it is dropped.
#[derive(Debug)]
pub(super) struct AdminHttp {
    /// The address that it listens on.
    pub(super) addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for AdminHttp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl AdminHttp {
    /// Listens on `addr`.
    pub(super) async fn start(
        addr: SocketAddr,
        metrics: Metrics,
        health: Health,
    ) -> anyhow::Result<Self> {
        let busy = Busy {
            protocol: Protocol::Tcp,
            addr,
            flag: "--http",
        };
        let listener = TcpListener::bind(addr)
            .await
            .map_err(|e| explain(e, &busy))?;
        let addr = listener.local_addr()?;
        let task = tokio::spawn(accept(listener, metrics, health));
        Ok(Self { addr, task })
    }
}

async fn accept(listener: TcpListener, metrics: Metrics, health: Health) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // The semaphore is never closed.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accepting on the address for health and metrics failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (metrics, health) = (metrics.clone(), health.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&request, &metrics, &health);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIME)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // A client that goes away or takes too long is its own business.
            let _ = tokio::time::timeout(CONNECTION_TIME, connection).await;
            drop(slot);
        });
    }
}

fn answer<B>(request: &Request<B>, metrics: &Metrics, health: &Health) -> Response<Full<Bytes>> {
    let (status, media, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            (StatusCode::OK, CONTENT_TYPE, metrics.text())
        }
        (&Method::GET | &Method::HEAD, "/healthz") => state(health.now().healthz()),
        (&Method::GET | &Method::HEAD, "/readyz") => state(health.now().readyz()),
        (&Method::GET | &Method::HEAD, _) => {
            let help = "There are /healthz, /readyz and /metrics here.\n".to_owned();
            (StatusCode::NOT_FOUND, "text/plain; charset=utf-8", help)
        }
        _ => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", String::new()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let media = header::HeaderValue::from_static(media);
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    response
}

fn state(answer: HealthAnswer) -> (StatusCode, &'static str, String) {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, "application/json", answer.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_answered() {
        let (metrics, health) = (Metrics::bare(), Health::new());
        metrics.counter("gb6_test_total", "A test.").inc();
        let ask = |method: &str, path: &str| {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .body(())
                .unwrap();
            answer(&request, &metrics, &health).status().as_u16()
        };
        assert_eq!(ask("GET", "/metrics"), 200);
        assert_eq!(ask("GET", "/healthz"), 200);
        assert_eq!(ask("GET", "/readyz"), 503);
        assert_eq!(ask("GET", "/"), 404);
        assert_eq!(ask("POST", "/metrics"), 405);
        health.register("x").ready();
    }
}
