//! Geo with a directory: what it takes over, what it bears.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use gb6_core_model::InstanceId;
use gb6_core_model::snapshot::KeyAlgorithm;
use gb6_core_obs::Health;
use gb6_core_ports::Directory;
use gb6_core_ports::directory::{
    Actor, AuditEntry, Change, DirectoryError, Freshness, Instance, Key, KeyPurpose, Kind, OrgId,
    OrgKind, Organization, OutboxCursor, OutboxEntry, Record, Ref, Secret, State, Stored, Usage,
    UsageSum,
};
use gb6_core_ports::memory::MemoryDirectory;

use super::*;

type Answer<T> = Result<T, DirectoryError>;

/// A directory that can be lost, and customers whose keys can not be read.
#[derive(Default)]
struct Engine {
    kept: MemoryDirectory,
    lost: AtomicBool,
    sealed: AtomicBool,
    /// Whether one of its two databases is lost.
    far_lost: AtomicBool,
    /// A customer that can not be read, and why.
    broken: Mutex<Option<(OrgId, DirectoryError)>>,
    /// Pages that were listed.
    lists: AtomicUsize,
}

impl Engine {
    fn there(&self) -> Answer<&MemoryDirectory> {
        match self.lost.load(Ordering::SeqCst) {
            false => Ok(&self.kept),
            true => Err(DirectoryError::Unavailable {
                cause: "db1: connection refused".into(),
            }),
        }
    }
}

impl Directory for Engine {
    fn apply(&self, root: &OrgId, by: &Actor, changes: &[Change]) -> Answer<Vec<u64>> {
        self.kept.apply(root, by, changes)
    }

    fn get(&self, root: &OrgId, what: &Ref, fresh: Freshness) -> Answer<Stored> {
        self.there()?.get(root, what, fresh)
    }

    fn list(
        &self,
        root: &OrgId,
        kind: Kind,
        owner: Option<&str>,
        after: &str,
        limit: usize,
        fresh: Freshness,
    ) -> Answer<Vec<Stored>> {
        self.lists.fetch_add(1, Ordering::SeqCst);
        if let Some((_, error)) = self
            .broken
            .lock()
            .unwrap()
            .as_ref()
            .filter(|(r, _)| r == root)
        {
            return Err(error.clone());
        }
        if kind == Kind::Key && self.sealed.load(Ordering::SeqCst) {
            return Err(DirectoryError::invalid("sealed with another key"));
        }
        // In small pages, so that there are several.
        let limit = limit.min(2);
        self.there()?.list(root, kind, owner, after, limit, fresh)
    }

    fn path(&self, root: &OrgId, org: &OrgId, fresh: Freshness) -> Answer<Vec<OrgId>> {
        self.there()?.path(root, org, fresh)
    }

    fn root_of(&self, instance: &InstanceId) -> Answer<OrgId> {
        self.there()?.root_of(instance)
    }

    fn roots(&self, after: &str, limit: usize) -> Answer<Vec<OrgId>> {
        self.there()?.roots(after, limit.min(2))
    }

    fn databases(&self) -> Vec<String> {
        ["far".to_owned()]
            .into_iter()
            .chain(self.kept.databases())
            .collect()
    }

    fn outbox_of(&self, database: &str, after: u64, limit: usize) -> Answer<Vec<OutboxEntry>> {
        let kept = self.there()?;
        match database {
            // Another database, in which nothing changes.
            "far" if self.far_lost.load(Ordering::SeqCst) => Err(DirectoryError::Unavailable {
                cause: "far: connection refused".into(),
            }),
            "far" => Ok(Vec::new()),
            _ => kept.outbox_of(database, after, limit.min(2)),
        }
    }

    fn trim_outbox(&self, upto: &OutboxCursor) -> Answer<bool> {
        self.there()?.trim_outbox(upto)
    }

    fn audit(
        &self,
        root: &OrgId,
        org: &OrgId,
        after: u64,
        limit: usize,
        fresh: Freshness,
    ) -> Answer<Vec<AuditEntry>> {
        self.there()?.audit(root, org, after, limit, fresh)
    }

    fn audit_head(
        &self,
        root: &OrgId,
        org: &OrgId,
        fresh: Freshness,
    ) -> Answer<Option<(u64, [u8; 32])>> {
        self.there()?.audit_head(root, org, fresh)
    }

    fn record_usage(&self, root: &OrgId, facts: &[Usage]) -> Answer<u64> {
        self.there()?.record_usage(root, facts)
    }

    fn usage(
        &self,
        root: &OrgId,
        instance: &InstanceId,
        dimension: &str,
        time_ms: std::ops::Range<u64>,
        fresh: Freshness,
    ) -> Answer<UsageSum> {
        self.there()?
            .usage(root, instance, dimension, time_ms, fresh)
    }
}

fn org_id(n: u64) -> OrgId {
    OrgId::parse(&format!("org_{n:026}")).unwrap()
}

fn organization(n: u64, parent: Option<u64>, state: State) -> Record {
    Record::Organization(Organization {
        id: org_id(n),
        parent: parent.map(org_id),
        slug: format!("org-{n}"),
        name: format!("Organization {n}"),
        kind: match parent {
            Some(_) => OrgKind::Unit,
            None => OrgKind::Root,
        },
        state,
        settings: "{}".into(),
    })
}

fn instance(id: &str, org: u64, state: State, settings: &str) -> Record {
    Record::Instance(Instance {
        id: id.into(),
        org: org_id(org),
        region: "eu".into(),
        residency: String::new(),
        state,
        settings: settings.into(),
    })
}

fn key(instance: &str, id: &str, state: State) -> Record {
    Record::Key(Key {
        instance: instance.into(),
        id: id.into(),
        purpose: KeyPurpose::Client,
        algorithm: KeyAlgorithm::HS256,
        public_key: None,
        secret: Some(Secret(SECRET.into())),
        state,
    })
}

/// A mesh whose instances come from a directory too.
struct Customers {
    world: World,
    engine: Arc<Engine>,
    health: Health,
}

impl Customers {
    /// One customer with the instance acme, and a part of it that has shop.
    fn new() -> Self {
        let customers = Self {
            world: World::new(),
            engine: Arc::default(),
            health: Health::new(),
        };
        customers.apply(
            1,
            &[
                Change::Create(organization(1, None, State::Active)),
                Change::Create(organization(2, Some(1), State::Active)),
                Change::Create(instance("acme", 1, State::Active, "{}")),
                Change::Create(instance("shop", 2, State::Active, "{}")),
                Change::Create(key("acme", "acme.1", State::Active)),
                Change::Create(key("acme", "acme.2", State::Active)),
                Change::Create(key("shop", "shop.1", State::Active)),
            ],
        );
        customers
    }

    fn apply(&self, root: u64, changes: &[Change]) {
        let by = Actor {
            name: "tester".into(),
            at_ms: 1_800_000_000_000,
            detail: String::new(),
        };
        self.engine.apply(&org_id(root), &by, changes).unwrap();
    }

    fn break_one(&self, broken: Option<(u64, DirectoryError)>) {
        let broken = broken.map(|(root, error)| (org_id(root), error));
        *self.engine.broken.lock().unwrap() = broken;
    }

    fn lose(&self, lost: bool) {
        self.engine.lost.store(lost, Ordering::SeqCst);
    }

    /// A life of geo, with a health of its own.
    async fn geo(&mut self) -> Result<Geo, GeoError> {
        self.health = Health::new();
        let engine = Arc::clone(&self.engine);
        let open = move || {
            engine.there()?;
            Ok(Arc::clone(&engine) as Arc<dyn Directory>)
        };
        let config = GeoConfig {
            snapshot: self.world.path("snapshot.toml"),
            data_dir: self.world.path("g1"),
            poll: Duration::from_millis(20),
        };
        let endpoint = self.world.bind("g1", Role::Geo).await;
        let open = Box::new(open);
        Geo::start(
            config,
            Some(open),
            endpoint,
            &self.world.metrics,
            &self.health,
        )
        .await
    }

    /// What is in force, as geo keeps it.
    fn kept(&self) -> Snapshot {
        self.world.store("g1").load().unwrap().unwrap()
    }

    async fn until(&self, what: &str, is: impl Fn(&Snapshot) -> bool) -> Snapshot {
        soon(what, async {
            loop {
                let kept = self.kept();
                if is(&kept) {
                    return kept;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }

    async fn metric(&self, line: &str) {
        soon(line, async {
            while !self.world.metrics.text().lines().any(|l| l == line) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

fn names(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.instances.keys().map(InstanceId::as_str).collect()
}

fn keys<'a>(snapshot: &'a Snapshot, instance: &str) -> Vec<&'a str> {
    let keys = &snapshot.instances[instance].keys;
    keys.iter().map(|key| key.id.as_str()).collect()
}

#[tokio::test]
async fn instances_and_keys_of_the_directory_are_served_and_followed() {
    let mut customers = Customers::new();
    let _geo = customers.geo().await.unwrap();
    let edge = customers.world.follower("e1", Role::Edge).await;
    let mut at_edge = soon("the first snapshot", edge.ready()).await;
    let first = revision(&mut at_edge, 1).await;
    assert_eq!(names(&first), ["acme", "demo", "shop"]);
    assert_eq!(keys(&first, "acme"), ["acme.1", "acme.2"]);
    assert_eq!(first.instances["acme"].keys[0].secret, SECRET);

    // A key is revoked: nobody else is read again.
    let lists = customers.engine.lists.load(Ordering::SeqCst);
    customers.apply(1, &[Change::Delete(Ref::new(Kind::Key, "acme/acme.1"), 1)]);
    let began = Instant::now();
    let second = revision(&mut at_edge, 2).await;
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(keys(&second, "acme"), ["acme.2"]);
    let read = customers.engine.lists.load(Ordering::SeqCst) - lists;
    assert!((3..=12).contains(&read), "{read} pages");

    let suspended = Change::Update(key("acme", "acme.2", State::Suspended), 1);
    customers.apply(1, &[suspended]);
    assert!(keys(&*revision(&mut at_edge, 3).await, "acme").is_empty());

    // Settings, another customer, a suspended instance.
    let settings = instance("acme", 1, State::Active, "{\"subscriptions_max\":5}");
    customers.apply(1, &[Change::Update(settings, 1)]);
    let fourth = revision(&mut at_edge, 4).await;
    assert_eq!(fourth.instances["acme"].subscriptions_max, 5);
    customers.apply(
        9,
        &[
            Change::Create(organization(9, None, State::Active)),
            Change::Create(instance("other", 9, State::Active, "{}")),
        ],
    );
    let fifth = revision(&mut at_edge, 5).await;
    assert_eq!(names(&fifth), ["acme", "demo", "other", "shop"]);
    let suspended = instance("acme", 1, State::Suspended, "{}");
    customers.apply(1, &[Change::Update(suspended, 2)]);
    let sixth = revision(&mut at_edge, 6).await;
    assert_eq!(names(&sixth), ["demo", "other", "shop"]);

    // What is below a suspended organization is suspended too.
    let suspended = organization(1, None, State::Suspended);
    customers.apply(1, &[Change::Update(suspended, 1)]);
    assert_eq!(names(&*revision(&mut at_edge, 7).await), ["demo", "other"]);
    let resumed = organization(1, None, State::Active);
    customers.apply(1, &[Change::Update(resumed, 2)]);
    let eighth = revision(&mut at_edge, 8).await;
    assert_eq!(names(&eighth), ["demo", "other", "shop"]);

    // The file's own changes are taken over beside.
    customers.world.write(&limited(7));
    let ninth = revision(&mut at_edge, 9).await;
    assert_eq!(ninth.instances["demo"].subscriptions_max, 7);
    assert_eq!(names(&ninth), ["demo", "other", "shop"]);
    customers.metric("gb6_geo_directory_up 1").await;
}

#[tokio::test]
async fn a_lost_directory_leaves_what_was_read_in_force() {
    let mut customers = Customers::new();
    let geo = customers.geo().await.unwrap();
    assert_eq!(customers.health.now().readyz().body, "{\"ready\":true}");
    customers.lose(true);
    customers.metric("gb6_geo_directory_up 0").await;
    let health = customers.health.now().readyz();
    assert_eq!(health.status, 200);
    assert!(
        health
            .body
            .contains("\"notes\":{\"directory\":\"it can not be read"),
        "{}",
        health.body
    );
    // The file is still taken over, and the instances are those that were read.
    customers.world.write(&limited(8));
    let of_file = |kept: &Snapshot| kept.instances["demo"].subscriptions_max == 8;
    let kept = customers.until("the change of the file", of_file).await;
    assert_eq!(names(&kept), ["acme", "demo", "shop"]);

    // Geo starts without it, by what it kept; it takes over what has changed when it is back.
    drop(geo);
    let geo = customers.geo().await.unwrap();
    assert_eq!(geo.revision(), 2);
    assert!(geo.file_is_good());
    let gone = Change::Delete(Ref::new(Kind::Key, "acme/acme.1"), 1);
    customers.apply(1, &[gone]);
    customers.world.write(&limited(9));
    customers.lose(false);
    let kept = customers
        .until("the revoked key", |kept| keys(kept, "acme") == ["acme.2"])
        .await;
    assert_eq!(names(&kept), ["acme", "demo", "shop"]);
    customers
        .until("the file", |kept| {
            kept.instances["demo"].subscriptions_max == 9
        })
        .await;
    customers.metric("gb6_geo_directory_up 1").await;
    assert_eq!(customers.health.now().readyz().body, "{\"ready\":true}");
    drop(geo);

    // Without anything kept there is nothing to go by.
    customers.lose(true);
    fs::remove_dir_all(customers.world.path("g1")).unwrap();
    let error = customers.geo().await.unwrap_err().to_string();
    assert!(
        error.contains("the directory can not be read") && error.contains("db1"),
        "{error}"
    );
}

#[tokio::test]
async fn keys_are_revoked_while_the_file_has_a_mistake() {
    let mut customers = Customers::new();
    let geo = customers.geo().await.unwrap();
    customers.world.write("[instances.demo]\nregoin = \"eu\"\n");
    customers.metric("gb6_geo_snapshot_file_good 0").await;
    let gone = Change::Delete(Ref::new(Kind::Key, "acme/acme.1"), 1);
    customers.apply(1, &[gone]);
    customers
        .until("the revoked key", |kept| keys(kept, "acme") == ["acme.2"])
        .await;
    assert!(!geo.file_is_good());
    customers.world.write(EXAMPLE);
    customers.metric("gb6_geo_snapshot_file_good 1").await;
    assert!(geo.file_is_good());
}

#[tokio::test]
async fn an_instance_in_both_places_changes_nothing_until_it_is_mended() {
    let mut customers = Customers::new();
    let geo = customers.geo().await.unwrap();
    customers.apply(
        1,
        &[Change::Create(instance("demo", 1, State::Active, "{}"))],
    );
    customers.metric("gb6_geo_snapshot_file_good 0").await;
    customers.metric("gb6_geo_snapshot_refused_total 1").await;
    assert_eq!(geo.revision(), 1);
    let acme = instance("acme", 1, State::Active, "{\"subscriptions_max\":5}");
    customers.apply(
        1,
        &[
            Change::Update(acme, 1),
            Change::Delete(Ref::new(Kind::Instance, "demo"), 1),
        ],
    );
    let kept = customers
        .until("the change", |kept| kept.revision == 2)
        .await;
    assert_eq!(kept.instances["acme"].subscriptions_max, 5);
    customers.metric("gb6_geo_snapshot_file_good 1").await;
    // Geo starts with it, and is well when the directory alone is mended.
    customers.apply(
        1,
        &[Change::Create(instance("demo", 1, State::Active, "{}"))],
    );
    customers.metric("gb6_geo_snapshot_file_good 0").await;
    drop(geo);
    let geo = customers.geo().await.unwrap();
    assert!(!geo.file_is_good());
    customers.apply(1, &[Change::Delete(Ref::new(Kind::Instance, "demo"), 1)]);
    customers.metric("gb6_geo_snapshot_file_good 1").await;
}

#[tokio::test]
async fn a_mistake_of_one_customer_is_told_and_costs_nobody_else_anything() {
    let mut customers = Customers::new();
    let _geo = customers.geo().await.unwrap();
    let wrong = instance("acme", 1, State::Active, "{\"subscriptions_max\":0}");
    let shop = instance("shop", 2, State::Active, "{\"subscriptions_max\":5}");
    customers.apply(1, &[Change::Update(wrong, 1), Change::Update(shop, 1)]);
    let kept = customers
        .until("the good one", |kept| kept.revision == 2)
        .await;
    assert_eq!(kept.instances["shop"].subscriptions_max, 5);
    assert_ne!(kept.instances["acme"].subscriptions_max, 0);
    customers.metric("gb6_geo_directory_mistakes 1").await;
    soon("the note", async {
        while !customers
            .health
            .now()
            .readyz()
            .body
            .contains("1 mistakes in instances")
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Keys that can not be opened leave those that are in force.
    customers.engine.sealed.store(true, Ordering::SeqCst);
    let other = instance("acme", 1, State::Active, "{\"subscriptions_max\":6}");
    customers.apply(1, &[Change::Update(other, 2)]);
    customers.metric("gb6_geo_directory_mistakes 2").await;
    assert_eq!(keys(&customers.kept(), "acme"), ["acme.1", "acme.2"]);
    customers.engine.sealed.store(false, Ordering::SeqCst);
    // It is read again when geo is told to.
    _geo.reload();
    customers.metric("gb6_geo_directory_mistakes 0").await;
    let kept = customers.until("its settings", |kept| {
        kept.instances["acme"].subscriptions_max == 6
    });
    kept.await;
}

#[tokio::test]
async fn an_outbox_that_others_have_trimmed_is_no_harm() {
    let mut customers = Customers::new();
    let all = |upto| OutboxCursor::from([("main".to_owned(), upto)]);
    // Before geo starts, and while it does not look.
    customers.engine.trim_outbox(&all(3)).unwrap();
    let geo = customers.geo().await.unwrap();
    assert_eq!(names(&customers.kept()), ["acme", "demo", "shop"]);
    customers.lose(true);
    customers.metric("gb6_geo_directory_up 0").await;
    let gone = Change::Delete(Ref::new(Kind::Key, "acme/acme.1"), 1);
    customers.apply(1, &[gone]);
    customers.engine.kept.trim_outbox(&all(8)).unwrap();
    customers.lose(false);
    customers
        .until("the revoked key", |kept| keys(kept, "acme") == ["acme.2"])
        .await;
    drop(geo);
}

#[tokio::test]
async fn what_was_read_before_the_directory_was_lost_is_not_forgotten() {
    let mut customers = Customers::new();
    let other = |state| instance("other", 9, state, "{}");
    let root = organization(9, None, State::Active);
    let both = [Change::Create(root), Change::Create(other(State::Active))];
    customers.apply(9, &both);
    let _geo = customers.geo().await.unwrap();
    // It is lost between two customers of one look.
    customers.lose(true);
    customers.metric("gb6_geo_directory_up 0").await;
    let gone = Change::Delete(Ref::new(Kind::Key, "acme/acme.1"), 1);
    customers.apply(1, &[gone]);
    customers.apply(9, &[Change::Update(other(State::Suspended), 1)]);
    let lost = DirectoryError::Unavailable {
        cause: "db2: connection reset".into(),
    };
    customers.break_one(Some((9, lost)));
    let lists = customers.engine.lists.load(Ordering::SeqCst);
    customers.lose(false);
    soon("a look", async {
        while customers.engine.lists.load(Ordering::SeqCst) < lists + 10 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    customers.break_one(None);
    let both = |kept: &Snapshot| names(kept) == ["acme", "demo", "shop"];
    let kept = customers.until("the suspended instance", both).await;
    assert_eq!(keys(&kept, "acme"), ["acme.2"]);
}

#[tokio::test]
async fn a_customer_that_can_not_be_read_stays_and_never_seems_to_have_nothing() {
    let mut customers = Customers::new();
    let damaged = DirectoryError::invalid("the record is damaged");
    customers.break_one(Some((1, damaged.clone())));
    let error = customers.geo().await.unwrap_err().to_string();
    assert!(error.contains("the record is damaged"), "{error}");

    customers.break_one(None);
    drop(customers.geo().await.unwrap());
    customers.break_one(Some((1, damaged)));
    let geo = customers.geo().await.unwrap();
    customers.metric("gb6_geo_directory_up 0").await;
    assert_eq!(names(&customers.kept()), ["acme", "demo", "shop"]);
    customers.break_one(None);
    customers.metric("gb6_geo_directory_up 1").await;
    // Once it was read, others go on beside it.
    customers.break_one(Some((1, DirectoryError::invalid("damaged"))));
    customers.apply(1, &[Change::Delete(Ref::new(Kind::Key, "acme/acme.1"), 1)]);
    customers.apply(
        9,
        &[
            Change::Create(organization(9, None, State::Active)),
            Change::Create(instance("other", 9, State::Active, "{}")),
        ],
    );
    let four = |kept: &Snapshot| names(kept) == ["acme", "demo", "other", "shop"];
    let kept = customers.until("the other customer", four).await;
    assert_eq!(keys(&kept, "acme"), ["acme.1", "acme.2"]);
    drop(geo);
}

#[tokio::test]
async fn a_lost_database_keeps_nothing_of_the_others_back() {
    let mut customers = Customers::new();
    let geo = customers.geo().await.unwrap();
    customers.engine.far_lost.store(true, Ordering::SeqCst);
    customers.metric("gb6_geo_directory_up 0").await;
    customers.apply(1, &[Change::Delete(Ref::new(Kind::Key, "acme/acme.1"), 1)]);
    let gone = |kept: &Snapshot| keys(kept, "acme") == ["acme.2"];
    customers.until("the revoked key", gone).await;
    // Asked to read all of it, which can not be done, geo still follows.
    geo.reload();
    customers.apply(1, &[Change::Delete(Ref::new(Kind::Key, "acme/acme.2"), 1)]);
    customers
        .until("the other key", |kept| keys(kept, "acme").is_empty())
        .await;
    let body = customers.health.now().readyz().body;
    assert!(body.contains("far: connection refused"), "{body}");
    customers.engine.far_lost.store(false, Ordering::SeqCst);
    customers.metric("gb6_geo_directory_up 1").await;
    drop(geo);
}
