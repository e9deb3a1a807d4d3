//! The production-like stack of deploy/stack (`PRODUCTION=1`), controlled by its scripts, and the tour of
//! faults through it: each process of a kind that there are several of is killed once, under load.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command as BlockingCommand, Stdio},
    time::Duration,
};

use db::Db;
use proto::topic;
use rand::{
    SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};
use tokio::process::Command;

use super::schedule::Fault;
use crate::{endpoint::Endpoint, log_recorder::LogRecorder};

/// Two processes of every role.
pub const ROLES: [&str; 8] =
    ["auth1", "auth2", "dialog1", "dialog2", "counter1", "counter2", "gateway1", "gateway2"];
/// Engines that are killed, and the time for which each is away: longer than it takes the others to notice,
/// or what a supervisor needs to start it again.
const ENGINES: [(&str, Duration); 9] = [
    ("kafka1", Duration::from_secs(15)),
    ("kafka2", Duration::from_secs(15)),
    ("kafka3", Duration::from_secs(15)),
    ("replica1", Duration::from_secs(8)),
    ("replica2", Duration::from_secs(8)),
    ("pgbouncer_auth", Duration::from_secs(2)),
    ("pgbouncer_dialog", Duration::from_secs(2)),
    ("pgbouncer_counter", Duration::from_secs(2)),
    ("postgres", Duration::from_secs(2)),
];
/// Primaries that get a successor half of this time after they are killed.
const PRIMARIES: [&str; 2] = ["redis", "postgres"];
const SUCCESSION: Duration = Duration::from_secs(8);
const GATEWAYS: [&str; 2] = ["gateway1", "gateway2"];
const SERVICES: [[&str; 2]; 3] = [["auth1", "auth2"], ["dialog1", "dialog2"], ["counter1", "counter2"]];
/// Time for which a role is away.
const ROLE_HOLD: Duration = Duration::from_secs(3);
/// Undisturbed load before each fault.
const CALM: Duration = Duration::from_secs(3);

/// A running production-like stack; stopped when dropped.
pub struct Production {
    pub endpoint: Endpoint,
    /// Address of the balancer.
    pub url: String,
    pub log: LogRecorder,
    /// Addresses of `/readyz` by role.
    ops: BTreeMap<&'static str, String>,
    folder: PathBuf,
}

impl Production {
    /// Starts every role with empty databases on the running engines.
    pub async fn start(settings: &[(&'static str, &str)]) -> Self {
        let mut up = Command::new(script("up.sh"));
        up.envs(settings.iter().copied()).env("FRESH", "1").env("TIDINGS", crate::app::program());
        up.env("RATE_LIMIT_REQUESTS", "0").env("RATE_LIMIT_SIGN_IN", "0").env("RUST_LOG", "info,access=warn");
        let output = up.stderr(Stdio::inherit()).output().await.unwrap();
        assert!(output.status.success(), "deploy/stack/up.sh");
        let urls = assignments(&String::from_utf8(output.stdout).unwrap());
        let endpoint = Endpoint {
            url: urls["GATEWAY1"].clone(),
            second_url: urls["GATEWAY2"].clone(),
            login_suffix: String::new(),
        };
        let folder = std::env::var_os("PRODUCTION_DIR").expect("bench/soak sets it");
        let folder = PathBuf::from(folder).join("stack");
        let log = LogRecorder::start_on(&settings_in(&folder)["KAFKA_URL"], &[topic::DEAD]).await;
        let port = |role| answer("ops", role).expect("every role has an operations port");
        let ops = ROLES.map(|role| (role, port(role))).into();
        Self { endpoint, url: urls["BALANCER"].clone(), log, ops, folder }
    }

    /// Opens the database of a service at the present primary, without PgBouncer.
    pub async fn database(&self, service: &str) -> Result<Db, db::Error> {
        Db::open(&settings_in(&self.folder)[&format!("{}_DATABASE_URL", service.to_uppercase())], 2).await
    }

    /// Returns the address of the operations port of every role.
    pub fn ops(&self) -> impl Iterator<Item = &str> {
        self.ops.values().map(String::as_str)
    }

    /// Returns the settings with which an operator's command reaches this stack.
    pub fn command_settings(&self) -> Vec<(String, String)> {
        settings_in(&self.folder).into_iter().collect()
    }

    /// Returns the process id of a role; `None` while it does not run.
    pub fn process_id(&self, role: &str) -> Option<u32> {
        answer("pid", role)?.parse().ok()
    }

    pub fn save_logs(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        for role in ROLES {
            let name = format!("{role}.log");
            std::fs::copy(self.folder.join(&name), folder.join(&name)).unwrap();
        }
    }
}

impl Drop for Production {
    fn drop(&mut self) {
        let stopped = BlockingCommand::new(script("down.sh")).status();
        if !stopped.is_ok_and(|status| status.success()) {
            println!("deploy/stack/down.sh has failed");
        }
    }
}

/// Runs deploy/stack/one.sh with a verb such as `kill`.
pub async fn control_role(verb: &str, role: &str) {
    let done = Command::new(script("one.sh")).args([verb, role]).status().await.unwrap();
    assert!(done.success(), "deploy/stack/one.sh {verb} {role}");
}

/// Returns what one.sh prints; `None` if it fails.
fn answer(verb: &str, role: &str) -> Option<String> {
    let output = BlockingCommand::new(script("one.sh")).args([verb, role]).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/stack").join(name)
}

/// Reads the settings of the operator's commands, whose databases are those of the present primary.
fn settings_in(folder: &Path) -> BTreeMap<String, String> {
    let read = |path: PathBuf| assignments(&std::fs::read_to_string(path).unwrap());
    let mut settings = read(folder.join("env"));
    let engines = read(folder.join("../env"));
    let (server, _) = engines["TEST_POSTGRES_URL"].rsplit_once('/').unwrap();
    for (_, url) in settings.iter_mut().filter(|(name, _)| name.ends_with("_DATABASE_URL")) {
        let (_, database) = url.rsplit_once('/').unwrap();
        *url = format!("{server}/{database}");
    }
    settings
}

/// Parses lines of the form `NAME=value`.
fn assignments(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Returns the faults in an order drawn from the seed: every engine and every gateway is killed once, and one
/// process of every service. `only` selects some of them by name; an empty list means all.
pub fn tour(seed: u64, only: &[String]) -> Vec<(Duration, Fault)> {
    let mut random = StdRng::seed_from_u64(seed);
    let one = SERVICES.map(|both| *both.choose(&mut random).expect("there are two"));
    let roles = one.into_iter().chain(GATEWAYS);
    let kill = |role| Fault::Kill { roles: vec![role], hold: ROLE_HOLD };
    let mut faults: Vec<Fault> = roles.map(kill).collect();
    faults.extend(ENGINES.map(|(engine, hold)| Fault::Engine { engine, hold, successor: false }));
    faults.shuffle(&mut random);
    // Last, because every role then has another primary.
    faults.extend(PRIMARIES.map(|engine| Fault::Engine { engine, hold: SUCCESSION, successor: true }));
    let is_wanted = |fault: &Fault| match fault {
        Fault::Kill { roles, .. } => only.iter().any(|name| roles.contains(&name.as_str())),
        Fault::Engine { engine, .. } => only.iter().any(|name| name == engine),
        _ => false,
    };
    faults.retain(|fault| only.is_empty() || is_wanted(fault));
    assert!(!faults.is_empty(), "FAULTS names no process of the production-like stack");
    faults.into_iter().map(|fault| (CALM, fault)).collect()
}

#[test]
fn the_tour_kills_every_engine_and_gateway_and_one_process_of_each_service() {
    let described = |seed| {
        let faults = tour(seed, &[]).into_iter();
        faults.map(|(_, fault)| fault.describe()).collect::<std::collections::BTreeSet<_>>()
    };
    let all = described(7);
    assert_eq!(all.len(), ENGINES.len() + PRIMARIES.len() + GATEWAYS.len() + SERVICES.len());
    assert_eq!(tour(7, &[]), tour(7, &[]));
    assert_eq!(tour(7, &["kafka2".to_owned()]).len(), 1);
}
