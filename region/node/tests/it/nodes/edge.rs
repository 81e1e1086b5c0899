//! An edge of the tests, and its stream to whoever owns a shard.

use std::time::{Duration, Instant};

use gb6_core_mesh::{Endpoint, FrameReceiver, FrameSender, Link, QueueLimits};
use gb6_core_model::NodeId;
use gb6_core_wire::mesh::{
    Attach, Class, EdgeFrame, HistoryPage, HistoryRequest, OwnerFrame, Person, Publish, Purpose,
    RefusedReason, ShardRef, StreamOpen, ToEdge, ToOwner,
};

use super::{NODES, room};
use crate::edge::PATIENCE;

/// An edge of one shard, which publishes to its room and goes wherever it is sent.
pub(crate) struct Edge {
    pub(super) endpoint: Endpoint,
    pub(super) incarnation: u64,
    pub(super) shard: u32,
    pub(crate) at: String,
    pub(crate) attached: Option<Attached>,
    pub(super) epoch: u64,
    pub(super) number: u64,
    /// How often it was sent on.
    pub(super) refusals: u64,
    /// Publishes that were answered with an error.
    pub(super) errors: u64,
}

pub(crate) struct Attached {
    _link: Link,
    sender: FrameSender<ToOwner>,
    receiver: FrameReceiver<ToEdge>,
}

impl Edge {
    fn shard(&self) -> ShardRef {
        ShardRef {
            region: "eu".into(),
            shard: self.shard,
        }
    }

    pub(super) async fn attach(&mut self) {
        let began = Instant::now();
        while self.attached.is_none() {
            assert!(
                began.elapsed() < PATIENCE,
                "nobody serves shard {}",
                self.shard
            );
            if self.try_attach().await.is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    async fn try_attach(&mut self) -> Option<()> {
        let next = NODES
            .iter()
            .position(|n| *n == self.at)
            .map_or(0, |n| (n + 1) % 3);
        let node = NodeId::from(self.at.as_str());
        self.at = NODES[next].to_owned();
        let link = self.endpoint.dial(&node, None).await.ok()?;
        let purpose = Some(Purpose::Shard(self.shard()));
        let stream = link.open(StreamOpen { purpose }).await.ok()?;
        let (sender, receiver) = stream.split::<ToOwner, ToEdge>(QueueLimits::default());
        let mut attached = Attached {
            _link: link,
            sender,
            receiver,
        };
        attached.send(OwnerFrame::Attach(Attach {
            edge_incarnation: self.incarnation,
            revision: 1,
            shard_epoch: self.epoch,
        }));
        match attached.next().await? {
            EdgeFrame::Attached(to) => {
                assert!(to.shard_epoch >= self.epoch, "an owner that was replaced");
                self.epoch = to.shard_epoch;
                self.at = node.as_str().to_owned();
                self.attached = Some(attached);
                Some(())
            }
            EdgeFrame::Refused(refused) => {
                self.sent_on(&refused.owner, refused.reason());
                None
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    fn sent_on(&mut self, owner: &str, reason: RefusedReason) {
        self.refusals += 1;
        if reason == RefusedReason::NotOwner && !owner.is_empty() {
            self.at = owner.to_owned();
        }
    }

    /// Publishes until it is acknowledged; how long that took, and the offset.
    pub(crate) async fn publish(&mut self) -> (Duration, u64) {
        self.publish_as(self.number + 1).await
    }

    /// As [`Edge::publish`], under a message id.
    pub(super) async fn publish_as(&mut self, id: u64) -> (Duration, u64) {
        let began = Instant::now();
        self.number += 1;
        loop {
            self.attach().await;
            let publish = Publish {
                request: self.number,
                room: room(self.shard),
                instance_epoch: 1,
                session: 1,
                number: self.number,
                settled_below: self.number,
                id: format!("{}/{id}", self.incarnation).into(),
                data: format!("{id}").into(),
                from: Person {
                    user: "u".into(),
                    client: "c".into(),
                    ..Person::default()
                },
                ..Publish::default()
            };
            let Some(attached) = &mut self.attached else {
                continue;
            };
            attached.send(OwnerFrame::Publish(publish));
            loop {
                match attached.next().await {
                    Some(EdgeFrame::Published(p)) if p.request == self.number => {
                        if p.error == 0 {
                            return (began.elapsed(), p.offset);
                        }
                        self.errors += 1;
                        break;
                    }
                    Some(EdgeFrame::Refused(refused)) => {
                        self.attached = None;
                        self.sent_on(&refused.owner, refused.reason());
                        break;
                    }
                    Some(_) => {}
                    None => {
                        self.attached = None;
                        break;
                    }
                }
            }
            assert!(began.elapsed() < PATIENCE, "it is not acknowledged");
        }
    }

    /// The data of all that the room has, as whoever serves it says.
    pub(super) async fn history(&mut self) -> Vec<String> {
        self.attach().await;
        let node = NodeId::from(self.at.as_str());
        let link = self.endpoint.dial(&node, None).await.expect("a link");
        let purpose = Some(Purpose::CatchUp(self.shard()));
        let stream = link.open(StreamOpen { purpose }).await.expect("a stream");
        let (ask, mut pages) = stream.split::<HistoryRequest, HistoryPage>(QueueLimits::default());
        let mut all = Vec::new();
        loop {
            let request = HistoryRequest {
                request: 1,
                room: room(self.shard),
                since: all.len() as u64,
                limit: 200,
                bytes: 512 * 1024,
                ..HistoryRequest::default()
            };
            ask.try_send(Class::CatchUp, request).expect("room");
            let page = tokio::time::timeout(PATIENCE, pages.recv()).await;
            let page = page
                .expect("a page in time")
                .expect("a page")
                .expect("a page");
            assert_eq!(page.error, 0);
            if page.publications.is_empty() {
                return all;
            }
            let data = page.publications.iter();
            all.extend(data.map(|p| String::from_utf8_lossy(&p.data).into_owned()));
        }
    }
}

impl Attached {
    pub(crate) fn send(&self, frame: OwnerFrame) {
        let frame = ToOwner { frame: Some(frame) };
        // Where it can not be sent the stream has ended, which the next frame tells.
        let _ = self.sender.try_send(Class::Control, frame);
    }

    /// The next frame; `None` at the end of the stream, or when nothing comes.
    pub(crate) async fn next(&mut self) -> Option<EdgeFrame> {
        let frame = tokio::time::timeout(Duration::from_secs(4), self.receiver.recv()).await;
        frame.ok()?.ok().flatten()?.frame
    }
}
