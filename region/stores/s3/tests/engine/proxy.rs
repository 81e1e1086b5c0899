//! What lies between a store and its server, and fails.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Of the next requests with this method, so many arrive and are done, and their answers do not
    /// come back.
    AnswersLost(&'static str, usize),
    /// Requests arrive nowhere and nobody answers.
    Silent,
    /// Conditions of requests are not heeded.
    ConditionsIgnored,
    /// Metadata of objects does not arrive.
    MetadataDropped,
    /// The server's clock is years behind.
    Clock,
}

/// Listens on a port of its own and passes on what comes.
pub(crate) struct Proxy {
    pub(crate) endpoint: String,
    state: Arc<State>,
}

struct State {
    fault: Mutex<Fault>,
    seen: AtomicUsize,
    server: String,
}

impl Proxy {
    /// In front of `server`, such as `http://127.0.0.1:9000`.
    pub(crate) fn new(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State {
            fault: Mutex::new(Fault::None),
            seen: AtomicUsize::new(0),
            server: server.trim_start_matches("http://").to_owned(),
        });
        let shared = state.clone();
        // It ends with the process of the test.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = shared.clone();
                thread::spawn(move || state.serve(client));
            }
        });
        Self {
            endpoint: format!("http://127.0.0.1:{port}"),
            state,
        }
    }

    pub(crate) fn set(&self, fault: Fault) {
        *self.state.fault.lock() = fault;
    }

    /// Requests that came.
    pub(crate) fn seen(&self) -> usize {
        self.state.seen.load(Ordering::Relaxed)
    }
}

impl State {
    fn serve(self: Arc<Self>, mut client: TcpStream) {
        let server = TcpStream::connect(&self.server).expect("the server");
        let lost = Arc::new(Mutex::new(false));
        let back = {
            let (state, lost) = (self.clone(), lost.clone());
            let (server, client) = (clone(&server), clone(&client));
            thread::spawn(move || state.answer(server, client, &lost))
        };
        let mut server = server;
        let mut buffer = vec![0; 256 * 1024];
        while let Ok(read @ 1..) = client.read(&mut buffer) {
            let bytes = &mut buffer[..read];
            // A client sends a request when the last was answered: so it begins with what is read.
            let begins = [&b"GET "[..], b"PUT ", b"POST ", b"HEAD ", b"DELETE "]
                .iter()
                .any(|method| bytes.starts_with(method));
            if begins {
                self.seen.fetch_add(1, Ordering::Relaxed);
                let mut fault = self.fault.lock();
                match &mut *fault {
                    Fault::Silent => {
                        drop(fault);
                        // Until the client gives up.
                        while let Ok(1..) = client.read(&mut buffer) {}
                        break;
                    }
                    Fault::AnswersLost(method, left @ 1..)
                        if bytes.starts_with(method.as_bytes()) =>
                    {
                        *left -= 1;
                        *lost.lock() = true;
                    }
                    Fault::ConditionsIgnored => replace(bytes, b"if-none-match", b"x-not-a-header"),
                    Fault::MetadataDropped => {
                        for name in ["tag", "size", "crc32c"] {
                            let name = format!("x-amz-meta-gb6-{name}");
                            replace(bytes, name.as_bytes(), &vec![b'x'; name.len()]);
                        }
                    }
                    _ => {}
                }
            }
            if server.write_all(bytes).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Both);
        let _ = client.shutdown(Shutdown::Both);
        back.join().expect("the way back");
    }

    fn answer(&self, mut server: TcpStream, mut client: TcpStream, lost: &Mutex<bool>) {
        let mut buffer = vec![0; 256 * 1024];
        while let Ok(read @ 1..) = server.read(&mut buffer) {
            if *lost.lock() {
                break;
            }
            let bytes = &mut buffer[..read];
            if *self.fault.lock() == Fault::Clock {
                replace(bytes, b" 2026 ", b" 2006 ");
            }
            if client.write_all(bytes).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Both);
        let _ = client.shutdown(Shutdown::Both);
    }
}

fn clone(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a handle")
}

/// Replaces the first `from` in the head of a message by as much of `to`.
fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    let found = bytes.windows(from.len()).position(|window| window == from);
    if let Some(at) = found {
        bytes[at..at + from.len()].copy_from_slice(&to[..from.len()]);
    }
}
