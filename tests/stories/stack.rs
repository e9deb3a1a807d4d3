//! The stack under test: one process for each role, with two gateways, on real Postgres, Kafka and
//! Redis. Each stack has new databases and an empty log; only one runs at a time.

use std::{
    collections::BTreeMap,
    fs::File,
    ops::Deref,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use db::{Db, query};
use tempfile::TempDir;
use testkit::{eventually, free_address};
use tokio::{
    process::{Child, Command},
    sync::{Mutex, MutexGuard},
};

use crate::{
    app::{SIGABRT, program},
    caller::Caller,
    endpoint::Endpoint,
    proxy::Links,
};

/// Roles that a stack runs. The digit distinguishes the two gateways.
pub const ROLES: [&str; 5] = ["auth", "dialog", "counter", "gateway1", "gateway2"];
/// Held by the running stack: all stacks share one Kafka, which each empties.
static EXCLUSIVE: Mutex<()> = Mutex::const_new(());

type Settings = BTreeMap<&'static str, String>;

/// A running stack; its processes are killed when dropped.
pub struct Stack {
    endpoint: Endpoint,
    pub databases: BTreeMap<&'static str, String>,
    folder: TempDir,
    settings: BTreeMap<&'static str, Settings>,
    children: BTreeMap<&'static str, Child>,
    engines: Engines,
    links: Option<Links>,
}

/// The engines with an empty log, exclusively for one test.
pub struct Engines {
    postgres: String,
    pub kafka: String,
    _exclusive: MutexGuard<'static, ()>,
}

impl Engines {
    /// Waits for exclusive use. Prints a line and returns `None` where no engines are configured.
    pub async fn fresh() -> Option<Self> {
        let engine = |name: &str| std::env::var(name).ok();
        let (Some(postgres), Some(kafka)) = (engine("TEST_POSTGRES_URL"), engine("TEST_KAFKA_URL")) else {
            println!("skipped: TEST_POSTGRES_URL and TEST_KAFKA_URL are not set (make engines)");
            return None;
        };
        let exclusive = EXCLUSIVE.lock().await;
        control_engine("wipe", "kafka").await;
        control_engine("start", "kafka").await;
        Some(Self { postgres, kafka, _exclusive: exclusive })
    }

    /// Returns the URL of the Postgres server.
    pub fn postgres(&self) -> &str {
        &self.postgres
    }
}

impl Deref for Stack {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Stack {
    /// Starts every role. Prints a line and returns `None` where no engines are configured.
    pub async fn start(extra: &[(&'static str, &str)]) -> Option<Self> {
        let engines = Engines::fresh().await?;
        let databases = databases(&engines.postgres).await;
        Some(Self::start_on(engines, databases, extra).await)
    }

    /// Starts every role, each of whose connections passes a proxy. Requires `KAFKA_PROXY_PORT`.
    pub async fn start_with_links(extra: &[(&'static str, &str)]) -> Option<Self> {
        let engines = Engines::fresh().await?;
        let databases = databases(&engines.postgres).await;
        Some(Self::start_linked(engines, databases, extra, true).await)
    }

    /// Starts every role on these engines and new databases.
    pub async fn start_on(
        engines: Engines,
        databases: BTreeMap<&'static str, String>,
        extra: &[(&'static str, &str)],
    ) -> Self {
        Self::start_linked(engines, databases, extra, false).await
    }

    async fn start_linked(
        engines: Engines,
        databases: BTreeMap<&'static str, String>,
        extra: &[(&'static str, &str)],
        through_proxies: bool,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
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
            control_engine("start", "redis").await;
            for role in ["counter", "gateway1", "gateway2"] {
                settings.get_mut(role).unwrap().insert("REDIS_URL", redis.clone());
            }
        }
        let at = |role: &str| format!("http://{}", settings[role]["LISTEN"]);
        let login_suffix = format!("_{:06x}", rand::random::<u32>() & 0xff_ffff);
        let endpoint = Endpoint { url: at("gateway1"), second_url: at("gateway2"), login_suffix };
        let links = if through_proxies { Some(route(&engines, &mut settings).await) } else { None };
        let children = BTreeMap::new();
        let mut stack = Self { endpoint, databases, folder, settings, children, engines, links };
        for role in ROLES {
            stack.start_role(role);
        }
        stack.wait_until_ready().await;
        stack
    }

    /// Returns the URL of the broker.
    pub fn kafka_url(&self) -> &str {
        &self.engines.kafka
    }

    /// Returns the URL of the Postgres server.
    pub fn postgres(&self) -> &str {
        &self.engines.postgres
    }

    /// Returns the proxies of the roles' connections, if the stack has them.
    pub fn links(&self) -> Option<&Links> {
        self.links.as_ref()
    }

    /// Returns the URL of a role's readiness.
    pub fn readyz(&self, role: &str) -> String {
        format!("http://{}/readyz", self.settings[role]["OPS_LISTEN"])
    }

    /// Starts a role that is not running.
    pub fn start_role(&mut self, role: &'static str) {
        let log = File::options().create(true).append(true).open(self.log(role)).unwrap();
        let mut command = Command::new(program());
        command.arg(role.trim_end_matches(['1', '2'])).env_clear().envs(&self.settings[role]);
        command.stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        self.children.insert(role, command.spawn().unwrap());
    }

    /// Changes a setting of a role for its next start.
    pub fn set(&mut self, role: &str, name: &'static str, value: &str) {
        self.settings.get_mut(role).unwrap().insert(name, value.to_owned());
    }

    /// Kills a role with SIGKILL.
    pub async fn kill(&mut self, role: &'static str) {
        self.children.remove(role).unwrap().kill().await.unwrap();
    }

    /// Waits until every role is ready, and returns false; or true if this role has crashed.
    pub async fn has_crashed_or_is_ready(&mut self, role: &'static str) -> bool {
        for _ in 0..600 {
            if self.crashes_within(role, Duration::from_millis(100)).await {
                return true;
            }
            if self.is_ready().await {
                return false;
            }
        }
        panic!("{role} neither crashed nor became ready within a minute");
    }

    /// Waits for a role to crash. Returns false if it does not in time.
    pub async fn crashes_within(&mut self, role: &'static str, time: Duration) -> bool {
        tokio::time::timeout(time, self.children.get_mut(role).unwrap().wait()).await.is_ok()
    }

    /// Waits until a role crashes at the failpoint that it was started with.
    pub async fn crash(&mut self, role: &'static str) {
        let mut child = self.children.remove(role).unwrap();
        let status = tokio::time::timeout(Duration::from_secs(60), child.wait()).await;
        let status =
            status.expect("a crash at the failpoint: is the program built with failpoints?").unwrap();
        assert_eq!(status.signal(), Some(SIGABRT), "exit status at a failpoint: {status}");
    }

    /// Stops a role with SIGTERM. Returns the time until it exited successfully.
    pub async fn stop(&mut self, role: &'static str) -> Duration {
        let mut child = self.children.remove(role).unwrap();
        let started = Instant::now();
        testkit::signal(child.id().unwrap(), "-TERM");
        let status = child.wait().await.unwrap();
        assert!(status.success(), "exit status after SIGTERM: {status}");
        started.elapsed()
    }

    /// Returns the settings with which an operator's command reaches this stack.
    pub fn command_settings(&self) -> Vec<(&'static str, String)> {
        let mut settings: Vec<_> = [
            ("auth", "AUTH_DATABASE_URL"),
            ("dialog", "DIALOG_DATABASE_URL"),
            ("counter", "COUNTER_DATABASE_URL"),
        ]
        .map(|(role, setting)| (setting, self.databases[role].clone()))
        .into();
        for setting in ["DIALOG_URL", "SERVICE_TOKEN_FILE", "KAFKA_URL", "REDIS_URL"] {
            settings.extend(self.settings["gateway1"].get(setting).map(|value| (setting, value.clone())));
        }
        settings
    }

    /// Returns the process id of a role; `None` while it does not run.
    pub fn process_id(&self, role: &str) -> Option<u32> {
        self.children.get(role)?.id()
    }

    /// Returns true if every running role reports that it is ready.
    pub async fn is_ready(&self) -> bool {
        for role in self.children.keys() {
            let url = format!("http://{}/readyz", self.settings[role]["OPS_LISTEN"]);
            let request = tokio::time::timeout(Duration::from_secs(2), reqwest::get(&url));
            if !request.await.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status() == 200)) {
                return false;
            }
        }
        true
    }

    /// Waits until every running role reports that it is ready.
    pub async fn wait_until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        for role in self.children.keys() {
            let url = self.readyz(role);
            while !reqwest::get(&url).await.is_ok_and(|answer| answer.status() == 200) {
                let log = std::fs::read_to_string(self.log(role)).unwrap_or_default();
                assert!(Instant::now() < deadline, "{role} is not ready; its log:\n{log}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Returns the report of a role's operations port on its components.
    pub async fn readiness(&self, role: &str) -> serde_json::Value {
        let url = format!("http://{}/readyz", self.settings[role]["OPS_LISTEN"]);
        reqwest::get(url).await.unwrap().json().await.unwrap()
    }

    /// Returns the value of a role's metric with exactly this name and labels.
    pub async fn metric(&self, role: &str, name: &str) -> Option<f64> {
        let url = format!("http://{}/metrics", self.settings[role]["OPS_LISTEN"]);
        let text = reqwest::get(url).await.unwrap().text().await.unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// Returns the value of a role's metric, summed over its labels.
    pub async fn metric_sum(&self, role: &str, name: &str) -> f64 {
        let url = format!("http://{}/metrics", self.settings[role]["OPS_LISTEN"]);
        let text = reqwest::get(url).await.unwrap().text().await.unwrap();
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let values = text.lines().filter(of_name).map(|line| line.rsplit_once(' ').unwrap().1);
        values.map(|value| value.parse::<f64>().unwrap()).sum()
    }

    /// Opens a role's database.
    pub async fn database(&self, role: &str) -> Db {
        Db::open(&self.databases[role], 2).await.unwrap()
    }

    /// Waits until the caller's total equals the one in Redis, if the stack uses Redis.
    pub async fn wait_for_cache(&self, caller: &Caller) {
        if self.settings["counter"].contains_key("REDIS_URL") {
            eventually("GraphQL and the cache have the same total", || async {
                Some(caller.total().await) == self.cached_total(caller).await
            })
            .await;
        }
    }

    /// Returns the sum of the caller's rows in Redis; `None` without an entry.
    pub async fn cached_total(&self, caller: &Caller) -> Option<i64> {
        let client = redis::Client::open(self.settings["counter"]["REDIS_URL"].as_str()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let hash = redis::Cmd::hgetall(format!("tidings:unread:{}", caller.id));
        let fields: BTreeMap<String, String> = hash.query_async(&mut connection).await.unwrap();
        let unread = |row: &String| row.split(' ').nth(1).map_or(0, |unread| unread.parse().unwrap());
        fields.contains_key("version").then(|| fields.values().map(unread).sum())
    }

    /// Copies the log of every role to a folder, which it creates.
    pub fn save_logs(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        for role in ROLES {
            std::fs::copy(self.log(role), folder.join(format!("{role}.log"))).unwrap();
        }
    }

    /// Returns the lines of every role's log that contain a text, with the role.
    pub fn log_lines(&self, text: &str) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        for role in ROLES {
            let log = std::fs::read_to_string(self.log(role)).unwrap();
            found.extend(log.lines().filter(|line| line.contains(text)).map(|line| (role, line.to_owned())));
        }
        found
    }

    fn log(&self, role: &str) -> std::path::PathBuf {
        self.folder.path().join(format!("{role}.log"))
    }

    /// Prints the last lines of every role's log.
    fn print_logs(&self) {
        for role in ROLES {
            let log = std::fs::read_to_string(self.log(role)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(15).collect();
            println!("--- last lines of {role}:");
            lines.iter().rev().for_each(|line| println!("{line}"));
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
    }
}

/// Runs deploy/engines/one.sh with a verb such as `start` or `pause`.
pub async fn control_engine(verb: &str, engine: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/engines/one.sh");
    let done = Command::new(script).args([verb, engine]).stdout(Stdio::null()).status().await.unwrap();
    assert!(done.success(), "one.sh {verb} {engine}");
}

/// Creates a database for each service. Returns their URLs by role.
pub async fn databases(server: &str) -> BTreeMap<&'static str, String> {
    databases_in(server, None).await
}

/// Creates a database for each service, in a tablespace of their own if a folder is given.
pub async fn databases_in(server: &str, folder: Option<&Path>) -> BTreeMap<&'static str, String> {
    let base = server.rsplit_once('/').unwrap().0;
    let suffix = uuid::Uuid::now_v7().simple().to_string();
    let mut tablespace = String::new();
    if let Some(folder) = folder {
        execute(server, format!("create tablespace t_{suffix} location '{}'", folder.display())).await;
        tablespace = format!("tablespace t_{suffix}");
    }
    let mut databases = BTreeMap::new();
    for role in ["auth", "dialog", "counter"] {
        execute(server, format!("create database {role}_{suffix} {tablespace}")).await;
        databases.insert(role, format!("{base}/{role}_{suffix}"));
    }
    databases
}

/// Removes databases and their tablespace, whose disk is about to go.
pub async fn drop_databases(server: &str, databases: BTreeMap<&'static str, String>) {
    let mut suffix = String::new();
    for url in databases.values() {
        let name = url.rsplit_once('/').unwrap().1;
        name.rsplit_once('_').unwrap().1.clone_into(&mut suffix);
        execute(server, format!("drop database {name} with (force)")).await;
    }
    execute(server, format!("drop tablespace t_{suffix}")).await;
}

async fn execute(server: &str, statement: String) {
    let admin = Db::open(server, 1).await.unwrap();
    query(Box::leak(statement.into_boxed_str())).execute(&admin).await.unwrap();
    admin.close().await;
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

/// Starts proxies in front of the engines and the services, and leads every role through them.
async fn route(engines: &Engines, settings: &mut BTreeMap<&'static str, Settings>) -> Links {
    let address = |url: &str| {
        let authority = url.split("://").last().and_then(|rest| rest.split('/').next());
        authority.and_then(|authority| authority.rsplit('@').next()).expect("a URL has a host").to_owned()
    };
    let mut upstreams =
        BTreeMap::from([("postgres", address(&engines.postgres)), ("kafka", address(&engines.kafka))]);
    if let Some(redis) = settings["counter"].get("REDIS_URL") {
        upstreams.insert("redis", address(redis));
    }
    for role in ["auth", "dialog", "counter"] {
        upstreams.insert(role, settings[role]["LISTEN"].clone());
    }
    let links = Links::start(upstreams).await;
    for role in settings.values_mut() {
        for (name, value) in role.iter_mut() {
            if name.ends_with("_URL") {
                *value = links.route(value);
            }
        }
    }
    links
}

/// Returns the settings of every role, with free ports.
fn settings(
    common: &Settings,
    databases: &BTreeMap<&'static str, String>,
) -> BTreeMap<&'static str, Settings> {
    let addresses: Vec<String> = (0..2 * ROLES.len()).map(|_| free_address()).collect();
    let address = |index: usize| addresses[index].clone();
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
