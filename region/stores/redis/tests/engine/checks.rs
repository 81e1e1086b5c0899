//! `check` against servers that are as they should be and ones that are not.

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::{Check, Temporary, TemporaryKey};
use gb6_region_stores_redis::{Config, Purpose, RedisTemporary, check};

use crate::cluster::Cluster;
use crate::contract::with;
use crate::server::{Server, given, region, runtime, until};

const ALL: [Purpose; 4] = [
    Purpose::Signals,
    Purpose::Limits,
    Purpose::People,
    Purpose::Temporary,
];

fn look(config: &Config) -> Vec<Check> {
    check(config, &region(), &ALL, runtime().handle())
}

/// What is wrong.
fn wrong(config: &Config) -> Vec<String> {
    let bad = |check: Check| {
        check
            .found
            .err()
            .map(|advice| format!("{}: {advice}", check.what))
    };
    look(config).into_iter().filter_map(bad).collect()
}

#[test]
fn a_good_server_and_a_good_cluster_are_good() {
    let config = with(&given(), "");
    assert_eq!(wrong(&config), Vec::<String>::new());
    assert!(look(&config).len() == 9);
    let cluster = Cluster::start();
    let config = cluster.config("");
    assert_eq!(wrong(&config), Vec::<String>::new());
    // Each master is looked at.
    assert!(look(&config).len() == 15);
}

#[test]
fn a_server_that_is_not_there_or_has_another_password_is_told() {
    let server = Server::start(&["--requirepass", "hunter2"]);
    let at = |login: &str, port: u16| {
        let uri = format!("redis://{login}127.0.0.1:{port}");
        wrong(&Config::parse(&uri).expect("a URI"))
    };
    for login in ["", ":wrong-one@"] {
        let wrong = at(login, server.port);
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(wrong[0].contains("right user and password"), "{wrong:?}");
        assert!(!wrong[0].contains("wrong-one"), "{wrong:?}");
    }
    assert_eq!(at(":hunter2@", server.port), Vec::<String>::new());
    let nobody = at("", crate::server::free_port());
    assert!(nobody[0].contains("see that it runs"), "{nobody:?}");
}

#[test]
fn a_silent_server_takes_the_time_of_a_connection_and_no_more() {
    let server = Server::start(&[]);
    server.pause();
    let began = std::time::Instant::now();
    let wrong = wrong(&server.config("connect_timeout_ms=300"));
    server.resume();
    assert!(wrong[0].contains("connection"), "{wrong:?}");
    assert!(began.elapsed().as_secs() < 5);
}

/// The rules of the user that docs/operations.md makes.
fn documented() -> Vec<String> {
    let docs = include_str!("../../../../../docs/operations.md");
    let (_, rest) = docs.split_once("ACL SETUSER gb6 on >… ").expect("the user");
    let (rules, _) = rest.split_once("```").expect("its end");
    rules.split_whitespace().map(str::to_owned).collect()
}

fn set_user(server: &Server, rules: &[String]) {
    let mut args = vec!["acl", "setuser", "ann", "reset", "on", ">pw"];
    args.extend(rules.iter().map(String::as_str));
    assert_eq!(server.command(&args).trim(), "OK");
}

#[test]
fn the_documented_user_is_enough_on_a_cluster() {
    let cluster = Cluster::start();
    for server in &cluster.servers {
        set_user(server, &documented());
    }
    let uri = cluster.uri().replace("://", "://ann:pw@");
    let config = with(&uri, "");
    assert_eq!(wrong(&config), Vec::<String>::new());

    // Also while a slot is moved: what its master has no more, it says that the next one has.
    let (runtime, region) = (runtime(), region());
    let values = RedisTemporary::open(&config, &region, runtime.handle(), &Metrics::bare());
    until("values are connected", || values.is_connected());
    let key = TemporaryKey {
        instance: "demo".into(),
        name: "draft:ann".to_owned(),
    };
    let put = |value: &[u8]| {
        let value = [(key.clone(), value.to_vec())];
        values.put(&value, std::time::Duration::from_secs(60))
    };
    put(b"1").expect("it is kept");
    let found = |server: &Server| {
        let names = server.command(&["--scan", "--pattern", "*draft:ann"]);
        names.lines().next().map(str::to_owned)
    };
    let (owner, name) = (0..3)
        .find_map(|n| Some((n, found(&cluster.servers[n])?)))
        .expect("a master has it");
    let (from, to) = (&cluster.servers[owner], &cluster.servers[(owner + 1) % 3]);
    let id = |server: &Server| server.command(&["cluster", "myid"]).trim().to_owned();
    let slot = from.command(&["cluster", "keyslot", &name]);
    let slot = slot.trim();
    from.command(&["del", &name]);
    for (server, state, other) in [(to, "importing", from), (from, "migrating", to)] {
        let said = server.command(&["cluster", "setslot", slot, state, &id(other)]);
        assert_eq!(said.trim(), "OK");
    }
    put(b"2").expect("it is kept where the slot goes");
    assert_eq!(found(from), None);
    assert_eq!(found(to), Some(name));
    let read = values.get(std::slice::from_ref(&key)).expect("it is read");
    assert_eq!(read, [Some(b"2".to_vec())]);
}

#[test]
fn missing_permissions_and_an_unfit_policy_are_told() {
    let server = Server::start(&["--maxmemory-policy", "allkeys-lru"]);
    let found = wrong(&server.config(""));
    assert!(
        found.len() == 1 && found[0].contains("allkeys-lru"),
        "{found:?}"
    );
    server.command(&["config", "set", "maxmemory-policy", "noeviction"]);
    let allow = |rules: &[String]| {
        set_user(&server, rules);
        let uri = format!("redis://ann:pw@127.0.0.1:{}", server.port);
        wrong(&Config::parse(&uri).expect("a URI"))
    };
    // What the documentation asks for is enough, in another database too.
    let enough = documented();
    assert_eq!(allow(&enough), Vec::<String>::new());
    let uri = format!("redis://ann:pw@127.0.0.1:{}/1", server.port);
    let second = Config::parse(&uri).expect("a URI");
    assert_eq!(wrong(&second), Vec::<String>::new());
    let without = |rule: &str| {
        let rules = enough
            .iter()
            .filter(|r| *r != rule)
            .cloned()
            .collect::<Vec<_>>();
        allow(&rules)
    };
    for (rule, wanted) in [
        ("+publish", "sending to other nodes"),
        ("+subscribe", "following other nodes"),
        ("+hset", "shares of limits"),
        ("+pexpire", "people's statuses"),
        ("+get", "temporary values"),
        ("~gb6:*", "shares of limits"),
        ("&gb6:*", "other nodes"),
        ("+info", "allow +info"),
    ] {
        let found = without(rule);
        assert!(
            found.iter().any(|found| found.contains(wanted)),
            "{rule}: {found:?}"
        );
    }
}

#[test]
fn a_cluster_and_a_server_are_not_taken_for_each_other() {
    let server = Server::start(&[]);
    let uri = format!("redis+cluster://127.0.0.1:{}", server.port);
    let found = wrong(&Config::parse(&uri).expect("a URI"));
    assert!(found[0].contains("that it is a cluster"), "{found:?}");
    let cluster = Cluster::start();
    let found = wrong(&cluster.servers[0].config(""));
    assert!(
        found.iter().any(|found| found.contains("redis+cluster")),
        "{found:?}"
    );
}
