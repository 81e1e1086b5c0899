//! One direction of one connection.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Counters, Link, Mode};

/// Pieces on their way, each at most [`PIECE_BYTES`].
const PIECES: usize = 64;
const PIECE_BYTES: usize = 16 * 1024;

/// Reads everything and throws it away until the other side closes.
pub(super) async fn swallow(mut stream: TcpStream, counters: &Counters) {
    let mut buffer = vec![0; PIECE_BYTES];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        counters.swallowed.fetch_add(n as u64, Ordering::Relaxed);
    }
}

/// Passes bytes on as the mode says, until one side ends. An end is passed on too, unless bytes
/// were swallowed: then both sides are left in the dark.
pub(super) async fn pass(
    mut from: OwnedReadHalf,
    to: OwnedWriteHalf,
    link: &Link,
    counters: &Counters,
) {
    // overflow: reading waits, so that TCP slows the sender down.
    let (pieces, arrived) = mpsc::channel(PIECES);
    let reading = async {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            let due = match link.mode() {
                Mode::Delay(delay) => Instant::now() + delay,
                _ => Instant::now(),
            };
            let piece = Bytes::copy_from_slice(&buffer[..n]);
            if pieces.send((due, piece)).await.is_err() {
                break;
            }
        }
        drop(pieces);
    };
    tokio::join!(reading, write(to, arrived, link, counters));
}

async fn write(
    mut to: OwnedWriteHalf,
    mut pieces: mpsc::Receiver<(Instant, Bytes)>,
    link: &Link,
    counters: &Counters,
) {
    let mut holed = false;
    while let Some((due, piece)) = pieces.recv().await {
        tokio::time::sleep_until(due).await;
        let mode = link.mode();
        holed |= mode == Mode::BlackHole;
        let bytes = piece.len() as u64;
        if holed {
            counters.swallowed.fetch_add(bytes, Ordering::Relaxed);
            continue;
        }
        if to.write_all(&piece).await.is_err() {
            return;
        }
        counters.passed.fetch_add(bytes, Ordering::Relaxed);
        if let Mode::Throttle(rate) = mode {
            let pause = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
            tokio::time::sleep(pause).await;
        }
    }
    if holed || link.mode() == Mode::BlackHole {
        // The other side must not learn that this one has ended; the connection's task ends with
        // the proxy or with `close_all`.
        std::future::pending::<()>().await;
    }
    let _ = to.shutdown().await;
}
