//! The listener for whoever runs the node and for backends: the server API, metrics and health, apart
//! from the address that clients reach. It is up from the start to the end of a drain.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::http;
use crate::shared::Shared;

/// Connections at once: backends keep theirs open. Further ones wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 1_024;
/// How long the head of a request may take, and an idle connection is kept.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest request head in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Wait after accepting failed, as it does when files run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` says so. No error ends it.
pub(crate) async fn run(
    shared: Arc<Shared>,
    listener: TcpListener,
    mut stop: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = accept(&listener, &slots) => accepted,
        };
        match accepted {
            Ok((tcp, slot)) => {
                tokio::spawn(connection(shared.clone(), tcp, slot, stop.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "accepting on the admin address failed");
                shared.metrics.accept_errors.with(&["admin"]).inc();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await;
    let slot = slot.map_err(|_closed| io::ErrorKind::Interrupted)?;
    let (tcp, _) = listener.accept().await?;
    Ok((tcp, slot))
}

async fn connection(
    shared: Arc<Shared>,
    tcp: TcpStream,
    slot: OwnedSemaphorePermit,
    mut stop: watch::Receiver<bool>,
) {
    // Without it small answers wait for a delayed acknowledgement; nothing else comes of it.
    let _ = tcp.set_nodelay(true);
    let service = service_fn(move |request| http::serve_admin(shared.clone(), request));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX);
    let connection = builder.serve_connection(TokioIo::new(tcp), service);
    tokio::select! {
        // A client that goes away or sends nonsense is its own business.
        _ = connection => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    drop(slot);
}
