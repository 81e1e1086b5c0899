//! Who may connect.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::client::{Client, http, open};
use crate::world::{World, config};

async fn try_connect(world: &World, connect: Value) -> Result<Value, (u16, String)> {
    let mut client = Client::open(world.address).await;
    client.send(&json!({"id": 1, "connect": connect})).await;
    match client.event().await {
        Ok(reply) => Ok(reply),
        Err(Some(close)) => Err((close.code.into(), close.reason.to_string())),
        Err(None) => panic!("no close frame"),
    }
}

#[tokio::test]
async fn good_bad_expired_foreign_and_none() {
    let world = World::start(config());
    let good = world.token("alice");
    let reply = try_connect(&world, json!({"token": good})).await.unwrap();
    assert_eq!(reply["id"], 1);
    assert!(reply["connect"]["client"].as_str().unwrap().len() == 36);
    assert_eq!(reply["connect"]["expires"], true);

    let expired = world.token_of("demo", "alice", -1);
    let reply = try_connect(&world, json!({"token": expired}))
        .await
        .unwrap();
    assert_eq!(reply["error"]["code"], 109);

    let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
    let none = format!(
        "{}.{}.",
        part(r#"{"alg":"none"}"#),
        part(r#"{"sub":"root"}"#)
    );
    // Says that it is of demo, but acme's key signed it.
    let acme = world.token_of("acme", "alice", 60);
    let (_, rest) = acme.split_once('.').unwrap();
    let foreign = format!("{}.{rest}", part(r#"{"alg":"HS256","kid":"demo.k1"}"#));
    for token in [none, foreign, "garbage".to_owned(), good.replace('.', "")] {
        let (code, reason) = try_connect(&world, json!({"token": token}))
            .await
            .unwrap_err();
        assert_eq!(code, 3500, "{token}");
        assert_eq!(reason, "invalid token");
    }
    // Operators see which is which.
    for (reason, want) in [
        ("expired", 1.0),
        ("algorithm", 1.0),
        ("signature", 1.0),
        ("malformed", 2.0),
    ] {
        let name = format!("gb6_edge_tokens_refused_total{{reason=\"{reason}\"}}");
        assert_eq!(world.metric(&name), want, "{name}");
    }
    let mut bob = Client::connect(world.address, &world.token("bob")).await;
    bob.send(&json!({"id": 2, "refresh": {"token": good}}))
        .await;
    assert_eq!(bob.closed().await.0, 3500);
    let foreign = "gb6_edge_tokens_refused_total{reason=\"foreign\"}";
    assert_eq!(world.metric(foreign), 1.0);
    assert_eq!(world.metric("gb6_edge_errors_total{code=\"109\"}"), 1.0);
    let (code, reason) = try_connect(&world, json!({})).await.unwrap_err();
    assert_eq!((code, reason.as_str()), (3501, "bad request"));
}

#[tokio::test]
async fn a_token_names_its_instance_and_instances_do_not_mix() {
    let world = World::start(config());
    let mut demo = Client::connect(world.address, &world.token("alice")).await;
    let mut acme = Client::connect(world.address, &world.token_of("acme", "alice", 60)).await;
    for client in [&mut demo, &mut acme] {
        let reply = client
            .call(json!({"id": 2, "subscribe": {"channel": "room:1"}}))
            .await;
        assert!(reply["subscribe"].is_object(), "{reply}");
    }
    let reply = acme
        .call(json!({"id": 3, "publish": {"channel": "room:1", "data": {"from": "acme"}}}))
        .await;
    assert!(reply["publish"].is_object(), "{reply}");
    let reply = demo
        .call(json!({"id": 3, "publish": {"channel": "room:1", "data": {"from": "demo"}}}))
        .await;
    assert!(reply["publish"].is_object(), "{reply}");
    // The only thing that demo has seen is its own.
    let reply = demo
        .call(json!({"id": 4, "history": {"channel": "room:1", "limit": 10}}))
        .await;
    let seen = reply["history"]["publications"].as_array().unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0]["data"], json!({"from": "demo"}));
}

#[tokio::test]
async fn a_listed_origin_holds_only_for_its_instance() {
    let world = World::start(config());
    for (instance, allowed) in [("acme", true), ("demo", false)] {
        let origin = [("Origin", "https://app.acme.example")];
        let mut client = Client::open(world.address).await;
        client.ws = open(world.address, "", &origin).await.unwrap();
        let token = world.token_of(instance, "alice", 60);
        client
            .send(&json!({"id": 1, "connect": {"token": token}}))
            .await;
        match client.event().await {
            Ok(reply) => assert!(allowed && reply["connect"].is_object(), "{reply}"),
            Err(close) => {
                assert!(!allowed);
                assert_eq!(u16::from(close.unwrap().code), 3507);
            }
        }
    }
}

fn ask(host: &str, extra: &str, body: &str) -> String {
    format!(
        "POST /dev/token HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{extra}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn dev_tokens() {
    let mut settings = config();
    settings.dev_tokens = true;
    let world = World::start(settings);
    let own = world.address.to_string();
    let (status, head, body) = http(world.address, &ask(&own, "", r#"{"name":" Zoë "}"#)).await;
    assert_eq!(status, 200, "{body}");
    assert!(head.contains("cache-control: no-store"), "{head}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["user"], "Zoë");
    assert_eq!(answer["instance"], "demo");
    assert_eq!(answer["channels"], json!(["room:*"]));
    let token = answer["token"].as_str().unwrap();
    Client::connect(world.address, token).await;

    let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(65));
    let huge = format!(r#"{{"name":"{}"}}"#, "x".repeat(5000));
    for (host, extra, body, want) in [
        (own.as_str(), "", r#"{"name":""}"#, 400),
        (&own, "", r#"{"name":"a\u0000"}"#, 400),
        (&own, "", r#"{"user":"a"}"#, 400),
        (&own, "", "nonsense", 400),
        (&own, "", &long, 400),
        (&own, "", &huge, 413),
        // DNS rebinding: a name of somebody else's that leads here.
        ("evil.example:8080", "", r#"{"name":"a"}"#, 403),
        (
            &own,
            "Origin: https://evil.example\r\n",
            r#"{"name":"a"}"#,
            403,
        ),
        (&own, "Origin: null\r\n", r#"{"name":"a"}"#, 403),
        (
            "localhost:80",
            "Origin: http://localhost:80\r\n",
            r#"{"name":"a"}"#,
            200,
        ),
    ] {
        let (status, _, answer) = http(world.address, &ask(host, extra, body)).await;
        assert_eq!(status, want, "{host} {extra} {answer}");
    }

    let world = World::start(config());
    let request = ask(&world.address.to_string(), "", r#"{"name":"a"}"#);
    assert_eq!(http(world.address, &request).await.0, 404);
    let mut public = config();
    public.dev_tokens = true;
    public.http = "0.0.0.0:0".parse().unwrap();
    let error = World::try_start(public).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("dev_tokens"), "{error}");
}
