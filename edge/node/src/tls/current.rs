//! The certificate that is shown now: replaced while connections run, and only by a good one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use tokio::time::Instant;

use super::certificate::{Certificate, CertificateError, CertificateSource, Seen};
use crate::metrics::EdgeMetrics;

/// The certificate of all listeners of an edge.
pub(crate) struct Certificates {
    source: CertificateSource,
    /// How the files looked before the first one was read.
    first_seen: [Option<Seen>; 2],
    current: ArcSwap<Certificate>,
    metrics: EdgeMetrics,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().key.clone())
    }
}

impl Certificates {
    /// Loads the first one.
    pub(crate) fn load(
        source: CertificateSource,
        metrics: EdgeMetrics,
    ) -> Result<Arc<Self>, CertificateError> {
        let first_seen = Seen::of(&source);
        let first = Certificate::load(&source, SystemTime::now())?;
        let this = Self {
            source,
            first_seen,
            current: ArcSwap::from_pointee(first.clone()),
            metrics,
        };
        this.shows(first);
        Ok(Arc::new(this))
    }

    /// SHA-256 of the certificate that is shown now.
    pub(crate) fn sha256(&self) -> [u8; 32] {
        self.current.load().sha256
    }

    fn shows(&self, certificate: Certificate) {
        self.metrics
            .certificate_expires
            .set(certificate.expires_unix_s);
        self.metrics.certificate_loads.with(&["used"]).inc();
        self.current.store(Arc::new(certificate));
    }

    /// Keeps the certificate new until `stop` says so, looking every `check`.
    pub(crate) async fn follow(self: Arc<Self>, check: Duration, mut stop: watch::Receiver<bool>) {
        let mut every = tokio::time::interval(check);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut made = Instant::now();
        let mut used = self.first_seen;
        let mut last = used;
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                _ = every.tick() => {}
            }
            match &self.source {
                CertificateSource::SelfMade(maker) if made.elapsed() >= maker.renewed_after => {
                    made = Instant::now();
                }
                CertificateSource::SelfMade(_) => continue,
                CertificateSource::Files { .. } => {
                    let now = self.seen().await;
                    let settled = now == last;
                    last = now;
                    // Two files do not change at once: they are read when nothing moves any more.
                    if !settled || now == used {
                        continue;
                    }
                    used = now;
                }
            }
            self.renew().await;
        }
    }

    async fn seen(self: &Arc<Self>) -> [Option<Seen>; 2] {
        let this = self.clone();
        let seen = tokio::task::spawn_blocking(move || Seen::of(&this.source));
        seen.await.unwrap_or_default()
    }

    async fn renew(self: &Arc<Self>) {
        let this = self.clone();
        let loaded =
            tokio::task::spawn_blocking(move || Certificate::load(&this.source, SystemTime::now()));
        match loaded.await {
            Ok(Ok(certificate)) => {
                let expires_unix_s = certificate.expires_unix_s;
                self.shows(certificate);
                tracing::info!(expires_unix_s, "new certificate for clients");
            }
            Ok(Err(error)) => {
                self.metrics.certificate_loads.with(&["refused"]).inc();
                tracing::warn!(%error, "the changed certificate is not used, the last one stays");
            }
            // The runtime ends.
            Err(_) => {}
        }
    }
}
