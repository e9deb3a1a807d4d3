//! The system under test: a process for each role on the engines with two gateways and HAProxy, one process
//! on SQLite, or the production-like stack.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use db::{Db, Error, query};
use proto::topic;
use testkit::free_address;

use super::{
    faults::fake_clock,
    production::{self, Production},
    schedule::Kind,
    tables::Databases,
};
use crate::{
    app::App,
    balancer::Balancer,
    endpoint::Endpoint,
    log_recorder::LogRecorder,
    maintenance,
    stack::{ROLES, Stack},
};

/// The only role of one process.
const SERVE: [&str; 1] = ["serve"];
const READY_MAX: Duration = Duration::from_secs(2);

pub enum System {
    Stack(Box<Engines>),
    One(Box<OneProcess>),
    Production(Box<Production>),
}

/// Every role on the engines.
pub struct Engines {
    pub stack: Stack,
    balancer: Balancer,
    log: LogRecorder,
}

/// `tidings serve` at an address that stays the same after a restart.
pub struct OneProcess {
    /// `None` while it is killed.
    app: Option<App>,
    /// Its data folder while it is killed.
    stopped: Option<tempfile::TempDir>,
    endpoint: Endpoint,
    ops: String,
    settings: Vec<(&'static str, String)>,
    log: PathBuf,
}

impl System {
    /// Starts every role on the engines.
    pub async fn start_stack(settings: &[(&'static str, &str)]) -> Self {
        let has_proxies = std::env::var_os("KAFKA_PROXY_PORT").is_some();
        let started =
            if has_proxies { Stack::start_with_links(settings).await } else { Stack::start(settings).await };
        let stack = started.expect("the engines run");
        let balancer = Balancer::in_front_of(&stack).await.expect("HAProxy is installed");
        let log = LogRecorder::start_on(stack.kafka_url(), &[topic::DEAD]).await;
        Self::Stack(Box::new(Engines { stack, balancer, log }))
    }

    /// Starts one process with its databases in a new folder below `disk`, or in the system's folder.
    pub async fn start_one(settings: &[(&'static str, &str)], disk: Option<&Path>, folder: &Path) -> Self {
        let [listen, ops] = [(); 2].map(|()| free_address());
        let url = format!("http://{listen}");
        let endpoint = Endpoint { second_url: url.clone(), url, login_suffix: String::new() };
        let settings = settings.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let addresses = [("LISTEN", listen), ("OPS_LISTEN", ops.clone())];
        let settings = settings.chain(addresses).collect();
        let stopped = disk.map_or_else(tempfile::tempdir, tempfile::tempdir_in).unwrap();
        let log = folder.join("serve.log");
        let mut one = OneProcess { app: None, stopped: Some(stopped), endpoint, ops, settings, log };
        one.start().await;
        Self::One(Box::new(one))
    }

    pub fn roles(&self) -> &'static [&'static str] {
        match self {
            Self::Stack(..) => &ROLES,
            Self::One(_) => &SERVE,
            Self::Production(_) => &production::ROLES,
        }
    }

    /// Returns true if this kind of fault exists here.
    pub fn has(&self, kind: Kind) -> bool {
        match (self, kind) {
            (Self::Production(_), _) => false,
            (_, Kind::Kill | Kind::Pause | Kind::Disk | Kind::Restore | Kind::LogOut) => true,
            (Self::Stack(engines), Kind::Network) => engines.stack.links().is_some(),
            (Self::Stack(_), Kind::Clock) => fake_clock().is_some(),
            (Self::Stack(_), _) => true,
            (Self::One(_), _) => false,
        }
    }

    /// Returns the addresses of both gateways.
    pub fn endpoint(&self) -> Endpoint {
        match self {
            Self::Stack(engines) => (*engines.stack).clone(),
            Self::One(one) => one.endpoint.clone(),
            Self::Production(stack) => stack.endpoint.clone(),
        }
    }

    /// Returns the address that clients know: the balancer's, or the process's.
    pub fn public_url(&self) -> String {
        match self {
            Self::Stack(engines) => engines.balancer.url.clone(),
            Self::One(one) => one.endpoint.url.clone(),
            Self::Production(stack) => stack.url.clone(),
        }
    }

    /// Opens the databases; fails while the server is away.
    pub async fn databases(&self) -> Result<Databases, Error> {
        match self {
            Self::Stack(engines) => {
                let open = async |role: &str| Db::open(&engines.stack.databases[role], 2).await;
                let auth = open("auth").await?;
                let dialog = open("dialog").await?;
                Ok(Databases { auth, dialog, counter: open("counter").await?, relayed: true })
            }
            Self::One(one) => {
                let open = async |name: &str| Db::open_file(&one.folder().join(name)).await;
                let auth = open("auth.db").await?;
                let dialog = open("dialog.db").await?;
                Ok(Databases { auth, dialog, counter: open("counter.db").await?, relayed: false })
            }
            Self::Production(stack) => {
                let auth = stack.database("auth").await?;
                let dialog = stack.database("dialog").await?;
                Ok(Databases { auth, dialog, counter: stack.database("counter").await?, relayed: true })
            }
        }
    }

    /// Returns true if every role reports that it is ready.
    pub async fn is_ready(&self) -> bool {
        match self {
            Self::Stack(engines) => engines.stack.is_ready().await,
            Self::One(one) => is_ready_at(&one.ops).await,
            Self::Production(stack) => {
                for ops in stack.ops() {
                    if !is_ready_at(ops).await {
                        return false;
                    }
                }
                true
            }
        }
    }

    /// Returns the process id of a role; `None` while it is killed.
    pub fn process_id(&self, role: &str) -> Option<u32> {
        match self {
            Self::Stack(engines) => engines.stack.process_id(role),
            Self::One(one) => Some(one.app.as_ref()?.process_id()),
            Self::Production(stack) => stack.process_id(role),
        }
    }

    /// Kills a role with SIGKILL.
    pub async fn kill(&mut self, role: &'static str) {
        match self {
            Self::Stack(engines) => engines.stack.kill(role).await,
            Self::One(one) => one.stopped = Some(one.app.take().expect("it runs").kill().await),
            Self::Production(_) => production::control_role("kill", role).await,
        }
    }

    /// Starts a role that was killed.
    pub async fn start(&mut self, role: &'static str) {
        match self {
            Self::Stack(engines) => engines.stack.start_role(role),
            Self::One(one) => one.start().await,
            Self::Production(_) => production::control_role("start", role).await,
        }
    }

    /// Returns the data folder of one process.
    pub fn data_folder(&self) -> &Path {
        match self {
            Self::Stack(_) | Self::Production(_) => panic!("the roles have no data folder"),
            Self::One(one) => one.folder(),
        }
    }

    /// Returns a line for every dead letter.
    pub async fn dead_letters(&self) -> Result<Vec<String>, Error> {
        let letters = match self {
            Self::Stack(engines) => Some(engines.log.dead_letters()),
            Self::Production(stack) => Some(stack.log.dead_letters()),
            Self::One(_) => None,
        };
        let Some(letters) = letters else {
            let databases = self.databases().await?;
            let mut letters = Vec::new();
            for db in [&databases.dialog, &databases.counter] {
                let select = query("select key, version from outbox where topic = 'tidings.dead'");
                for row in select.all(db).await? {
                    letters.push(describe_letter(&row.get::<String>("key")?, row.get("version")?));
                }
            }
            databases.close().await;
            return Ok(letters);
        };
        Ok(letters.iter().map(|letter| describe_letter(&letter.key, letter.version)).collect())
    }

    /// Copies the logs to a folder, which it creates.
    pub fn save_logs(&self, folder: &Path) {
        match self {
            Self::Stack(engines) => engines.stack.save_logs(folder),
            Self::One(one) => {
                std::fs::create_dir_all(folder).unwrap();
                std::fs::copy(&one.log, folder.join("serve.log")).unwrap();
            }
            Self::Production(stack) => stack.save_logs(folder),
        }
    }

    /// Runs `tidings reconcile`. Returns true if it finds no difference, and what it prints.
    pub async fn reconcile(&self) -> (bool, String) {
        let settings: Vec<(String, String)> = match self {
            Self::Stack(engines) => {
                let settings = engines.stack.command_settings().into_iter();
                settings.map(|(name, value)| (name.to_owned(), value)).collect()
            }
            Self::One(one) => vec![("DATA_DIR".to_owned(), one.folder().display().to_string())],
            Self::Production(stack) => stack.command_settings(),
        };
        let settings: Vec<(&str, &str)> =
            settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let output = maintenance::run(&["reconcile"], &settings).await;
        (output.is_success(), output.text())
    }
}

async fn is_ready_at(ops: &str) -> bool {
    let answer = tokio::time::timeout(READY_MAX, reqwest::get(format!("http://{ops}/readyz"))).await;
    answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status() == 200))
}

fn describe_letter(key: &str, version: i64) -> String {
    format!("key {key}, version {version}")
}

impl OneProcess {
    fn folder(&self) -> &Path {
        let app = self.app.as_ref().map(|app| app.folder.path());
        app.or(self.stopped.as_ref().map(tempfile::TempDir::path)).expect("it runs or is killed")
    }

    async fn start(&mut self) {
        let folder = self.stopped.take().expect("it is killed");
        let settings: Vec<(&str, &str)> =
            self.settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        self.app = Some(App::start_with_log(folder, &settings, Stdio::from(log)).await);
    }
}
