//! `Directory` on SQLite: one file, and several.

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::Sealer;
use gb6_core_ports::contract::directory as contract;
use gb6_core_ports::directory::{
    Change, Directory, DirectoryError, Freshness, Kind, OrgId, Record, Ref,
};
use gb6_core_ports::memory::MemoryDirectory;
use gb6_region_stores_sql::{Config, SqlDirectory};
use tokio::runtime::Runtime;

fn try_open(runtime: &Runtime, uris: &[String]) -> Result<SqlDirectory, DirectoryError> {
    let configs: Vec<Config> = uris.iter().map(|uri| Config::parse(uri).unwrap()).collect();
    let sealer = Sealer::new(&[7; 32], &[]);
    let handle = runtime.handle().clone();
    SqlDirectory::open(&configs, sealer, handle, &Metrics::bare())
}

fn open(runtime: &Runtime, uris: &[String]) -> SqlDirectory {
    try_open(runtime, uris).unwrap()
}

#[test]
fn keeps_the_contract() {
    let (runtime, dir) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let uri = format!("sqlite:{}/d.db?timeout_ms=20000", dir.path().display());
    contract::all(&open(&runtime, &[uri]));
}

#[test]
fn behaves_like_the_model() {
    let (runtime, dir) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    for seed in 0..3 {
        let uri = format!("sqlite:{}/{seed}.db?timeout_ms=20000", dir.path().display());
        let directory = open(&runtime, &[uri]);
        contract::behaves_like_the_model(&directory, &MemoryDirectory::default(), seed, 150);
    }
}

/// The names of three databases.
fn three(dir: &std::path::Path) -> Vec<String> {
    let uri = |name| {
        format!(
            "sqlite:{}/{name}.db?shard={name}&timeout_ms=20000",
            dir.display()
        )
    };
    ["a", "b", "c"].map(uri).into()
}

#[test]
fn several_databases_are_one_directory() {
    let (runtime, dir) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    contract::all(&open(&runtime, &three(dir.path())));
}

#[test]
fn another_database_moves_nobody() {
    let (runtime, dir) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let all = three(dir.path());
    let roots: Vec<_> = {
        let two = open(&runtime, &all[..2]);
        (0..12).map(|n| contract::customer(&two, n * 10)).collect()
    };
    let directory = open(&runtime, &all);
    assert_eq!(directory.roots("", 100).unwrap(), roots);
    for root in &roots {
        let what = Ref::new(Kind::Organization, root.as_str());
        directory.get(root, &what, Freshness::Current).unwrap();
    }
    let (entries, cursor) = directory.outbox(&Default::default(), 1_000).unwrap();
    assert_eq!(entries.len(), roots.len() * 8);
    assert_eq!(cursor.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    let with = |shard: &str| entries.iter().filter(|e| e.shard == shard).count();
    assert!(with("a") > 0 && with("b") > 0 && with("c") == 0);
    // New customers go to the new one too.
    for n in 100..120 {
        contract::customer(&directory, n * 10);
    }
    let (entries, _) = directory.outbox(&cursor, 1_000).unwrap();
    assert!(entries.iter().any(|e| e.shard == "c"));
    drop(directory);

    // A list that leaves a database out says which, and of whom it does not know it does not guess.
    let fewer = open(&runtime, &all[..1]);
    let lost = roots.iter().find_map(|root| {
        let what = Ref::new(Kind::Organization, root.as_str());
        fewer.get(root, &what, Freshness::Current).err()
    });
    let error = lost.expect("a customer of the other database").to_string();
    assert!(error.contains("`b`"), "{error}");
    // Nor is a database taken for another one.
    let mut swapped = all.clone();
    swapped.swap(0, 1);
    let error = try_open(&runtime, &swapped).unwrap_err().to_string();
    assert!(error.contains("catalogue"), "{error}");
    let renamed = [all[0].replace("shard=a", "shard=x")];
    let error = try_open(&runtime, &renamed).unwrap_err().to_string();
    assert!(error.contains("shard `a`"), "{error}");
    let twice = [all[0].clone(), all[1].replace("shard=b", "shard=a")];
    let error = try_open(&runtime, &twice).unwrap_err();
    assert_eq!(error.code(), "invalid");
}

#[test]
fn secrets_are_not_in_the_file() {
    let (runtime, dir) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let uri = format!("sqlite:{}/d.db", dir.path().display());
    let directory = open(&runtime, std::slice::from_ref(&uri));
    let root = contract::customer(&directory, 10);
    let what = Ref::new(Kind::Key, "acme-10/acme-10.k1");
    let Record::Key(mut key) = directory
        .get(&root, &what, Freshness::Current)
        .unwrap()
        .record
    else {
        panic!("a key");
    };
    let secret = b"a secret that nobody may read";
    key.secret = Some(gb6_core_ports::directory::Secret(secret.to_vec()));
    let change = gb6_core_ports::directory::Change::Update(Record::Key(key), 1);
    directory
        .apply(&root, &contract::actor(), &[change])
        .unwrap();
    // Read while it is open: SQLite removes its log some time after the last connection is dropped.
    let files = std::fs::read_dir(dir.path()).unwrap();
    let files: Vec<_> = files
        .map(|file| std::fs::read(file.unwrap().path()).unwrap())
        .collect();
    let holds = |what: &[u8]| {
        files
            .iter()
            .any(|f| f.windows(what.len()).any(|w| w == what))
    };
    assert!(holds(b"acme-10.k1"), "the key is in none of the files");
    assert!(!holds(secret));
    drop(directory);
    let configs = [Config::parse(&uri).unwrap()];
    let other = Sealer::new(&[8; 32], &[]);
    let handle = runtime.handle().clone();
    let locked = SqlDirectory::open(&configs, other, handle.clone(), &Metrics::bare()).unwrap();
    let error = locked.get(&root, &what, Freshness::Current).unwrap_err();
    assert!(error.to_string().contains("sealing key"), "{error}");
    let rotated = Sealer::new(&[8; 32], &[[7; 32]]);
    let open = SqlDirectory::open(&configs, rotated, handle, &Metrics::bare()).unwrap();
    open.get(&root, &what, Freshness::Current).unwrap();
}

/// Changes an organization in ten transactions of 250 changes.
fn change_much(directory: &SqlDirectory, root: &OrgId) {
    let what = Ref::new(Kind::Organization, root.as_str());
    let stored = directory.get(root, &what, Freshness::Current).unwrap();
    for call in 0..10 {
        let update = |n| Change::Update(stored.record.clone(), stored.version + call * 250 + n);
        let changes: Vec<Change> = (0..250).map(update).collect();
        directory.apply(root, &contract::actor(), &changes).unwrap();
    }
}

/// The first entry of the outbox, and how many there are.
async fn numbers(link: &mut sqlx::SqliteConnection) -> (i64, i64) {
    let ask = sqlx::query_as("SELECT min(number), count(*) FROM outbox");
    ask.fetch_one(link).await.unwrap()
}

/// However much there is to trim, and whatever ends it, what a step has deleted is gone, so that the next trim
/// has less to do.
#[test]
fn a_trim_goes_on_where_one_failed() {
    use sqlx::{ConnectOptions, Executor};
    let (runtime, dir) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let path = dir.path().join("d.db");
    let uri = format!("sqlite:{}?timeout_ms=20000", path.display());
    let directory = open(&runtime, &[uri]);
    let root = contract::customer(&directory, 10);
    change_much(&directory, &root);
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut link = runtime.block_on(options.connect()).unwrap();
    let refuse = "CREATE TRIGGER refuse BEFORE DELETE ON outbox WHEN old.number = 1500 \
                  BEGIN SELECT RAISE(ABORT, 'refused by the test'); END";
    runtime.block_on(link.execute(refuse)).unwrap();
    let upto = [("main".to_owned(), 2_400)].into();
    let error = directory.trim_outbox(&upto).unwrap_err();
    assert!(error.to_string().contains("refused by the test"), "{error}");
    let all = 8 + 2_500;
    assert_eq!(runtime.block_on(numbers(&mut link)), (1_001, all - 1_000));
    // Readers see no half of it.
    let trimmed = directory.outbox_of("main", 2_399, 10).unwrap_err();
    assert_eq!(trimmed.code(), "trimmed");
    let first = directory.outbox_of("main", 2_400, 1).unwrap();
    assert_eq!(first[0].number, 2_401);
    runtime
        .block_on(link.execute("DROP TRIGGER refuse"))
        .unwrap();
    assert!(directory.trim_outbox(&upto).unwrap());
    assert_eq!(runtime.block_on(numbers(&mut link)), (2_401, all - 2_400));
}
