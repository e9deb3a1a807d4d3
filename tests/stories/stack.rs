//! The stack under test: every role a process of its own on real Postgres, Kafka and Redis, with two gateways. Each stack
//! has fresh databases and a fresh log; one runs at a time.

use std::{
    collections::BTreeMap,
    fs::File,
    net::TcpListener,
    ops::Deref,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use db::{Db, query};
use tempfile::TempDir;
use testkit::eventually;
use tokio::{
    process::{Child, Command},
    sync::{Mutex, MutexGuard},
};

use crate::{app::program, person::Person, place::Place};

/// The roles that hold data or talk to people, as the tests name them.
pub const ROLES: [&str; 5] = ["auth", "dialog", "counter", "gateway1", "gateway2"];
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

type Settings = BTreeMap<&'static str, String>;

/// A running stack; its processes are killed when it is dropped.
pub struct Stack {
    place: Place,
    pub databases: BTreeMap<&'static str, String>,
    folder: TempDir,
    settings: BTreeMap<&'static str, Settings>,
    children: BTreeMap<&'static str, Child>,
    engines: Engines,
}

/// The engines, with an empty log, for one test at a time.
pub struct Engines {
    postgres: String,
    kafka: String,
    _turn: MutexGuard<'static, ()>,
}

impl Engines {
    /// Waits for its turn; `None`, with a line that says so, where the engines are not there.
    pub async fn fresh() -> Option<Self> {
        let engine = |name: &str| std::env::var(name).ok();
        let (Some(postgres), Some(kafka)) = (engine("TEST_POSTGRES_URL"), engine("TEST_KAFKA_URL")) else {
            println!("skipped: TEST_POSTGRES_URL and TEST_KAFKA_URL do not name engines (make engines)");
            return None;
        };
        let turn = ONE_AT_A_TIME.lock().await;
        engine_does("wipe", "kafka").await;
        engine_does("start", "kafka").await;
        Some(Self { postgres, kafka, _turn: turn })
    }
}

impl Deref for Stack {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Stack {
    /// Starts everything; `None`, with a line that says so, where the engines are not there.
    pub async fn start(extra: &[(&'static str, &str)]) -> Option<Self> {
        let engines = Engines::fresh().await?;
        let folder = tempfile::tempdir().unwrap();
        let databases = databases(&engines.postgres).await;
        let mut common: Settings = Settings::from([
            ("KAFKA_URL", engines.kafka.clone()),
            ("SERVICE_TOKEN_FILE", folder.path().join("service-token").display().to_string()),
            ("SIGNING_KEY_FILE", folder.path().join("signing-key.pem").display().to_string()),
            ("RUST_LOG", "info,access=warn".to_owned()),
            ("LOG_FORMAT", "text".to_owned()),
            ("RATE_LIMIT_REQUESTS", "0".to_owned()),
            ("RATE_LIMIT_SIGN_IN", "0".to_owned()),
        ]);
        common.extend(extra.iter().map(|(name, value)| (*name, (*value).to_owned())));
        run_once("keygen", folder.path(), &common).await;
        let mut migrate = common.clone();
        for (setting, role) in [
            ("AUTH_DATABASE_URL", "auth"),
            ("DIALOG_DATABASE_URL", "dialog"),
            ("COUNTER_DATABASE_URL", "counter"),
        ] {
            migrate.insert(setting, databases[role].clone());
        }
        run_once("migrate", folder.path(), &migrate).await;
        let mut settings = settings(&common, &databases);
        if let Ok(redis) = std::env::var("TEST_REDIS_URL") {
            engine_does("start", "redis").await;
            for role in ["counter", "gateway1", "gateway2"] {
                settings.get_mut(role).unwrap().insert("REDIS_URL", redis.clone());
            }
        }
        let at = |role: &str| format!("http://{}", settings[role]["LISTEN"]);
        let suffix = format!("_{:06x}", rand::random::<u32>() & 0xff_ffff);
        let place = Place { url: at("gateway1"), other: at("gateway2"), suffix };
        let children = BTreeMap::new();
        let mut stack = Self { place, databases, folder, settings, children, engines };
        for role in ROLES {
            stack.start_role(role);
        }
        stack.is_ready().await;
        Some(stack)
    }

    /// Where the log is.
    pub fn kafka_url(&self) -> &str {
        &self.engines.kafka
    }

    /// Starts a role that does not run.
    pub fn start_role(&mut self, role: &'static str) {
        let log = File::options().create(true).append(true).open(self.log(role)).unwrap();
        let mut command = Command::new(program());
        command.arg(role.trim_end_matches(['1', '2'])).env_clear().envs(&self.settings[role]);
        command.stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        self.children.insert(role, command.spawn().unwrap());
    }

    /// SIGKILL, now.
    pub async fn kill(&mut self, role: &'static str) {
        self.children.remove(role).unwrap().kill().await.unwrap();
    }

    /// SIGTERM; how long it took to end well.
    pub async fn stop(&mut self, role: &'static str) -> Duration {
        let mut child = self.children.remove(role).unwrap();
        let begun = Instant::now();
        testkit::signal(child.id().unwrap(), "-TERM");
        let status = child.wait().await.unwrap();
        assert!(status.success(), "a stop that was asked for is a success: {status}");
        begun.elapsed()
    }

    /// Waits until every role that runs says that it is ready.
    pub async fn is_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        for role in self.children.keys() {
            let url = format!("http://{}/readyz", self.settings[role]["OPS_LISTEN"]);
            while !reqwest::get(&url).await.is_ok_and(|answer| answer.status() == 200) {
                let log = std::fs::read_to_string(self.log(role)).unwrap_or_default();
                assert!(Instant::now() < deadline, "{role} is not ready; its log:\n{log}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// What a metric of a role shows, by its name and labels.
    pub async fn metric(&self, role: &str, name: &str) -> Option<f64> {
        let url = format!("http://{}/metrics", self.settings[role]["OPS_LISTEN"]);
        let text = reqwest::get(url).await.unwrap().text().await.unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// A role's database, for looking into it.
    pub async fn database(&self, role: &str) -> Db {
        Db::open(&self.databases[role], 2).await.unwrap()
    }

    /// Waits until the person's total is what Redis holds of it, where there is one.
    pub async fn cache_agrees(&self, person: &Person) {
        if self.settings["counter"].contains_key("REDIS_URL") {
            eventually("GraphQL and the cache agree", || async {
                Some(person.total().await) == self.cached_total(person).await
            })
            .await;
        }
    }

    /// What Redis holds of a person: the total of all rows. `None`: nothing.
    pub async fn cached_total(&self, person: &Person) -> Option<i64> {
        let client = redis::Client::open(self.settings["counter"]["REDIS_URL"].as_str()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let hash = redis::Cmd::hgetall(format!("tidings:unread:{}", person.id));
        let fields: BTreeMap<String, String> = hash.query_async(&mut connection).await.unwrap();
        let unread = |row: &String| row.split(' ').nth(1).map_or(0, |unread| unread.parse().unwrap());
        fields.contains_key("version").then(|| fields.values().map(unread).sum())
    }

    fn log(&self, role: &str) -> std::path::PathBuf {
        self.folder.path().join(format!("{role}.log"))
    }

    /// Keeps the roles' logs, for people, where the test fails.
    fn keep_logs(&self) {
        for role in ROLES {
            let log = std::fs::read_to_string(self.log(role)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(15).collect();
            println!("--- {role}, its last lines:");
            lines.iter().rev().for_each(|line| println!("{line}"));
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep_logs();
        }
    }
}

/// A verb of deploy/engines/one.sh.
pub async fn engine_does(verb: &str, engine: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/engines/one.sh");
    let done = Command::new(script).args([verb, engine]).stdout(Stdio::null()).status().await.unwrap();
    assert!(done.success(), "one.sh {verb} {engine}");
}

/// A fresh database for each service, by role.
pub async fn databases(server: &str) -> BTreeMap<&'static str, String> {
    let admin = Db::open(server, 1).await.unwrap();
    let base = server.rsplit_once('/').unwrap().0;
    let mut databases = BTreeMap::new();
    for role in ["auth", "dialog", "counter"] {
        let name = format!("{role}_{}", uuid::Uuid::now_v7().simple());
        let create = Box::leak(format!("create database {name}").into_boxed_str());
        query(create).execute(&admin).await.unwrap();
        databases.insert(role, format!("{base}/{name}"));
    }
    databases
}

async fn run_once(command: &str, folder: &Path, settings: &Settings) {
    let mut run = Command::new(program());
    run.arg(command).env_clear().envs(settings);
    if command == "keygen" {
        run.env("DATA_DIR", folder);
    }
    let output = run.output().await.unwrap();
    assert!(output.status.success(), "tidings {command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The settings of every role, with ports that are free now.
fn settings(
    common: &Settings,
    databases: &BTreeMap<&'static str, String>,
) -> BTreeMap<&'static str, Settings> {
    let held: Vec<TcpListener> =
        (0..2 * ROLES.len()).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let address = |index: usize| held[index].local_addr().unwrap().to_string();
    let mut all = BTreeMap::new();
    for (index, role) in ROLES.into_iter().enumerate() {
        let mut settings = common.clone();
        settings.insert("INSTANCE", role.to_owned());
        settings.insert("LISTEN", address(2 * index));
        settings.insert("OPS_LISTEN", address(2 * index + 1));
        for (name, peer) in [("AUTH_URL", 0), ("DIALOG_URL", 1), ("COUNTER_URL", 2)] {
            settings.insert(name, format!("http://{}", address(2 * peer)));
        }
        if let Some(url) = databases.get(role) {
            settings.insert("DATABASE_URL", url.clone());
        }
        all.insert(role, settings);
    }
    all
}
