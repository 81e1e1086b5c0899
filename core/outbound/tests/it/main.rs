//! The client against servers on loopback that answer, hang, lie and say too much.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gb6_core_outbound::{
    Limits, Outbound, OutboundConfig, OutboundError, Reach, Request, Response, Target,
};
use http::{HeaderMap, HeaderValue, Method};
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const LIMITS: Limits = Limits {
    deadline: Duration::from_secs(5),
    body_bytes_max: 1024,
};

fn client(config: OutboundConfig) -> Outbound {
    Outbound::new(config).unwrap()
}

fn own() -> OutboundConfig {
    OutboundConfig {
        reach: Reach::with_loopback(),
        ..OutboundConfig::default()
    }
}

fn get(url: &str) -> Request {
    Request {
        method: Method::GET,
        target: Target::parse(url).unwrap(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
    }
}

/// A server that answers every request head with the same bytes; counts its connections.
async fn server(answer: impl Into<Bytes>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/path?q", listener.local_addr().unwrap());
    let (answer, connections) = (answer.into(), Arc::new(AtomicUsize::new(0)));
    let counted = connections.clone();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let answer = answer.clone();
            tokio::spawn(async move {
                while head(&mut tcp).await.is_some() {
                    if tcp.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (url, connections)
}

/// The head of the next request.
async fn head(tcp: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

async fn ask(client: &Outbound, url: &str) -> Result<Response, OutboundError> {
    client.send(get(url), LIMITS).await
}

#[tokio::test]
async fn one_connection_serves_one_request_after_the_other() {
    let (url, connections) = server("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let client = client(own());
    for _ in 0..5 {
        let response = ask(&client, &url).await.unwrap();
        assert_eq!(
            (response.status.as_u16(), &response.body[..]),
            (200, &b"ok"[..])
        );
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_request_says_what_it_was_given_and_where_it_goes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let head = head(&mut tcp).await.unwrap();
        let mut body = [0; 4];
        tcp.read_exact(&mut body).await.unwrap();
        tcp.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .await
            .unwrap();
        (head, body)
    });
    let mut request = get(&format!("http://{address}/a/b?c=d"));
    request.method = Method::POST;
    request
        .headers
        .insert("x-own", HeaderValue::from_static("1"));
    request.body = Bytes::from_static(b"body");
    let response = client(own()).send(request, LIMITS).await.unwrap();
    assert_eq!(response.status, 204);
    let (head, body) = asked.await.unwrap();
    assert!(head.starts_with("POST /a/b?c=d HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: {address}\r\n")), "{head}");
    assert!(head.contains("x-own: 1\r\n"), "{head}");
    assert!(head.contains("content-length: 4\r\n"), "{head}");
    assert_eq!(&body, b"body");
}

#[tokio::test]
async fn addresses_of_this_machine_and_of_private_networks_are_not_reached() {
    let (url, connections) = server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let client = client(OutboundConfig::default());
    let by_name = url.replace("127.0.0.1", "localhost");
    let mapped = url.replace("127.0.0.1", "[::ffff:127.0.0.1]");
    let metadata = "https://169.254.169.254/latest/meta-data".to_owned();
    for url in [url, by_name, mapped, metadata] {
        let error = ask(&client, &url).await.unwrap_err();
        assert_eq!(error.name(), "forbidden", "{url}: {error}");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn redirects_are_answers_and_are_not_followed() {
    let (inside, reached) = server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let answer = format!("HTTP/1.1 302 Found\r\nLocation: {inside}\r\nContent-Length: 0\r\n\r\n");
    let (url, _) = server(answer).await;
    let response = ask(&client(own()), &url).await.unwrap();
    assert_eq!(response.status, 302);
    assert_eq!(reached.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn whoever_hangs_costs_the_deadline_and_no_more() {
    let limits = Limits {
        deadline: Duration::from_millis(200),
        ..LIMITS
    };
    // One says nothing, one stops in its body, one drips it for ever.
    let silent = server("").await.0;
    let half = server("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        .await
        .0;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dripping = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let begin = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n";
        tcp.write_all(begin).await.unwrap();
        while tcp.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let client = client(own());
    for url in [silent, half, dripping] {
        let error = client.send(get(&url), limits).await.unwrap_err();
        assert_eq!(error.name(), "timeout", "{url}: {error}");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_or_no_answer_is_refused() {
    let large = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 1025\r\n\r\n{}",
        "x".repeat(1025)
    );
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n401\r\n{}\r\n0\r\n\r\n",
        "x".repeat(1025)
    );
    let head = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    let lines = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(200));
    let client = client(own());
    for (answer, want) in [
        (large, "too_large"),
        (chunked, "too_large"),
        (head, "broken"),
        (lines, "broken"),
        ("SSH-2.0-OpenSSH\r\n\r\n".to_owned(), "broken"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: a\r\n\r\n".to_owned(),
            "broken",
        ),
    ] {
        let (url, _) = server(answer).await;
        let error = ask(&client, &url).await.unwrap_err();
        assert_eq!(error.name(), want, "{error}");
    }
}

#[tokio::test]
async fn a_closed_port_and_a_name_that_is_none_say_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = format!("http://{}/secret-path", listener.local_addr().unwrap());
    drop(listener);
    let client = client(own());
    let error = ask(&client, &closed).await.unwrap_err();
    assert_eq!(error.name(), "connect", "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    let error = ask(&client, "https://no-such-host.invalid/")
        .await
        .unwrap_err();
    assert!(matches!(error.name(), "unresolved" | "timeout"), "{error}");
}

#[tokio::test]
async fn requests_to_one_host_are_bounded() {
    let (url, _) = server("").await;
    let client = Arc::new(client(OutboundConfig {
        per_host_max: 2,
        ..own()
    }));
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let (client, url) = (client.clone(), url.clone());
            tokio::spawn(async move { ask(&client, &url).await })
        })
        .collect();
    tokio::task::yield_now().await;
    let error = ask(&client, &url).await.unwrap_err();
    assert_eq!(error.name(), "busy", "{error}");
    waiting.iter().for_each(|w| w.abort());
    for aborted in waiting {
        assert!(aborted.await.is_err());
    }
    // Their places are free again.
    let (url, _) = server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert!(ask(&client, &url).await.is_ok());
}

#[tokio::test]
async fn tls_is_checked_against_the_authorities() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(tcp).await else {
                    return;
                };
                let mut head = [0; 1024];
                let _ = stream.read(&mut head).await;
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret";
                let _ = stream.write_all(answer).await;
                let _ = stream.flush().await;
                let _ = stream.read(&mut head).await;
            });
        }
    });
    let url = format!("https://localhost:{port}/");
    let error = ask(&client(own()), &url).await.unwrap_err();
    assert_eq!(error.name(), "connect", "{error}");
    let trusting = client(OutboundConfig {
        authorities: vec![certificate],
        ..own()
    });
    assert_eq!(&ask(&trusting, &url).await.unwrap().body[..], b"secret");
    let other_name = format!("https://127.0.0.1:{port}/");
    let error = ask(&trusting, &other_name).await.unwrap_err();
    assert_eq!(error.name(), "connect", "{error}");
}
