//! Key sets that are fetched from a real server that works, rotates, fails and lies.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gb6_core_model::snapshot::{KeyAlgorithm, Snapshot};
use gb6_core_outbound::Reach;
use gb6_edge_node::auth::{SigningKey, sign_claims};
use gb6_edge_node::{EdgeConfig, KeySetTiming};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::client::{Client, PATIENCE, open};
use crate::world::{World, config, eventually, room, snapshot, unix_s};

const P256: &str = include_str!("../keys/p256.pem");
const P384: &str = include_str!("../keys/p384.pem");
const JWK_P256: &str = r#"{"kty":"EC","crv":"P-256","kid":"k1","x":"4IpR5sVrLFUtz2v-wAMnLdWZK0Ex2ee-80BhBE-BYqY","y":"dR0XNbuKvKnJpCppB4yd9JaCF1-lRWfL5unNmWicP74"}"#;
const JWK_P384: &str = r#"{"kty":"EC","crv":"P-384","kid":"k2","x":"wcaAT0W0PtIldx00-g9ssSpNCGDmZKrc42nJC9ZUUDAPYvZhy9AaDkD4TO_GnKf4","y":"xg-_7NYcB5YYbH9Ylnb-bvDT-BYdItN7ifp59Yg3Jdb7bB0DtSPz3u9sXVAupXja"}"#;

/// What the server of a set does.
#[derive(Clone)]
enum Answers {
    Set(String),
    Head(&'static str, String),
    /// Takes requests and says nothing.
    Hangs,
    /// A byte now and then, without end.
    Drips,
    /// Closes what it accepts.
    Down,
}

/// A server of a key set.
struct Server {
    address: SocketAddr,
    answers: Arc<Mutex<Answers>>,
    asked: Arc<AtomicUsize>,
}

impl Server {
    async fn start(answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            answers: Arc::new(Mutex::new(answers)),
            asked: Arc::default(),
        };
        let (answers, asked) = (server.answers.clone(), server.asked.clone());
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(tcp, answers.clone(), asked.clone()));
            }
        });
        server
    }

    fn answer(&self, answers: Answers) {
        *self.answers.lock() = answers;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn url(&self) -> String {
        format!("http://{}/jwks?secret=hunter2", self.address)
    }
}

async fn serve(mut tcp: TcpStream, answers: Arc<Mutex<Answers>>, asked: Arc<AtomicUsize>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match tcp.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        assert!(head.starts_with(b"GET /jwks?secret=hunter2 HTTP/1.1\r\n"));
        asked.fetch_add(1, Ordering::SeqCst);
        let now = answers.lock().clone();
        let text = match now {
            Answers::Set(body) => format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nCache-Control: max-age=3600\r\n\r\n{body}",
                body.len()
            ),
            Answers::Head(head, body) => format!(
                "HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ),
            Answers::Hangs => std::future::pending().await,
            Answers::Drips => {
                let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\n\r\n{").await;
                while tcp.write_all(b" ").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                return;
            }
            Answers::Down => return,
        };
        if tcp.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn set(keys: &[&str]) -> Answers {
    Answers::Set(format!("{{\"keys\":[{}]}}", keys.join(",")))
}

/// `demo` without keys of its own, whose set is fetched; `acme` as ever.
fn fetching(url: &str) -> Snapshot {
    let mut snapshot = snapshot();
    let demo = snapshot.instances.get_mut("demo").unwrap();
    demo.keys.clear();
    demo.jwks_url = Some(url.to_owned());
    snapshot
}

fn quick(dir: Option<&Path>) -> EdgeConfig {
    let mut config = config();
    config.data_dir = dir.map(Path::to_path_buf);
    config.outbound.reach = Reach::with_loopback();
    config.key_sets = KeySetTiming {
        deadline: Duration::from_millis(500),
        asked_at_most_every: Duration::from_millis(400),
        patience: Duration::from_millis(2_500),
        ..KeySetTiming::default()
    };
    config
}

fn world(server: &Server, dir: Option<&Path>) -> World {
    World::start_placed(quick(dir), fetching(&server.url())).unwrap()
}

/// A token for `alice` by this key, named `kid`.
fn token(kid: Option<&str>, algorithm: KeyAlgorithm, private: &str) -> String {
    let key = SigningKey::private(kid.map(str::to_owned), algorithm, private).unwrap();
    sign_claims(&key, &json!({"sub": "alice", "exp": unix_s() + 600})).unwrap()
}

fn k1() -> String {
    token(Some("k1"), KeyAlgorithm::ES256, P256)
}

fn k2() -> String {
    token(Some("k2"), KeyAlgorithm::ES384, P384)
}

/// The reply to a connect, or the code of the close.
async fn connect(address: SocketAddr, token: &str) -> Result<Value, u16> {
    let mut client = Client::open(address).await;
    client
        .send(&json!({"id": 1, "connect": {"token": token}}))
        .await;
    match client.event().await {
        Ok(reply) => Ok(reply),
        Err(close) => Err(close.map_or(0, |c| c.code.into())),
    }
}

async fn is_in(address: SocketAddr, token: &str) -> bool {
    connect(address, token)
        .await
        .is_ok_and(|reply| reply["connect"]["client"].is_string())
}

#[tokio::test]
async fn keys_are_fetched_once_and_a_rotated_one_when_it_is_needed() {
    let server = Server::start(set(&[JWK_P256])).await;
    let world = world(&server, None);
    assert!(is_in(world.address, &k1()).await);
    assert!(is_in(world.address, &token(None, KeyAlgorithm::ES256, P256)).await);
    assert_eq!(server.asked(), 1);
    assert_eq!(
        world.metric("gb6_edge_key_set_keys{instance=\"demo\"}"),
        1.0
    );
    assert!(world.metric("gb6_edge_key_set_age_seconds{instance=\"demo\"}") < 60.0);
    // Another key signs from now on. Everybody who brings it waits for the same fetch.
    server.answer(set(&[JWK_P256, JWK_P384]));
    let new = k2();
    let clients = (0..40).map(|_| {
        let (address, new) = (world.address, new.clone());
        tokio::spawn(async move { is_in(address, &new).await })
    });
    for client in clients.collect::<Vec<_>>() {
        assert!(client.await.unwrap());
    }
    assert!(server.asked() <= 3, "{} fetches", server.asked());
    // And one that is taken out of the set lets nobody in any more.
    server.answer(set(&[JWK_P384]));
    let begin = std::time::Instant::now();
    while connect(world.address, &k1()).await != Err(3500) {
        assert!(begin.elapsed() < PATIENCE);
        let unknown = token(Some("k9"), KeyAlgorithm::ES256, P256);
        assert_eq!(
            connect(world.address, &unknown).await,
            Err(3500),
            "fetched anew when that is due, and still nobody's"
        );
    }
    assert!(is_in(world.address, &k2()).await);
}

#[tokio::test]
async fn tokens_with_unknown_keys_cause_few_fetches() {
    let server = Server::start(set(&[JWK_P256])).await;
    let world = world(&server, None);
    assert!(is_in(world.address, &k1()).await);
    let begin = Instant::now();
    let strangers = (0..60).map(|n| {
        let token = token(Some(&format!("guess-{n}")), KeyAlgorithm::ES256, P256);
        let address = world.address;
        tokio::spawn(async move { connect(address, &token).await })
    });
    for stranger in strangers.collect::<Vec<_>>() {
        assert_eq!(stranger.await.unwrap(), Err(3500));
    }
    let most = 2 + begin.elapsed().as_millis() as usize / 400;
    assert!(server.asked() <= 1 + most, "{} fetches", server.asked());
    // Whoever has a known key waits for none of that.
    assert!(is_in(world.address, &k1()).await);
}

#[tokio::test]
async fn an_outage_is_survived_with_the_last_good_keys_over_a_restart_too() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(set(&[JWK_P256])).await;
    let first = world(&server, Some(dir.path()));
    assert!(is_in(first.address, &k1()).await);
    let kept = dir.path().join("key-sets/demo.json");
    eventually("the set on disk", || kept.exists()).await;
    server.answer(Answers::Down);
    // Who brings a known key notices nothing; with another one it is not the token's fault.
    assert!(is_in(first.address, &k1()).await);
    let reply = connect(first.address, &k2()).await.unwrap();
    assert_eq!(reply["error"]["code"], 100);
    assert_eq!(reply["error"]["temporary"], true);
    drop(first);

    let second = world(&server, Some(dir.path()));
    assert!(is_in(second.address, &k1()).await);
    let age = second.metric("gb6_edge_key_set_age_seconds{instance=\"demo\"}");
    assert!(age > 0.0 && age < 60.0, "{age}");
    drop(second);

    // A set of another address is another set, and one that is too old is trusted no more.
    let elsewhere = Server::start(Answers::Down).await;
    let third = world(&elsewhere, Some(dir.path()));
    let reply = connect(third.address, &k1()).await.unwrap();
    assert_eq!(reply["error"]["code"], 100);
    drop(third);
    let old = std::fs::read_to_string(&kept).unwrap();
    let mut old: Value = serde_json::from_str(&old).unwrap();
    old["fetched_unix_ms"] = json!((unix_s() - 8 * 24 * 3600) * 1000);
    std::fs::write(&kept, old.to_string()).unwrap();
    let fourth = world(&server, Some(dir.path()));
    let reply = connect(fourth.address, &k1()).await.unwrap();
    assert_eq!(reply["error"]["code"], 100);
    // It comes back by itself.
    server.answer(set(&[JWK_P256]));
    let begin = Instant::now();
    while !is_in(fourth.address, &k1()).await {
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test]
async fn a_hostile_server_hurts_only_who_needs_it() {
    let server = Server::start(set(&[JWK_P256])).await;
    let world = world(&server, None);
    assert!(is_in(world.address, &k1()).await);
    let elsewhere = Server::start(set(&[JWK_P384])).await;
    let location = format!("302 Found\r\nLocation: {}", elsewhere.url());
    let huge = format!("{{\"keys\":[{}{JWK_P384}]}}", " ".repeat(300 * 1024));
    let many = vec![JWK_P384; 65].join(",");
    for hostile in [
        Answers::Head(location.leak(), String::new()),
        Answers::Head("500 Oh", String::new()),
        Answers::Head("404 No", "{\"keys\":[]}".to_owned()),
        Answers::Set(huge),
        Answers::Set(format!("{{\"keys\":[{many}]}}")),
        Answers::Set("<html>".to_owned()),
        Answers::Set("{\"keys\":[]}".to_owned()),
        Answers::Set(format!(
            "{{\"keys\":{}1{}}}",
            "[".repeat(9000),
            "]".repeat(9000)
        )),
        Answers::Set(r#"{"keys":[{"kty":"oct","kid":"k2","k":"c2VjcmV0"}]}"#.to_owned()),
        Answers::Head("garbage", String::new()),
        Answers::Drips,
        Answers::Hangs,
    ] {
        server.answer(hostile);
        let asked = server.asked();
        let begin = Instant::now();
        let reply = connect(world.address, &k2()).await.unwrap();
        assert_eq!(reply["error"]["code"], 100, "told to come back");
        assert!(begin.elapsed() < Duration::from_secs(3));
        assert!(server.asked() > asked);
        // The last good keys stay, and nobody waits for them.
        let begin = Instant::now();
        assert!(is_in(world.address, &k1()).await);
        assert!(is_in(world.address, &world.token_of("acme", "bob", 60)).await);
        assert!(begin.elapsed() < Duration::from_secs(1));
    }
    assert_eq!(elsewhere.asked(), 0, "redirects are not followed");
    let refused = |result: &str| {
        world.metric(&format!(
            "gb6_edge_key_set_fetches_total{{result=\"{result}\"}}"
        ))
    };
    for result in ["status", "too_large", "no_set", "broken", "timeout"] {
        assert!(refused(result) >= 1.0, "{result}");
    }
}

#[tokio::test]
async fn a_set_on_an_address_that_was_not_opened_is_not_fetched() {
    let server = Server::start(set(&[JWK_P256])).await;
    let mut config = quick(None);
    config.outbound.reach = Reach::default();
    let world = World::start_placed(config, fetching(&server.url())).unwrap();
    let reply = connect(world.address, &k1()).await.unwrap();
    assert_eq!(reply["error"]["code"], 100);
    assert_eq!(server.asked(), 0);
    let name = "gb6_edge_key_set_fetches_total{result=\"forbidden\"}";
    world.metric_reaches(name, 1.0).await;
}

#[tokio::test]
async fn a_set_that_claims_key_ids_of_another_instance_gains_nothing() {
    // The set of demo calls its key as acme calls its own.
    let stolen = JWK_P256.replace("k1", "acme.k1");
    let server = Server::start(set(&[&stolen])).await;
    let world = world(&server, None);
    let token = token(Some("acme.k1"), KeyAlgorithm::ES256, P256);
    let acme = [("Host", "acme.example.org")];
    let mut client = Client::over(open(world.address, "", &acme).await.unwrap());
    let connects = json!({"id": 1, "connect": {"token": token}});
    client.send(&connects).await;
    assert_eq!(client.closed().await.0, 3500);
    // At home it is an id like any other, and its token is one of demo.
    let mut client = Client::connect(world.address, &token).await;
    let history = json!({"id": 2, "history": {"channel": "room:1", "limit": 1}});
    world.owner.append(&room("room:1"), b"\"of demo\"".to_vec());
    let reply = client.call(history).await;
    assert_eq!(reply["history"]["publications"][0]["data"], "of demo");
    // And a placement that names another set, or none, forgets the keys of the old one.
    let other = Server::start(set(&[JWK_P256])).await;
    world.place(fetching(&other.url()));
    let begin = Instant::now();
    while !is_in(world.address, &k1()).await {
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
    let mut none = fetching(&other.url());
    none.instances.get_mut("demo").unwrap().jwks_url = None;
    world.place(none);
    let begin = Instant::now();
    while connect(world.address, &k1()).await != Err(3500) {
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
}
