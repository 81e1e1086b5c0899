//! Whether a node lives and whether it is ready: every part of it registers a named component, and
//! readiness is their conjunction, as a value that can be asked for, shown, and waited on.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

/// The health of one node. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Health {
    state: Arc<watch::Sender<Readiness>>,
}

/// The state of every component at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Readiness {
    components: BTreeMap<String, State>,
    /// What operators should look at although the part does its work, by component.
    notes: BTreeMap<String, String>,
    draining: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    Ready,
    NotReady(String),
    Failed(String),
}

/// What `/healthz` and `/readyz` answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthAnswer {
    /// The HTTP status: 200 or 503.
    pub status: u16,
    /// The body, JSON.
    pub body: String,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    ready: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<bool>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    not_ready: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    failed: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    notes: &'a BTreeMap<String, String>,
}

impl Readiness {
    /// Whether everything is ready: at least one component is registered, all are ready, and the
    /// node is not draining.
    pub fn is_ready(&self) -> bool {
        !self.draining
            && !self.components.is_empty()
            && self.components.values().all(|s| *s == State::Ready)
    }

    /// Whether nothing has failed for good.
    pub fn is_live(&self) -> bool {
        !self
            .components
            .values()
            .any(|s| matches!(s, State::Failed(_)))
    }

    /// What is not ready, and why, by component.
    pub fn not_ready(&self) -> BTreeMap<&str, &str> {
        let mut out: BTreeMap<&str, &str> = self
            .components
            .iter()
            .filter_map(|(name, state)| match state {
                State::Ready => None,
                State::NotReady(why) | State::Failed(why) => Some((name.as_str(), why.as_str())),
            })
            .collect();
        if self.draining {
            out.insert("drain", "the node is shutting down");
        } else if self.components.is_empty() {
            out.insert("start", "nothing has started yet");
        }
        out
    }

    /// The answer of `/readyz`: 200 `{"ready":true}`, or 503 with what is not ready and why; with either
    /// what parts have noted.
    pub fn readyz(&self) -> HealthAnswer {
        let ready = self.is_ready();
        answer(
            ready,
            &Body {
                ready: Some(ready),
                live: None,
                not_ready: self.not_ready(),
                failed: BTreeMap::new(),
                notes: &self.notes,
            },
        )
    }

    /// The answer of `/healthz`: 200 `{"live":true}` as long as nothing has failed for good, which
    /// only a restart mends.
    pub fn healthz(&self) -> HealthAnswer {
        let failed: BTreeMap<&str, &str> = self
            .components
            .iter()
            .filter_map(|(name, state)| match state {
                State::Failed(why) => Some((name.as_str(), why.as_str())),
                _ => None,
            })
            .collect();
        let live = failed.is_empty();
        answer(
            live,
            &Body {
                ready: None,
                live: Some(live),
                not_ready: BTreeMap::new(),
                failed,
                notes: &BTreeMap::new(),
            },
        )
    }
}

fn answer(good: bool, body: &Body) -> HealthAnswer {
    // Strings and booleans always serialize; the fallback only spares an unwrap.
    let body = serde_json::to_string(body).unwrap_or_else(|_| "{}".to_owned());
    HealthAnswer {
        status: if good { 200 } else { 503 },
        body,
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// A node with nothing registered, which is not ready.
    pub fn new() -> Self {
        Self {
            state: Arc::new(watch::Sender::new(Readiness::default())),
        }
    }

    /// Registers a component, not ready yet. Whoever assembles a node registers all of them before
    /// it starts any, so that the node is not called ready when its first part is. A name that is
    /// in use gets a number behind it.
    pub fn register(&self, name: &str) -> Component {
        let mut name = name.to_owned();
        self.state.send_modify(|r| {
            let base = name.clone();
            let mut n = 1;
            while r.components.contains_key(&name) {
                n += 1;
                name = format!("{base}-{n}");
            }
            r.components
                .insert(name.clone(), State::NotReady("starting".to_owned()));
        });
        Component {
            name,
            state: self.state.clone(),
        }
    }

    /// The state of this moment.
    pub fn now(&self) -> Readiness {
        self.state.borrow().clone()
    }

    /// Follows the state; the receiver sees the newest one.
    pub fn watch(&self) -> watch::Receiver<Readiness> {
        self.state.subscribe()
    }

    /// Waits until everything is ready. Safe to cancel; the caller sets its own time limit.
    pub async fn wait_ready(&self) {
        // The sender lives in `self`, so the channel can not close while this waits.
        let _ = self.watch().wait_for(Readiness::is_ready).await;
    }

    /// From now on the node is not ready: load balancers send no new clients while it drains.
    pub fn drain(&self) {
        self.state
            .send_if_modified(|r| !std::mem::replace(&mut r.draining, true));
    }
}

/// One named part of a node. Dropping it leaves the part not ready: `stopped`.
#[derive(Debug)]
pub struct Component {
    name: String,
    state: Arc<watch::Sender<Readiness>>,
}

impl Component {
    /// The name that it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The part is ready.
    pub fn ready(&self) {
        self.set(State::Ready);
    }

    /// The part is not ready; `why` is shown to operators: what is missing, in plain words.
    pub fn not_ready(&self, why: impl Into<String>) {
        self.set(State::NotReady(why.into()));
    }

    /// The part has failed in a way that only a restart mends: `/healthz` fails from now on, and
    /// nothing said later takes it back.
    pub fn failed(&self, why: impl Into<String>) {
        self.set(State::Failed(why.into()));
    }

    /// Something that operators should look at, in plain words, although the part does its work: readiness
    /// shows it and does not depend on it. `None`: there is nothing any more.
    pub fn note(&self, note: Option<String>) {
        self.state.send_if_modified(|r| match note {
            Some(note) => r.notes.insert(self.name.clone(), note.clone()) != Some(note),
            None => r.notes.remove(&self.name).is_some(),
        });
    }

    /// The part is no longer one of this node, which may be ready without it.
    pub fn retire(self) {
        self.state
            .send_if_modified(|r| r.components.remove(&self.name).is_some());
    }

    fn set(&self, new: State) {
        self.state
            .send_if_modified(|r| match r.components.get_mut(&self.name) {
                Some(State::Failed(_)) | None => false,
                Some(old) if *old == new => false,
                Some(old) => {
                    *old = new;
                    true
                }
            });
    }
}

impl Drop for Component {
    fn drop(&mut self) {
        self.set(State::NotReady("stopped".to_owned()));
        self.note(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_is_given_away_keeps_nobody_from_being_ready() {
        let health = Health::new();
        let (kept, given) = (health.register("kept"), health.register("given"));
        kept.ready();
        assert!(!health.now().is_ready());
        given.retire();
        assert!(health.now().is_ready());
        drop(kept);
        assert!(!health.now().is_ready());
    }

    #[test]
    fn ready_is_the_conjunction() {
        let health = Health::new();
        assert_eq!(
            health.now().readyz(),
            HealthAnswer {
                status: 503,
                body: r#"{"ready":false,"not_ready":{"start":"nothing has started yet"}}"#
                    .to_owned()
            }
        );
        let log = health.register("log");
        let mesh = health.register("mesh");
        log.ready();
        mesh.not_ready("no link to region-1: connection refused");
        assert_eq!(
            health.now().readyz().body,
            r#"{"ready":false,"not_ready":{"mesh":"no link to region-1: connection refused"}}"#
        );
        mesh.ready();
        assert_eq!(
            health.now().readyz(),
            HealthAnswer {
                status: 200,
                body: r#"{"ready":true}"#.to_owned()
            }
        );
        drop(log);
        assert_eq!(health.now().not_ready().get("log"), Some(&"stopped"));
    }

    #[test]
    fn a_note_is_shown_and_keeps_nobody_from_being_ready() {
        let health = Health::new();
        let part = health.register("directory");
        part.ready();
        part.note(Some("it is lost".into()));
        let answer = health.now().readyz();
        let shown = r#"{"ready":true,"notes":{"directory":"it is lost"}}"#;
        assert_eq!((answer.status, answer.body.as_str()), (200, shown));
        assert_eq!(health.now().healthz().body, r#"{"live":true}"#);
        part.note(None);
        assert_eq!(health.now().readyz().body, r#"{"ready":true}"#);
        part.note(Some("it is lost".into()));
        drop(part);
        assert!(!health.now().readyz().body.contains("notes"));
    }

    #[test]
    fn a_failure_is_for_good() {
        let health = Health::new();
        let log = health.register("log");
        log.ready();
        assert_eq!(health.now().healthz().body, r#"{"live":true}"#);
        log.failed("sync failed: input/output error");
        log.ready();
        let answer = health.now().healthz();
        assert_eq!(answer.status, 503);
        assert_eq!(
            answer.body,
            r#"{"live":false,"failed":{"log":"sync failed: input/output error"}}"#
        );
        assert!(!health.now().is_ready());
        drop(log);
        assert!(!health.now().is_live());
    }

    #[test]
    fn draining_ends_readiness_but_not_life() {
        let health = Health::new();
        let edge = health.register("edge");
        edge.ready();
        health.drain();
        assert!(!health.now().is_ready() && health.now().is_live());
        assert!(health.now().not_ready().contains_key("drain"));
    }

    #[test]
    fn equal_names_are_told_apart() {
        let health = Health::new();
        let (a, b) = (health.register("shard"), health.register("shard"));
        assert_eq!((a.name(), b.name()), ("shard", "shard-2"));
        a.ready();
        assert_eq!(
            health.now().not_ready().keys().copied().collect::<Vec<_>>(),
            ["shard-2"]
        );
    }

    #[tokio::test]
    async fn readiness_can_be_waited_for() {
        let health = Health::new();
        let (a, b) = (health.register("a"), health.register("b"));
        a.ready();
        let waiting = tokio::spawn({
            let health = health.clone();
            async move { health.wait_ready().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        b.ready();
        waiting.await.unwrap();
    }
}
