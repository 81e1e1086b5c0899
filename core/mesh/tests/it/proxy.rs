//! A UDP proxy between one dialler and one listener that can stop passing packets on, or pass them
//! to another listener.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

pub(crate) struct Proxy {
    addr: SocketAddr,
    cut: Arc<AtomicBool>,
    server: Arc<Mutex<SocketAddr>>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = Arc::new(Mutex::new(server));
        let current = Arc::clone(&server);
        let addr = front.local_addr().unwrap();
        let cut = Arc::new(AtomicBool::new(false));
        let is_cut = Arc::clone(&cut);
        let task = tokio::spawn(async move {
            let mut client = None;
            let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
            loop {
                tokio::select! {
                    Ok((n, from)) = front.recv_from(&mut up) => {
                        client = Some(from);
                        if !is_cut.load(Ordering::Relaxed) {
                            let server = *current.lock().unwrap();
                            let _ = back.send_to(&up[..n], server).await;
                        }
                    }
                    Ok((n, from)) = back.recv_from(&mut down) => {
                        let passes = from == *current.lock().unwrap() && !is_cut.load(Ordering::Relaxed);
                        if let Some(client) = client && passes {
                            let _ = front.send_to(&down[..n], client).await;
                        }
                    }
                }
            }
        });
        Self {
            addr,
            cut,
            server,
            task,
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Packets go to and come from `server` from now on, as if another process had its address.
    pub(crate) fn redirect(&self, server: SocketAddr) {
        *self.server.lock().unwrap() = server;
    }

    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}
