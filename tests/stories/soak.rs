//! Soak: mixed load on all roles with two gateways behind HAProxy, while faults are injected at seeded times.
//! After each fault the load pauses and everything that says a count is compared: what was acknowledged,
//! dialog's tables, the counter's tables, both gateways and the clients' folded states. `bench/soak` runs it.
//!
//! Settings: `MINUTES` (2), `SEED` (random), `FAULTS` (all, see [`schedule::Kind`]), `USERS` (24), `DIALOGS`
//! (24), `OPERATIONS_A_SECOND` (20), `KILLS_EACH` (1: one or several roles at the same time; more: so many
//! kills one after another in each fault of this kind), `KAFKA_PROXY_PORT` (see [`crate::proxy`]), `SOAK_ON`
//! (`engines`, `sqlite` for one process, or `production` for [`production::tour`], whose processes `FAULTS`
//! then names), `SOAK_DISK` (folder on a small disk), `SOAK_LOGS` (folder for the roles' logs after a
//! violation).

mod event_log;
mod exactness;
mod faults;
mod findings;
mod load;
mod log_out;
mod probe;
mod production;
mod report;
mod schedule;
mod system;
mod tables;
mod watcher;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use db::{Db, query};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::{caller::Caller, endpoint::Endpoint};
use faults::Faults;
use findings::Rule;
use load::{Dialog, Load, Person};
use log_out::LogOuts;
use probe::Probe;
use production::Production;
use report::{Injected, Report, usage};
use schedule::{Fault, Kind, Schedule};
use system::System;
use watcher::Watcher;

/// Load before the first measurement of memory.
const WARM_UP: Duration = Duration::from_secs(5);
/// Time for operations in flight to be answered after a fault has healed.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Time for one comparison.
const CHECK_MAX: Duration = Duration::from_secs(180);
const UNANSWERED: &str = "operations are not answered while the load pauses";
/// Settings of the roles: sagas time out during outages, sessions do not.
const ROLE_SETTINGS: [(&str, &str); 2] = [("SAGA_DEADLINE", "20s"), ("ACCESS_TOKEN_TTL", "3h")];

#[derive(Debug)]
struct Settings {
    time: Duration,
    seed: u64,
    kinds: Vec<Kind>,
    users: usize,
    dialogs: usize,
    operations_a_second: f64,
    kills_each: usize,
    disk: Option<PathBuf>,
    on: On,
    /// Processes of the production-like stack that are killed; empty for all.
    victims: Vec<String>,
}

/// Kind of system under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    /// All roles on the engines.
    Engines,
    /// One process on SQLite.
    Sqlite,
    /// The production-like stack.
    Production,
}

fn setting<T: FromStr>(name: &str, default: T) -> T {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty());
    value.map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}: `{value}` is malformed")))
}

impl Settings {
    fn from_environment() -> Self {
        let disk = std::env::var_os("SOAK_DISK").filter(|disk| !disk.is_empty()).map(PathBuf::from);
        let list = setting("FAULTS", String::new());
        let on = match setting("SOAK_ON", "engines".to_owned()).as_str() {
            "engines" => On::Engines,
            "sqlite" => On::Sqlite,
            "production" => On::Production,
            other => panic!("SOAK_ON: `{other}` is not one of engines, sqlite and production"),
        };
        let is_tour = on == On::Production;
        let victims = list.split(',').filter(|name| is_tour && !name.is_empty()).map(str::to_owned).collect();
        let mut kinds = if is_tour { Vec::new() } else { Kind::parse_list(&list) };
        if disk.is_none() && kinds.contains(&Kind::Disk) {
            assert!(list.is_empty(), "FAULTS=disk: SOAK_DISK is not set, which requires root");
            println!("skipped: the full disk (SOAK_DISK is not set, which requires root)");
            kinds.retain(|kind| *kind != Kind::Disk);
        }
        Self {
            time: Duration::from_secs_f64(60.0 * setting("MINUTES", 2.0)),
            seed: setting("SEED", rand::random()),
            kinds,
            users: setting("USERS", 24),
            dialogs: setting("DIALOGS", 24),
            operations_a_second: setting("OPERATIONS_A_SECOND", 20.0),
            kills_each: setting("KILLS_EACH", 1),
            disk,
            on,
            victims,
        }
    }
}

/// The run itself: everything that the faults and checks need.
struct Soak {
    settings: Settings,
    system: System,
    load: Arc<Load>,
    probe: Probe,
    watchers: Vec<(usize, Watcher)>,
    log_outs: LogOuts,
    folder: tempfile::TempDir,
    started: Instant,
    faults: Vec<Injected>,
    checks: usize,
    stale: usize,
    /// Memory after the warm-up.
    usage: Option<report::Usage>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes, aborts Postgres and empties Kafka; bench/soak runs it on engines of its own"]
async fn mixed_load_under_faults_is_exact() {
    let settings = Settings::from_environment();
    println!("{settings:?}");
    let folder = tempfile::tempdir().unwrap();
    let system = match settings.on {
        On::Sqlite => System::start_one(&ROLE_SETTINGS, settings.disk.as_deref(), folder.path()).await,
        On::Engines => {
            use_disk(&settings).await;
            System::start_stack(&ROLE_SETTINGS).await
        }
        On::Production => System::Production(Box::new(Production::start(&ROLE_SETTINGS).await)),
    };
    let mut soak = Soak::prepare(settings, system, folder).await;
    let interval = Duration::from_secs_f64(
        f64::from(u32::try_from(soak.settings.users).expect("few users")) / soak.settings.operations_a_second,
    );
    let tasks = soak.load.start(soak.settings.users, interval, soak.settings.seed);
    let mut interrupted =
        [SignalKind::terminate(), SignalKind::interrupt()].map(|kind| signal(kind).unwrap());
    let [terminate, interrupt] = &mut interrupted;
    tokio::select! {
        () = soak.run() => {}
        _ = terminate.recv() => soak.load.findings.add(Rule::Interrupted, "SIGTERM"),
        _ = interrupt.recv() => soak.load.findings.add(Rule::Interrupted, "SIGINT"),
    }
    soak.load.stop.cancel();
    for task in tasks {
        task.await.unwrap();
    }
    let violations = soak.report().await;
    if let Some(folder) = std::env::var_os("SOAK_LOGS").filter(|_| violations > 0) {
        soak.system.save_logs(folder.as_ref());
    }
    // Stops all processes first: a stack that is dropped during a panic prints its logs, after the table.
    drop(soak);
    assert_eq!(violations, 0, "violations");
}

/// Makes new databases be created on the small disk.
async fn use_disk(settings: &Settings) {
    let Some(disk) = &settings.disk else { return };
    let server = Db::open(&std::env::var("TEST_POSTGRES_URL").expect("the engines run"), 1).await.unwrap();
    let create = format!("create tablespace small location '{}'", disk.display());
    for statement in [&*create.leak(), "alter database template1 set tablespace small"] {
        query(statement).execute(&server).await.unwrap();
    }
    server.close().await;
}

impl Soak {
    /// Registers the users and creates the dialogs.
    async fn prepare(mut settings: Settings, system: System, folder: tempfile::TempDir) -> Self {
        settings.kinds.retain(|kind| {
            let exists = system.has(*kind);
            if !exists && settings.on == On::Engines {
                println!(
                    "skipped: {} (KAFKA_PROXY_PORT is not set, or libfaketime not installed)",
                    kind.name()
                );
            }
            exists
        });
        let mut people = Vec::new();
        for number in 0..settings.users + 2 {
            people.push(register(&system, number).await);
        }
        let has_stale = !people[0].callers[0]
            .try_execute("{ unread { stale dialogs { stale } } }", json!({}))
            .await
            .is_none_or(|answer| answer["data"].is_null());
        if !has_stale {
            println!("the schema has no field `stale`: every number must be exact");
        }
        let mut random = StdRng::seed_from_u64(settings.seed);
        let mut dialogs = Vec::new();
        let everyone: Vec<usize> = (0..settings.users).collect();
        let mut pairs = BTreeSet::new();
        while dialogs.len() < settings.dialogs {
            let direct = dialogs.len() % 4 == 3;
            let size = if direct { 2 } else { random.random_range(3..9) };
            let members: BTreeSet<usize> = everyone.choose_multiple(&mut random, size).copied().collect();
            if !direct || pairs.insert(members.clone()) {
                dialogs.push(create(&people, members, direct).await);
            }
        }
        let sender = settings.users;
        let reader = settings.users + 1;
        dialogs.push(create(&people, BTreeSet::from([sender, reader]), false).await);
        let probe = Probe::new(sender, reader, settings.dialogs);
        let balanced = settings.on == On::Production;
        let load = Arc::new(Load::new(people, dialogs, has_stale, balanced));
        let watchers = (0..settings.users).map(|me| (me, Watcher::start(&load, me, me % 2))).collect();
        Self {
            settings,
            system,
            load,
            probe,
            watchers,
            log_outs: LogOuts::default(),
            folder,
            started: Instant::now(),
            faults: Vec::new(),
            checks: 0,
            stale: 0,
            usage: None,
        }
    }

    /// Injects faults until the time is over, or the tour.
    async fn run(&mut self) {
        tokio::time::sleep(WARM_UP).await;
        self.pause_and_compare().await;
        self.usage = Some(usage(&self.system));
        let Settings { kinds, seed, time, kills_each, on, victims, .. } = &self.settings;
        let time = *time;
        let is_tour = *on == On::Production;
        let faults: Box<dyn Iterator<Item = (Duration, Fault)> + Send> = if is_tour {
            Box::new(production::tour(*seed, victims).into_iter())
        } else {
            Box::new(Schedule::new(kinds, self.system.roles(), *seed, time, *kills_each))
        };
        for (calm, fault) in faults {
            if !is_tour && self.started.elapsed() + calm + fault.hold() > time {
                break;
            }
            tokio::time::sleep(calm).await;
            let endpoint = self.system.endpoint();
            self.log_outs.log_out(&endpoint, &self.load.findings).await;
            if !self.disturb(&fault).await {
                break;
            }
            self.pause_and_compare().await;
        }
        self.finish().await;
    }

    /// Injects a fault and waits until the system has healed. Returns false if it has not.
    async fn disturb(&mut self, fault: &schedule::Fault) -> bool {
        let what = fault.describe();
        let at = self.started.elapsed();
        println!("{:>6.0} s  {what}", at.as_secs_f64());
        self.load.take_sends();
        let mut faults = Faults {
            system: &mut self.system,
            log_outs: &mut self.log_outs,
            findings: &self.load.findings,
            disk: self.settings.disk.as_deref(),
            folder: self.folder.path(),
        };
        if let Some(restored) = faults.inject(fault).await {
            // Read pointers live in the restored database only: newer ones are lost, as the operator accepts.
            self.load.state.lock().reads.retain(|_, (_, answered)| *answered < restored.dumped);
        }
        let healed_after = self.probe.heal(&self.load, &self.system, &what).await;
        println!("{:>6.0} s  healed after {healed_after:.1?}", self.started.elapsed().as_secs_f64());
        let sends = self.load.take_sends();
        self.faults.push(Injected { what, at, kills: fault.kills(), healed_after, sends });
        healed_after.is_some()
    }

    /// Pauses the load, waits until the system is at rest, and compares everything.
    async fn pause_and_compare(&mut self) {
        let load = Arc::clone(&self.load);
        match tokio::time::timeout(PAUSE_MAX, load.gate.write()).await {
            Ok(_paused) => drop(self.compare().await),
            Err(_) => load.findings.add(Rule::NotHealed, UNANSWERED),
        }
    }

    /// Compares everything while the load is paused. Returns the number of stale numbers.
    async fn compare(&mut self) -> usize {
        exactness::rest(&self.load, &self.system).await;
        let check = exactness::check(&self.load, &self.system, &self.watchers);
        let stale = match tokio::time::timeout(CHECK_MAX, check).await {
            Ok(stale) => stale,
            Err(_) => {
                self.load.findings.add(Rule::NotAtRest, format!("no comparison within {CHECK_MAX:?}"));
                0
            }
        };
        self.stale += stale;
        self.checks += 1;
        stale
    }

    /// Sends again what was not acknowledged, compares everything for the last time, and ends the load.
    async fn finish(&mut self) {
        let load = Arc::clone(&self.load);
        let paused = tokio::time::timeout(PAUSE_MAX, load.gate.write()).await;
        let mut random = StdRng::seed_from_u64(self.settings.seed);
        let retried = load.retry_unacknowledged(&mut random);
        if paused.is_err() || tokio::time::timeout(PAUSE_MAX, retried).await.is_err() {
            load.findings.add(Rule::NotHealed, UNANSWERED);
        }
        let stale = self.compare().await;
        if stale > 0 {
            load.findings.add(Rule::StillStale, format!("{stale} numbers"));
        }
        for (key, _) in load.state.lock().sent.iter().filter(|(_, sent)| sent.message.is_none()) {
            load.findings.add(Rule::FailedSend, format!("key {key}"));
        }
        let (is_exact, printed) = self.system.reconcile().await;
        println!("tidings reconcile: {}", printed.trim_end());
        if !is_exact {
            load.findings.add(Rule::Drift, printed);
        }
        // Before the pause ends, so that no operation starts.
        load.stop.cancel();
    }

    /// Prints the table. Returns the number of violations.
    async fn report(&self) -> usize {
        let findings = &self.load.findings;
        match self.system.dead_letters().await {
            Ok(letters) => letters.into_iter().for_each(|letter| findings.add(Rule::DeadLetter, letter)),
            Err(error) => findings.add(Rule::NotAtRest, format!("dead letters: {error}")),
        }
        let end = usage(&self.system);
        let report = Report {
            load: &self.load,
            faults: &self.faults,
            log_outs: &self.log_outs,
            watchers: &self.watchers,
            usage: (self.usage.clone().unwrap_or_else(|| end.clone()), end),
            time: self.started.elapsed(),
            checks: (self.checks, self.stale),
        };
        report.print();
        println!("seed {}", self.settings.seed);
        findings.total()
    }
}

async fn register(system: &System, number: usize) -> Person {
    let endpoint: Endpoint = system.endpoint();
    let caller = Caller::register(&endpoint, &format!("user{number}")).await;
    let at = |url: &str| Caller { url: url.to_owned(), ..caller.clone() };
    let callers = [at(&endpoint.url), at(&endpoint.second_url), at(&system.public_url())];
    Person { id: caller.id.clone(), callers }
}

async fn create(people: &[Person], members: BTreeSet<usize>, direct: bool) -> (Dialog, BTreeSet<usize>) {
    let author = &people[*members.first().expect("a dialog has members")].callers[0];
    let ids: Vec<&str> = members.iter().map(|member| people[*member].id.as_str()).collect();
    let title = (!direct).then_some("soak");
    let document = "mutation($input: CreateDialogInput!) { createDialog(input: $input) { id } }";
    let data = author.data(document, json!({"input": {"participantIds": ids, "title": title}})).await;
    (Dialog::new(data["createDialog"]["id"].as_str().unwrap().to_owned(), direct), members)
}
