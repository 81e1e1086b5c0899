//! Asking the application's backend: about a connection without a token, and about publications.

use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::snapshot::ProxyKind;
use gb6_core_model::{Channel, ErrorCode};
use gb6_core_wire::client::ConnectRequest;
use gb6_edge_session::{Claims, Decision, TokenRef};
use http::HeaderMap;

use super::carrier::Carrier;
use super::driver::Connection;
use super::framing::Framing;
use super::handle::Event;
use super::verify::PATIENCE;
use crate::proxies::answer::{self, Said};
use crate::proxies::question::{self, About};
use crate::proxies::{Backend, Failure};
use crate::shared::Shared;

/// What backends are shown of a connection; only those that some backend wants to see have one.
#[derive(Default)]
pub(super) struct Shown {
    /// Headers of the request that it began with.
    pub(super) headers: HeaderMap,
    /// The `meta` of its claims.
    pub(super) meta: Bytes,
}

impl Shown {
    /// That of a connection whose request had these headers.
    pub(super) fn of(headers: HeaderMap) -> Self {
        Self {
            headers,
            meta: Bytes::new(),
        }
    }
}

impl<C: Carrier, F: Framing> Connection<C, F> {
    /// Has the backend say who a connection without a token is. The answer comes as an event.
    pub(super) fn ask_connect(&self, request: u32, client: &str, connect: &ConnectRequest) {
        let (shared, handle) = (self.shared.clone(), self.handle.clone());
        let instance = &self.origin.instance;
        let decided = move |decision| Event::ConnectDecided(request, Box::new(decision));
        let Some(backend) = shared.proxies.of(instance, ProxyKind::Connect) else {
            // It is about to go, or about to come.
            handle.outbox.event(decided(unavailable()));
            return;
        };
        // Before it is asked in the name of whoever's cookies the page's browser sent.
        let snapshot = shared.snapshot.load();
        if let Err(refused) = self.comes_from_a_page_of(snapshot.instances.get(instance)) {
            let decision = Decision::Disconnect(refused.into());
            handle.outbox.event(decided(decision));
            return;
        }
        let permit = match shared.proxies.begin(&backend) {
            Ok(permit) => permit,
            Err(failure) => {
                handle.outbox.event(decided(backend.instead(&failure, ())));
                return;
            }
        };
        let body = question::connect(&backend.settings, self.about(client), connect);
        let real = self.origin.shown.as_ref().map(|shown| &shown.headers);
        let headers = question::headers(&backend.settings, real, Some(connect));
        let (instance, id) = (instance.clone(), self.origin.client);
        tokio::spawn(async move {
            let read = |body: &[u8]| answer::connect(&instance, body, shared.clock.unix_ms());
            let said = shared.proxies.ask(&backend, permit, headers, body, read);
            let event = match said.await {
                Ok(Said::Result(Some(claims))) => {
                    let revoked = shared.revocations.of(&shared, &instance);
                    // What is not known then is found out while the connection is held.
                    let _ = tokio::time::timeout(PATIENCE, revoked.until_current()).await;
                    // No token that anybody could name: the connection is as old as the answer.
                    let token = TokenRef {
                        id,
                        issued_unix_ms: Some(shared.clock.unix_ms()),
                    };
                    Event::Verified(request, Box::new(Ok((claims, token))))
                }
                Ok(Said::Result(None)) => decided(Decision::Allow(())),
                Ok(Said::Error(error)) => decided(Decision::Error(error)),
                Ok(Said::Disconnect(why)) => decided(Decision::Disconnect(why)),
                Err(failure) => {
                    failed(&shared, &backend, &failure);
                    decided(backend.instead(&failure, ()))
                }
            };
            handle.outbox.event(event);
        });
    }

    /// Has the backend look at a publication. The answer comes as an event.
    pub(super) fn ask_publish(&self, request: u32, channel: &Channel, data: &[u8]) {
        let (shared, handle) = (self.shared.clone(), self.handle.clone());
        let decided = move |decision| Event::PublishDecided(request, Box::new(decision));
        let identity = self.session.identity().zip(self.session.client());
        let asked = identity.and_then(|((instance, user), client)| {
            let backend = shared.proxies.of(instance, ProxyKind::Publish)?;
            Some((backend, user, client))
        });
        let Some((backend, user, client)) = asked else {
            handle.outbox.event(decided(unavailable()));
            return;
        };
        let permit = match shared.proxies.begin(&backend) {
            Ok(permit) => permit,
            Err(failure) => {
                handle
                    .outbox
                    .event(decided(backend.instead(&failure, None)));
                return;
            }
        };
        let shown = self.origin.shown.as_deref();
        let meta = shown.map_or(&[][..], |shown| &shown.meta);
        let (settings, about) = (&backend.settings, self.about(client));
        let body = question::publish(settings, about, user, channel.as_str(), data, meta);
        let headers = question::headers(settings, shown.map(|shown| &shown.headers), None);
        tokio::spawn(async move {
            let read = answer::publish;
            let said = shared.proxies.ask(&backend, permit, headers, body, read);
            let decision = match said.await {
                Ok(Said::Result(replacement)) => Decision::Allow(replacement),
                Ok(Said::Error(error)) => Decision::Error(error),
                Ok(Said::Disconnect(why)) => Decision::Disconnect(why),
                Err(failure) => {
                    failed(&shared, &backend, &failure);
                    backend.instead(&failure, None)
                }
            };
            handle.outbox.event(decided(decision));
        });
    }

    fn about<'a>(&self, client: &'a str) -> About<'a> {
        About {
            client,
            transport: self.transport.name(),
            protocol: self.dialect.name(),
        }
    }

    /// Keeps of a connection that is let in what its instance's backend will be shown.
    pub(super) fn keep_shown(&mut self, claims: &Claims) {
        let backend = self.shared.proxies.of(&claims.instance, ProxyKind::Publish);
        let settings = backend.as_ref().map(|backend| &backend.settings);
        // What was sent to one instance's host name is not for another one's backend.
        let ours = claims.instance == self.origin.instance;
        let headers = ours && settings.is_some_and(|settings| !settings.headers.is_empty());
        let meta = settings.is_some_and(|settings| settings.include_meta);
        if meta && !claims.meta.is_empty() {
            self.origin.shown.get_or_insert_default().meta = claims.meta.clone();
        }
        let Some(shown) = &mut self.origin.shown else {
            return;
        };
        if !headers {
            shown.headers = HeaderMap::new();
        }
        if !meta {
            shown.meta = Bytes::new();
        }
        if shown.headers.is_empty() && shown.meta.is_empty() {
            self.origin.shown = None;
        }
    }
}

/// What is answered where there is nobody who could be asked.
fn unavailable<T>() -> Decision<T> {
    Decision::Error(ErrorCode::Internal.into())
}

fn failed(shared: &Arc<Shared>, backend: &Backend, failure: &Failure) {
    if shared.may_log() {
        backend.log(failure);
    }
}
