//! A tiny server of the client protocol for one test: threads, blocking sockets, rooms in memory,
//! recovery from them. It can lose and double publications, so that the loads are seen to notice.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use gb6_core_model::codes::ErrorCode;
use gb6_core_wire::client::{
    Command, ConnectResult, Dialect, Publication, PublishResult, Push, Reply, RpcResult,
    SubscribeResult, decode_frame, reply_frame,
};

use crate::ws::{frame, handshake};

/// What is wrong with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Every fifth publication is not pushed.
    Loses,
    /// Recovery begins one publication too early.
    Doubles,
    /// Publishes are refused.
    Refuses,
}

#[derive(Default)]
struct Room {
    log: Vec<Bytes>,
    subscribers: Vec<Arc<Mutex<TcpStream>>>,
}

struct Shared {
    rooms: Mutex<BTreeMap<String, Room>>,
    fault: Fault,
    stop: AtomicBool,
}

/// The server; it ends when dropped.
pub(super) struct Tiny {
    pub(super) addr: SocketAddr,
    shared: Arc<Shared>,
}

impl Tiny {
    pub(super) fn start(fault: Fault) -> Tiny {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            rooms: Mutex::default(),
            fault,
            stop: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                if serving.stop.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(socket), shared) = (socket, Arc::clone(&serving)) else {
                    continue;
                };
                std::thread::spawn(move || {
                    // A connection that a test cuts ends with an error, as it should.
                    let _ = serve(socket, &shared);
                });
            }
        });
        Tiny { addr, shared }
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(self.addr);
    }
}

fn serve(mut socket: TcpStream, shared: &Shared) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let out = Arc::new(Mutex::new(socket.try_clone()?));
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    let mut open = false;
    loop {
        if !open && let Some((answer, length)) = handshake::answer(&bytes).unwrap() {
            bytes.drain(..length);
            out.lock().unwrap().write_all(&answer)?;
            open = true;
        }
        while open && let Some(header) = frame::header(&bytes).unwrap() {
            let end = header.length + header.payload;
            if bytes.len() < end {
                break;
            }
            frame::unmask(&mut bytes[header.length..end], header.mask.unwrap());
            let payload = Bytes::copy_from_slice(&bytes[header.length..end]);
            bytes.drain(..end);
            for command in decode_frame(Dialect::Protobuf, payload).unwrap() {
                answer(command, &out, shared)?;
            }
        }
        let n = socket.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&buffer[..n]);
    }
}

fn answer(command: Command, out: &Arc<Mutex<TcpStream>>, shared: &Shared) -> std::io::Result<()> {
    let id = command.id;
    let send = |reply: Reply| {
        let frame = reply_frame(Dialect::Protobuf, &reply);
        out.lock().unwrap().write_all(&frame)
    };
    if command.connect.is_some() {
        return send(Reply::answer(id, ConnectResult::default()));
    }
    if let Some(subscribe) = command.subscribe {
        let mut rooms = shared.rooms.lock().unwrap();
        let room = rooms.entry(subscribe.channel).or_default();
        let top = room.log.len() as u64;
        let mut from = subscribe.offset;
        if shared.fault == Fault::Doubles {
            from = from.saturating_sub(1);
        }
        let missed = room.log.iter().enumerate().skip(from as usize);
        let result = SubscribeResult {
            epoch: "E".to_owned(),
            offset: if subscribe.recover {
                subscribe.offset
            } else {
                top
            },
            recovered: subscribe.recover,
            publications: missed
                .filter(|_| subscribe.recover)
                .map(|(n, data)| publication(n as u64 + 1, data))
                .collect(),
            ..SubscribeResult::default()
        };
        room.subscribers.push(Arc::clone(out));
        return send(Reply::answer(id, result));
    }
    let (room, data, rpc) = match (command.publish, command.rpc) {
        (Some(publish), _) => (publish.channel, publish.data, false),
        (None, Some(rpc)) => {
            let argument: serde_json::Value = serde_json::from_slice(&rpc.data).unwrap();
            let room = argument["room"].as_str().unwrap().to_owned();
            assert!(argument["id"].as_str().is_some_and(|id| !id.is_empty()));
            (room, Bytes::from(argument["data"].to_string()), true)
        }
        // The answer to a ping.
        (None, None) => return Ok(()),
    };
    if shared.fault == Fault::Refuses {
        return send(Reply::error(id, ErrorCode::StorageFull));
    }
    let mut rooms = shared.rooms.lock().unwrap();
    let channel = room.clone();
    let room = rooms.entry(room).or_default();
    room.log.push(data.clone());
    let offset = room.log.len() as u64;
    if shared.fault != Fault::Loses || !offset.is_multiple_of(5) {
        let push = Reply::push(Push {
            channel,
            publication: Some(publication(offset, &data)),
            ..Push::default()
        });
        let frame = reply_frame(Dialect::Protobuf, &push);
        room.subscribers
            .retain(|subscriber| subscriber.lock().unwrap().write_all(&frame).is_ok());
    }
    drop(rooms);
    if rpc {
        send(Reply::answer(id, RpcResult::default()))
    } else {
        send(Reply::answer(id, PublishResult {}))
    }
}

fn publication(offset: u64, data: &Bytes) -> Publication {
    Publication {
        offset,
        data: data.clone(),
        ..Publication::default()
    }
}
