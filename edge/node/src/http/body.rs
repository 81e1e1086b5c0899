//! Reading the body of a request: bounded, in time, and in what all bodies together hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

use super::{PLAIN, Refused, text};
use crate::shared::Shared;

/// What every request may hold without being counted: as much as the head of one.
const FREE_BYTES: usize = 16 * 1024;
/// Bytes that larger bodies may hold together while they are read. Overflow: 503.
const SHARED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What the bodies that are being read hold.
#[derive(Default)]
pub(crate) struct BodyBytes(AtomicUsize);

impl BodyBytes {
    /// Bytes held now.
    pub(crate) fn held(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// The part of one body.
struct Held {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Held {
    /// Counts up to `bytes`; `false`: there is no room.
    fn grow(&mut self, bytes: usize) -> bool {
        let wanted = bytes.saturating_sub(FREE_BYTES);
        let more = wanted.saturating_sub(self.bytes);
        if more == 0 {
            return true;
        }
        let all = &self.shared.body_bytes.0;
        if all.fetch_add(more, Ordering::Relaxed) + more > SHARED_BYTES_MAX {
            all.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        self.bytes += more;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let all = &self.shared.body_bytes.0;
        all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The whole body, of at most `max` bytes.
///
/// # Errors
/// It is too large, too slow or broken, or too many are being read: the answer. The connection ends
/// with it, since what is left of the body is not read.
pub(crate) async fn read(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    max: usize,
) -> Result<Bytes, Refused> {
    let body = request.into_body();
    if body.size_hint().lower() > max as u64 {
        return Err(too_large());
    }
    let reading = collect(shared, body, max);
    match tokio::time::timeout(shared.config.body_timeout, reading).await {
        Ok(read) => read,
        Err(_) => Err(last(
            StatusCode::REQUEST_TIMEOUT,
            "the body took too long: send it at once",
        )),
    }
}

async fn collect(shared: &Arc<Shared>, mut body: Incoming, max: usize) -> Result<Bytes, Refused> {
    let mut held = Held {
        shared: shared.clone(),
        bytes: 0,
    };
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(last(StatusCode::BAD_REQUEST, "the body broke off"));
        };
        let Ok(data) = frame.into_data() else {
            // Trailers say nothing here.
            continue;
        };
        let bytes = first.len() + rest.len() + data.len();
        if bytes > max {
            return Err(too_large());
        }
        if !held.grow(bytes) {
            let words = "too many large requests are being read: try again in a moment";
            let mut response = last(StatusCode::SERVICE_UNAVAILABLE, words);
            let soon = HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, soon);
            return Err(response);
        }
        // One piece, the usual case, is not copied.
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&std::mem::take(&mut first));
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() {
        first
    } else {
        rest.freeze()
    })
}

fn too_large() -> Refused {
    last(
        StatusCode::PAYLOAD_TOO_LARGE,
        "the body is too large: send fewer commands at once",
    )
}

fn last(status: StatusCode, words: &str) -> Refused {
    let mut response = text(status, PLAIN, format!("{words}\n"));
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    Box::new(response)
}
