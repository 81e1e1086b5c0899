//! Looking at a server from outside: HTTP answers, metrics.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// An HTTP answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The head, status line included.
    pub head: String,
    /// The body.
    pub body: String,
}

/// `GET path`, with a bound on the time.
///
/// # Errors
/// There is no answer in time, or it is no HTTP.
pub async fn http_get(
    address: SocketAddr,
    path: &str,
    patience: Duration,
) -> std::io::Result<Answer> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    http_request(address, request.as_bytes(), patience).await
}

/// Sends a whole request, as it is, and reads the answer until the server closes.
///
/// # Errors
/// There is no answer in time, or it is no HTTP.
pub async fn http_request(
    address: SocketAddr,
    request: &[u8],
    patience: Duration,
) -> std::io::Result<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request).await?;
        let mut bytes = Vec::new();
        stream
            .take(ANSWER_BYTES_MAX)
            .read_to_end(&mut bytes)
            .await?;
        let text = String::from_utf8_lossy(&bytes);
        let wrong = || std::io::Error::other(format!("no HTTP answer: {text:?}"));
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(wrong)?;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
        let chunked = head
            .to_ascii_lowercase()
            .contains("transfer-encoding: chunked");
        Ok(Answer {
            status: status.ok_or_else(wrong)?,
            head: head.to_owned(),
            body: if chunked {
                unchunked(body).ok_or_else(wrong)?
            } else {
                body.to_owned()
            },
        })
    };
    tokio::time::timeout(patience, exchange)
        .await
        .unwrap_or_else(|_| {
            let what = format!("no answer of {address} within {patience:?}");
            Err(std::io::Error::new(std::io::ErrorKind::TimedOut, what))
        })
}

fn unchunked(mut body: &str) -> Option<String> {
    let mut out = String::new();
    loop {
        let (length, rest) = body.split_once("\r\n")?;
        let length = usize::from_str_radix(length.split(';').next()?.trim(), 16).ok()?;
        if length == 0 {
            return Some(out);
        }
        out.push_str(rest.get(..length)?);
        body = rest.get(length..)?.strip_prefix("\r\n")?;
    }
}

/// The metrics of a node, in the text format of Prometheus.
#[derive(Clone, Debug)]
pub struct Metrics(String);

impl Metrics {
    /// Reads `/metrics`.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn read(address: SocketAddr) -> std::io::Result<Self> {
        let answer = http_get(address, "/metrics", Duration::from_secs(10)).await?;
        Ok(Metrics(answer.body))
    }

    /// The sum of a metric's values over the label sets that contain all of `labels` (written as
    /// `name="value"`); `None` where there is none.
    pub fn sum(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let values = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (set, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once('}')?,
                None => ("", rest),
            };
            if !value.starts_with(' ') || !labels.iter().all(|l| set.contains(l)) {
                return None;
            }
            value.split_whitespace().next()?.parse::<f64>().ok()
        });
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// The text as it was read.
    pub fn text(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_by_label() {
        let metrics = Metrics(
            "# HELP a words\n# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"2\"} 4.5\nab 7\nb 1 99\n"
                .to_owned(),
        );
        assert_eq!(metrics.sum("a", &[]), Some(7.5));
        assert_eq!(metrics.sum("a", &["x=\"1\""]), Some(3.0));
        assert_eq!(metrics.sum("a", &["x=\"3\""]), None);
        assert_eq!(metrics.sum("b", &[]), Some(1.0));
    }

    #[test]
    fn chunks_are_joined() {
        assert_eq!(
            unchunked("3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n").unwrap(),
            "abcde"
        );
        assert_eq!(unchunked("9\r\nabc\r\n"), None);
    }
}
